//! A model's and a session's life through the C functions, and that they compute what the runtime does.
#![allow(unsafe_code)]

use std::{ffi::CStr, fs, ptr, slice};

use pith::{sampler, tokenizer::Encode};
use pith_c::*;

mod support;
use support::*;

const PROMPT: &str = "It was a fine morning, and";

#[test]
fn what_is_linked_says_which_it_is() {
    // SAFETY: static texts.
    unsafe {
        assert_eq!(CStr::from_ptr(pith_version()).to_str(), Ok(env!("CARGO_PKG_VERSION")));
        assert_eq!(CStr::from_ptr(pith_status_text(MEMORY)), c"out of memory");
        assert_eq!(CStr::from_ptr(pith_status_text(-7)), c"unknown status");
    }
    assert_eq!(pith_abi_version(), ABI_VERSION);
}

/// The runtime's own greedy text.
fn greedy(prompt: &[u32], n: usize) -> Vec<u32> {
    let model = pith::Model::open(demo()).unwrap();
    let options = pith::session::Options { n_ctx: 64, ..Default::default() };
    let mut session = pith::Session::new(&model, &options).unwrap();
    let mut next = sampler::argmax(session.eval(0, prompt).unwrap());
    let mut ids = Vec::new();
    while ids.len() < n && !model.tokenizer().is_eog(next) {
        ids.push(next);
        next = sampler::argmax(session.eval(0, &[next]).unwrap());
    }
    ids
}

#[test]
fn the_loop_gives_the_runtimes_tokens_and_text() {
    let model = Model::open(demo());
    let prompt = model.tokens(PROMPT);
    let runtime = pith::Model::open(demo()).unwrap();
    let encode = Encode { add_special: true, parse_special: false };
    assert_eq!(prompt, runtime.tokenizer().encode(PROMPT, encode));
    for n_threads in [1, 2] {
        let session = model.session(&PithSessionOptions { n_threads, ..session_options() });
        let (mut ids, mut text) = (Vec::new(), String::new());
        let (status, done) = session.generate(&prompt, 24, 0.0, |id, piece| {
            ids.push(id);
            text.push_str(piece);
            true
        });
        assert_eq!((status, done.finish, done.n_tokens), (OK, FINISH_LENGTH, 24));
        assert_eq!(done.n_prompt as usize, prompt.len());
        assert_eq!(ids, greedy(&prompt, 24));
        let all = [&prompt[..], &ids].concat();
        assert_eq!(session.tokens(0), all);
        assert!(runtime.tokenizer().decode(&all).ends_with(text.trim_end_matches('\u{fffd}')));
        // What is held is kept, but for the token whose logits are wanted.
        let (status, done) = session.generate(&all, 1, 0.0, |_, _| true);
        assert_eq!((status, done.n_prompt), (OK, 1));
    }
}

#[test]
fn a_context_that_is_full_ends_the_loop() {
    let model = Model::open(demo());
    let prompt = model.tokens(PROMPT);
    let session = model.session(&session_options());
    let (status, done) = session.generate(&prompt, 0, 1.0, |_, _| true);
    assert_eq!(status, OK);
    assert!([FINISH_FULL, FINISH_EOS].contains(&done.finish));
    assert_eq!(session.tokens(0).len(), prompt.len() + done.n_tokens as usize);
    assert!(done.finish == FINISH_EOS || session.tokens(0).len() == 64);
}

#[test]
fn logits_are_the_runtimes_bit_for_bit() {
    let model = Model::open(demo());
    let prompt = model.tokens(PROMPT);
    let session = model.session(&session_options());
    let runtime = pith::Model::open(demo()).unwrap();
    let mut other = pith::Session::new(&runtime, &Default::default()).unwrap();
    let wanted = other.eval(0, &prompt).unwrap();
    let mut logits = ptr::null();
    // SAFETY: all of it lives, and logits are used before the next call.
    let got = unsafe {
        ok(|e| pith_feed(session.0, 1, prompt.as_ptr(), prompt.len(), &mut logits, e));
        slice::from_raw_parts(logits, wanted.len())
    };
    assert!(got.iter().zip(&*wanted).all(|(a, b)| a.to_bits() == b.to_bits()));
    let mut id = 0;
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_sample(session.0, 1, &sampling(0.0), &mut id, e) });
    assert_eq!(id, sampler::argmax(wanted));
}

#[test]
fn a_model_is_the_same_from_a_file_memory_and_a_reader() {
    let bytes = fs::read(demo()).unwrap();
    let (mapped, prompt) = (Model::open(demo()), [1, 2, 3, 4]);
    let text = |model: &Model| {
        let mut ids = Vec::new();
        let session = model.session(&session_options());
        session.generate(&prompt, 8, 0.0, |id, _| {
            ids.push(id);
            true
        });
        ids
    };
    let wanted = text(&mapped);
    assert_eq!(wanted.len(), 8);
    // At an address of any kind.
    let shifted = [&[0][..], &bytes].concat();
    let mut lent = ptr::null_mut();
    // SAFETY: the bytes live longer than the model.
    ok(|e| unsafe {
        let data = shifted[1..].as_ptr().cast();
        pith_model_from_memory(data, bytes.len(), ptr::null(), &mut lent, e)
    });
    assert_eq!(text(&Model(lent)), wanted);
    let reader = PithReader {
        struct_size: size_of::<PithReader>(),
        n_bytes: bytes.len() as u64,
        read: Some(read),
        user: (&raw const bytes).cast_mut().cast(),
    };
    let mut copied = ptr::null_mut();
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_model_from_reader(&reader, ptr::null(), &mut copied, e) });
    assert_eq!(text(&Model(copied)), wanted);
    let (options, path) =
        (PithModelOptions { flags: MODEL_READ, ..model_options() }, c_path(demo()));
    let mut read = ptr::null_mut();
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_model_open(path.as_ptr(), &options, &mut read, e) });
    assert_eq!(text(&Model(read)), wanted);
}

unsafe extern "C" fn read(
    user: *mut std::ffi::c_void,
    offset: u64,
    to: *mut std::ffi::c_void,
    n: usize,
) -> i32 {
    // SAFETY: the test passes its bytes, and the library as much room as it says.
    unsafe {
        let bytes = &*user.cast::<Vec<u8>>();
        slice::from_raw_parts_mut(to.cast::<u8>(), n)
            .copy_from_slice(&bytes[offset as usize..][..n]);
    }
    0
}
