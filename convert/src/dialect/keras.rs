//! transformers' TF classes: `transformer/tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0` is
//! `transformer.h.0.ln_1.weight`.
//!
//! The rules are those of `convert_tf_weight_name_to_pt_weight_name` (transformers 4,
//! `modeling_tf_pytorch_utils.py`). In a file, Keras puts the layer's name before that of the
//! variable, which begins with the model's: both go. The shards of a sharded checkpoint have neither.

use super::transpose;
use crate::source::{Entry, Source};
use pith::{Error, Result};

/// What ends the name of a variable: its output's number.
const VARIABLE: &str = ":0";

/// Translates a checkpoint of Keras variables; another stays as it is.
pub(super) fn translate(source: &mut Source) -> Result<()> {
    let mut names = source.tensors().iter().map(|tensor| tensor.entry.name.as_str());
    if let Some(name) = names.clone().find(|name| is_numbered(name)) {
        return Err(Error::Unsupported(format!(
            "`{name}` is a variable without a name, as Keras 3 saves them; load it in its program \
             and save it as safetensors"
        )));
    }
    if names.any(|name| name.ends_with(VARIABLE)) {
        source.change(variable)?;
    }
    Ok(())
}

/// Whether this is one of Keras 3's `layers/dense/vars/0`.
fn is_numbered(name: &str) -> bool {
    name.rsplit_once("/vars/").is_some_and(|(_, number)| number.parse::<u32>().is_ok())
}

fn variable(entry: &mut Entry) -> Result<()> {
    let Some(name) = entry.name.strip_suffix(VARIABLE) else {
        return Ok(());
    };
    let name = name.replace("_._", "/");
    let mut parts: Vec<&str> = name.split('/').collect();
    let scopes = match parts[..] {
        [layer, _, again, _, ..] if layer == again => 2,
        [model, _, ..] if model.starts_with("tf") => 1,
        _ => 0,
    };
    parts.drain(..scopes);
    let leaf = parts.len() - 1;
    match parts[leaf] {
        "kernel" => {
            transpose(entry)?;
            parts[leaf] = "weight";
        }
        "gamma" | "embeddings" => parts[leaf] = "weight",
        "beta" => parts[leaf] = "bias",
        // TFConv1D, whose weight is [n_in, n_out] like that of PyTorch's Conv1D, has a row of biases.
        "bias" if entry.shape.len() == 2 && entry.shape[0] == 1 => {
            entry.shape.remove(0);
            entry.strides.remove(0);
        }
        _ => {}
    }
    entry.name = parts.join(".");
    Ok(())
}
