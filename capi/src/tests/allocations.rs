//! What has been made needs no more memory, whatever it is used for.

use std::{env, process::Command, ptr};

use super::support::*;
use crate::{memory::n_requests, *};

/// All threads of a process are counted, so this has one for itself.
#[test]
fn steps_allocate_nothing() {
    let program = env::current_exe().expect("this program");
    let name = "tests::allocations::of_this_process";
    let output = Command::new(program).args(["--exact", name, "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by the test above, alone in its process"]
fn of_this_process() {
    let model = Model::open(demo());
    let prompt = model.tokens("It was a fine morning, and nobody had seen her since the ball.");
    assert!(prompt.len() > 10);
    for n_threads in [1, 2] {
        let options = PithSessionOptions { n_threads, n_batch: 4, ..session_options() };
        let session = model.session(&options);
        let state_size = {
            session.feed(0, &prompt);
            session.state(0).len()
        };
        let mut state = vec![0u8; state_size];
        let mut probs = vec![0.0; prompt.len()];
        let mut embedding = vec![0.0; 4096];
        // A helper that is late still allocates when it begins, once.
        let mut counts = (0..3).map(|_| {
            let before = n_requests();
            steps(&session, &prompt, &mut state, &mut probs, &mut embedding);
            n_requests() - before
        });
        assert!(counts.any(|n| n == 0), "{n_threads} threads");
    }
}

fn steps(
    session: &Session,
    prompt: &[u32],
    state: &mut [u8],
    probs: &mut [f64],
    embedding: &mut [f32],
) {
    let (s, e, ids, n) = (session.0, ptr::null_mut(), prompt.as_ptr(), prompt.len());
    let penalty = PithSampling { repeat_penalty: 1.3, ..sampling(0.9) };
    let (mut logits, mut id, mut n_bytes) = (ptr::null(), 0, 0);
    // SAFETY: all of it lives.
    let statuses = unsafe {
        [
            pith_truncate(s, 0, 0, e),
            pith_feed(s, 0, ids, n, &mut logits, e),
            pith_sample(s, 0, &sampling(0.9), &mut id, e),
            pith_sample(s, 0, &penalty, &mut id, e),
            pith_fork(s, 0, 1, e),
            pith_state_save(s, 1, state.as_mut_ptr().cast(), state.len(), &mut n_bytes, e),
            pith_truncate(s, 1, 2, e),
            pith_state_load(s, 1, state.as_ptr().cast(), n_bytes, e),
            pith_truncate(s, 0, 0, e),
            pith_score(s, 0, ids, n, probs.as_mut_ptr(), e),
            pith_embed(s, 0, ids, n, POOL_MEAN, 1, embedding.as_mut_ptr(), e),
            session.generate(prompt, 8, 0.9, |_, _| true).0,
        ]
    };
    assert_eq!(statuses, [OK; 12]);
}
