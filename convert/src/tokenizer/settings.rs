//! `tokenizer_config.json` and its satellites: special tokens, the chat template, and settings
//! that change what `tokenizer.json` says.

use std::path::Path;

use pith::{Error, Result};
use serde_json::Value;

use super::{
    object::{Allowed, Object, read_text, short, wrong},
    words::AddedToken,
};

/// Keys that don't change which ids a text gets, nor what ids decode to here.
const HARMLESS: &[&str] = &[
    // Where it came from and what reads it.
    "name_or_path",
    "auto_map",
    "processor_class",
    "special_tokens_map_file",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "trust_remote_code",
    "use_fast",
    "from_slow",
    "is_local",
    "local_files_only",
    "backend",
    "_commit_hash",
    "transformers_version",
    // Batches and limits: pith neither pads nor cuts.
    "model_max_length",
    "max_len",
    "max_length",
    "padding_side",
    "truncation_side",
    "padding",
    "truncation",
    "truncation_strategy",
    "stride",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "model_input_names",
    "return_token_type_ids",
    // Decoding by transformers; pith never tidies up spaces.
    "clean_up_tokenization_spaces",
    "spaces_between_special_tokens",
    "errors",
    // The slow tokenizer; `tokenizer.json` is what counts.
    "sp_model_kwargs",
    "use_default_system_prompt",
    "vocab_size",
    // What the unknown piece is a Unigram model says itself.
    "unk_id",
    // Marks that a GPT has no use for; as added tokens they are known anyway.
    "cls_token",
    "sep_token",
    "mask_token",
    "image_token",
    "boi_token",
    "eoi_token",
];

/// What the settings files say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) class: Option<String>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) unknown: Option<String>,
    pub(super) padding: Option<String>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    /// How transformers treats a SentencePiece model; where there is a `tokenizer.json`, that counts.
    pub(super) legacy: Option<bool>,
    /// T5's: how many tokens its class adds to a SentencePiece model.
    pub(super) extra_ids: Option<u32>,
    pub(super) chat_template: Option<String>,
    /// Special tokens beside the four.
    pub(super) specials: Vec<String>,
    /// Added tokens with their ids.
    pub(super) added: Vec<(u32, AddedToken)>,
}

impl Settings {
    /// Reads the folder's `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`
    /// and `chat_template.jinja`, as far as they are there.
    pub(super) fn read(dir: &Path, allowed: &mut Allowed<'_>) -> Result<Settings> {
        let mut settings = Settings::default();
        if let Some(config) = Object::read(dir, "tokenizer_config.json")? {
            settings.config(config, allowed)?;
        }
        if let Some(map) = Object::read(dir, "special_tokens_map.json")? {
            settings.specials_map(map, allowed)?;
        }
        if let Some(mut added) = Object::read(dir, "added_tokens.json")? {
            settings.added_map(&mut added)?;
        }
        if let Some(template) = read_text(dir, "chat_template.jinja")? {
            settings.chat_template = Some(template);
        }
        Ok(settings)
    }

    fn config(&mut self, mut config: Object, allowed: &mut Allowed<'_>) -> Result<()> {
        self.class = config.string("tokenizer_class")?;
        self.tokens(&mut config)?;
        self.add_bos = config.flag("add_bos_token")?;
        self.add_eos = config.flag("add_eos_token")?;
        self.add_prefix_space = config.flag("add_prefix_space")?;
        self.legacy = config.flag("legacy")?;
        self.extra_ids = config.id("extra_ids")?;
        if config.flag("do_lower_case")? == Some(true) {
            return Err(Error::Unsupported(format!(
                "{} = true: transformers' classes don't agree on what it does; put a Lowercase stage \
                 into tokenizer.json, if that is how the model was trained",
                config.place("do_lower_case")
            )));
        }
        let place = config.place("chat_template");
        self.chat_template =
            config.take("chat_template").map(|v| template(&place, v)).transpose()?;
        if let Some(mut added) = config.object("added_tokens_decoder")? {
            let place = added.place("");
            for (id, token) in added.rest() {
                let number =
                    id.parse().map_err(|_| wrong(&place, "a token id", &id.clone().into()))?;
                let token = AddedToken::read(Object::new(added.place(&id), token)?)?;
                self.added.push((number, token));
            }
            self.added.sort_by_key(|(id, _)| *id);
        }
        if config.flag("split_special_tokens")? == Some(true) {
            return Err(Error::Unsupported(format!(
                "{} = true: pith decides for each call whether special tokens are found in text",
                config.place("split_special_tokens")
            )));
        }
        config.harmless(HARMLESS);
        config.done_but(allowed)
    }

    fn specials_map(&mut self, mut map: Object, allowed: &mut Allowed<'_>) -> Result<()> {
        self.tokens(&mut map)?;
        map.harmless(HARMLESS);
        map.done_but(allowed)
    }

    /// The special tokens of either file; the one read first counts.
    fn tokens(&mut self, object: &mut Object) -> Result<()> {
        for (key, slot) in [
            ("bos_token", &mut self.bos),
            ("eos_token", &mut self.eos),
            ("unk_token", &mut self.unknown),
            ("pad_token", &mut self.padding),
        ] {
            let token = object.token(key)?;
            *slot = slot.take().or(token);
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            let place = object.place(key);
            let tokens = match object.take(key) {
                None => Vec::new(),
                Some(Value::Array(tokens)) => tokens,
                Some(Value::Object(named)) => named.into_iter().map(|(_, token)| token).collect(),
                Some(other) => return Err(wrong(&place, "a list of tokens", &other)),
            };
            for token in tokens {
                let text = token.as_str().or_else(|| token.get("content")?.as_str());
                let text = text.ok_or_else(|| wrong(&place, "a token", &token))?;
                self.specials.push(text.to_string());
            }
        }
        Ok(())
    }

    /// `added_tokens.json` of old checkpoints: text to id.
    fn added_map(&mut self, map: &mut Object) -> Result<()> {
        for (text, id) in map.rest() {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| wrong(&map.place(&text), "a token id", &id))?;
            if self.added.iter().all(|(known, _)| *known != number) {
                let named = [&self.bos, &self.eos, &self.unknown, &self.padding];
                let special = self.specials.contains(&text)
                    || named.into_iter().flatten().any(|t| *t == text);
                let token =
                    AddedToken { special, normalized: !special, text, ..Default::default() };
                self.added.push((number, token));
            }
        }
        self.added.sort_by_key(|(id, _)| *id);
        Ok(())
    }
}

/// A chat template: one, or the default one of several.
fn template(place: &str, value: Value) -> Result<String> {
    match value {
        Value::String(template) => Ok(template),
        Value::Array(list) => {
            let default = list.iter().find(|t| t["name"] == "default");
            let template = default.and_then(|t| t["template"].as_str()).map(str::to_string);
            template.ok_or_else(|| {
                Error::Unsupported(format!("{place}: no template is named \"default\""))
            })
        }
        other => Err(Error::Unsupported(format!("{place} = {}", short(&other)))),
    }
}
