//! The border: no panic crosses it, nothing is printed, and what was made while memory ran out is taken
//! back.

use std::{
    cell::Cell,
    ffi::c_char,
    fmt::{self, Write},
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Once,
    thread,
};

use pith::memory::{is_short, set_short};

use crate::{
    error::{Fault, OK, Status},
    structs::{Out, PithError, Struct},
};

thread_local! {
    /// Functions of this library that this thread is in: a callback may call another.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Runs a function's body, then hands what it made to `give`; reports why it failed otherwise.
///
/// # Safety
/// `error` is NULL or points to a `pith_error` as long as it says.
pub unsafe fn guard<T>(
    error: *mut PithError,
    body: impl FnOnce() -> Result<T, Fault>,
    give: impl FnOnce(T),
) -> Status {
    // SAFETY: by this function's contract.
    let error = match unsafe { Out::new(error) } {
        Ok(error) => error,
        // There is no place to say it in.
        Err(fault) => return fault.status(),
    };
    let result = caught(|| {
        let made = body()?;
        // Dropped here otherwise.
        if is_short() { Err(Fault::Refused) } else { Ok(made) }
    });
    match result {
        Ok(made) => {
            give(made);
            error.set(&PithError::INIT);
            OK
        }
        Err(fault) => {
            report(&fault, &error);
            fault.status()
        }
    }
}

/// Runs a body to which nothing can be reported.
pub fn quietly(body: impl FnOnce()) {
    let _ = caught(|| {
        body();
        Ok(())
    });
}

/// Runs a body; a panic is [`Fault::Internal`], and what fails while memory is short fails by that.
fn caught<T>(body: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let outer = is_short();
    set_short(false);
    silence();
    DEPTH.set(DEPTH.get() + 1);
    // What a panic leaves half done is a session's, which is broken from then on, or is dropped.
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Fault::Internal));
    DEPTH.set(DEPTH.get() - 1);
    let short = is_short();
    set_short(outer);
    match result {
        Err(_) if short => Err(Fault::Refused),
        result => result,
    }
}

/// Has panics of this library print nothing. Rust's hook is one for all code that shares a copy of its
/// standard library: in the shared and in the static library that is this code alone. In a Rust program
/// it isn't, as in this crate's tests: what panics elsewhere goes on to the hook that was there.
fn silence() {
    static SILENT: Once = Once::new();
    SILENT.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let worker = || thread::current().name().is_some_and(|name| name.starts_with("pith-"));
            if DEPTH.get() == 0 && !worker() {
                before(info);
            }
        }));
    });
}

/// Tells the caller why a function failed.
fn report(fault: &Fault, to: &Out<PithError>) {
    let (needed, limit) = fault.numbers();
    let mut error = PithError { status: fault.status(), needed, limit, ..PithError::INIT };
    let mut message = Message { text: &mut error.message, n: 0 };
    // It fails where the text is longer than there is room: the rest is cut.
    let _ = write!(message, "{fault}");
    to.set(&error);
}

/// Writes into the array of an error, keeps a NUL at its end, and cuts between characters.
struct Message<'a> {
    text: &'a mut [c_char],
    n: usize,
}

impl Write for Message<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.text.len() - 1 - self.n;
        let fits = text.floor_char_boundary(room.min(text.len()));
        for byte in text[..fits].bytes() {
            // A NUL, of a name in a hostile file, would end the text.
            self.text[self.n] = if byte == 0 { b'?' } else { byte } as c_char;
            self.n += 1;
        }
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
