//! Scores, labels, embeddings.

use crate::{
    error::{Fault, Status},
    pointers::{self, Place},
    session::{Inner, PithSession, enter},
    structs::PithError,
};

use pith::session::Pooling;

/// `PITH_POOL_MEAN`
pub const POOL_MEAN: i32 = 0;
/// `PITH_POOL_LAST`
pub const POOL_LAST: i32 = 1;

/// How probable a text's tokens are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_score(
    session: *mut PithSession,
    seq: u32,
    ids: *const u32,
    n_ids: usize,
    log_probs: *mut f64,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.require_score()?;
        let n = n_ids.saturating_sub(1);
        // SAFETY: the header's contract.
        let (ids, to) = unsafe {
            let ids = pointers::values(ids, n_ids, "ids")?;
            (ids, pointers::values_mut(log_probs, n, "log_probs")?)
        };
        inner.fresh = None;
        let targets = ids.get(1..).unwrap_or_default();
        inner.session.score(seq as usize, ids, targets, |i, score| to[i] = score.log_prob())?;
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}

/// What a classifier's head says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_classify(
    session: *mut PithSession,
    seq: u32,
    ids: *const u32,
    n_ids: usize,
    values: *mut f32,
    capacity: usize,
    n_rows: *mut usize,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let n_rows = unsafe { Place::new(n_rows, 0) };
    let body = |inner: &mut Inner| {
        n_rows.needed("n_rows")?;
        // SAFETY: the header's contract.
        let (ids, to) = unsafe {
            let ids = pointers::values(ids, n_ids, "ids")?;
            (ids, pointers::values_mut(values, capacity, "values")?)
        };
        let model = inner.model.clone();
        let head = model.model.require_classifier()?;
        let index = inner.seq(seq)?;
        inner.session.check_text(index, ids)?;
        let (rows, n_labels) = (head.rows(ids), head.labels().len());
        let needed = rows.len().saturating_mul(n_labels);
        if needed > capacity {
            n_rows.set(rows.len());
            return Err(Fault::Buffer { needed, capacity });
        }
        inner.session.truncate(index, 0);
        inner.session.classify(&[(index, ids)], |_, at, logits| {
            let row = &mut to[(at - rows.start) * n_labels..][..n_labels];
            row.copy_from_slice(logits);
            head.finish(row);
        })?;
        Ok(rows.len())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |n| n_rows.set(n)) }
}

/// A text as a vector.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_embed(
    session: *mut PithSession,
    seq: u32,
    ids: *const u32,
    n_ids: usize,
    pooling: i32,
    normalize: i32,
    embedding: *mut f32,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        // A classifier's steps have the room as it is.
        if inner.model.model.classifier().is_none() {
            inner.require_score()?;
        }
        let pooling = match pooling {
            POOL_MEAN => Pooling::Mean,
            POOL_LAST => Pooling::Last,
            _ => return Err(Fault::Invalid("pooling is no PITH_POOL_...")),
        };
        let n_embd = inner.model.model.hparams().n_embd;
        // SAFETY: the header's contract.
        let (ids, out) = unsafe {
            let ids = pointers::values(ids, n_ids, "ids")?;
            (ids, pointers::values_mut(embedding, n_embd, "embedding")?)
        };
        inner.fresh = None;
        inner.session.embed(seq as usize, ids, pooling, out)?;
        if normalize != 0 {
            to_length_1(out);
        }
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}

/// Divides a vector by its length; zeros stay.
fn to_length_1(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
