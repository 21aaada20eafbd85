//! A system that refuses memory, at each request in turn: an error, never an abort, and nothing is lost.

use std::{ffi::c_char, fs, ptr};

use super::support::*;
use crate::{
    memory::{held, n_reserved, refusing},
    *,
};

/// Opens, tokenizes, makes a session, generates, saves, goes back to text, and frees all. Gives the
/// first status that isn't OK, and the tokens.
fn life(bytes: &[u8], text: &str) -> (Status, [u32; 64]) {
    let mut error = error();
    let (mut model, mut session, mut ids) = (ptr::null_mut(), ptr::null_mut(), [0; 64]);
    let (mut n, mut out) = (0, [0 as c_char; 256]);
    let e = &raw mut error;
    let (from, n_from) = (text.as_ptr().cast(), text.len());
    let options = PithSessionOptions { n_ctx: 0, ..session_options() };
    let sampling = sampling(0.8);
    let generation = PithGeneration {
        struct_size: size_of::<PithGeneration>(),
        max_tokens: 3,
        flags: 0,
        sampling: &sampling,
    };
    let done = |status| if status == OK { Ok(()) } else { Err(status) };
    // SAFETY: all of it lives, and is freed once.
    let result = unsafe {
        let mut steps = || {
            let (data, to) = (bytes.as_ptr().cast(), ids.as_mut_ptr());
            done(pith_model_from_memory(data, bytes.len(), ptr::null(), &mut model, e))?;
            done(pith_tokenize(model, from, n_from, ADD_BEGIN, to, 32, &mut n, e))?;
            done(pith_session_new(model, &options, &mut session, e))?;
            let (none, nobody) = (ptr::null_mut(), ptr::null_mut());
            done(pith_generate(session, 0, to, n, &generation, None, none, nobody, e))?;
            let (mut held, mut n_text) = (ptr::null(), 0);
            done(pith_tokens(session, 0, &mut held, &mut n, e))?;
            ptr::copy_nonoverlapping(held, to, n);
            done(pith_detokenize(model, held, n, 0, out.as_mut_ptr(), 256, &mut n_text, e))
        };
        let result = steps();
        pith_session_free(session);
        pith_model_free(model);
        result
    };
    let status = result.err().unwrap_or(OK);
    assert!(status == OK || message(&error).contains("memory"), "{}", message(&error));
    (status, ids)
}

/// Every request refused in turn, alone and with all behind it.
fn each_refusal(bytes: &[u8], text: &str) {
    let wanted = life(bytes, text);
    assert_eq!(wanted.0, OK);
    let (_, n) = refusing(u64::MAX, 0, || life(bytes, text));
    assert!(n > 50, "{n} requests");
    for more in [0, u64::MAX] {
        for i in 1..=n + 1 {
            let before = held();
            let (got, _) = refusing(i, more, || life(bytes, text));
            assert_eq!(held(), before, "request {i} of {n}: memory is lost");
            assert_eq!(n_reserved(), 0, "request {i} of {n}: the reserve is in use");
            match i <= n {
                true => assert_eq!(got.0, MEMORY, "request {i} of {n}"),
                false => assert_eq!(got, wanted),
            }
        }
    }
}

#[test]
fn a_refused_request_is_an_error() {
    each_refusal(&fs::read(demo()).unwrap(), "It was a fine morning");
}

/// A vocabulary of another kind, with tables of other kinds.
#[test]
fn a_refused_request_of_a_unigram_vocabulary_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden("llama", folder.path(), Some("ug_trained"));
    each_refusal(&fs::read(path).unwrap(), "a few words of text");
}

/// A text of some length, in one word: lists grow with it beyond any common reserve.
#[test]
fn a_refused_request_of_a_long_text_is_an_error() {
    let model = Model::open(demo());
    let text = "ab".repeat(3000);
    let mut ids = vec![0; text.len()];
    let mut tokenize = || {
        let mut n = 0;
        // SAFETY: all of it lives.
        let status = unsafe {
            let (to, room) = (ids.as_mut_ptr(), ids.len());
            let text_at = text.as_ptr().cast();
            pith_tokenize(model.0, text_at, text.len(), 0, to, room, &mut n, ptr::null_mut())
        };
        (status, n)
    };
    let wanted = tokenize();
    assert!(wanted.0 == OK && wanted.1 > 1000, "{wanted:?}");
    let (_, n) = refusing(u64::MAX, 0, &mut tokenize);
    for more in [0, u64::MAX] {
        for i in 1..=n {
            let before = held();
            let (got, _) = refusing(i, more, &mut tokenize);
            assert_eq!((got, held() - before, n_reserved()), ((MEMORY, 0), 0, 0), "{i} of {n}");
        }
    }
    assert_eq!(tokenize(), wanted);
}
