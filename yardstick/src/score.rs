//! Logits to log-probabilities, top-1 ids and perplexity, whoever made the logits.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::llama::{Context, Logits, Result};

/// Cuts ids into windows of at most `n_ctx` tokens, each scored by itself. Where the model wants a
/// BOS, every window begins with one (and has one token less of the text).
pub fn windows(ids: &[u32], n_ctx: usize, bos: Option<u32>) -> Vec<Vec<u32>> {
    let n_text = n_ctx - usize::from(bos.is_some());
    ids.chunks(n_text).map(|ids| bos.into_iter().chain(ids.iter().copied()).collect()).collect()
}

/// What a model says about windows of ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Natural log of the probability of each next id: one less than its ids per window.
    pub log_probs: Vec<f64>,
    /// The likeliest next id: one for every id.
    pub top1: Vec<u32>,
}

impl Scores {
    /// Adds a window; `logits` is `[ids.len(), n_vocab]`, row i following id i.
    ///
    /// # Panics
    /// If there is not one row for every id.
    pub fn push(&mut self, ids: &[u32], logits: &[f32], n_vocab: usize) {
        assert_eq!(logits.len(), ids.len() * n_vocab, "one row of logits per id");
        for (i, row) in logits.chunks_exact(n_vocab).enumerate() {
            self.top1.push(argmax(row));
            if let Some(&next) = ids.get(i + 1) {
                self.log_probs.push(log_prob(row, next));
            }
        }
    }

    /// exp of the mean negative log-probability.
    pub fn perplexity(&self) -> f64 {
        (-self.log_probs.iter().sum::<f64>() / self.log_probs.len() as f64).exp()
    }

    /// The fraction of positions where both have the same likeliest next id.
    pub fn top1_agreement(&self, other: &Scores) -> f64 {
        assert_eq!(self.top1.len(), other.top1.len(), "scores of the same windows");
        let same = self.top1.iter().zip(&other.top1).filter(|(a, b)| a == b).count();
        same as f64 / self.top1.len() as f64
    }
}

/// The id of the largest logit; the lowest of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Natural log of the probability of `id`, the softmax of the logits there, in f64.
pub fn log_prob(logits: &[f32], id: u32) -> f64 {
    let max = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    f64::from(logits[id as usize]) - max - sum.ln()
}

/// What llama.cpp says about each window, every window from an empty context, with so many tokens
/// in a call.
pub fn llama(context: &mut Context, windows: &[Vec<u32>], n_batch: usize) -> Result<Scores> {
    let mut scores = Scores::default();
    let n_vocab = context.n_vocab();
    for ids in windows {
        context.clear();
        let mut logits = Vec::with_capacity(ids.len() * n_vocab);
        for some in ids.chunks(n_batch) {
            logits.extend_from_slice(context.decode(some, Logits::All)?);
        }
        scores.push(ids, &logits, n_vocab);
    }
    Ok(scores)
}

/// What pith says about each window, every window from an empty context. The session has
/// [`pith::session::Options::score`] and names one likeliest id.
///
/// # Errors
/// What [`pith::Session::score`] says.
pub fn pith(session: &mut pith::Session<'_>, windows: &[Vec<u32>]) -> Result<Scores> {
    let mut scores = Scores::default();
    for ids in windows {
        session.truncate(0, 0);
        // Nothing follows the last id: it stands in for its own target, of which only the likeliest
        // id is looked at.
        let targets: Vec<u32> = ids.iter().skip(1).chain(ids.last()).copied().collect();
        let scored = session.score(0, ids, &targets, |i, score| {
            scores.top1.push(score.top.first().map_or(0, |best| best.id));
            if i + 1 < ids.len() {
                scores.log_probs.push(score.log_prob());
            }
        });
        scored.map_err(|e| e.to_string())?;
    }
    Ok(scores)
}

/// Writes `PREFIX.ids` (all windows, one after the other) and `PREFIX.top1`: u32, little-endian.
pub fn write(prefix: &Path, windows: &[Vec<u32>], scores: &Scores) -> io::Result<()> {
    let le_bytes = |ids: &mut dyn Iterator<Item = u32>| -> Vec<u8> {
        ids.flat_map(u32::to_le_bytes).collect()
    };
    let with = |extension: &str| -> PathBuf {
        let mut path = prefix.as_os_str().to_owned();
        path.push(extension);
        path.into()
    };
    fs::write(with(".ids"), le_bytes(&mut windows.iter().flatten().copied()))?;
    fs::write(with(".top1"), le_bytes(&mut scores.top1.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_begin_with_bos() {
        assert_eq!(windows(&[1, 2, 3], 2, None), [vec![1, 2], vec![3]]);
        assert_eq!(windows(&[1, 2, 3], 3, Some(9)), [vec![9, 1, 2], vec![9, 3]]);
    }

    #[test]
    fn equal_logits_score_the_vocabulary() {
        let mut scores = Scores::default();
        scores.push(&[3, 1], &[0.5; 8], 4);
        assert_eq!(scores.top1, [0, 0]);
        assert!((scores.perplexity() - 4.0).abs() < 1e-12);
    }
}
