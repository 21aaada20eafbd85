//! The C face of [`pith`]: what `include/pith.h` declares. The header is the contract; what it says of
//! pointers, lengths and lifetimes is what the unsafe blocks here rest on.
//!
//! A file uses only files above it in this list:
//!
//! | file | job |
//! |---|---|
//! | `error` | what can go wrong, in numbers and words |
//! | `memory` | the allocator: counts, and has reserves for when the system refuses |
//! | `structs` | the header's structs, and how a caller's are read and written |
//! | `pointers` | a caller's pointers, checked |
//! | `guard` | the border: panics, exhausted memory, and how errors are told |
//! | `model` | models and adapters |
//! | `text` | text to ids and back |
//! | `session` | sessions: planned, made, lent to one caller at a time, freed |
//! | `sequence` | what sequences hold |
//! | `generate` | tokens chosen, and the whole loop |
//! | `tasks` | scores, labels, embeddings |
#![allow(unsafe_code)]
// The header says it, for those who call.
#![allow(clippy::missing_safety_doc)]

mod error;
mod generate;
mod guard;
mod memory;
mod model;
mod pointers;
mod sequence;
mod session;
mod structs;
mod tasks;
mod text;

#[cfg(test)]
extern crate self as pith_c;
#[cfg(test)]
mod tests;

pub use error::*;
pub use generate::*;
pub use model::*;
pub use sequence::*;
pub use session::*;
pub use structs::*;
pub use tasks::*;
pub use text::*;

use std::ffi::{CStr, c_char};

/// `PITH_ABI_VERSION`.
pub const ABI_VERSION: u32 = 1;

/// The version, from Cargo.toml.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

/// The version in words.
#[unsafe(no_mangle)]
pub extern "C" fn pith_version() -> *const c_char {
    VERSION.as_ptr()
}

/// What the library has of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn pith_abi_version() -> u32 {
    ABI_VERSION
}

/// A status in two or three words.
#[unsafe(no_mangle)]
pub extern "C" fn pith_status_text(status: Status) -> *const c_char {
    error::text(status).as_ptr()
}
