//! What a plan says is what a session takes.

use super::support::*;
use crate::{memory::held, *};

#[test]
fn a_session_takes_what_was_planned() {
    let model = Model::open(demo());
    let fresh = session_options();
    for options in [
        fresh,
        PithSessionOptions { flags: 0, ..fresh },
        PithSessionOptions { cache: CACHE_Q8_0, n_seq: 5, ..fresh },
        PithSessionOptions { n_batch: 128, n_ctx: 512, ..fresh },
    ] {
        let mut memory = nothing();
        // SAFETY: all of it lives.
        ok(|e| unsafe { pith_plan(model.0, &options, &mut memory, e) });
        let before = held();
        let session = model.session(&options);
        let took = u64::try_from(held() - before).unwrap();
        let planned = memory.total - memory.model;
        assert!(took <= planned && planned - took < 64 << 10, "{took} of {planned}");
        drop(session);
        assert_eq!(held(), before);
    }
    let mut info = info();
    let before = held();
    let other = Model::open(demo());
    let took = u64::try_from(held() - before).unwrap();
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_model_get_info(other.0, &mut info, e) });
    assert_eq!(took, info.anonymous_bytes);
}
