//! Panics stay inside, print nothing, and break only their session.

use std::ptr;

use super::support::*;
use crate::{error::Fault, guard::guard, session::enter, *};

#[test]
fn a_panic_is_an_error_and_breaks_its_session() {
    let model = Model::open(demo());
    let (broken, sound) = (model.session(&session_options()), model.session(&session_options()));
    // SAFETY: all of it lives.
    unsafe {
        fails(INTERNAL, |e| guard(e, || -> Result<(), Fault> { panic!("inside") }, |()| ()));
        fails(INTERNAL, |e| {
            enter(broken.0, e, |_| -> Result<(), Fault> { panic!("inside") }, |()| ())
        });
        for _ in 0..2 {
            let ids = [1, 2];
            let error =
                fails(INTERNAL, |e| pith_feed(broken.0, 0, ids.as_ptr(), 2, ptr::null_mut(), e));
            assert!(message(&error).contains("free it"));
            ok(|e| pith_feed(sound.0, 0, ids.as_ptr(), 2, ptr::null_mut(), e));
        }
        pith_cancel(broken.0);
    }
}
