//! Texts to embeddings, ids to logits.

use std::sync::Arc;

use pith_jobs::prompt::Reader;
use pyo3::prelude::*;
use runtime::{Error, Model, session::Pooling};

use crate::{
    arrays::{self, write},
    error::{OrRaise, invalid},
    sessions::Sessions,
};

/// Pooled hidden states of texts, float32 `[n, n_embd]`.
pub fn embed<'py>(
    py: Python<'py>,
    model: &Arc<Model>,
    sessions: &Sessions,
    texts: &[String],
    pooling: &str,
    normalize: bool,
    parse_special: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let pooling = match pooling {
        "mean" => Pooling::Mean,
        "last" => Pooling::Last,
        _ => return Err(invalid(py, format!("pooling={pooling:?}; wanted \"mean\" or \"last\""))),
    };
    let mut lease = sessions.take(py, &sessions.embed, &[])?;
    let n_embd = model.hparams().n_embd;
    let mut vector = vec![0.0; n_embd];
    arrays::f32s(py, &[texts.len(), n_embd], |mut cells| {
        for (at, text) in texts.iter().enumerate() {
            let ids = py.detach(|| {
                let reader = Reader::new(model.tokenizer(), parse_special);
                reader.encode_whole(&reader.plain(text.as_str()))
            });
            // Before the work, so that the error names the text.
            let n_ctx = lease.n_ctx();
            let check = match ids.len() {
                0 => Err(Error::Invalid("it has no tokens".into())),
                wanted if wanted > n_ctx => Err(Error::ContextFull { n_ctx, wanted }),
                _ => Ok(()),
            };
            check.or_raise_of(py, at)?;
            lease.work(py, |session| session.embed(0, &ids, pooling, &mut vector))?;
            if normalize {
                to_unit(&mut vector);
            }
            let (row, rest) = cells.split_at_mut(n_embd);
            write(row, &vector);
            cells = rest;
        }
        Ok(())
    })
}

/// Makes a vector's length 1; one of zeros stays.
fn to_unit(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// Logits after the last of some tokens, float32 `[n_vocab]`.
pub fn last_logits<'py>(
    py: Python<'py>,
    model: &Model,
    sessions: &Sessions,
    ids: &[u32],
) -> PyResult<Bound<'py, PyAny>> {
    let mut lease = sessions.take(py, &sessions.write, ids)?;
    arrays::f32s(py, &[model.hparams().n_vocab], |cells| {
        lease.work(py, |session| session.sync(0, ids).map(|logits| write(cells, logits)))
    })
}

/// Logits after each of some tokens, float32 `[n, n_vocab]`.
pub fn all_logits<'py>(
    py: Python<'py>,
    model: &Model,
    sessions: &Sessions,
    ids: &[u32],
) -> PyResult<Bound<'py, PyAny>> {
    let mut lease = sessions.take(py, &sessions.logits, &[])?;
    // Before memory is asked for that many.
    let (n_ctx, wanted) = (lease.n_ctx(), ids.len());
    if wanted > n_ctx {
        return Err(Error::ContextFull { n_ctx, wanted }).or_raise(py);
    }
    let n_vocab = model.hparams().n_vocab;
    arrays::f32s(py, &[ids.len(), n_vocab], |cells| {
        lease.work(py, |session| {
            session.truncate(0, 0);
            session.eval_all(0, ids, |at, logits| write(&mut cells[at * n_vocab..], logits))
        })
    })
}
