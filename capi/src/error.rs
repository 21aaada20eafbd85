//! What can go wrong: a status, numbers, and words that say what to do.

use std::{ffi::CStr, fmt};

/// `pith_status`.
pub type Status = i32;
/// `PITH_OK`
pub const OK: Status = 0;
/// `PITH_INVALID`
pub const INVALID: Status = 1;
/// `PITH_IO`
pub const IO: Status = 2;
/// `PITH_MALFORMED`
pub const MALFORMED: Status = 3;
/// `PITH_UNSUPPORTED`
pub const UNSUPPORTED: Status = 4;
/// `PITH_MEMORY`
pub const MEMORY: Status = 5;
/// `PITH_FULL`
pub const FULL: Status = 6;
/// `PITH_BUFFER`
pub const BUFFER: Status = 7;
/// `PITH_BUSY`
pub const BUSY: Status = 8;
/// `PITH_CANCELLED`
pub const CANCELLED: Status = 9;
/// `PITH_INTERNAL`
pub const INTERNAL: Status = 10;

/// A status in two or three words.
pub(crate) fn text(status: Status) -> &'static CStr {
    match status {
        OK => c"success",
        INVALID => c"invalid argument",
        IO => c"input/output error",
        MALFORMED => c"malformed data",
        UNSUPPORTED => c"not supported",
        MEMORY => c"out of memory",
        FULL => c"context full",
        BUFFER => c"buffer too small",
        BUSY => c"session busy",
        CANCELLED => c"cancelled",
        INTERNAL => c"internal error",
        _ => c"unknown status",
    }
}

/// Why a function failed.
pub(crate) enum Fault {
    /// The runtime's reason.
    Runtime(pith::Error),
    /// An argument that is needed is NULL.
    Null(&'static str),
    /// An argument makes no sense.
    Invalid(&'static str),
    /// A text isn't UTF-8 from a byte on.
    NotUtf8 { at: usize },
    /// A struct's size is none that it ever had.
    Size { of: &'static str, got: usize, least: usize },
    /// The caller's reader failed.
    Reader { offset: u64, code: i32 },
    /// The model's own memory is over its ceiling.
    Model { needed: u64, limit: u64 },
    /// The session's memory is over its ceiling.
    Planned { needed: u64, limit: u64 },
    /// The system refused memory while this was done.
    Refused,
    /// The caller's buffer is too small.
    Buffer { needed: usize, capacity: usize },
    /// Another thread is in the session.
    Busy,
    /// By a callback, or by `pith_cancel`.
    Cancelled,
    /// A bug.
    Internal,
    /// A bug has shown up in this session before.
    Broken,
}

impl From<pith::Error> for Fault {
    fn from(error: pith::Error) -> Fault {
        Fault::Runtime(error)
    }
}

impl Fault {
    /// The header's number for it.
    pub fn status(&self) -> Status {
        use pith::Error;
        match self {
            Fault::Runtime(error) => match error {
                Error::Io { .. } | Error::Threads { .. } => IO,
                Error::Malformed { .. } => MALFORMED,
                Error::Unsupported(_) => UNSUPPORTED,
                Error::Invalid(_) => INVALID,
                Error::Memory { .. } | Error::OutOfMemory { .. } => MEMORY,
                Error::ContextFull { .. } => FULL,
                Error::Stopped => CANCELLED,
                _ => INTERNAL,
            },
            Fault::Null(_) | Fault::Invalid(_) | Fault::NotUtf8 { .. } | Fault::Size { .. } => {
                INVALID
            }
            Fault::Reader { .. } => IO,
            Fault::Model { .. } | Fault::Planned { .. } | Fault::Refused => MEMORY,
            Fault::Buffer { .. } => BUFFER,
            Fault::Busy => BUSY,
            Fault::Cancelled => CANCELLED,
            Fault::Internal | Fault::Broken => INTERNAL,
        }
    }

    /// What was needed, and what there was.
    pub fn numbers(&self) -> (u64, u64) {
        use pith::Error;
        match *self {
            Fault::Runtime(Error::Memory { needed, limit })
            | Fault::Model { needed, limit }
            | Fault::Planned { needed, limit } => (needed, limit),
            Fault::Runtime(Error::OutOfMemory { wanted }) => (wanted, 0),
            Fault::Runtime(Error::ContextFull { n_ctx, wanted }) => (wanted as u64, n_ctx as u64),
            Fault::Buffer { needed, capacity } => (needed as u64, capacity as u64),
            _ => (0, 0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use pith::Error;
        match self {
            // In the words of this interface, not the command's.
            Fault::Runtime(Error::Memory { needed, limit }) | Fault::Planned { needed, limit } => {
                write!(
                    f,
                    "the plan needs {needed} bytes of memory, over the ceiling of {limit}; lower \
                     n_ctx, n_seq, n_batch or n_threads, or raise max_memory"
                )
            }
            Fault::Model { needed, limit } => write!(
                f,
                "the model needs {needed} bytes of memory of its own, over the ceiling of {limit}; \
                 raise max_memory"
            ),
            Fault::Runtime(Error::OutOfMemory { wanted }) => write!(
                f,
                "the system refuses {wanted} bytes of memory; lower n_ctx, n_seq or n_batch, or free \
                 some"
            ),
            Fault::Refused => f.write_str("the system has no more memory; free some"),
            Fault::Runtime(Error::ContextFull { n_ctx, wanted }) => write!(
                f,
                "the context is full: {wanted} tokens wanted, {n_ctx} fit; raise n_ctx, or forget \
                 tokens with pith_truncate"
            ),
            Fault::Runtime(Error::Stopped) | Fault::Cancelled => f.write_str("cancelled"),
            Fault::Runtime(error) => error.fmt(f),
            Fault::Null(name) => write!(f, "{name} is NULL"),
            Fault::Invalid(what) => f.write_str(what),
            Fault::NotUtf8 { at } => write!(f, "the text is not UTF-8 at byte {at}"),
            Fault::Size { of, got, least } => write!(
                f,
                "{of}.struct_size is {got}, it is at least {least}: begin with the struct's _INIT"
            ),
            Fault::Reader { offset, code } => {
                write!(f, "the reader failed with {code} at offset {offset}")
            }
            Fault::Buffer { needed, capacity } => {
                write!(f, "the buffer has room for {capacity}, {needed} are needed")
            }
            Fault::Busy => f.write_str(
                "the session is in use: by another thread, or by who called this callback",
            ),
            Fault::Internal => f.write_str("a bug in pith; please report it"),
            Fault::Broken => {
                f.write_str("a bug in pith has broken this session before: free it, and report it")
            }
        }
    }
}
