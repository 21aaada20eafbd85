//! Every function with what makes no sense: an error that says so, and all is as before.
#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_void},
    fs, ptr,
};

use pith_c::*;

mod support;
use support::*;

const IDS: [u32; 4] = [5, 6, 7, 8];

#[test]
fn null_is_invalid_where_something_is_needed_and_freed_where_nothing_is() {
    let model = Model::open(demo());
    let session = model.session(&session_options());
    let (m, s, ids, path) = (model.0, session.0, IDS.as_ptr(), c_path(demo()));
    let (mut n, mut id, mut made) = (7usize, 7u32, ptr::NonNull::dangling().as_ptr());
    let mut new_session = ptr::NonNull::dangling().as_ptr();
    let mut adapter = ptr::NonNull::dangling().as_ptr();
    let (mut held, mut floats, mut probs) = (ids, [0f32; 8], [0f64; 8]);
    let mut bytes = [0u8; 8];
    let reader =
        PithReader { struct_size: size_of::<PithReader>(), n_bytes: 4, read: None, user: none() };
    // SAFETY: what isn't null lives.
    unsafe {
        let of = |names: &str, status: Status, error: PithError| {
            assert_eq!((status, error.needed, error.limit), (INVALID, 0, 0));
            assert!(names.split(' ').any(|name| message(&error).contains(name)), "{names}");
        };
        macro_rules! null {
            ($name:literal, $function:ident($($argument:expr),*)) => {{
                let mut error = error();
                let status = $function($($argument,)* &mut error);
                of($name, status, error);
                // The caller may not want to know.
                assert_eq!($function($($argument,)* none()), INVALID);
            }};
        }
        null!("path", pith_model_open(none(), none(), &mut made));
        assert!(made.is_null());
        null!("model", pith_model_open(path.as_ptr(), none(), none()));
        null!("data", pith_model_from_memory(none(), 4, none(), &mut made));
        null!("model", pith_model_from_memory(ids.cast(), 16, none(), none()));
        null!("reader", pith_model_from_reader(none(), none(), &mut made));
        null!("reader.read", pith_model_from_reader(&reader, none(), &mut made));
        null!("model", pith_model_get_info(none(), &mut info()));
        null!("info", pith_model_get_info(m, none()));
        null!("path", pith_adapter_open(none(), &mut adapter));
        assert!(adapter.is_null());
        null!("adapter", pith_adapter_open(path.as_ptr(), none()));
        null!("model", pith_tokenize(none(), c"a".as_ptr(), 1, 0, &mut id, 1, &mut n));
        assert_eq!(n, 0);
        null!("text", pith_tokenize(m, none(), 1, 0, &mut id, 1, &mut n));
        null!("ids", pith_tokenize(m, c"a".as_ptr(), 1, 0, none(), 1, &mut n));
        null!("n_ids", pith_tokenize(m, c"a".as_ptr(), 1, 0, &mut id, 1, none()));
        let text = bytes.as_mut_ptr().cast::<c_char>();
        null!("model", pith_detokenize(none(), ids, 4, 0, text, 8, &mut n));
        null!("ids", pith_detokenize(m, none(), 4, 0, text, 8, &mut n));
        null!("text", pith_detokenize(m, ids, 4, 0, none(), 8, &mut n));
        null!("n_bytes", pith_detokenize(m, ids, 4, 0, text, 8, none()));
        null!("model", pith_plan(none(), none(), &mut nothing()));
        null!("memory", pith_plan(m, none(), none()));
        null!("model", pith_session_new(none(), none(), &mut new_session));
        assert!(new_session.is_null());
        null!("session", pith_session_new(m, none(), none()));
        null!("session", pith_tokens(none(), 0, &mut held, &mut n));
        assert!(held.is_null());
        null!("ids", pith_tokens(s, 0, none(), &mut n));
        null!("n_ids", pith_tokens(s, 0, &mut held, none()));
        null!("session", pith_feed(none(), 0, ids, 4, none()));
        null!("ids", pith_feed(s, 0, none(), 4, none()));
        null!("session", pith_sample(none(), 0, none(), &mut id));
        null!("id", pith_sample(s, 0, none(), none()));
        null!("session", pith_generate(none(), 0, ids, 4, none(), None, none(), none()));
        null!("ids", pith_generate(s, 0, none(), 4, none(), None, none(), none()));
        null!("session", pith_score(none(), 0, ids, 4, probs.as_mut_ptr()));
        null!("ids", pith_score(s, 0, none(), 4, probs.as_mut_ptr()));
        null!("log_probs", pith_score(s, 0, ids, 4, none()));
        null!("session", pith_classify(none(), 0, ids, 4, floats.as_mut_ptr(), 8, &mut n));
        null!("ids", pith_classify(s, 0, none(), 4, floats.as_mut_ptr(), 8, &mut n));
        null!("values", pith_classify(s, 0, ids, 4, none(), 8, &mut n));
        null!("n_rows", pith_classify(s, 0, ids, 4, floats.as_mut_ptr(), 8, none()));
        null!("session", pith_embed(none(), 0, ids, 4, POOL_MEAN, 0, floats.as_mut_ptr()));
        null!("ids", pith_embed(s, 0, none(), 4, POOL_MEAN, 0, floats.as_mut_ptr()));
        null!("embedding", pith_embed(s, 0, ids, 4, POOL_MEAN, 0, none()));
        null!("session", pith_truncate(none(), 0, 0));
        null!("session", pith_fork(none(), 0, 1));
        let state = bytes.as_mut_ptr().cast::<c_void>();
        null!("session", pith_state_save(none(), 0, state, 8, &mut n));
        null!("state", pith_state_save(s, 0, none(), 8, &mut n));
        null!("n_bytes", pith_state_save(s, 0, state, 8, none()));
        null!("session", pith_state_load(none(), 0, state, 8));
        null!("state", pith_state_load(s, 0, none(), 8));
        pith_model_free(none());
        pith_adapter_free(none());
        pith_session_free(none());
        pith_cancel(none());
        assert!(pith_model_label(none(), 0).is_null() && pith_model_label(m, 0).is_null());
    }
    assert!(session.tokens(0).is_empty());
}

#[test]
fn numbers_that_make_no_sense_are_invalid() {
    let model = Model::open(demo());
    let session = model.session(&session_options());
    let (s, ids) = (session.0, IDS.as_ptr());
    let (mut id, mut n, mut held) = (0, 0, ptr::null());
    let mut made = none();
    let (mut floats, mut probs) = ([0f32; 1024], [0f64; 8]);
    let fresh = session_options();
    let refused: [PithSessionOptions; 8] = [
        PithSessionOptions { n_ctx: 1 << 30, ..fresh },
        PithSessionOptions { n_seq: 0, ..fresh },
        PithSessionOptions { n_batch: 0, ..fresh },
        PithSessionOptions { n_threads: 1025, ..fresh },
        PithSessionOptions { cache: 3, ..fresh },
        PithSessionOptions { cache: -1, ..fresh },
        PithSessionOptions { flags: 2, ..fresh },
        PithSessionOptions { n_adapters: 1, ..fresh },
    ];
    // SAFETY: what isn't null lives.
    unsafe {
        for options in &refused {
            fails(INVALID, |e| pith_session_new(model.0, options, &mut made, e));
            fails(INVALID, |e| pith_plan(model.0, options, &mut nothing(), e));
        }
        let out_of_range = [0, u32::MAX];
        fails(INVALID, |e| pith_feed(s, 0, out_of_range.as_ptr(), 2, none(), e));
        fails(INVALID, |e| pith_feed(s, 0, ids, 0, none(), e));
        fails(INVALID, |e| pith_feed(s, 0, ids, usize::MAX, none(), e));
        fails(INVALID, |e| pith_feed(s, 0, ids.byte_add(1), 2, none(), e));
        fails(INVALID, |e| pith_generate(s, 0, ids, 0, none(), None, none(), none(), e));
        for seq in [2, u32::MAX] {
            fails(INVALID, |e| pith_feed(s, seq, ids, 4, none(), e));
            fails(INVALID, |e| pith_tokens(s, seq, &mut held, &mut n, e));
            fails(INVALID, |e| pith_sample(s, seq, none(), &mut id, e));
            fails(INVALID, |e| pith_generate(s, seq, ids, 4, none(), None, none(), none(), e));
            fails(INVALID, |e| pith_score(s, seq, ids, 4, probs.as_mut_ptr(), e));
            fails(INVALID, |e| pith_embed(s, seq, ids, 4, POOL_LAST, 0, floats.as_mut_ptr(), e));
            fails(INVALID, |e| pith_truncate(s, seq, 0, e));
            fails(INVALID, |e| pith_fork(s, seq, 0, e));
            fails(INVALID, |e| pith_fork(s, 0, seq, e));
            fails(INVALID, |e| pith_state_save(s, seq, none(), 0, &mut n, e));
            fails(INVALID, |e| pith_state_load(s, seq, ids.cast(), 16, e));
        }
        fails(INVALID, |e| pith_embed(s, 0, ids, 4, 2, 0, floats.as_mut_ptr(), e));
        let error =
            fails(UNSUPPORTED, |e| pith_classify(s, 0, ids, 4, floats.as_mut_ptr(), 8, &mut n, e));
        assert!(message(&error).contains("no classification head"));
        // No logits yet, or not any more.
        fails(INVALID, |e| pith_sample(s, 0, none(), &mut id, e));
        session.feed(0, &IDS);
        fails(INVALID, |e| pith_sample(s, 1, none(), &mut id, e));
        for sampling in [
            PithSampling { temp: f32::NAN, ..sampling(0.0) },
            PithSampling { temp: -1.0, ..sampling(0.0) },
            PithSampling { top_p: 1.5, ..sampling(0.0) },
            PithSampling { min_p: -0.5, ..sampling(0.0) },
            PithSampling { repeat_penalty: 0.0, ..sampling(0.0) },
        ] {
            fails(INVALID, |e| pith_sample(s, 0, &sampling, &mut id, e));
        }
        ok(|e| pith_sample(s, 0, none(), &mut id, e));
        ok(|e| pith_truncate(s, 0, 4, e));
        ok(|e| pith_sample(s, 0, none(), &mut id, e));
        ok(|e| pith_truncate(s, 0, 3, e));
        fails(INVALID, |e| pith_sample(s, 0, none(), &mut id, e));
        fails(INVALID, |e| pith_tokenize(model.0, c"a".as_ptr(), 1, 64, none(), 0, &mut n, e));
        let error = fails(INVALID, |e| {
            pith_tokenize(model.0, c"ab\xff".as_ptr(), 3, 0, none(), 0, &mut n, e)
        });
        assert!(message(&error).contains("byte 2"));
        fails(INVALID, |e| {
            pith_detokenize(model.0, out_of_range.as_ptr(), 2, 0, none(), 0, &mut n, e)
        });
    }
    assert_eq!(session.tokens(0), IDS[..3]);
    let plain = model.session(&PithSessionOptions { flags: 0, ..session_options() });
    // SAFETY: all of it lives.
    unsafe {
        for (what, status) in [
            ("score", pith_score(plain.0, 0, ids, 4, probs.as_mut_ptr(), none())),
            ("embed", pith_embed(plain.0, 0, ids, 4, 0, 0, floats.as_mut_ptr(), none())),
        ] {
            assert_eq!(status, INVALID, "{what}");
        }
    }
}

/// A struct as another version of the header would have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Longer<T> {
    known: T,
    later: [u8; 40],
}

#[test]
fn structs_of_other_versions_are_told_by_their_size() {
    let model = Model::open(demo());
    let whole = size_of::<PithModelInfo>();
    // SAFETY: all of it lives, and is as long as it says.
    unsafe {
        for size in [0, 1, 8, whole - 1, (1 << 16) + 1, usize::MAX] {
            let mut info = PithModelInfo { struct_size: size, ..info() };
            fails(INVALID, |e| pith_model_get_info(model.0, &mut info, e));
            assert_eq!((info.struct_size, info.n_vocab), (size, 9));
            let mut error = PithError { struct_size: size.min(40), ..error() };
            assert_eq!(pith_plan(model.0, none(), &mut nothing(), &mut error), INVALID);
            assert_eq!((error.status, error.message[0]), (-1, 0));
        }
        let mut longer = Longer { known: info(), later: [7; 40] };
        longer.known.struct_size = whole + 40;
        ok(|e| pith_model_get_info(model.0, (&raw mut longer).cast(), e));
        assert_eq!((longer.known.struct_size, longer.later), (whole + 40, [7; 40]));
        assert_eq!(
            longer.known.family[..4],
            c"gpt2".to_bytes().iter().map(|&b| b as c_char).collect::<Vec<_>>()[..]
        );
        let known = PithSessionOptions {
            struct_size: size_of::<PithSessionOptions>() + 40,
            ..session_options()
        };
        let options = Longer { known, later: [7; 40] };
        let mut made = none();
        ok(|e| pith_session_new(model.0, (&raw const options).cast(), &mut made, e));
        pith_session_free(made);
    }
}

#[test]
fn files_that_are_none_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let sound = fs::read(demo()).unwrap();
    // The first is the family's name, the value of general.architecture.
    let at = sound.windows(4).position(|part| part == b"gpt2").unwrap();
    let mut unknown = sound.clone();
    unknown[at..at + 4].copy_from_slice(b"gpt9");
    let open = |path: &std::path::Path, options: &PithModelOptions, wanted: Status| {
        let (path, mut model) = (c_path(path), ptr::NonNull::dangling().as_ptr());
        // SAFETY: all of it lives.
        let error =
            fails(wanted, |e| unsafe { pith_model_open(path.as_ptr(), options, &mut model, e) });
        assert!(model.is_null());
        error
    };
    for flags in [0, MODEL_READ] {
        let options = PithModelOptions { flags, ..model_options() };
        let error = open(&folder.path().join("absent"), &options, IO);
        assert!(message(&error).contains("absent"));
        open(folder.path(), &options, INVALID);
        open(&write("empty", b""), &options, MALFORMED);
        open(&write("text", b"what is this, then?"), &options, MALFORMED);
        open(&write("half", &sound[..sound.len() / 2]), &options, MALFORMED);
        open(&write("unknown", &unknown), &options, UNSUPPORTED);
    }
    open(demo(), &PithModelOptions { flags: 2, ..model_options() }, INVALID);
    let (mut model, mut adapter) = (none(), none());
    let path = c_path(demo());
    // SAFETY: all of it lives.
    unsafe {
        fails(INVALID, |e| pith_adapter_open(path.as_ptr(), &mut adapter, e));
        fails(MALFORMED, |e| {
            pith_model_from_memory(sound.as_ptr().cast(), 1000, none(), &mut model, e)
        });
        let reader = PithReader {
            struct_size: size_of::<PithReader>(),
            n_bytes: 1 << 40,
            read: Some(fail),
            user: none(),
        };
        let ceiling = PithModelOptions { max_memory: 1 << 20, ..model_options() };
        let error = fails(MEMORY, |e| pith_model_from_reader(&reader, &ceiling, &mut model, e));
        assert_eq!((error.needed, error.limit), (1 << 40, 1 << 20));
        let reader = PithReader { n_bytes: 100, ..reader };
        let error = fails(IO, |e| pith_model_from_reader(&reader, none(), &mut model, e));
        assert!(message(&error).contains("-3"));
    }
}

unsafe extern "C" fn fail(_: *mut c_void, _: u64, _: *mut c_void, _: usize) -> i32 {
    -3
}

#[test]
fn buffers_that_are_too_small_are_told_how_large_they_must_be() {
    let model = Model::open(demo());
    let wanted = model.tokens("It was a fine morning");
    let text = "It was a fine morning";
    let (mut ids, mut n, mut out) = ([7u32; 64], 0, [7 as c_char; 64]);
    // SAFETY: all of it lives.
    unsafe {
        let at = text.as_ptr().cast();
        let error = fails(BUFFER, |e| {
            pith_tokenize(model.0, at, text.len(), ADD_BEGIN, none(), 0, &mut n, e)
        });
        assert_eq!((n, error.needed, error.limit), (wanted.len(), wanted.len() as u64, 0));
        fails(BUFFER, |e| {
            let to = ids.as_mut_ptr();
            pith_tokenize(model.0, at, text.len(), ADD_BEGIN, to, wanted.len() - 1, &mut n, e)
        });
        assert_eq!((n, ids), (wanted.len(), [7; 64]));
        let (from, n_ids) = (wanted.as_ptr(), wanted.len());
        fails(BUFFER, |e| pith_detokenize(model.0, from, n_ids, 0, none(), 0, &mut n, e));
        assert_eq!(n, text.len());
        let room = n;
        ok(|e| pith_detokenize(model.0, from, n_ids, 0, out.as_mut_ptr(), room, &mut n, e));
        let got: Vec<u8> = out[..n].iter().map(|&c| c as u8).collect();
        assert_eq!((got, out[n]), (text.as_bytes().to_vec(), 7));
        // No text needs no place.
        ok(|e| pith_tokenize(model.0, none(), 0, 0, none(), 0, &mut n, e));
        assert_eq!(n, 0);
    }
}
