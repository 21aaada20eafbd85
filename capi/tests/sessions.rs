//! Sessions that are full, in use, cancelled, saved, too large: each an error that changes nothing.
#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_void},
    fs, ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use pith_c::*;

mod support;
use support::*;

const IDS: [u32; 4] = [5, 6, 7, 8];

#[test]
fn a_full_context_leaves_the_sequence_as_it_was() {
    let model = Model::open(demo());
    let session = model.session(&PithSessionOptions { n_ctx: 16, ..session_options() });
    session.feed(0, &IDS);
    let many = [5u32; 20];
    // SAFETY: all of it lives.
    unsafe {
        let feed = |e| pith_feed(session.0, 0, many.as_ptr(), 13, none(), e);
        let error = fails(FULL, feed);
        assert_eq!((error.needed, error.limit), (17, 16));
        assert!(message(&error).contains("pith_truncate"));
        let generate =
            |e| pith_generate(session.0, 0, many.as_ptr(), 17, none(), None, none(), none(), e);
        fails(FULL, generate);
    }
    assert_eq!(session.tokens(0), IDS);
}

#[test]
fn a_session_in_use_is_busy() {
    let model = Model::open(demo());
    let session = model.session(&session_options());
    let (s, mut inside) = (session.0, 0);
    let (status, _) = session.generate(&IDS, 3, 0.0, |_, _| {
        // SAFETY: all of it lives.
        unsafe {
            fails(BUSY, |e| pith_feed(s, 1, IDS.as_ptr(), 4, none(), e));
            fails(BUSY, |e| pith_truncate(s, 0, 0, e));
            // It stays.
            pith_session_free(s);
            // Another one isn't busy, nor is the model.
            let other = model.session(&session_options());
            other.feed(0, &IDS);
        }
        inside += 1;
        true
    });
    assert_eq!((status, inside, session.tokens(0).len()), (OK, 3, 7));
    // From another thread, too.
    let (address, over) = (session.0.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let session = ptr::with_exposed_provenance_mut::<PithSession>(address);
            let mut seen = 0;
            while !over.load(Ordering::Relaxed) {
                let (mut ids, mut n) = (ptr::null(), 0);
                // SAFETY: it lives; what it has isn't looked at.
                let status = unsafe { pith_tokens(session, 1, &mut ids, &mut n, none()) };
                assert!(status == OK || status == BUSY);
                seen += usize::from(status == BUSY);
            }
            seen
        });
        let _ = session.0.expose_provenance();
        for _ in 0..200 {
            // The other may be in it.
            while session.generate(&IDS, 4, 0.5, |_, _| true).0 == BUSY {}
        }
        over.store(true, Ordering::Relaxed);
        assert!(other.join().unwrap() > 0);
    });
}

#[test]
fn a_cancelled_call_ends_and_what_follows_is_the_same() {
    let model = Model::open(demo());
    let session = model.session(&PithSessionOptions { n_threads: 2, ..session_options() });
    let mut wanted = Vec::new();
    session.generate(&IDS, 12, 0.7, |id, _| {
        wanted.push(id);
        true
    });
    // By a callback and by pith_cancel in it, after any token.
    for by_cancel in [false, true] {
        for n in 1..12 {
            let mut ids = Vec::new();
            let (status, done) = session.generate(&IDS, 12, 0.7, |id, _| {
                ids.push(id);
                if by_cancel && ids.len() == n {
                    // SAFETY: it lives.
                    unsafe { pith_cancel(session.0) };
                }
                by_cancel || ids.len() < n
            });
            assert_eq!((status, done.finish), (CANCELLED, FINISH_CANCELLED));
            assert_eq!((done.n_tokens as usize, &ids[..]), (n, &wanted[..n]));
            assert_eq!(session.tokens(0), [&IDS[..], &ids].concat());
        }
    }
    // Before a call: the next one ends, once, and changes nothing.
    session.feed(1, &IDS);
    // SAFETY: all of it lives.
    unsafe {
        pith_cancel(session.0);
        fails(CANCELLED, |e| pith_feed(session.0, 1, IDS.as_ptr(), 4, none(), e));
        assert_eq!(session.tokens(1), IDS);
        ok(|e| pith_feed(session.0, 1, IDS.as_ptr(), 4, none(), e));
    }
    // At any time, from another thread.
    let address = session.0.expose_provenance();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: it lives.
                unsafe { pith_cancel(ptr::with_exposed_provenance_mut(address)) };
                thread::yield_now();
            }
        });
        let mut cancelled = 0;
        for _ in 0..200 {
            let mut ids = Vec::new();
            let (status, done) = session.generate(&IDS, 12, 0.7, |id, _| {
                ids.push(id);
                true
            });
            assert_eq!(ids, wanted[..ids.len()]);
            assert_eq!(status == CANCELLED, done.finish == FINISH_CANCELLED);
            cancelled += usize::from(status == CANCELLED);
        }
        over.store(true, Ordering::Relaxed);
        assert!(cancelled > 0);
    });
    // One may be left over.
    session.generate(&IDS, 1, 0.7, |_, _| true);
    let mut ids = Vec::new();
    session.generate(&IDS, 12, 0.7, |id, _| {
        ids.push(id);
        true
    });
    assert_eq!(ids, wanted);
}

#[test]
fn states_come_back_and_damaged_ones_do_not() {
    let model = Model::open(demo());
    let (one, other) = (model.session(&session_options()), model.session(&session_options()));
    one.feed(0, &IDS);
    other.feed(1, &[9, 10]);
    let state = one.state(0);
    // SAFETY: all of it lives.
    let load = |state: &[u8], e: *mut PithError| unsafe {
        pith_state_load(other.0, 1, state.as_ptr().cast(), state.len(), e)
    };
    for i in (0..state.len()).step_by(97) {
        let mut damaged = state.clone();
        damaged[i] ^= 0x10;
        // A number of tokens that is too large is that first.
        let status = load(&damaged, none());
        assert!(status == MALFORMED || status == FULL, "byte {i}: {status}");
        assert_eq!(load(&state[..i], none()), MALFORMED);
    }
    assert_eq!(other.tokens(1), [9, 10]);
    ok(|e| load(&state, e));
    assert_eq!(other.tokens(1), IDS);
    assert_eq!(other.state(1), state);
    let f32s = model.session(&PithSessionOptions { cache: CACHE_F32, ..session_options() });
    // SAFETY: all of it lives.
    fails(MALFORMED, |e| unsafe {
        pith_state_load(f32s.0, 0, state.as_ptr().cast(), state.len(), e)
    });
}

#[test]
fn ceilings_hold_and_say_the_numbers() {
    let model = Model::open(demo());
    let (mut memory, mut made) = (nothing(), none());
    let options = session_options();
    let path = c_path(demo());
    // SAFETY: all of it lives.
    unsafe {
        ok(|e| pith_plan(model.0, &options, &mut memory, e));
        assert_eq!(memory.total, memory.model + memory.kv + memory.buffers + memory.scratch);
        assert_eq!(memory.file_backed, fs::metadata(demo()).unwrap().len());
        let limit = memory.total - 1;
        let low = PithSessionOptions { max_memory: limit, ..options };
        let error = fails(MEMORY, |e| pith_session_new(model.0, &low, &mut made, e));
        assert_eq!((error.needed, error.limit), (memory.total, limit));
        let mut again = nothing();
        fails(MEMORY, |e| pith_plan(model.0, &low, &mut again, e));
        assert_eq!(again, memory);
        let enough = PithSessionOptions { max_memory: memory.total, ..options };
        ok(|e| pith_session_new(model.0, &enough, &mut made, e));
        pith_session_free(made);
        let mut opened = none();
        let low = PithModelOptions { max_memory: memory.model - 1, ..model_options() };
        let error = fails(MEMORY, |e| pith_model_open(path.as_ptr(), &low, &mut opened, e));
        assert_eq!((error.needed, error.limit), (memory.model, memory.model - 1));
    }
}

#[test]
fn a_log_hears_of_models_and_sessions() {
    let mut lines: Vec<String> = Vec::new();
    let options =
        PithModelOptions { log: Some(note), log_user: (&raw mut lines).cast(), ..model_options() };
    let (path, mut model) = (c_path(demo()), none());
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_model_open(path.as_ptr(), &options, &mut model, e) });
    drop(Model(model).session(&session_options()));
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("model: gpt2, ") && lines[1].contains("1 threads"), "{lines:?}");
}

unsafe extern "C" fn note(user: *mut c_void, level: i32, text: *const c_char, n: usize) {
    // SAFETY: the test passes its lines, and the library a text of this length.
    let (lines, text) = unsafe {
        let text = std::slice::from_raw_parts(text.cast::<u8>(), n);
        (&mut *user.cast::<Vec<String>>(), text)
    };
    assert_eq!(level, 0);
    lines.push(String::from_utf8(text.to_vec()).expect("UTF-8"));
}
