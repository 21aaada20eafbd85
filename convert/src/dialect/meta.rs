//! Meta's Llama (`consolidated.00.pth` and `params.json`: github.com/meta-llama/llama and
//! llama-models, `models/llama3/model.py`), and llama2.c's `ckpt.pt`, which has the same names and its
//! arguments beside the weights.
//!
//! Rope turns adjacent pairs of rows of q and k there, pairs of halves of a head in Hugging Face's
//! code; and each rank of tensor parallelism has a file with its rows or columns.

mod joined;
mod params;

use crate::source::{Data, Entry, Leftover, Source, Tensor, read_json};
use joined::{Joined, Part};
use params::Params;
use pith::{Error, Result};
use std::sync::Arc;

const EMBEDDING: &str = "tok_embeddings.weight";

/// How ranks share a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Each has some of its rows.
    Rows,
    /// Each has some of its columns.
    Columns,
    /// Columns up to Llama 2, rows from Llama 3 on.
    Embedding,
    /// Each has all of it.
    None,
}

/// Tensors of a layer: Meta's name, Hugging Face's, and how ranks share it.
const LAYER: &[(&str, &str, Split)] = &[
    ("attention.wq.weight", "self_attn.q_proj.weight", Split::Rows),
    ("attention.wk.weight", "self_attn.k_proj.weight", Split::Rows),
    ("attention.wv.weight", "self_attn.v_proj.weight", Split::Rows),
    ("attention.wo.weight", "self_attn.o_proj.weight", Split::Columns),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", Split::Rows),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", Split::Columns),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", Split::Rows),
    ("attention_norm.weight", "input_layernorm.weight", Split::None),
    ("ffn_norm.weight", "post_attention_layernorm.weight", Split::None),
    ("attention.inner_attention.rope.freqs", "self_attn.rotary_emb.inv_freq", Split::None),
];
/// Tensors beside the layers.
const OUTER: &[(&str, &str, Split)] = &[
    (EMBEDDING, "model.embed_tokens.weight", Split::Embedding),
    ("norm.weight", "model.norm.weight", Split::None),
    ("output.weight", "lm_head.weight", Split::Rows),
];

/// Joins ranks, renames tensors, reorders q and k, and makes the configuration.
pub(super) fn translate(source: &mut Source) -> Result<()> {
    let speaks = ["layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight", EMBEDDING];
    if speaks.iter().any(|name| source.tensor(name).is_none()) {
        return refuse_ranks(source);
    }
    let params = params(source)?;
    let mut translated = Vec::new();
    let tensors = source.take_tensors();
    for ranks in tensors.chunk_by(|a, b| a.entry.name == b.entry.name) {
        let name = &ranks[0].entry.name;
        if name == "rope.freqs" {
            source.leave(Leftover::new(name.clone(), "a table of rope's frequencies", true));
            continue;
        }
        let (name, split) = rename(name);
        translated.push(join(source, &params, ranks, name, split)?);
    }
    source.set_tensors(translated);
    let rows = |name: &str| {
        let shape = source.tensor(name).map(|tensor| &tensor.entry.shape);
        shape.and_then(|shape| shape.first()).copied().unwrap_or(0)
    };
    let (n_vocab, n_ff) =
        (rows("model.embed_tokens.weight"), rows("model.layers.0.mlp.gate_proj.weight"));
    source.set_config(params.config(n_vocab, n_ff)?);
    Ok(())
}

/// Ranks can be joined only where it is known how they share each tensor.
fn refuse_ranks(source: &Source) -> Result<()> {
    let mut pairs = source.tensors().windows(2);
    match pairs.find(|pair| pair[0].entry.name == pair[1].entry.name) {
        None => Ok(()),
        Some(pair) => Err(Error::Unsupported(format!(
            "tensor `{}` is in several consolidated.NN.pth files, whose names aren't those of \
             Meta's Llama; convert the Hugging Face version of the model",
            pair[0].entry.name
        ))),
    }
}

/// `params.json`, or the arguments that llama2.c keeps beside the weights.
fn params(source: &Source) -> Result<Params> {
    let args = source.leftovers().iter().find(|left| left.beside && left.name == "model_args");
    if let Some(args) = args {
        return Params::read(&args.value, "model_args");
    }
    let path = source.folder().join("params.json");
    if !path.exists() {
        return Err(Error::Invalid(format!(
            "the tensors are named as in Meta's checkpoints, whose {} is missing",
            path.display()
        )));
    }
    Params::read(&read_json(&path)?, "params.json")
}

/// Hugging Face's name for one of Meta's; what isn't known keeps its own.
fn rename(name: &str) -> (String, Split) {
    if let Some((_, to, split)) = OUTER.iter().find(|(from, ..)| *from == name) {
        return ((*to).to_owned(), *split);
    }
    let layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let known = layer.and_then(|(il, rest)| {
        let (_, to, split) = LAYER.iter().find(|(from, ..)| *from == rest)?;
        Some((format!("model.layers.{il}.{to}"), *split))
    });
    known.unwrap_or_else(|| (name.to_owned(), Split::None))
}

/// One tensor out of its ranks' parts, called `name`.
fn join(
    source: &Source,
    params: &Params,
    ranks: &[Tensor],
    name: String,
    split: Split,
) -> Result<Tensor> {
    let first = &ranks[0].entry;
    let head = match name.rsplit_once(".self_attn.").map(|(_, name)| name) {
        Some("q_proj.weight" | "k_proj.weight") => Some(params.head_dim()),
        _ => None,
    };
    let whole = ranks.len() == 1 || split == Split::None;
    if whole && head.is_none() {
        return Ok(ranks[0].beside(Entry { name, ..first.clone() }));
    }
    let by_columns = match split {
        Split::Columns => true,
        Split::Embedding => first.shape.get(1) != Some(&params.dim),
        Split::Rows | Split::None => false,
    };
    let parts = ranks.iter().map(|rank| Part::new(source.file_of(rank), rank.entry.clone()));
    let joined = Joined::new(parts.collect(), by_columns, head)?;
    let [rows, columns] = joined.shape();
    let wanted = head.map(|_| if name.contains("q_proj") { params.n_q() } else { params.n_kv() });
    if wanted.is_some_and(|wanted| wanted != rows) {
        return Err(Error::Unsupported(format!(
            "tensor `{}` has {rows} rows in {} files, {} wants {}: is a consolidated.NN.pth missing?",
            first.name,
            ranks.len(),
            params.place,
            wanted.unwrap_or(0)
        )));
    }
    Ok(ranks[0].beside(Entry {
        name,
        dtype: first.dtype,
        shape: vec![rows, columns],
        strides: vec![columns, 1],
        offset: 0,
        data: Data::Packed(Arc::new(joined)),
    }))
}
