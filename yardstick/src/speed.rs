//! Tokens per second of llama.cpp and of pith, on the same tasks with the same ids, as llama-bench
//! and llama-batched-bench have them: logits for the last token of a prompt and for every generated
//! one, no sampling.

use std::fmt;
use std::time::Instant;

use crate::llama::{Context, Logits, Result};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A prompt of `n` tokens at once.
    Prompt {
        /// Tokens.
        n: usize,
    },
    /// `n` tokens one by one after a context of `depth`.
    Generate {
        /// Tokens.
        n: usize,
        /// Tokens before them.
        depth: usize,
    },
    /// `n` tokens for each of `n_seq` sequences that begin empty, one of each in a step.
    Batch {
        /// Tokens of a sequence.
        n: usize,
        /// Sequences.
        n_seq: usize,
    },
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Prompt { n } => write!(f, "pp{n}"),
            Task::Generate { n, depth } => write!(f, "tg{n}@{depth}"),
            Task::Batch { n, n_seq } => write!(f, "tg{n}x{n_seq}"),
        }
    }
}

impl Task {
    /// Tokens that a sequence holds at the end.
    pub fn n_ctx(&self) -> usize {
        match *self {
            Task::Prompt { n } | Task::Batch { n, .. } => n,
            Task::Generate { n, depth } => n + depth,
        }
    }

    /// Sequences.
    pub fn n_seq(&self) -> usize {
        if let Task::Batch { n_seq, .. } = *self { n_seq } else { 1 }
    }

    /// How often the weights are read, by whoever reads them once for all tokens of a step; `None`
    /// where steps are as large as the runner likes.
    pub fn n_steps(&self) -> Option<usize> {
        match *self {
            Task::Prompt { .. } => None,
            Task::Generate { n, .. } | Task::Batch { n, .. } => Some(n),
        }
    }

    /// Tokens per second, of all sequences together.
    pub fn measure(&self, runner: &mut dyn Runner) -> Result<f64> {
        let n = self.n_ctx() * self.n_seq();
        let ids = ids(n, runner.n_vocab());
        let depth = if let Task::Generate { depth, .. } = *self { depth } else { 0 };
        for seq in 0..self.n_seq() {
            runner.truncate(seq, depth)?;
        }
        let held = runner.len(0);
        if held < depth {
            runner.append(&ids[held..depth])?;
        }
        let ids = &ids[depth..];
        let start = Instant::now();
        match self {
            Task::Prompt { .. } => runner.append(ids)?,
            _ => ids.chunks(self.n_seq()).try_for_each(|ids| runner.step(ids))?,
        }
        let seconds = start.elapsed().as_secs_f64();
        runner.rest();
        Ok(ids.len() as f64 / seconds)
    }
}

/// `n` ids spread over the vocabulary, the same at every call.
fn ids(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % n_vocab) as u32).collect()
}

/// Whoever runs a model.
pub trait Runner {
    /// Tokens in the vocabulary.
    fn n_vocab(&self) -> usize;
    /// Tokens that a sequence holds.
    fn len(&self, seq: usize) -> usize;
    /// Forgets the tokens of a sequence from position `len` on.
    fn truncate(&mut self, seq: usize, len: usize) -> Result<()>;
    /// Appends a prompt to sequence 0.
    fn append(&mut self, ids: &[u32]) -> Result<()>;
    /// Appends one id to each sequence.
    fn step(&mut self, ids: &[u32]) -> Result<()>;
    /// Leaves the machine to others.
    fn rest(&mut self) {}
}

impl Runner for Context<'_> {
    fn n_vocab(&self) -> usize {
        self.n_vocab()
    }

    fn len(&self, seq: usize) -> usize {
        self.len(seq)
    }

    fn truncate(&mut self, seq: usize, len: usize) -> Result<()> {
        self.truncate(seq, len)
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        self.decode(ids, Logits::Last).map(|_| ())
    }

    fn step(&mut self, ids: &[u32]) -> Result<()> {
        let tokens: Vec<(usize, u32)> = ids.iter().copied().enumerate().collect();
        self.decode_batch(&tokens, Logits::All).map(|_| ())
    }

    fn rest(&mut self) {
        Context::rest(self);
    }
}

impl Runner for pith::Session<'_> {
    fn n_vocab(&self) -> usize {
        self.model().hparams().n_vocab
    }

    fn len(&self, seq: usize) -> usize {
        self.ids(seq).len()
    }

    fn truncate(&mut self, seq: usize, len: usize) -> Result<()> {
        self.truncate(seq, len);
        Ok(())
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        self.eval(0, ids).map(|_| ()).map_err(|e| e.to_string())
    }

    fn step(&mut self, ids: &[u32]) -> Result<()> {
        let batch: Vec<(usize, &[u32])> = ids.chunks(1).enumerate().collect();
        self.eval_batch(&batch).map(|_| ()).map_err(|e| e.to_string())
    }
}
