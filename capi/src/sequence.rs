//! What sequences hold: tokens appended, forgotten, copied, saved and loaded.

use std::{ffi::c_void, ptr};

use crate::{
    error::{Fault, Status},
    pointers::{self, Place},
    session::{Inner, PithSession, enter},
    structs::PithError,
};

/// The tokens of a sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_tokens(
    session: *const PithSession,
    seq: u32,
    ids: *mut *const u32,
    n_ids: *mut usize,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let (ids, n_ids) = unsafe { (Place::new(ids, ptr::null()), Place::new(n_ids, 0)) };
    let body = |inner: &mut Inner| {
        ids.needed("ids")?;
        n_ids.needed("n_ids")?;
        let held = inner.session.ids(inner.seq(seq)?);
        Ok((held.as_ptr(), held.len()))
    };
    // SAFETY: the header's contract.
    unsafe {
        enter(session, error, body, |(held, n)| {
            ids.set(held);
            n_ids.set(n);
        })
    }
}

/// Appends tokens to a sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_feed(
    session: *mut PithSession,
    seq: u32,
    ids: *const u32,
    n_ids: usize,
    logits: *mut *const f32,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let logits = unsafe { Place::new(logits, ptr::null()) };
    let body = |inner: &mut Inner| {
        // SAFETY: the header's contract.
        let ids = unsafe { pointers::values(ids, n_ids, "ids") }?;
        inner.fresh = None;
        let made = inner.session.eval(seq as usize, ids)?.as_ptr();
        inner.fresh = Some(seq);
        Ok(made)
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |made| logits.set(made)) }
}

/// Forgets the end of a sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_truncate(
    session: *mut PithSession,
    seq: u32,
    n_ids: usize,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        let index = inner.seq(seq)?;
        if n_ids < inner.session.ids(index).len() {
            inner.session.truncate(index, n_ids);
            inner.forget(seq);
        }
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}

/// Makes a sequence a copy of another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_fork(
    session: *mut PithSession,
    from: u32,
    to: u32,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        let (source, target) = (inner.seq(from)?, inner.seq(to)?);
        if source != target {
            inner.session.fork(source, target);
            inner.forget(to);
        }
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}

/// A sequence as bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_state_save(
    session: *const PithSession,
    seq: u32,
    state: *mut c_void,
    capacity: usize,
    n_bytes: *mut usize,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let n_bytes = unsafe { Place::new(n_bytes, 0) };
    let body = |inner: &mut Inner| {
        n_bytes.needed("n_bytes")?;
        let index = inner.seq(seq)?;
        // SAFETY: the header's contract.
        let to = unsafe { pointers::values_mut(state.cast::<u8>(), capacity, "state") }?;
        let needed = inner.session.state_size(index);
        if needed > capacity {
            n_bytes.set(needed);
            return Err(Fault::Buffer { needed, capacity });
        }
        inner.session.save_state(index, to)?;
        Ok(needed)
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |n| n_bytes.set(n)) }
}

/// Makes a sequence what was saved.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_state_load(
    session: *mut PithSession,
    seq: u32,
    state: *const c_void,
    n_bytes: usize,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        let index = inner.seq(seq)?;
        // SAFETY: the header's contract.
        let state = unsafe { pointers::values(state.cast::<u8>(), n_bytes, "state") }?;
        inner.session.load_state(index, state)?;
        inner.forget(seq);
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}
