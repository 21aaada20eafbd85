//! Texts to vectors: the model's final hidden states, pooled.

use super::Session;
use crate::{Error, Result, cpu::Goal};

/// How a text's hidden states become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
}

impl Session<'_> {
    /// The final hidden states of a text, behind the model's last norm, pooled into `out` `[n_embd]`:
    /// what `transformers` calls `last_hidden_state` (of OPT-350m, what
    /// stands before its last projection). A mean is summed in f32, tokens ascending. The
    /// sequence holds the text afterwards, and nothing else; nothing where this is stopped.
    ///
    /// # Errors
    /// As [`Session::eval`]; also if `out` has another length, or the session of a language model was
    /// made without [`Options::score`](super::Options::score).
    pub fn embed(
        &mut self,
        seq: usize,
        ids: &[u32],
        pooling: Pooling,
        out: &mut [f32],
    ) -> Result<()> {
        let n_embd = self.model.hparams().n_embd;
        if out.len() != n_embd {
            let n = out.len();
            return Err(Error::Invalid(format!(
                "room for {n} numbers of an embedding of {n_embd}"
            )));
        }
        // A classifier's step has room for all rows' hidden states as it is.
        if !self.score && self.model.classifier().is_none() {
            return Err(Error::Invalid(
                "embeddings of a session made without Options::score".into(),
            ));
        }
        self.check_text(seq, ids)?;
        self.truncate(seq, 0);
        out.fill(0.0);
        let n_batch = self.n_batch;
        for (i, batch) in ids.chunks(n_batch).enumerate() {
            self.rows.clear();
            self.push(seq, batch, false);
            self.rows.iter_mut().for_each(|row| row.wanted = true);
            self.or_undone(seq, i * n_batch, |session| session.step(Goal::Hidden))?;
            let hidden = self.cpu.rows(self.plan.hidden, batch.len());
            match pooling {
                Pooling::Last => out.copy_from_slice(&hidden[hidden.len() - n_embd..]),
                Pooling::Mean => {
                    for row in hidden.chunks_exact(n_embd) {
                        out.iter_mut().zip(row).for_each(|(out, x)| *out += x);
                    }
                }
            }
        }
        if pooling == Pooling::Mean {
            let n = ids.len() as f32;
            out.iter_mut().for_each(|x| *x /= n);
        }
        Ok(())
    }
}
