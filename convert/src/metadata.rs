//! The metadata of the written file: stock keys as llama.cpp's converter writes them, and `pith.*`
//! keys for what has none.

use crate::{
    Options,
    config::{Classifier, Config, Number, token_ids},
    source::{Source, read_json},
    tokenizer::{self, Imported},
    write::Job,
};
use pith::{
    Error, Result,
    gguf::{OwnedValue, Writer},
    quant::Format,
};
use pith_models::{Hp, KIND_KEY, LABELS_KEY, PAD_KEY, POOLING_KEY, PROBLEM_KEY};
use serde_json::Value;
use std::{collections::HashSet, path::Path};

/// `general.quantization_version`: llama.cpp's layout of quantized blocks since May 2023.
pub(crate) const QUANTIZATION_VERSION: u32 = 2;

/// A writer with all keys of the model. What the file leaves out goes to `ignored`.
pub(crate) fn metadata(
    source: &Source,
    config: &mut Config,
    options: &Options,
    jobs: &[Job<'_>],
    ignored: &mut Vec<(String, String)>,
) -> Result<Writer> {
    let imported = match options.no_tokenizer {
        true => None,
        false => {
            let (folder, n_vocab) = (source.folder(), config.size(Hp::NVocab));
            let mut imported = tokenizer::import(folder, n_vocab, &options.allow_unknown)?;
            config.allowed.append(&mut imported.allowed);
            Some(imported)
        }
    };
    let family = config.family;
    let mut keys = Keys { writer: Writer::default(), known: HashSet::new() };
    keys.set("general.architecture", OwnedValue::String(family.arch.into()))?;
    let name = options.name.clone().unwrap_or_else(|| folder_name(source.folder()));
    keys.set("general.name", OwnedValue::String(name))?;
    let file_type = options.target.file_type(most_common(jobs));
    keys.set("general.file_type", OwnedValue::U32(file_type))?;
    keys.set("general.quantization_version", OwnedValue::U32(QUANTIZATION_VERSION))?;
    for (hp, number) in config.numbers() {
        let value = match number {
            Number::U32(value) => OwnedValue::U32(value),
            Number::F32(value) => OwnedValue::F32(value),
            Number::Bool(value) => OwnedValue::Bool(value),
        };
        keys.set(&hp_key(family.arch, hp), value)?;
    }
    if let Some(name) = config.scaling.name() {
        let key = format!("{}.rope.scaling.type", family.arch);
        keys.set(&key, OwnedValue::String(name.into()))?;
    }
    if config.act != family.block.act {
        keys.set("pith.activation", OwnedValue::String(config.act.name().into()))?;
    }
    if let Some(classifier) = &config.classifier {
        set_classifier(&mut keys, family.arch, classifier)?;
    }
    if !config.allowed.is_empty() {
        keys.set("pith.convert.allowed_unknown", OwnedValue::Strings(config.allowed.clone()))?;
    }
    match imported {
        None => keys.set("tokenizer.ggml.model", OwnedValue::String("none".into()))?,
        Some(imported) => set_tokenizer(&mut keys, source.folder(), config, imported, ignored)?,
    }
    Ok(keys.writer)
}

/// A writer with all keys of an adapter's file.
pub(crate) fn of_adapter(
    source: &Source,
    config: &Config,
    options: &Options,
    jobs: &[Job<'_>],
    alpha: f32,
) -> Result<Writer> {
    let text = |text: &str| OwnedValue::String(text.into());
    let mut writer = Writer::default();
    writer.set("general.architecture", text(config.family.arch))?;
    writer.set("general.type", text("adapter"))?;
    let name = options.name.clone().unwrap_or_else(|| folder_name(source.folder()));
    writer.set("general.name", text(&name))?;
    let file_type = options.target.file_type(most_common(jobs));
    writer.set("general.file_type", OwnedValue::U32(file_type))?;
    writer.set("general.quantization_version", OwnedValue::U32(QUANTIZATION_VERSION))?;
    writer.set("adapter.type", text("lora"))?;
    writer.set("adapter.lora.alpha", OwnedValue::F32(alpha))?;
    Ok(writer)
}

/// A writer that knows which keys it has.
struct Keys {
    writer: Writer,
    known: HashSet<String>,
}

impl Keys {
    fn set(&mut self, key: &str, value: OwnedValue) -> Result<()> {
        self.known.insert(key.to_owned());
        self.writer.set(key, value)
    }
}

/// The head's labels, and what its logits are and mean.
fn set_classifier(keys: &mut Keys, arch: &str, classifier: &Classifier) -> Result<()> {
    let Classifier { kind, problem, labels, pad } = classifier;
    keys.set(&format!("{arch}.{LABELS_KEY}"), OwnedValue::Strings(labels.clone()))?;
    keys.set(&format!("{arch}.{POOLING_KEY}"), OwnedValue::U32(kind.pooling()))?;
    keys.set(KIND_KEY, OwnedValue::String(kind.name().into()))?;
    keys.set(PROBLEM_KEY, OwnedValue::String(problem.name().into()))?;
    match pad {
        Some(pad) => keys.set(PAD_KEY, OwnedValue::U32(*pad)),
        None => Ok(()),
    }
}

fn hp_key(arch: &str, hp: Hp) -> String {
    match hp.key().0 {
        own if own.starts_with("pith.") => own.to_owned(),
        suffix => format!("{arch}.{suffix}"),
    }
}

fn folder_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// The format of most matrix values.
pub(crate) fn most_common(jobs: &[Job<'_>]) -> Format {
    let values = |format: &Format| -> usize {
        let with = jobs.iter().filter(|job| job.choice.format == *format);
        with.map(|job| job.mapped.n_values()).sum()
    };
    Format::ALL.iter().copied().max_by_key(values).unwrap_or(Format::F32)
}

/// The tokenizer's own keys, then the special tokens that they leave open: generation ends where
/// `generation_config.json` says, else `config.json`. What is left out goes to `ignored`.
fn set_tokenizer(
    keys: &mut Keys,
    folder: &Path,
    config: &Config,
    imported: Imported,
    ignored: &mut Vec<(String, String)>,
) -> Result<()> {
    let n_vocab = config.size(Hp::NVocab);
    for (key, value) in imported.keys {
        keys.set(&key, value)?;
    }
    let dropped = imported.dropped.into_iter();
    ignored.extend(dropped.map(|token| (token, "an added token without an embedding".into())));

    let generation = folder.join("generation_config.json");
    let generation = if generation.exists() { read_json(&generation)? } else { Value::Null };
    let mut ids = |key: &str| -> Result<Vec<u32>> {
        let mut ids = match generation.get(key).filter(|value| !value.is_null()) {
            Some(value) => token_ids(value).ok_or_else(|| {
                Error::Invalid(format!("generation_config.json: `{key}` is {value}, not token ids"))
            })?,
            None => {
                let configured = config.special.iter().find(|(known, _)| *known == key);
                configured.map(|(_, ids)| ids.clone()).unwrap_or_default()
            }
        };
        // Fine-tunes with a vocabulary of their own keep the ids of the model they began with.
        ids.retain(|&id| {
            let exists = (id as usize) < n_vocab;
            if !exists {
                ignored.push((format!("{key} {id}"), format!("the vocabulary has {n_vocab}")));
            }
            exists
        });
        Ok(ids)
    };
    for (key, gguf) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        let ids = ids(key)?;
        if let (false, Some(&id)) = (keys.known.contains(gguf), ids.first()) {
            keys.set(gguf, OwnedValue::U32(id))?;
        }
        // A chat model ends its turn with another token than its text: both end generation.
        if key == "eos_token_id" && generation.get(key).is_some() && !ids.is_empty() {
            keys.set("pith.eog_token_ids", OwnedValue::U32s(ids))?;
        }
    }
    Ok(())
}
