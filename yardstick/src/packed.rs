//! Many sequences at once, the best that llama.cpp's API allows: what they share is decoded once and
//! copied, calls are filled with whole rows, and logits are made only where they are looked at.

use std::thread;

use pith::kernel::{Kernels, logits};

use crate::llama::{Context, Logits, Result};

/// The sum of log-probabilities of each row's ids behind `shared`; with nothing shared, of all but its
/// first. Calls have at most `n_batch` tokens; the context is left as it was, empty.
///
/// # Errors
/// What llama.cpp refuses.
pub fn score(
    context: &mut Context<'_>,
    n_batch: usize,
    n_threads: usize,
    shared: &[u32],
    rows: &[Vec<u32>],
) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; rows.len()];
    context.clear();
    if !shared.is_empty() {
        let last = context.decode(shared, Logits::Last)?.to_vec();
        let sum = log_sum_exp(Kernels::best(), &last);
        for (total, row) in sums.iter_mut().zip(rows) {
            *total = f64::from(last[row[0] as usize]) - sum;
        }
        (1..context.n_seq()).try_for_each(|seq| context.copy(0, seq))?;
    }
    // Neighbours are as long as each other: caches apart then make few steps of a call.
    let mut order: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].len() > 1).collect();
    order.sort_by_key(|&row| rows[row].len());
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let mut n_tokens = 0;
        let fits = |&&row: &&usize| {
            n_tokens += rows[row].len() - 1; // the last isn't run
            n_tokens <= n_batch
        };
        let n = rest.iter().take(context.n_seq()).take_while(fits).count().max(1);
        let (some, others) = rest.split_at(n);
        rest = others;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for (seq, &row) in some.iter().enumerate() {
            tokens.extend(rows[row].iter().rev().skip(1).rev().map(|&id| (seq, id)));
            targets.extend(rows[row][1..].iter().map(|&id| (row, id)));
        }
        let n_vocab = context.n_vocab();
        let logits = context.decode_batch(&tokens, Logits::All)?;
        let log_probs = log_probs(logits, n_vocab, &targets, n_threads);
        for ((row, _), log_prob) in targets.iter().zip(log_probs) {
            sums[*row] += log_prob;
        }
        (0..n).try_for_each(|seq| context.truncate(seq, shared.len()))?;
    }
    context.clear();
    Ok(sums)
}

/// The log-probability of each target by its row of logits. The rows are divided among threads, with
/// pith's own kernel.
fn log_probs(
    logits: &[f32],
    n_vocab: usize,
    targets: &[(usize, u32)],
    n_threads: usize,
) -> Vec<f64> {
    let n = targets.len().div_ceil(n_threads).max(1);
    let kernels = Kernels::best();
    let part = |(logits, targets): (&[f32], &[(usize, u32)])| -> Vec<f64> {
        let rows = logits.chunks_exact(n_vocab).zip(targets);
        rows.map(|(row, &(_, id))| f64::from(row[id as usize]) - log_sum_exp(kernels, row))
            .collect()
    };
    thread::scope(|scope| {
        let mut parts = logits.chunks(n * n_vocab).zip(targets.chunks(n));
        let Some(own) = parts.next() else { return Vec::new() };
        let others: Vec<_> = parts.map(|of| scope.spawn(move || part(of))).collect();
        let mut all = part(own);
        others.into_iter().for_each(|other| all.extend(other.join().unwrap_or_default()));
        all
    })
}

/// ln of the sum of exp over a row.
fn log_sum_exp(kernels: &Kernels, row: &[f32]) -> f64 {
    let tiles: Vec<_> = row.chunks(logits::TILE).map(|tile| kernels.softmax(tile)).collect();
    logits::log_sum_exp(tiles.iter().copied())
}

/// The id of the largest logit, in two passes that vector instructions can make.
fn likeliest(row: &[f32]) -> u32 {
    let mut most = [f32::NEG_INFINITY; 64];
    let (whole, rest) = row.as_chunks::<64>();
    for some in whole {
        most.iter_mut().zip(some).for_each(|(most, &logit)| *most = logit.max(*most));
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &logit| logit.max(most));
    row.iter().position(|&logit| logit == most).unwrap_or(0) as u32
}

/// The likeliest `n_predict` ids behind each prompt, or fewer where one ends the text. As many as the
/// context has sequences are continued at once, and the next prompt begins where one has ended.
///
/// # Errors
/// What llama.cpp refuses.
pub fn generate(
    context: &mut Context<'_>,
    n_batch: usize,
    prompts: &[Vec<u32>],
    n_predict: usize,
    is_eog: impl Fn(u32) -> bool,
) -> Result<Vec<Vec<u32>>> {
    let mut texts = vec![Vec::new(); prompts.len()];
    let mut running: Vec<Option<usize>> = vec![None; context.n_seq()];
    let mut waiting = 0..prompts.len();
    context.clear();
    loop {
        let (mut tokens, mut wanted) = (Vec::new(), Vec::new());
        let mut asked = Vec::new();
        for (seq, row) in running.iter().enumerate() {
            if let Some(row) = *row {
                tokens.extend(texts[row].last().map(|&id| (seq, id)));
                wanted.push(true);
                asked.push(seq);
            }
        }
        for (seq, running) in running.iter_mut().enumerate().filter(|(_, row)| row.is_none()) {
            let Some(prompt) = prompts.get(waiting.start) else { break };
            if !tokens.is_empty() && tokens.len() + prompt.len() > n_batch {
                break;
            }
            *running = waiting.next();
            tokens.extend(prompt.iter().map(|&id| (seq, id)));
            wanted.resize(tokens.len(), false);
            wanted.pop();
            wanted.push(true);
            asked.push(seq);
        }
        if tokens.is_empty() {
            return Ok(texts);
        }
        let n_vocab = context.n_vocab();
        let logits = context.decode_wanted(&tokens, &wanted)?;
        let best: Vec<u32> = logits.chunks_exact(n_vocab).map(likeliest).collect();
        for (seq, id) in asked.into_iter().zip(best) {
            let Some(row) = running[seq] else { continue };
            texts[row].push(id);
            if texts[row].len() == n_predict || is_eog(id) {
                context.truncate(seq, 0)?;
                running[seq] = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_the_likeliest() {
        let mut row = vec![-1.0f32; 200];
        assert_eq!(likeliest(&row), 0);
        row[190] = 2.0;
        assert_eq!(likeliest(&row), 190);
        row[70] = 2.0;
        assert_eq!(likeliest(&row), 70);
    }
}
