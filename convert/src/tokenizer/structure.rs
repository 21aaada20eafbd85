//! What the stages of a `tokenizer.json` mean to pith. Stages are recognised by what they are, not
//! by a model's name; a stage or a combination that pith can't do is refused with its JSON.

use pith::{
    Error, Result,
    tokenizer::{Model, SpacePrefix},
};
use serde_json::{Value, json};

use super::object::{Object, short, wrong};

/// Patterns of `Split` that a `tokenizer.ggml.pre` name stands for.
const PATTERNS: [(&str, &str); 4] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt-2"),
    (r" ?[^(\s|[.,!?…。，、।۔،])]+", "bloom"),
];

/// What the stages come to.
#[derive(Debug, PartialEq)]
pub(super) struct Structure {
    pub(super) model: Model,
    /// `tokenizer.ggml.pre`.
    pub(super) pre: &'static str,
    pub(super) nfc: bool,
    pub(super) space_prefix: SpacePrefix,
}

/// Reads the normalizer, pre-tokenizer and decoder.
pub(super) fn structure(json: &mut Object) -> Result<Structure> {
    let mut stages = |key: &str, inner: &str| flatten(json.take(key), inner);
    let normalizers = stages("normalizer", "normalizers");
    let splits = stages("pre_tokenizer", "pretokenizers");
    let decoders = stages("decoder", "decoders");
    let byte_level = |stages: &[Value]| stages.iter().any(|s| s["type"] == "ByteLevel");
    if byte_level(&splits) || byte_level(&decoders) {
        byte_level_structure(&normalizers, &splits, &decoders)
    } else {
        sentencepiece_structure(&normalizers, &splits, &decoders)
    }
}

/// A stage, or the stages of a sequence.
pub(super) fn flatten(stage: Option<Value>, inner: &str) -> Vec<Value> {
    match stage {
        None => Vec::new(),
        Some(mut stage) if stage["type"] == "Sequence" => match stage[inner].take() {
            Value::Array(stages) => {
                stages.into_iter().flat_map(|s| flatten(Some(s), inner)).collect()
            }
            _ => vec![stage],
        },
        Some(stage) => vec![stage],
    }
}

pub(super) fn refuse(what: &str, stages: &[Value]) -> Error {
    Error::Unsupported(format!(
        "tokenizer.json: {what} {}: pith doesn't know this combination",
        short(&Value::Array(stages.to_vec()))
    ))
}

fn byte_level_structure(
    normalizers: &[Value],
    splits: &[Value],
    decoders: &[Value],
) -> Result<Structure> {
    let nfc = match normalizers {
        [] => false,
        [one] if *one == json!({"type": "NFC"}) => true,
        _ => return Err(refuse("normalizer", normalizers)),
    };
    match decoders {
        [one] if ByteLevel::of(one).is_some() => {}
        _ => return Err(refuse("decoder", decoders)),
    }
    let unknown = || refuse("pre_tokenizer", splits);
    let last = |stage: &Value| ByteLevel::of(stage).ok_or_else(unknown);
    let (pre, prefix) = match splits {
        [one] => {
            let stage = last(one)?;
            if !stage.use_regex {
                return Err(unknown());
            }
            ("gpt-2", stage.add_prefix_space)
        }
        [digits, bytes] if is_digits(digits, true) && last(bytes)?.use_regex => {
            ("smollm", last(bytes)?.add_prefix_space)
        }
        [split, bytes] if !last(bytes)?.use_regex => {
            (pattern(split).ok_or_else(unknown)?, last(bytes)?.add_prefix_space)
        }
        [punctuation, bytes, digits, split]
            if *punctuation == json!({"type": "Punctuation", "behavior": "Contiguous"})
                && is_digits(digits, false)
                && isolated(split) == Some("[0-9][0-9][0-9]")
                && last(bytes)?.use_regex =>
        {
            ("falcon", last(bytes)?.add_prefix_space)
        }
        _ => return Err(unknown()),
    };
    // Behind another stage the space would go before every word, which nobody wants.
    if prefix && splits.len() > 1 {
        return Err(unknown());
    }
    let space_prefix = if prefix { SpacePrefix::Missing } else { SpacePrefix::Never };
    Ok(Structure { model: Model::ByteLevel, pre, nfc, space_prefix })
}

/// The settings of a `ByteLevel` stage that matter; `trim_offsets` moves offsets, not ids.
struct ByteLevel {
    add_prefix_space: bool,
    use_regex: bool,
}

impl ByteLevel {
    fn of(stage: &Value) -> Option<ByteLevel> {
        let keys = stage.as_object().filter(|_| stage["type"] == "ByteLevel")?;
        let known = ["type", "add_prefix_space", "trim_offsets", "use_regex"];
        if keys.keys().any(|k| !known.contains(&k.as_str())) {
            return None;
        }
        // Files from before the setting existed always split.
        let use_regex = keys.get("use_regex").map_or(Some(true), Value::as_bool)?;
        Some(ByteLevel { add_prefix_space: keys.get("add_prefix_space")?.as_bool()?, use_regex })
    }
}

fn is_digits(stage: &Value, individual: bool) -> bool {
    *stage == json!({"type": "Digits", "individual_digits": individual})
}

/// The pattern of a `Split` that keeps matches and what lies between.
fn isolated(stage: &Value) -> Option<&str> {
    let pattern = stage["pattern"]["Regex"].as_str()?;
    let whole = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false
    });
    (*stage == whole).then_some(pattern)
}

/// The name of a `Split` by one of the published patterns.
fn pattern(stage: &Value) -> Option<&'static str> {
    let regex = stage["pattern"]["Regex"].as_str()?;
    // The same for patterns that match everything: keep the matches, drop nothing.
    let removed = json!({
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": true
    });
    let (_, pre) = PATTERNS.into_iter().find(|(known, _)| *known == regex)?;
    (isolated(stage).is_some() || (*stage == removed && pre != "bloom")).then_some(pre)
}

fn sentencepiece_structure(
    normalizers: &[Value],
    splits: &[Value],
    decoders: &[Value],
) -> Result<Structure> {
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    // After `Replace` there is no space left to split at.
    let at_spaces = json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false
    });
    let space_prefix = match (normalizers, splits) {
        ([a, b], []) if *a == prepend && *b == replace => SpacePrefix::Every,
        ([a], []) if *a == replace => SpacePrefix::Never,
        ([a], [b]) if *a == replace && *b == at_spaces => SpacePrefix::Never,
        ([], [one]) => metaspace(one).ok_or_else(|| refuse("pre_tokenizer", splits))?,
        (_, []) => return Err(refuse("normalizer", normalizers)),
        _ => return Err(refuse("pre_tokenizer", splits)),
    };
    let mut wanted = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix != SpacePrefix::Never {
        wanted.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    if decoders != wanted {
        return Err(refuse("decoder", decoders));
    }
    Ok(Structure { model: Model::SentencePiece, pre: "default", nfc: false, space_prefix })
}

/// `Metaspace` that doesn't split.
fn metaspace(stage: &Value) -> Option<SpacePrefix> {
    let (scheme, prefix) = match stage["prepend_scheme"].as_str()? {
        "first" => ("first", SpacePrefix::First),
        "always" => ("always", SpacePrefix::Missing),
        "never" => ("never", SpacePrefix::Never),
        _ => return None,
    };
    let whole = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false
    });
    (*stage == whole).then_some(prefix)
}

/// Which tokens the post-processor puts before and behind a text.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Template {
    pub(super) before: Option<u32>,
    pub(super) behind: Option<u32>,
}

/// Reads the post-processor; `None` if there is none that adds tokens.
pub(super) fn template(json: &mut Object) -> Result<Option<Template>> {
    let stages = flatten(json.take("post_processor"), "processors");
    let mut found = None;
    for stage in &stages {
        match stage["type"].as_str() {
            Some("ByteLevel") => {}
            Some("TemplateProcessing") if found.is_none() => found = Some(read_template(stage)?),
            _ => return Err(refuse("post_processor", &stages)),
        }
    }
    Ok(found)
}

fn read_template(stage: &Value) -> Result<Template> {
    let place = "tokenizer.json: post_processor";
    let mut object = Object::new(place.to_string(), stage.clone())?;
    // Pairs of texts are never encoded.
    object.harmless(&["type", "pair"]);
    let single = object.list("single")?;
    let ids = object.take("special_tokens").unwrap_or_default();
    object.done()?;
    let mut template = Template::default();
    let mut after_text = false;
    for part in &single {
        let special = part["SpecialToken"]["id"].as_str();
        let Some(name) = special else {
            if after_text || part["Sequence"]["id"] != "A" {
                return Err(refuse("post_processor", &single));
            }
            after_text = true;
            continue;
        };
        let id = match ids[name]["ids"].as_array().map(Vec::as_slice) {
            Some([id]) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
            _ => None,
        };
        let id = id.ok_or_else(|| wrong(place, &format!("one id for {name}"), &ids))?;
        let slot = if after_text { &mut template.behind } else { &mut template.before };
        if slot.replace(id).is_some() {
            return Err(refuse("post_processor", &single));
        }
    }
    Ok(template)
}
