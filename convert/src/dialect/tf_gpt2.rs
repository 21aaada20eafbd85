//! GPT-2 as OpenAI released it, and what fine-tuning programs on its code save: TensorFlow 1
//! variables under `model/`, sizes in `hparams.json`.
//!
//! Names and sizes: `src/model.py` in openai/gpt-2. Which is whose in Hugging Face's code:
//! `load_tf_weights_in_gpt2` in transformers 4.

use crate::source::{Entry, Leftover, Source, Tensor, read_json};
use pith::{Error, Result};
use serde_json::{Map, Value, json};

/// Last parts of the names of what optimizers keep for each variable, in TensorFlow 1.
const SLOTS: &[&str] =
    &["Adam", "Adam_1", "Momentum", "RMSProp", "RMSProp_1", "Adagrad", "Adadelta", "Adadelta_1"];
/// The same of what training keeps once.
const COUNTERS: &[&str] = &["beta1_power", "beta2_power", "global_step"];

/// Translates OpenAI's GPT-2; another source stays as it is.
///
/// # Errors
/// GPT-Neo's checkpoints of Mesh TensorFlow; GPT-2's variables without `hparams.json`.
pub(super) fn translate(source: &mut Source) -> Result<()> {
    refuse_mesh(source)?;
    if source.tensor("model/wte").is_none() || source.tensor("model/h0/ln_1/g").is_none() {
        return Ok(());
    }
    let variables: std::collections::HashSet<String> =
        source.tensors().iter().map(|tensor| tensor.entry.name.clone()).collect();
    let mut tensors = source.take_tensors();
    tensors.retain(|Tensor { entry, .. }| {
        let what = training_only(&entry.name, |name| variables.contains(name));
        if let Some(what) = what {
            source.leave(Leftover::new(&entry.name, what, true));
        }
        what.is_none()
    });
    source.set_tensors(tensors);
    source.change(rename)?;
    if !source.folder().join("config.json").exists() {
        source.set_config(config(source)?);
    }
    Ok(())
}

/// GPT-Neo was trained in Mesh TensorFlow, which names and shards otherwise.
fn refuse_mesh(source: &Source) -> Result<()> {
    if source.tensor("gpt2/h0/attn/q").is_none() {
        return Ok(());
    }
    Err(Error::Unsupported(
        "`gpt2/h0/attn/q`: a checkpoint of GPT-Neo in Mesh TensorFlow; make it a PyTorch one with \
         transformers 4's convert_gpt_neo_mesh_tf_to_pytorch.py, or take EleutherAI's"
            .into(),
    ))
}

/// What a variable is that only training needs.
fn training_only(name: &str, is_variable: impl Fn(&str) -> bool) -> Option<&'static str> {
    let (of, last) = name.rsplit_once('/').unwrap_or(("", name));
    if SLOTS.contains(&last) && is_variable(of) {
        return Some("an optimizer's slot");
    }
    COUNTERS.contains(&last).then_some("a counter of the training")
}

/// `model/h0/attn/c_attn/w` becomes `h.0.attn.c_attn.weight`, `[1, n_in, n_out]` becomes
/// `[n_in, n_out]`. What has another form keeps its name, so that it stops the conversion.
fn rename(entry: &mut Entry) -> Result<()> {
    let Some(name) = new_name(&entry.name) else { return Ok(()) };
    // Only the convolutions of width 1 have a third dimension.
    if let ([1, _, _], true) = (entry.shape.as_slice(), entry.name.ends_with("/w")) {
        entry.shape.remove(0);
        entry.strides.remove(0);
    }
    entry.name = name;
    Ok(())
}

fn new_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix("model/")?.split('/').collect();
    let kind = |last: &str| match last {
        "g" | "w" => Some("weight"),
        "b" => Some("bias"),
        _ => None,
    };
    match parts.as_slice() {
        [table @ ("wte" | "wpe")] => Some(format!("{table}.weight")),
        ["ln_f", last] => Some(format!("ln_f.{}", kind(last)?)),
        [layer, middle @ .., last] if !middle.is_empty() => {
            let layer = layer.strip_prefix('h')?;
            let plain = !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| kind(last))?.map(|kind| format!("h.{layer}.{}.{kind}", middle.join(".")))
        }
        _ => None,
    }
}

/// `hparams.json` as the `config.json` of the same model. A key that OpenAI's code doesn't have keeps
/// its name: it stops the conversion unless it is allowed.
fn config(source: &Source) -> Result<Value> {
    let path = source.folder().join("hparams.json");
    if !path.exists() {
        return Err(Error::Invalid(format!(
            "OpenAI's GPT-2 has its sizes in hparams.json; there is none in {}",
            source.folder().display()
        )));
    }
    let Value::Object(numbers) = read_json(&path)? else {
        return Err(Error::malformed("JSON", format!("{} holds no object", path.display())));
    };
    let mut config = Map::new();
    for (key, value) in numbers {
        let name = match key.as_str() {
            "n_vocab" => "vocab_size".to_owned(),
            "n_ctx" => "n_positions".to_owned(),
            _ => key,
        };
        config.insert(name, value);
    }
    for (key, value) in [
        ("architectures", json!(["GPT2LMHeadModel"])),
        ("model_type", json!("gpt2")),
        ("activation_function", json!("gelu_new")),
        ("layer_norm_epsilon", json!(1e-5)),
    ] {
        config.insert(key.into(), value);
    }
    Ok(Value::Object(config))
}
