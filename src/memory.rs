//! Word from an allocator that memory has run out. Rust's small allocations can't fail: an embedder's
//! allocator serves them from a reserve when the system has no more, and says so here. Work that takes
//! memory piece by piece asks between the pieces, so that a reserve need not be large.

use std::cell::Cell;

use crate::{Error, Result};

thread_local! {
    static SHORT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's allocations have been served from a reserve.
pub fn is_short() -> bool {
    SHORT.get()
}

/// Says so, or takes it back when what was allocated is freed.
pub fn set_short(short: bool) {
    SHORT.set(short);
}

/// Whether there is memory to go on with.
pub(crate) fn enough() -> Result<()> {
    match is_short() {
        false => Ok(()),
        true => Err(Error::OutOfMemory { wanted: 0 }),
    }
}
