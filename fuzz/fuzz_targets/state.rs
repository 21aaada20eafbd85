//! Any bytes over a saved state, with the hash that they want: a sequence that goes on, or a refusal.
#![no_main]

use std::{ops::ControlFlow, path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use pith::{Model, Session, session::Options};

const OPTIONS: fn() -> Options = || Options { n_ctx: 32, n_threads: 1, ..Options::default() };

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    let out = std::env::temp_dir().join(format!("pith-fuzz-{}.gguf", std::process::id()));
    let options = pith_convert::Options::default();
    pith_convert::convert(&demo, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    let model = Model::open(&out).unwrap();
    std::fs::remove_file(out).unwrap();
    model
});

static STATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut session = Session::new(&*MODEL, &OPTIONS()).unwrap();
    session.eval(0, &[1, 2, 3, 4, 5]).unwrap();
    let mut state = vec![0; session.state_size(0)];
    session.save_state(0, &mut state).unwrap();
    state
});

fuzz_target!(|input: (u16, &[u8], u16)| {
    let (at, bytes, cut) = input;
    let mut state = STATE.clone();
    state.truncate(state.len() - usize::from(cut) % state.len());
    let at = usize::from(at) % state.len();
    let n = bytes.len().min(state.len() - at);
    state[at..at + n].copy_from_slice(&bytes[..n]);
    if let Some(body) = state.len().checked_sub(8) {
        let hash = state[..body].iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        state[body..].copy_from_slice(&hash.to_le_bytes());
    }
    let mut session = Session::new(&*MODEL, &OPTIONS()).unwrap();
    match session.load_state(0, &state) {
        Ok(()) => drop(session.eval(0, &[7]).unwrap()),
        Err(_) => assert!(session.ids(0).is_empty()),
    }
});
