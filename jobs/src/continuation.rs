//! A text behind another, as tokens: what stands before, and what is scored.
//!
//! As lm-evaluation-harness has it (`_encode_pair`, `loglikelihood_rolling`): whitespace at the end of a
//! context belongs to the continuation; both are encoded as one text, and what is behind the context's
//! own tokens is the continuation. Before a text without a context stands the token that begins texts,
//! or where the vocabulary has none, the one that ends them. One thing differs: a model that wants a
//! beginning token gets it before every context.

use pith::tokenizer::Tokenizer;

use crate::row::RowError;

/// A sequence of which tokens are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Index of the first that is scored, at least 1.
    pub from: usize,
}

/// The sequence of the tokens of a context (without whitespace at its end) and of both together.
///
/// # Errors
/// `empty`: nothing to score, or nothing before it.
pub fn pair(
    tokenizer: &Tokenizer,
    context: &[u32],
    mut both: Vec<u32>,
) -> std::result::Result<Continuation, RowError> {
    let mut from = context.len();
    if from == 0 {
        let first = tokenizer.bos().or(tokenizer.eos());
        if let Some(first) = first
            && both.first() != Some(&first)
        {
            both.insert(0, first);
        }
        from = 1;
    }
    match from < both.len() {
        true => Ok(Continuation { ids: both, from }),
        false => Err(RowError::new("empty", "there is nothing to score")),
    }
}
