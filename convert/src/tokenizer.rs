//! The tokenizer's files to GGUF keys, by structure: what each stage is, not which model it came
//! with, so that retrained and extended vocabularies come through. Three layouts: `tokenizer.json`; a
//! SentencePiece model (`tokenizer.model`); `vocab.json` with `merges.txt` as GPT-2 and OPT have them, or
//! `encoder.json` with `vocab.bpe`, OpenAI's names. A key that pith doesn't know stops the import, for ids
//! that differ quietly are worse than no file.

mod object;
mod pieces;
mod sentencepiece;
mod settings;
mod structure;
mod unigram;
mod words;

use std::path::Path;

use object::{Allowed, Object, read_text};
use pith::{
    Error, Result,
    gguf::OwnedValue,
    tokenizer::{Model, Rules, SpacePrefix, Unigram},
};
use settings::Settings;
use structure::{Structure, Template};
use words::{AddedToken, Words};

/// What the tokenizer's files say.
#[derive(Clone, Debug)]
pub struct Imported {
    /// GGUF keys.
    pub keys: Vec<(String, OwnedValue)>,
    /// Tokens of the source; the file has one for each row of the embedding.
    pub n_tokens: usize,
    /// Added tokens that the embedding has no row for and that were left out.
    pub dropped: Vec<String>,
    /// Unknown keys that were ignored on the caller's word.
    pub allowed: Vec<String>,
}

/// All that is known before keys are made of it.
struct Source {
    structure: Structure,
    words: Words,
    /// The token for what the vocabulary can't express.
    unknown: Option<String>,
    fuse_unknown: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    /// In place of merges.
    unigram: Option<Unigram>,
    template: Template,
    /// `tokenizer.json` as it is.
    json: Option<String>,
}

/// Reads the tokenizer in `folder` for an embedding of `n_vocab` rows. Rows without a token get
/// `[PAD<i>]`, of type unused. Keys in `allow` pass even if unknown.
///
/// # Errors
/// No tokenizer is there; a stage, setting or token that pith can't reproduce; files that
/// contradict each other; an ordinary token that the embedding has no row for.
pub fn import(folder: &Path, n_vocab: usize, allow: &[String]) -> Result<Imported> {
    let mut allowed = Allowed { keys: allow, used: Vec::new() };
    let mut settings = Settings::read(folder, &mut allowed)?;
    let mut source = match read_text(folder, "tokenizer.json")? {
        Some(text) => from_json(text, &settings, &mut allowed)?,
        None => match sentencepiece::find(folder)? {
            Some(model) => pieces::source(model, &mut settings)?,
            None => from_vocab(folder, &mut settings)?,
        },
    };
    apply(&mut source, &settings)?;
    let mut imported = keys(source, &settings, n_vocab)?;
    imported.allowed = allowed.used;
    imported.allowed.sort_unstable();
    imported.allowed.dedup();
    Ok(imported)
}

/// `tokenizer.json`.
fn from_json(text: String, settings: &Settings, allowed: &mut Allowed<'_>) -> Result<Source> {
    let mut json = Object::parse("tokenizer.json", &text)?;
    // Limits and batches: pith neither cuts nor pads.
    json.harmless(&["version", "truncation", "padding"]);
    let place = json.place("model");
    let mut model = Object::new(place.clone(), json.need("model")?)?;
    // Files from before the key existed are BPE if they have merges.
    let kind = model.string("type")?.unwrap_or_else(|| "BPE".into());
    let byte_fallback = model.flag("byte_fallback")?.unwrap_or(false);
    let (structure, mut unigram) = match kind.as_str() {
        "BPE" => (structure::structure(&mut json)?, None),
        "Unigram" => {
            let (structure, unigram) = unigram::structure(&mut json, byte_fallback)?;
            (structure, Some(unigram))
        }
        _ => {
            let message = format!("{place}.type is {kind}; pith knows BPE and Unigram");
            return Err(Error::Unsupported(message));
        }
    };
    let template = structure::template(&mut json)?;
    let added = json.list("added_tokens")?;
    json.done_but(allowed)?;

    let mut words = Words::default();
    let (unknown, fuse_unknown) = match &mut unigram {
        Some(unigram) => (unigram::vocabulary(&mut model, &mut words, unigram)?, true),
        None => bpe(&mut model, &mut words)?,
    };
    let ignore_merges = model.flag("ignore_merges")?.unwrap_or(false);
    model.done_but(allowed)?;
    if byte_fallback && structure.model == Model::ByteLevel {
        return Err(Error::Unsupported(format!("{place}.byte_fallback with byte-level pieces")));
    }
    for token in added {
        let mut token = Object::new("tokenizer.json: added_tokens".into(), token)?;
        let id = token.id("id")?;
        words.add(id, AddedToken::read(token)?)?;
    }
    let template = template.unwrap_or_default();
    let template = by_class(template, &words, settings)?;
    Ok(Source {
        structure,
        words,
        unknown,
        fuse_unknown,
        byte_fallback,
        ignore_merges,
        unigram,
        template,
        json: Some(text),
    })
}

/// The vocabulary and merges of a BPE model; gives the unknown piece, and whether a run of what is
/// unknown is one.
fn bpe(model: &mut Object, words: &mut Words) -> Result<(Option<String>, bool)> {
    words.read_ids(&model.place("vocab"), model.need("vocab")?)?;
    let merges = model.list("merges")?;
    words.read_merges(&model.place("merges"), merges)?;
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.string(key)?.is_some_and(|affix| !affix.is_empty()) {
            return Err(Error::Unsupported(format!("{} is set", model.place(key))));
        }
    }
    if model.take("dropout").is_some_and(|p| p.as_f64() != Some(0.0)) {
        return Err(Error::Unsupported(format!("{} is set", model.place("dropout"))));
    }
    Ok((model.string("unk_token")?, model.flag("fuse_unk")?.unwrap_or(false)))
}

/// transformers builds the template of Llama and Gemma tokenizers from their settings, whatever
/// `tokenizer.json` says.
fn by_class(mut template: Template, words: &Words, settings: &Settings) -> Result<Template> {
    if settings.class.as_deref().is_some_and(is_llama) {
        override_template(&mut template, words, settings)?;
    }
    Ok(template)
}

/// Whether transformers' class is Llama's or works as it does.
fn is_llama(class: &str) -> bool {
    let class = class.strip_suffix("Fast").unwrap_or(class);
    matches!(class, "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer")
}

/// Takes BOS and EOS from the settings where these say something.
fn override_template(template: &mut Template, words: &Words, settings: &Settings) -> Result<()> {
    for (slot, add, token, key) in [
        (&mut template.before, settings.add_bos, &settings.bos, "add_bos_token"),
        (&mut template.behind, settings.add_eos, &settings.eos, "add_eos_token"),
    ] {
        match add {
            None => {}
            Some(false) => *slot = None,
            Some(true) => {
                let id = token.as_ref().and_then(|text| words.ids.get(text));
                *slot = Some(*id.ok_or_else(|| {
                    Error::Unsupported(format!(
                        "tokenizer_config.json: {key} is set, but its token {token:?} has no id"
                    ))
                })?);
            }
        }
    }
    Ok(())
}

/// The two files of byte-level BPE: Hugging Face's names, then OpenAI's.
const VOCABS: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];
/// GPT-2's only special token, which its code knows without a setting.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Vocabulary and merges: GPT-2's byte-level BPE, which OPT and old checkpoints use.
fn from_vocab(folder: &Path, settings: &mut Settings) -> Result<Source> {
    let mut found = None;
    for (vocab, merges) in VOCABS {
        if let Some(text) = read_text(folder, vocab)? {
            let more = read_text(folder, merges)?.ok_or_else(|| {
                Error::Unsupported(format!("{vocab} without {merges} in {}", folder.display()))
            })?;
            found = Some((vocab, text, merges, more));
            break;
        }
    }
    let Some((vocab_file, vocab, merges_file, merges)) = found else {
        return Err(missing(folder));
    };
    let class = settings.class.as_deref().unwrap_or("GPT2Tokenizer");
    if !matches!(class, "GPT2Tokenizer" | "GPT2TokenizerFast") {
        return Err(Error::Unsupported(format!(
            "{vocab_file} of a {class}: save it with transformers' fast tokenizer, so that there is \
             a tokenizer.json"
        )));
    }
    let mut words = Words::default();
    words.read_ids(vocab_file, Object::parse(vocab_file, &vocab)?.rest().into())?;
    let lines = merges.lines().filter(|l| !l.starts_with("#version") && !l.is_empty());
    words.read_merges(merges_file, lines.map(Into::into).collect())?;
    let mut template = Template::default();
    // The token is in the vocabulary, but only the class says that it begins and ends texts.
    if settings.eos.is_none() && words.ids.contains_key(END_OF_TEXT) {
        settings.eos = Some(END_OF_TEXT.into());
        settings.bos = settings.bos.take().or_else(|| settings.eos.clone());
    }
    let settings_tokens = [&settings.bos, &settings.eos, &settings.unknown, &settings.padding];
    for text in settings_tokens.into_iter().flatten() {
        words.add(None, AddedToken::special(text.clone()))?;
    }
    override_template(&mut template, &words, settings)?;
    Ok(Source {
        structure: Structure {
            model: Model::ByteLevel,
            pre: "gpt-2",
            nfc: false,
            space_prefix: SpacePrefix::Never,
        },
        words,
        unknown: None,
        fuse_unknown: false,
        byte_fallback: false,
        ignore_merges: false,
        unigram: None,
        template,
        json: None,
    })
}

/// Says what is looked for, and what would do instead of a file of another program.
fn missing(folder: &Path) -> Error {
    let instead = match folder.join("meta.pkl").exists() {
        true => "; meta.pkl holds nanoGPT's table of characters, a pickle that isn't read",
        false => "",
    };
    Error::Unsupported(format!(
        "no tokenizer in {}: wanted tokenizer.json, tokenizer.model (SentencePiece), vocab.json and \
         merges.txt, or encoder.json and vocab.bpe, as GPT-2's are where a model was trained with its \
         vocabulary{instead}. Without one, --no-tokenizer writes a file that runs on token ids only",
        folder.display()
    ))
}

/// What the settings change, whichever files the vocabulary came from.
fn apply(source: &mut Source, settings: &Settings) -> Result<()> {
    for (id, token) in &settings.added {
        source.words.add(Some(*id), token.clone())?;
    }
    for text in &settings.specials {
        let known =
            source.words.ids.get(text).is_some_and(|id| source.words.added.contains_key(id));
        if !known {
            source.words.add(None, AddedToken::special(text.clone()))?;
        }
    }
    if let Some(add) = settings.add_prefix_space {
        let prefix = &mut source.structure.space_prefix;
        match (source.structure.model, source.structure.pre) {
            (Model::ByteLevel, "gpt-2") => {
                *prefix = if add { SpacePrefix::Missing } else { SpacePrefix::Never };
            }
            _ if add == (*prefix != SpacePrefix::Never) => {}
            _ => {
                return Err(Error::Unsupported(format!(
                    "tokenizer_config.json: add_prefix_space = {add} contradicts tokenizer.json"
                )));
            }
        }
    }
    Ok(())
}

/// The GGUF keys.
fn keys(source: Source, settings: &Settings, n_vocab: usize) -> Result<Imported> {
    let Source { structure, mut words, .. } = source;
    let mut dropped: Vec<(u32, String)> = Vec::new();
    for (text, &id) in words.ids.iter().filter(|(_, id)| **id as usize >= n_vocab) {
        if !words.added.contains_key(&id) {
            return Err(Error::Unsupported(format!(
                "token {id}, {text:?}, has no row in the embedding of {n_vocab}"
            )));
        }
        dropped.push((id, text.clone()));
    }
    dropped.sort();
    let n_tokens = words.ids.len();
    for (id, text) in &dropped {
        words.ids.remove(text);
        words.added.remove(id);
    }
    let id = |text: &Option<String>| text.as_ref().and_then(|t| words.ids.get(t)).copied();
    let unknown = id(&source.unknown);
    let (tokens, kinds) = words.table(n_vocab, source.byte_fallback, unknown);
    let bos = source.template.before.or(id(&settings.bos));
    let eos = source.template.behind.or(id(&settings.eos));

    let mut keys = Keys(Vec::new());
    let sentencepiece = structure.model == Model::SentencePiece;
    keys.string(
        "tokenizer.ggml.model",
        match structure.model {
            Model::ByteLevel => "gpt2",
            Model::SentencePiece => "llama",
            Model::Unigram => "t5",
        },
    );
    keys.string("tokenizer.ggml.pre", structure.pre);
    let pairs =
        || OwnedValue::Strings(words.merges.iter().map(|(a, b)| format!("{a} {b}")).collect());
    if let Some(unigram) = &source.unigram {
        unigram::keys(&mut keys, &words, unigram, n_vocab);
    } else if let Some(scores) = &words.scores {
        let score = |id: usize| scores.get(id).copied().unwrap_or(UNUSED_SCORE);
        let scores = (0..n_vocab).map(score).collect();
        keys.set("tokenizer.ggml.scores", OwnedValue::F32s(scores));
    } else if sentencepiece {
        let (scores, exact) = words.merge_scores(&kinds);
        keys.set("tokenizer.ggml.scores", OwnedValue::F32s(scores));
        // llama.cpp reads the scores alone, which then come close.
        if !exact {
            keys.set("tokenizer.ggml.merges", pairs());
        }
    } else {
        keys.set("tokenizer.ggml.merges", pairs());
    }
    keys.set("tokenizer.ggml.tokens", OwnedValue::Strings(tokens));
    let types = kinds.iter().map(|&k| k as i32).collect();
    keys.set("tokenizer.ggml.token_type", OwnedValue::I32s(types));
    keys.id("tokenizer.ggml.bos_token_id", bos);
    keys.id("tokenizer.ggml.eos_token_id", eos);
    keys.id("tokenizer.ggml.unknown_token_id", unknown);
    keys.id("tokenizer.ggml.padding_token_id", id(&settings.padding));
    keys.flag("tokenizer.ggml.add_bos_token", source.template.before.is_some());
    keys.flag("tokenizer.ggml.add_eos_token", source.template.behind.is_some());
    let prefix = structure.space_prefix;
    keys.flag("tokenizer.ggml.add_space_prefix", prefix != SpacePrefix::Never);
    keys.string("pith.tokenizer.space_prefix", prefix.name());
    let own =
        source.unigram.as_ref().is_some_and(|u| matches!(u.rules, Rules::SentencePiece { .. }));
    let normalizer = match &source.unigram {
        Some(unigram) => unigram.rules.normalizer(),
        None if structure.nfc => "nfc".into(),
        None => "none".into(),
    };
    keys.string("pith.tokenizer.normalizer", &normalizer);
    keys.flag("pith.tokenizer.ignore_merges", source.ignore_merges);
    keys.flag("pith.tokenizer.fuse_unknown", source.fuse_unknown);
    keys.ids("pith.tokenizer.lstrip", &words, |t| t.lstrip);
    keys.ids("pith.tokenizer.rstrip", &words, |t| t.rstrip);
    // Around SentencePiece's own code tokens are looked for in the text as it came.
    keys.ids("pith.tokenizer.normalized", &words, |t| t.normalized && !own);
    keys.ids("pith.tokenizer.cut", &words, |t| own && !t.native && !t.special);
    if let Some(template) = &settings.chat_template {
        keys.string("tokenizer.chat_template", template);
    }
    if let Some(json) = &source.json {
        keys.string("tokenizer.huggingface.json", json);
    }
    let dropped = dropped.into_iter().map(|(_, text)| text).collect();
    Ok(Imported { keys: keys.0, n_tokens, dropped, allowed: Vec::new() })
}

/// The score of a row without a token, as llama.cpp writes it.
const UNUSED_SCORE: f32 = -1000.0;

/// The list of keys being made.
struct Keys(Vec<(String, OwnedValue)>);

impl Keys {
    fn set(&mut self, key: &str, value: OwnedValue) {
        self.0.push((key.to_string(), value));
    }

    fn string(&mut self, key: &str, value: &str) {
        self.set(key, OwnedValue::String(value.to_string()));
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.set(key, OwnedValue::Bool(value));
    }

    fn id(&mut self, key: &str, id: Option<u32>) {
        if let Some(id) = id {
            self.set(key, OwnedValue::U32(id));
        }
    }

    /// The added tokens with a flag, if any.
    fn ids(&mut self, key: &str, words: &Words, flag: impl Fn(&AddedToken) -> bool) {
        let flagged = words.added.iter().filter(|(_, token)| flag(token));
        let mut ids: Vec<u32> = flagged.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if !ids.is_empty() {
            self.set(key, OwnedValue::U32s(ids));
        }
    }
}
