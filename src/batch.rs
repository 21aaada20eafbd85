//! Many sequences at once. Steps are filled with tokens of as many sequences as fit, and what several
//! begin with is run once: a prefix tree of them finds it. What a sequence gets is the same, bit for
//! bit, in whatever company and however much memory.
//!
//! - [`Scorer`]: how probable given tokens are;
//! - [`Heads`]: what a classification head says;
//! - [`Generator`]: sequences that are continued, each by its own sampler.
//!
//! Each takes a [`Session`] with more sequences than one: 16 to 32 of them and steps of
//! 256 tokens keep a CPU busy. With one it does the same work in smaller steps.

mod generator;
mod heads;
mod schedule;
mod scorer;
mod tree;

pub use generator::{Chosen, End, Generator, Next, Prompt};
pub use heads::Heads;
pub use scorer::{Request, Scored, Scorer, Scores};

use self::schedule::Move;
use crate::{Error, Result, Session};

/// Sequences, and tokens of a step, that keep a CPU busy.
pub const N_SEQ: usize = 16;
/// See [`N_SEQ`].
pub const N_BATCH: usize = 256;

/// Readies sequences for a step.
fn prepare(session: &mut Session<'_>, made: Move) {
    match made {
        Move::Cut { seq, len } => session.truncate(seq, len),
        Move::Copy { from, len, seq } => session.fork_at(from, len, seq),
    }
}

/// Tokens of a sequence that is to be run: some, that fit, that the model has.
fn check(session: &Session<'_>, ids: &[u32]) -> Result<()> {
    let (n_ctx, wanted) = (session.n_ctx(), ids.len());
    if ids.is_empty() {
        return Err(Error::Invalid("a sequence of no tokens".into()));
    }
    if wanted > n_ctx {
        return Err(Error::ContextFull { n_ctx, wanted });
    }
    session.check_tokens(ids)
}
