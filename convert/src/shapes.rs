//! The shape that each GGUF tensor must have, from the model's numbers.

use crate::config::Config;
use pith_models::{Ffn, HEAD_TENSOR, Hp, QkNorm};

/// Wanted shape as PyTorch writes it: `[n]`, or `[n_out, n_in]`.
pub(crate) type Shape = Vec<usize>;

/// Sizes that the numbers don't give and the checkpoint does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedding {
    /// Tokens.
    pub n_vocab: usize,
    /// Width of a row: `n_embd`, but narrower where a projection follows (OPT-350m).
    pub width: usize,
}

/// The shape of the GGUF tensor `name` (with its layer number or `{}`), or `None` for a name that
/// has none here: no row of `pith-models` has such a name.
pub(crate) fn wanted(config: &Config, embedding: Embedding, name: &str) -> Option<Shape> {
    let family = config.family;
    let n_embd = config.size(Hp::NEmbd);
    let head = config.head_dim();
    let q = config.size(Hp::NHead) * head;
    let kv = config.size(Hp::NHeadKv) * head;
    let n_ff = config.size(Hp::NFf);
    let up = match family.block.ffn {
        Ffn::GatedFused => 2 * n_ff,
        Ffn::Plain | Ffn::Gated => n_ff,
    };
    let qk_norm = |whole: usize| match family.block.qk_norm {
        QkNorm::Full => vec![whole],
        QkNorm::None | QkNorm::Head => vec![head],
        QkNorm::EachHead => vec![whole / head, head],
    };
    let (stem, is_bias) = match name.strip_suffix(".bias") {
        Some(stem) => (stem, true),
        None => (name.strip_suffix(".weight")?, false),
    };
    let stem = match stem.strip_prefix("blk.") {
        Some(rest) => rest.split_once('.')?.1,
        None => stem,
    };
    let matrix = |n_out: usize, n_in: usize| {
        if is_bias { vec![n_out] } else { vec![n_out, n_in] }
    };
    Some(match stem {
        "token_embd" => matrix(embedding.n_vocab, embedding.width),
        "project_in" => matrix(n_embd, embedding.width),
        "project_out" => matrix(embedding.width, n_embd),
        "output" => matrix(embedding.n_vocab, embedding.width),
        HEAD_TENSOR => matrix(config.classifier.as_ref()?.labels.len(), embedding.width),
        "position_embd" => matrix(config.size(Hp::NCtx), n_embd),
        "attn_q" => matrix(q, n_embd),
        "attn_k" | "attn_v" => matrix(kv, n_embd),
        "attn_qkv" => matrix(q + 2 * kv, n_embd),
        "attn_output" => matrix(n_embd, q),
        "ffn_up" => matrix(up, n_embd),
        "ffn_gate" => matrix(n_ff, n_embd),
        "ffn_down" => matrix(n_embd, n_ff),
        "attn_q_norm" => qk_norm(q),
        "attn_k_norm" => qk_norm(kv),
        norm if norm.ends_with("_norm") || norm == "attn_norm_2" => vec![n_embd],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A tensor without a shape here could not be converted at all.
    #[test]
    fn every_tensor_of_every_family_has_a_shape() {
        let numbers =
            json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 2});
        let mut config = Config::read(&numbers, &[]).unwrap();
        let embedding = Embedding { n_vocab: 5, width: 8 };
        for family in pith_models::FAMILIES {
            config.family = family;
            for row in family.tensors {
                let shape = wanted(&config, embedding, &row.to.replace("{}", "0"));
                assert!(shape.is_some_and(|shape| !shape.is_empty()), "{} {}", family.arch, row.to);
            }
        }
        assert_eq!(wanted(&config, embedding, "blk.0.new.weight"), None);
    }
}
