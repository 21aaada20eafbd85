//! The self-check: what was written computes what the checkpoint does.
//!
//! Three comparisons of the written file with the source, each of which sees what the others can't:
//!
//! * **numbers**: what [`pith::Model`] reads from the file's keys equals what the configuration says,
//!   exactly, even where a short sample wouldn't show it (a window, a context);
//! * **rows**: each row of each tensor, decoded, is the source's row, up to what rounding to its format
//!   can do ([`row_limit`]); so a row in another's place is found in any format;
//! * **logits**: a sample is run through the file with a [`Session`], and through a plain f32 network
//!   over the source's tensors (`forward`), which shares neither plan nor keys with the runtime, and of
//!   its kernels the product of F32 rows alone. Mean KL divergence, source || written, is bound by [`kl_limit`].
//!
//! The source is streamed: some rows at a time are in memory, and what the sample needs of activations.

mod forward;
mod layers;
mod numbers;
mod weights;

use crate::{
    config::{Classifier, Config},
    source::Source,
    work::Written,
};
use forward::Forward;
use pith::{
    Error, Model, Result, Session, cache,
    gguf::Gguf,
    model,
    quant::Format,
    sampler::argmax,
    session,
    tokenizer::{Encode, Tokenizer},
};
use std::path::Path;
use weights::Weights;

/// Most tokens of the sample.
const SAMPLE: usize = 16;
/// A text that has fewer different tokens than this says too little about positions.
const LEAST_DISTINCT: usize = 8;
/// The sample, where the file has a tokenizer.
const TEXT: &str = "In 1843 she wrote: \"The engine weaves patterns, just as a loom weaves flowers \
                    and leaves.\" Nobody could run it, but every step was there.";
/// Rows of logits that the runtime keeps at once.
const LOGITS: usize = 4;
/// How many faults are listed.
const MAX_FAULTS: usize = 8;

/// What a self-check measured.
#[derive(Clone, Debug)]
pub struct Check {
    /// Tokens of the sample.
    pub n_tokens: usize,
    /// Mean KL divergence of the next token's distribution in nats, source || written.
    pub kl: f64,
    /// What it may be ([`kl_limit`]).
    pub kl_limit: f64,
    /// Share of positions whose likeliest next token is the same.
    pub top1: f64,
    /// The largest relative difference of a row, written against source, with its tensor.
    pub worst_row: (f64, String),
    /// What is wrong: nothing, if the check passed.
    pub faults: Vec<String>,
}

impl Check {
    /// An error that lists the faults, if there are some.
    pub(crate) fn verdict(self) -> Result<Check> {
        if self.faults.is_empty() {
            return Ok(self);
        }
        let more = self.faults.len().saturating_sub(MAX_FAULTS);
        let mut list = self.faults[..self.faults.len() - more].join("; ");
        if more > 0 {
            list += &format!("; and {more} more");
        }
        Err(Error::Unsupported(format!(
            "the self-check failed, and no file was written: {list}. Please report this; --no-check \
             writes the file nevertheless"
        )))
    }
}

/// The mean KL divergence, in nats, that a sample of a file with matrices of this format may have
/// (that of its coarsest counts). Measured, largest of the goldens' random checkpoints; of SmolLM2
/// 135M; of Gemma 3 270M on tokens that make no sense, which is the worst seen:
///
/// | format | random | SmolLM2 | Gemma 3 |
/// |---|---|---|---|
/// | F32 | 2e-12 | 4e-12 | 9e-11 |
/// | F16 | 9e-6 | | |
/// | BF16 | 6e-4 | 8e-5 | 2e-3 |
/// | Q8_0 | 0.007 | 0.006 | 0.07 |
/// | Q6_K, 5 bits | 0.12 | 0.18 | 1.3 |
/// | 4 bits | 0.5 | 0.5 | 4.6 |
/// | Q3_K | 0.8 | 0.6 | 8.9 |
/// | Q2_K | 2.2 | 4.1 | 13 |
///
/// A file in F32 differs by the order of sums alone: an epsilon of 1e-5 for 1e-6 shows. In coarse
/// formats it is numbers and rows that show small faults, and the logits show gross ones.
pub fn kl_limit(format: Format) -> f64 {
    use Format::*;
    match format {
        F32 => 1e-9,
        F16 => 5e-4,
        BF16 => 0.02,
        Q8_0 => 0.25,
        Q6_K | Q5_K | Q5_0 | Q5_1 => 3.0,
        Q4_0 | Q4_1 | Q4_K | IQ4_NL | IQ4_XS => 8.0,
        Q3_K => 15.0,
        Q2_K => 20.0,
    }
}

/// The relative difference, root mean square, that rounding to this format may make in a row. The
/// formats' worst rows, one value per block beside others halfway between two codes, stay below.
pub fn row_limit(format: Format) -> f64 {
    use Format::*;
    match format {
        F32 => 0.0,
        F16 => 1.0 / 1024.0,
        BF16 => 1.0 / 128.0,
        Q8_0 => 0.03,
        Q6_K => 0.15,
        Q5_0 | Q5_1 | Q5_K => 0.25,
        Q4_0 | Q4_1 | Q4_K => 0.5,
        IQ4_NL | IQ4_XS => 0.6,
        Q3_K => 0.8,
        Q2_K => 0.95,
    }
}

/// Compares a written file with the checkpoint's tensors. `before` hears of each layer.
pub(crate) fn compare(
    source: &Source,
    config: &Config,
    written: &Written<'_, '_>,
    before: &mut dyn FnMut() -> Result<()>,
) -> Result<Check> {
    let pool = written.pool;
    let model = Model::open(written.path)?;
    let gguf = Gguf::parse(model.bytes())?;
    let tensors = written.jobs.iter().map(|job| &job.mapped);
    let weights = Weights::new(source, tensors, &gguf, pool)?;
    let wanted = numbers::expected(config, &weights);
    let mut faults = numbers::differences(wanted.clone(), model.hparams());
    faults.extend(head_faults(config.classifier.as_ref(), model.classifier()));
    let (arch, got) = (config.family.arch, model.family().arch);
    if arch != got {
        faults.push(format!("the file's architecture is {got}, the checkpoint's {arch}"));
    }

    let n = SAMPLE.min(wanted.n_ctx);
    let ids = sample(model.tokenizer(), wanted.n_vocab, n);
    let block = &config.family.block;
    let logits = Forward { weights: &weights, block, hp: &wanted }.logits(&ids, before)?;
    let (kl, top1) = distance(&model, &ids, &logits, pool.current_num_threads())?;
    conclude(&weights, &gguf, ids.len(), (kl, top1), faults)
}

/// Compares a written GGUF file with the one that it was made of, which the runtime runs, too.
pub(crate) fn compare_files(original: &Path, written: &Written<'_, '_>) -> Result<Check> {
    let (wanted, model) = (Model::open(original)?, Model::open(written.path)?);
    let gguf = Gguf::parse(model.bytes())?;
    let none = Source::default();
    let tensors = written.jobs.iter().map(|job| &job.mapped);
    let weights = Weights::new(&none, tensors, &gguf, written.pool)?;
    let hp = wanted.hparams();
    let mut faults = numbers::differences(hp.clone(), model.hparams());
    if wanted.classifier() != model.classifier() {
        faults.push("the file's head is another".into());
    }
    let n = SAMPLE.min(hp.n_ctx);
    let ids = sample(model.tokenizer(), hp.n_vocab, n);
    let n_threads = written.pool.current_num_threads();
    let mut logits = Vec::new();
    each_logits(&wanted, &ids, n_threads, |at, row| {
        logits.resize(row.len() * n, 0.0);
        logits.chunks_exact_mut(n).zip(row).for_each(|(all, &logit)| all[at] = logit);
    })?;
    let found = distance(&model, &ids, &logits, n_threads)?;
    conclude(&weights, &gguf, n, found, faults)
}

/// What a comparison found, when the rows that no product has read are compared, too.
fn conclude(
    weights: &Weights<'_>,
    gguf: &Gguf<'_>,
    n_tokens: usize,
    (kl, top1): (f64, f64),
    mut faults: Vec<String>,
) -> Result<Check> {
    weights.read_the_rest()?;
    let formats = gguf.tensors().iter().map(|tensor| kl_limit(tensor.format));
    let kl_limit = formats.fold(0.0, f64::max);
    let (worst_row, bad_rows) = weights.findings();
    faults.extend(bad_rows);
    // A NaN is over every limit.
    if kl.is_nan() || kl > kl_limit {
        faults.push(format!(
            "a sample of {n_tokens} tokens diverges by {kl:.3e} nats (KL, mean) where at most \
             {kl_limit:e} is rounding"
        ));
    }
    Ok(Check { n_tokens, kl, kl_limit, top1, worst_row, faults })
}

/// What differs of a classification head.
fn head_faults(wanted: Option<&Classifier>, got: Option<&model::Classifier>) -> Option<String> {
    let wanted = wanted.map(|head| (head.kind, head.problem, head.labels.as_slice()));
    let got = got.map(|head| (head.kind(), head.problem(), head.labels()));
    (wanted != got).then(|| format!("the file's head is {got:?}, the checkpoint's {wanted:?}"))
}

/// Up to `n` tokens of a text; without a tokenizer for it, ids that are spread over the vocabulary.
fn sample(tokenizer: &Tokenizer, n_vocab: usize, n: usize) -> Vec<u32> {
    let mut ids = tokenizer.encode(TEXT, Encode { add_special: true, parse_special: false });
    ids.truncate(n);
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if ids.len() == n && distinct.len() >= LEAST_DISTINCT.min(n) {
        return ids;
    }
    (1..=n as u64).map(|i| (i * 2_654_435_761 % n_vocab.max(1) as u64) as u32).collect()
}

/// Mean KL divergence of the file's logits from `wanted`, `[n_vocab, n]`, and the share of equal top-1
/// ids.
fn distance(model: &Model, ids: &[u32], wanted: &[f32], n_threads: usize) -> Result<(f64, f64)> {
    let n = ids.len();
    let (mut kl, mut same, mut rows) = (0.0, 0u32, 0u32);
    let mut column = vec![0.0; wanted.len() / n];
    each_logits(model, ids, n_threads, |at, got| {
        for (value, row) in column.iter_mut().zip(wanted.chunks_exact(n)) {
            *value = row[at];
        }
        same += u32::from(argmax(&column) == argmax(got));
        kl += match model.classifier() {
            None => divergence(&column, got),
            // A logit of 0 beside them, so that one label has a distribution, too.
            Some(_) => divergence(&[&column, &[0.0][..]].concat(), &[got, &[0.0]].concat()),
        };
        rows += 1;
    })?;
    let rows = f64::from(rows);
    Ok((kl / rows, f64::from(same) / rows))
}

/// What the runtime computes after each token, or, of a head that labels texts, after the last.
fn each_logits(
    model: &Model,
    ids: &[u32],
    n_threads: usize,
    mut each: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let n = ids.len();
    let options = session::Options {
        n_ctx: n,
        n_batch: n,
        n_logits: LOGITS,
        cache: cache::Type::F32,
        n_threads,
        ..session::Options::default()
    };
    let mut session = Session::new(model, &options)?;
    if model.classifier().is_some() {
        return session.classify(&[(0, ids)], |_, at, logits| each(at, logits));
    }
    let n_vocab = model.hparams().n_vocab;
    session.eval_all(0, ids, |first, logits| {
        let rows = logits.chunks_exact(n_vocab).enumerate();
        rows.for_each(|(i, row)| each(first + i, row));
    })
}

/// KL divergence of softmax(b) from softmax(a), in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        max + logits.iter().map(|&l| (f64::from(l) - max).exp()).sum::<f64>().ln()
    };
    let (sum_a, sum_b) = (log_sum(a), log_sum(b));
    let term = |(&a, &b): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(a) - sum_a, f64::from(b) - sum_b);
        log_p.exp() * (log_p - log_q)
    };
    a.iter().zip(b).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_definition() {
        let logits = |p: [f64; 2]| p.map(|p| p.ln() as f32 + 3.0);
        let kl = divergence(&logits([0.75, 0.25]), &logits([0.5, 0.5]));
        assert!((kl - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-6, "{kl}");
        assert!(divergence(&[1.0, 2.0], &[2.0, 3.0]).abs() < 1e-12);
        assert!(divergence(&[1.0, 2.0], &[f32::NAN, 3.0]).is_nan());
    }
}
