//! nanoGPT's `ckpt.pt` (github.com/karpathy/nanoGPT, `train.py` and `model.py`): GPT-2 with the names
//! of Hugging Face's, but with matrices as `nn.Linear` has them, and with `model_args` beside the
//! weights instead of a `config.json`. minGPT's state dicts have the same matrices.

use crate::source::{Data, Dtype, Entry, Leftover, Packed, Source, Tensor};
use pith::{Error, Result};
use serde_json::{Map, Value, json};
use std::{collections::HashSet, sync::Arc};

/// The matrix whose orientation can be told: it has three times as many rows as columns.
const QKV: &str = "transformer.h.0.attn.c_attn.weight";
/// Matrices that Hugging Face's GPT-2 has transposed (its Conv1D).
const MATRICES: &[&str] =
    &[".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"];
/// Norms, which have a bias where matrices have one.
const NORMS: &[&str] = &[".ln_1.weight", ".ln_2.weight", ".ln_f.weight"];

/// Turns the matrices and makes the configuration.
pub(super) fn translate(source: &mut Source) -> Result<()> {
    let is_linear = source.tensor(QKV).is_some_and(|qkv| match qkv.entry.shape[..] {
        [rows, columns] => columns.checked_mul(3) == Some(rows),
        _ => false,
    });
    if !is_linear {
        return Ok(());
    }
    let args = source.leftovers().iter().find(|left| left.beside && left.name == "model_args");
    let args = args.map(model_args).transpose()?;
    match &args {
        Some(args) => source.set_config(config(args)),
        // GPT-BigCode has such matrices, too, and is described as it is.
        None if !is_gpt2(source) => return Ok(()),
        None => {}
    }
    let mut tensors = source.take_tensors();
    let is_matrix = |name: &str| MATRICES.iter().any(|matrix| name.ends_with(matrix));
    for Tensor { entry, .. } in &mut tensors {
        if is_matrix(&entry.name) {
            entry.shape.reverse();
            entry.strides.reverse();
        }
    }
    let bias = args.as_ref().and_then(|args| args.get("bias")).and_then(Value::as_bool);
    if bias == Some(false) {
        add_biases(&mut tensors)?;
    }
    source.set_tensors(tensors);
    Ok(())
}

/// Whether the configuration beside the weights is of GPT-2.
fn is_gpt2(source: &Source) -> bool {
    source.config().is_ok_and(|config| {
        config["architectures"][0].as_str().is_some_and(|class| class.starts_with("GPT2"))
    })
}

fn model_args(left: &Leftover) -> Result<Map<String, Value>> {
    left.value.as_object().cloned().ok_or_else(|| {
        Error::Unsupported(format!("`model_args` is {}, not a small dict of numbers", left.what))
    })
}

/// The configuration of the same model in Hugging Face's words. Arguments that nanoGPT doesn't have
/// stay in it, to be refused by name.
fn config(args: &Map<String, Value>) -> Value {
    // `bias` came in January 2023, and nn.GELU, which is exact, in place of the tanh form later that
    // year. A file with `bias` from between can't be told apart.
    let act = if args.contains_key("bias") { "gelu" } else { "gelu_new" };
    let mut config = json!({
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": act,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": true,
    });
    for (key, value) in args {
        let key = match key.as_str() {
            "block_size" => "n_positions",
            "bias" => continue, // decided by the tensors, see `add_biases`
            "dropout" => "resid_pdrop",
            key => key,
        };
        config[key] = value.clone();
    }
    config
}

/// A model without biases is one whose biases are 0, which Hugging Face's GPT-2, and llama.cpp's,
/// can say only this way.
fn add_biases(tensors: &mut Vec<Tensor>) -> Result<()> {
    let names: HashSet<_> = tensors.iter().map(|tensor| tensor.entry.name.clone()).collect();
    let mut biases = Vec::new();
    for tensor in &*tensors {
        let Entry { name, shape, .. } = &tensor.entry;
        let has_bias = MATRICES.iter().chain(NORMS).any(|with| name.ends_with(with));
        let (Some(stem), true, Some(&n_out)) =
            (name.strip_suffix("weight"), has_bias, shape.last())
        else {
            continue;
        };
        let name = format!("{stem}bias");
        if names.contains(&name) {
            return Err(Error::Unsupported(format!(
                "`model_args` says that the model has no biases, but tensor `{name}` is there"
            )));
        }
        biases.push(tensor.beside(Entry {
            name,
            dtype: Dtype::F32,
            shape: vec![n_out],
            strides: vec![1],
            offset: 0,
            data: Data::Packed(Arc::new(Zeros(n_out))),
        }));
    }
    tensors.append(&mut biases);
    Ok(())
}

/// So many zeros of F32: no more than a matrix of the checkpoint has columns or rows.
#[derive(Debug)]
struct Zeros(usize);

impl Packed for Zeros {
    fn unpack(&self, _file: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![0; self.0 * 4])
    }
}
