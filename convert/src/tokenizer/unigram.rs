//! Unigram models: the stages and the vocabulary of a `tokenizer.json`, and the GGUF keys.
//!
//! Keys that llama.cpp has too say what comes nearest to the stages; what they are exactly is in keys of
//! pith's own.

use pith::{
    Error, Result,
    gguf::OwnedValue,
    tokenizer::{Leading, Marks, Model, Rules, SpacePrefix, Stage, Unigram, name},
};
use serde_json::{Value, json};

use super::{
    Keys, UNUSED_SCORE,
    object::{Object, wrong},
    structure::{Structure, flatten, refuse},
    words::Words,
};

/// Reads the normalizer, pre-tokenizer and decoder of a `tokenizer.json`; `bytes` is whether characters
/// that are no pieces become bytes.
pub(super) fn structure(json: &mut Object, bytes: bool) -> Result<(Structure, Unigram)> {
    let normalizers = flatten(json.take("normalizer"), "normalizers");
    let splits = flatten(json.take("pre_tokenizer"), "pretokenizers");
    let decoders = flatten(json.take("decoder"), "decoders");
    let (mut charsmap, mut stages) = (Vec::new(), Vec::new());
    for one in &normalizers {
        let unknown = || refuse("normalizer", &normalizers);
        if let Some(map) = precompiled(one) {
            if !charsmap.is_empty() {
                return Err(unknown());
            }
            charsmap = base64(map).filter(|map| !map.is_empty()).ok_or_else(|| {
                wrong("tokenizer.json: normalizer.precompiled_charsmap", "base64", one)
            })?;
        }
        stages.extend(stage(one).ok_or_else(unknown)?);
    }
    let (whitespace, rest) = match splits.as_slice() {
        [first, rest @ ..] if *first == json!({"type": "WhitespaceSplit"}) => (true, rest),
        rest => (false, rest),
    };
    let unknown = || refuse("pre_tokenizer", &splits);
    let (space_prefix, marks) = match rest {
        [] => (SpacePrefix::Never, Marks::Kept),
        [one] => metaspace(one).ok_or_else(unknown)?,
        _ => return Err(unknown()),
    };
    // Only the first word's, and that only if nothing before it went: which nobody wants.
    let moved = whitespace || stages.contains(&Stage::StripLeft);
    if space_prefix == SpacePrefix::First && moved {
        return Err(unknown());
    }
    let leading = leading(&decoders, bytes).ok_or_else(|| refuse("decoder", &decoders))?;
    let rules = Rules::Stages { stages, whitespace, marks };
    let structure = Structure { model: Model::Unigram, pre: "default", nfc: false, space_prefix };
    Ok((structure, Unigram { charsmap, rules, leading, ..Unigram::default() }))
}

/// The map of a `Precompiled` stage, in base64.
fn precompiled(stage: &Value) -> Option<&str> {
    let map = stage["precompiled_charsmap"].as_str()?;
    (*stage == json!({"type": "Precompiled", "precompiled_charsmap": map})).then_some(map)
}

/// What a normalizer comes to.
fn stage(stage: &Value) -> Option<Vec<Stage>> {
    let squeeze =
        |to: &str| json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": to});
    let strip = |left, right| json!({"type": "Strip", "strip_left": left, "strip_right": right});
    if precompiled(stage).is_some() {
        return Some(vec![Stage::Precompiled]);
    }
    let known = [
        (squeeze(" "), vec![Stage::SqueezeToSpace]),
        (squeeze("▁"), vec![Stage::SqueezeToMark]),
        (
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            vec![Stage::MarkSpaces],
        ),
        (strip(true, false), vec![Stage::StripLeft]),
        (strip(false, true), vec![Stage::StripRight]),
        (strip(true, true), vec![Stage::StripLeft, Stage::StripRight]),
        (strip(false, false), vec![]),
        (json!({"type": "NFC"}), vec![Stage::Nfc]),
        (json!({"type": "NFD"}), vec![Stage::Nfd]),
        (json!({"type": "NFKC"}), vec![Stage::Nfkc]),
        (json!({"type": "NFKD"}), vec![Stage::Nfkd]),
        (json!({"type": "Nmt"}), vec![Stage::Nmt]),
        (json!({"type": "Lowercase"}), vec![Stage::Lowercase]),
    ];
    known.into_iter().find(|(json, _)| json == stage).map(|(_, stages)| stages)
}

/// A `Metaspace` stage of any age: where it puts a space in front, and whether it cuts.
fn metaspace(stage: &Value) -> Option<(SpacePrefix, Marks)> {
    let keys = stage.as_object().filter(|_| stage["type"] == "Metaspace")?;
    let known = ["type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"];
    if keys.keys().any(|k| !known.contains(&k.as_str())) || stage["replacement"] != "▁" {
        return None;
    }
    let flag = |key: &str| match keys.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(flag) => flag.as_bool().map(Some),
    };
    let add = flag("add_prefix_space")?;
    // Files from before the setting existed have the flag alone; where both are, they must agree.
    let prefix = match (keys.get("prepend_scheme").map(Value::as_str), add) {
        (None, Some(false)) | (Some(Some("never")), _) => SpacePrefix::Never,
        (None, _) | (Some(Some("always")), None | Some(true)) => SpacePrefix::Missing,
        (Some(Some("first")), None | Some(true)) => SpacePrefix::First,
        _ => return None,
    };
    let marks = if flag("split")?.unwrap_or(true) { Marks::Split } else { Marks::Whole };
    Some((prefix, marks))
}

/// What the decoder does with spaces in front; `None` for one that isn't known, or that doesn't do what
/// `bytes` demands.
fn leading(decoders: &[Value], bytes: bool) -> Option<Leading> {
    if let [one] = decoders
        && let Some((prefix, _)) = metaspace(one)
    {
        let leading = if prefix == SpacePrefix::Never { Leading::Keep } else { Leading::Token };
        return (!bytes).then_some(leading);
    }
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let (first, rest) = decoders.split_first()?;
    let rest: Vec<&str> = match rest.split_last() {
        Some((last, rest)) if *last == strip => {
            // Without the stage before it, it would change each token.
            rest.last().filter(|stage| **stage == json!({"type": "Fuse"}))?;
            rest.iter().map(|s| s["type"].as_str()).chain([Some("Strip")]).collect::<Option<_>>()?
        }
        _ => rest.iter().map(|s| s["type"].as_str()).collect::<Option<_>>()?,
    };
    let plain =
        decoders[1..].iter().all(|s| *s == strip || s.as_object().is_some_and(|s| s.len() == 1));
    if *first != replace || !plain {
        return None;
    }
    match (rest.as_slice(), bytes) {
        ([] | ["Fuse"], false) | (["ByteFallback", "Fuse"], true) => Some(Leading::Keep),
        (["Fuse", "Strip"], false) | (["ByteFallback", "Fuse", "Strip"], true) => {
            Some(Leading::One)
        }
        _ => None,
    }
}

/// Reads pieces with their scores; gives the unknown piece.
pub(super) fn vocabulary(
    model: &mut Object,
    words: &mut Words,
    unigram: &mut Unigram,
) -> Result<Option<String>> {
    let place = model.place("vocab");
    let mut scores = Vec::new();
    for (id, piece) in (0u32..).zip(model.list("vocab")?) {
        let (text, score) = match piece.as_array().map(Vec::as_slice) {
            Some([Value::String(text), score]) => (text, score.as_f64()),
            _ => return Err(wrong(&place, "a piece and its score", &piece)),
        };
        scores.push(score.ok_or_else(|| wrong(&place, "a piece and its score", &piece))?);
        words.read_piece(&place, id, text)?;
    }
    let unknown = model.id("unk_id")?;
    let unknown = unknown.map(|id| {
        let text = words.ids.iter().find(|(_, known)| **known == id).map(|(text, _)| text.clone());
        text.ok_or_else(|| {
            Error::malformed("JSON", format!("{}: {id} is no piece", model.place("unk_id")))
        })
    });
    words.scores = Some(scores.iter().map(|score| *score as f32).collect());
    if !scores.iter().all(|score| nearly_f32(*score)) {
        unigram.scores = scores;
    }
    unknown.transpose()
}

/// Whether a score is one of f32, as SentencePiece's are; reading its text may be off by a last bit.
fn nearly_f32(score: f64) -> bool {
    (f64::from(score as f32) - score).abs() <= 4.0 * f64::EPSILON * score.abs()
}

/// Adds the keys that only a Unigram vocabulary has.
pub(super) fn keys(keys: &mut Keys, words: &Words, unigram: &Unigram, n_vocab: usize) {
    // Behind the model's own pieces are tokens that are only added, and rows without any.
    let scores = words.scores.as_deref().unwrap_or_default();
    let absent = |id: usize| match words.added.contains_key(&(id as u32)) {
        true => f32::NEG_INFINITY,
        false => UNUSED_SCORE,
    };
    let score = |id: usize| scores.get(id).copied().unwrap_or_else(|| absent(id));
    keys.set("tokenizer.ggml.scores", OwnedValue::F32s((0..n_vocab).map(score).collect()));
    if !unigram.scores.is_empty() {
        let exact = |id: usize| unigram.scores.get(id).copied().unwrap_or(absent(id).into());
        keys.set("pith.tokenizer.scores", OwnedValue::F64s((0..n_vocab).map(exact).collect()));
    }
    if !unigram.charsmap.is_empty() {
        let map = unigram.charsmap.clone();
        keys.set("tokenizer.ggml.precompiled_charsmap", OwnedValue::U8s(map));
    }
    let collapse = match &unigram.rules {
        Rules::SentencePiece { collapse } => *collapse,
        Rules::Stages { stages, whitespace, .. } => {
            let squeezes = |s: &Stage| matches!(s, Stage::SqueezeToSpace | Stage::SqueezeToMark);
            *whitespace || stages.iter().any(squeezes)
        }
    };
    keys.flag("tokenizer.ggml.remove_extra_whitespaces", collapse);
    if let Rules::Stages { whitespace, marks, .. } = &unigram.rules {
        keys.flag("pith.tokenizer.whitespace", *whitespace);
        keys.string("pith.tokenizer.space_marks", name(&Marks::NAMES, marks));
    }
    keys.string("pith.tokenizer.leading_space", name(&Leading::NAMES, &unigram.leading));
}

/// Standard base64 with its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padded = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padded > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.as_bytes().chunks(4) {
        let mut word = 0u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        let missing = 4 - group.len();
        let word = word << (6 * missing);
        bytes.extend_from_slice(&word.to_be_bytes()[1..4 - missing]);
    }
    Some(bytes)
}
