//! The one error type. Each variant says what was wrong and carries the numbers; `Display` ends
//! with the next step where there is one. The library never prints and never exits.

use std::{fmt, io, path::PathBuf};

/// The result of everything in pith that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// What was being done, as a verb: "open", "map", "write".
        action: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it claims to be: truncated, inconsistent or hostile.
    Malformed {
        /// The kind of file: "GGUF", "safetensors", "pickle".
        format: &'static str,
        /// What is wrong, with name or key, wanted and got.
        fault: String,
        /// Byte offset in the file, where one is known.
        offset: Option<u64>,
    },
    /// The file is sound, but pith can't do what it asks for.
    Unsupported(String),
    /// A caller's argument makes no sense here.
    Invalid(String),
    /// The planned memory is over the ceiling.
    Memory {
        /// Bytes that the plan needs.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The system has no more memory.
    OutOfMemory {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// The system starts no more threads.
    Threads {
        /// Threads that were asked for.
        wanted: usize,
        /// The system's reason.
        reason: String,
    },
    /// A sequence would grow past its context.
    ContextFull {
        /// Tokens that the context holds.
        n_ctx: usize,
        /// Tokens that it would have to hold.
        wanted: usize,
    },
    /// A caller's progress function asked for the end of the work; nothing is left of it.
    Stopped,
}

impl Error {
    /// A malformed file without a known offset.
    pub fn malformed(format: &'static str, fault: impl Into<String>) -> Self {
        Error::Malformed { format, fault: fault.into(), offset: None }
    }

    /// A malformed file, with the byte offset of the fault.
    pub fn malformed_at(format: &'static str, offset: u64, fault: impl Into<String>) -> Self {
        Error::Malformed { format, fault: fault.into(), offset: Some(offset) }
    }

    /// An operating-system error with its file: `.map_err(Error::io("open", path))`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            Error::Malformed { format, fault, offset: Some(at) } => {
                write!(f, "malformed {format} file at byte {at}: {fault}")
            }
            Error::Malformed { format, fault, offset: None } => {
                write!(f, "malformed {format} file: {fault}")
            }
            Error::Unsupported(what) => write!(f, "unsupported: {what}"),
            Error::Invalid(what) => write!(f, "{what}"),
            Error::Memory { needed, limit } => write!(
                f,
                "the plan needs {needed} bytes of memory, over the ceiling of {limit}; \
                 lower the context (--ctx) or raise --max-memory"
            ),
            Error::OutOfMemory { wanted } => write!(
                f,
                "the system refuses {wanted} bytes of memory; lower the context (--ctx), or free some"
            ),
            Error::Threads { wanted, reason } => {
                write!(f, "cannot start {wanted} threads: {reason}; ask for fewer")
            }
            Error::ContextFull { n_ctx, wanted } => write!(
                f,
                "the context is full: {wanted} tokens wanted, {n_ctx} fit; raise --ctx, shorten \
                 the prompt, or choose a policy with --on-full"
            ),
            Error::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
