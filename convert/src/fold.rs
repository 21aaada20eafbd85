//! Folds: the rows of a checkpoint's tensor in the order that GGUF has them, as changes of sizes and
//! strides, and factors on some of them.

use crate::{config::Config, source::View};
use pith::{Error, Result};
use pith_models::{Fold, Hp};

/// Some rows of a tensor.
pub(crate) struct Part {
    pub view: View,
    /// What each value is multiplied with.
    pub times: f32,
}

impl From<View> for Part {
    fn from(view: View) -> Part {
        Part { view, times: 1.0 }
    }
}

/// The rows of the tensor `name` in their new order, one view behind the other: `n_rows` in all, for
/// the GGUF tensor `to`.
pub(crate) fn arrange(
    view: View,
    fold: Fold,
    config: &Config,
    n_rows: usize,
    to: &str,
    name: &str,
) -> Result<Vec<View>> {
    let head = config.head_dim();
    let (n_head, n_kv) = (config.size(Hp::NHead), config.size(Hp::NHeadKv));
    // Half-split pairs become adjacent ones: old row s * head/2 + i is new row 2 i + s.
    let permute = |view: View, heads: usize| {
        if !head.is_multiple_of(2) {
            return Err(Error::Unsupported(format!(
                "tensor `{name}` has rope on heads of odd width {head}"
            )));
        }
        Ok::<_, Error>(vec![view.split(0, &[heads, 2, head / 2]).swap(1, 2)])
    };
    Ok(match fold {
        Fold::Keep | Fold::AddOne | Fold::StackHeads => vec![view],
        Fold::Transpose => vec![view.swap(0, 1)],
        Fold::PermuteQ => permute(view, n_head)?,
        Fold::PermuteK => permute(view, n_kv)?,
        Fold::SplitHeads => {
            if n_head != n_kv {
                return Err(Error::Unsupported(format!(
                    "tensor `{name}` is split by heads, but {n_head} heads share {n_kv}"
                )));
            }
            vec![view.split(0, &[n_head, 3, head]).swap(0, 1)]
        }
        Fold::SplitGroups => {
            let queries = n_head / n_kv;
            let view = view.split(0, &[n_kv, queries + 2, head]);
            let take = |start, len| view.clone().narrow(1, start, len);
            vec![take(0, queries), take(queries, 1), take(queries + 1, 1)]
        }
        Fold::SplitSlices(n) => {
            let n = n as usize;
            if n_head != n_kv || n_head % n != 0 {
                return Err(Error::Unsupported(format!(
                    "tensor `{name}` is split into {n} slices of heads, but there are {n_head} and \
                     {n_kv} key/value heads"
                )));
            }
            let view = view.split(0, &[n, 3, n_head / n * head]);
            [0, 2, 1].map(|part| view.clone().narrow(1, part, 1)).into()
        }
        Fold::OneOfQkv => {
            let first = match to.split('.').nth(2) {
                Some("attn_q") => 0,
                Some("attn_k") => n_head * head,
                _ => (n_head + n_kv) * head,
            };
            vec![view.narrow(0, first, n_rows)]
        }
        Fold::DropRows(n) => vec![view.narrow(0, n as usize, n_rows)],
    })
}

/// Multiplies the rows of the queries, which come first, with the configuration's factor.
pub(crate) fn scale_queries(
    mut parts: Vec<View>,
    config: &Config,
    to: &str,
    il: Option<usize>,
) -> Vec<Part> {
    let times = il.map_or(1.0, |il| config.query_factor(il));
    let stem = to.split('.').nth(2);
    if times != 1.0 && stem == Some("attn_qkv") && parts.len() == 1 {
        let (n_head, n_kv) = (config.size(Hp::NHead), config.size(Hp::NHeadKv));
        let all = parts[0].n_first();
        let queries = all * n_head / (n_head + 2 * n_kv);
        let others = parts[0].clone().narrow(0, queries, all - queries);
        parts = vec![parts.remove(0).narrow(0, 0, queries), others];
    }
    let mut parts: Vec<Part> = parts.into_iter().map(Part::from).collect();
    if let (Some("attn_q" | "attn_qkv"), Some(queries)) = (stem, parts.first_mut()) {
        queries.times = times;
    }
    parts
}
