//! Tokens per second of llama.cpp and of pith, measured as its own llama-bench does: the prompt in one call with
//! logits for its last token; generation one token a call, from an empty context, fixed ids.

use std::time::Instant;

use crate::llama::{Context, Logits, Result};

/// `n` ids spread over the vocabulary, the same at every call.
pub fn ids(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % n_vocab) as u32).collect()
}

/// Tokens per second of a prompt taken at once.
pub fn prompt(context: &mut Context, n_prompt: usize) -> Result<f64> {
    let ids = ids(n_prompt, context.n_vocab());
    context.clear();
    let start = Instant::now();
    context.decode(&ids, Logits::Last)?;
    Ok(n_prompt as f64 / start.elapsed().as_secs_f64())
}

/// Tokens per second one at a time.
pub fn generation(context: &mut Context, n_gen: usize) -> Result<f64> {
    let ids = ids(n_gen, context.n_vocab());
    context.clear();
    let start = Instant::now();
    for &id in &ids {
        context.decode(&[id], Logits::Last)?;
    }
    Ok(n_gen as f64 / start.elapsed().as_secs_f64())
}

/// As [`prompt`], by pith.
///
/// # Errors
/// What [`pith::Session::eval`] says.
pub fn pith_prompt(session: &mut pith::Session<'_>, n_prompt: usize) -> Result<f64> {
    let ids = ids(n_prompt, session.model().hparams().n_vocab);
    session.truncate(0, 0);
    let start = Instant::now();
    session.eval(0, &ids).map_err(|e| e.to_string())?;
    Ok(n_prompt as f64 / start.elapsed().as_secs_f64())
}

/// As [`generation`], by pith.
///
/// # Errors
/// What [`pith::Session::eval`] says.
pub fn pith_generation(session: &mut pith::Session<'_>, n_gen: usize) -> Result<f64> {
    let ids = ids(n_gen, session.model().hparams().n_vocab);
    session.truncate(0, 0);
    let start = Instant::now();
    for &id in &ids {
        session.eval(0, &[id]).map_err(|e| e.to_string())?;
    }
    Ok(n_gen as f64 / start.elapsed().as_secs_f64())
}

/// The middle of the samples (the lower one of two), and the largest.
///
/// # Panics
/// If there is none.
pub fn median_and_best(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() - 1])
}
