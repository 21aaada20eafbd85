//! What a tokenizer is made of, as plain data, and how a GGUF file says it.

use super::{
    Splitter,
    rules::{Leading, Marks, Rules, Unigram, by_name},
};
use crate::{
    Error, Result,
    gguf::{Array, Gguf, Value},
    zeros::{filled, gathered, push, room},
};

/// The three kinds of vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `gpt2`: pieces are bytes, written with stand-in characters.
    ByteLevel,
    /// `llama`: pieces are characters with `▁` for the space; others fall back to bytes.
    SentencePiece,
    /// `t5`: pieces with `▁` for the space, of which those with the highest sum of scores count.
    Unigram,
}

/// What a token is, with the number that `tokenizer.ggml.token_type` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary text.
    Normal = 1,
    /// Stands for what the vocabulary can't express.
    Unknown = 2,
    /// A mark, found in text only on request and not shown.
    Control = 3,
    /// Added text: always found whole, and shown.
    User = 4,
    /// A row of the embedding that no text leads to.
    Unused = 5,
    /// One byte, written `<0x00>` to `<0xFF>`.
    Byte = 6,
}

/// Where a space is put before text, so that a text's first word looks like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Nowhere.
    #[default]
    Never,
    /// Before each stretch of text between special tokens.
    Every,
    /// Before the text, unless it begins with a space or a special token.
    First,
    /// Before each stretch of text between special tokens that doesn't begin with a space.
    Missing,
}

impl SpacePrefix {
    /// All of them.
    pub const ALL: [SpacePrefix; 4] =
        [SpacePrefix::Never, SpacePrefix::Every, SpacePrefix::First, SpacePrefix::Missing];

    /// The name that `pith.tokenizer.space_prefix` has for it.
    pub fn name(self) -> &'static str {
        match self {
            SpacePrefix::Never => "never",
            SpacePrefix::Every => "every",
            SpacePrefix::First => "first",
            SpacePrefix::Missing => "missing",
        }
    }
}

/// Everything that a tokenizer is made from.
#[derive(Clone, Debug)]
pub struct Vocab<'a> {
    /// The kind of vocabulary.
    pub model: Model,
    /// How text is cut into words.
    pub splitter: Splitter,
    /// The text of each token, `[n_vocab]`, as the file has it: UTF-8.
    pub tokens: Vec<&'a [u8]>,
    /// What each token is, `[n_vocab]`.
    pub kinds: Vec<Kind>,
    /// SentencePiece without `merges`: which merge comes first, the highest score, `[n_vocab]`.
    /// Unigram: what scores add up of; minus infinity is for tokens that are only added.
    pub scores: Vec<f32>,
    /// "left right", first merge first: UTF-8.
    pub merges: Option<Vec<&'a [u8]>>,
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence.
    pub eos: Option<u32>,
    /// Stands for what the vocabulary can't express. Without it that is left out.
    pub unknown: Option<u32>,
    /// Fills up batches.
    pub padding: Option<u32>,
    /// All ids after which generation ends, beside `eos`.
    pub eog: Vec<u32>,
    /// Encoding begins with `bos`.
    pub add_bos: bool,
    /// Encoding ends with `eos`.
    pub add_eos: bool,
    /// Where a space is put before text.
    pub space_prefix: SpacePrefix,
    /// Text is brought to Unicode's composed form (NFC) first.
    pub nfc: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// A run of unknown characters is one unknown token.
    pub fuse_unknown: bool,
    /// Added tokens that swallow the whitespace before them.
    pub lstrip: Vec<u32>,
    /// Added tokens that swallow the whitespace behind them.
    pub rstrip: Vec<u32>,
    /// Added tokens that are looked for in the text as it is after normalization.
    pub normalized: Vec<u32>,
    /// What a Unigram vocabulary has beside.
    pub unigram: Unigram,
}

/// Texts of control tokens that end a turn, for files that only name one end token. Only tokens
/// that are marked as control count: the same text as an ordinary token ends nothing.
const END_OF_TURN: [&str; 10] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "<EOT>",
    "<|return|>",
];

impl<'a> Vocab<'a> {
    /// A vocabulary of these tokens, all normal, that merges nothing, changes no text and has no marks.
    pub fn new(model: Model, tokens: Vec<&'a [u8]>) -> Vocab<'a> {
        Vocab {
            model,
            splitter: Splitter::Whole,
            kinds: vec![Kind::Normal; tokens.len()],
            tokens,
            scores: Vec::new(),
            merges: Some(Vec::new()),
            bos: None,
            eos: None,
            unknown: None,
            padding: None,
            eog: Vec::new(),
            add_bos: false,
            add_eos: false,
            space_prefix: SpacePrefix::Never,
            nfc: false,
            ignore_merges: false,
            fuse_unknown: false,
            lstrip: Vec::new(),
            rstrip: Vec::new(),
            normalized: Vec::new(),
            unigram: Unigram::default(),
        }
    }

    /// Reads the `tokenizer.ggml.*` keys as llama.cpp writes them, `pith.eog_token_ids`, and of
    /// `pith.tokenizer.*`: `normalizer` ("nfc" or "none"), `space_prefix` (see
    /// [`SpacePrefix::name`]), `lstrip`, `rstrip`, `normalized` (arrays of ids), `ignore_merges`,
    /// `fuse_unknown` (flags). For a Unigram vocabulary `normalizer` is "sentencepiece", or a list of
    /// [`super::Stage::NAMES`] with spaces between ("none": no stage); then there are `whitespace` (a
    /// flag), `space_marks` ([`super::Marks::NAMES`]), `leading_space` ([`super::Leading::NAMES`]), `cut`
    /// (ids) and `scores` (f64).
    ///
    /// Without those, what is true of the family is assumed: NFC for `qwen2`, `mpt` and `olmo`,
    /// ignored merges and a BOS for `llama-bpe` and its aliases, for `llama` a BOS and a space
    /// before every stretch of text, for `t5` T5's special tokens, an EOS and SentencePiece's own rules.
    ///
    /// # Errors
    /// A key is missing, of the wrong type, or names a model or pre-tokenizer that pith doesn't
    /// know.
    pub fn from_gguf(gguf: &Gguf<'a>) -> Result<Vocab<'a>> {
        let keys = Keys(gguf);
        let model = match gguf.require_str("tokenizer.ggml.model")? {
            "gpt2" => Model::ByteLevel,
            "llama" => Model::SentencePiece,
            "t5" => Model::Unigram,
            other => {
                return Err(Error::Unsupported(format!(
                    "tokenizer.ggml.model is `{other}`; pith knows gpt2, llama and t5"
                )));
            }
        };
        let (pre, splitter) = match model {
            Model::SentencePiece | Model::Unigram => ("", Splitter::Whole),
            Model::ByteLevel => {
                let pre = gguf.require_str("tokenizer.ggml.pre")?;
                (pre, splitter(pre)?)
            }
        };
        let tokens = keys.texts("tokenizer.ggml.tokens")?;
        let tokens = tokens
            .ok_or_else(|| Error::malformed("GGUF", "key tokenizer.ggml.tokens is missing"))?;
        let kinds = keys.kinds(tokens.len())?;
        let merges = keys.texts("tokenizer.ggml.merges")?;
        let scores = keys.array("tokenizer.ggml.scores", "floats", Array::f32s)?;
        let llama3 = splitter == Splitter::Tiktoken { digits: 3 };
        let sentencepiece = model == Model::SentencePiece;
        let t5 = model == Model::Unigram;
        // As llama.cpp assumes; a file of pith's own names all that there are.
        let of_t5 = t5 && gguf.get("pith.tokenizer.normalizer").is_none();
        let named = |key: &str, t5_id: u32| keys.id(key, of_t5.then_some(t5_id));
        let bos = keys.id("tokenizer.ggml.bos_token_id", None)?;
        let by_default = bos.is_some() && (sentencepiece || llama3);
        let mut vocab = Vocab {
            model,
            splitter,
            kinds,
            scores: gathered(scores.into_iter().flatten())?,
            merges,
            bos,
            eos: named("tokenizer.ggml.eos_token_id", 1)?,
            unknown: named("tokenizer.ggml.unknown_token_id", 2)?,
            padding: named("tokenizer.ggml.padding_token_id", 0)?,
            eog: Vec::new(),
            add_bos: keys.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(by_default),
            add_eos: keys.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(t5),
            space_prefix: keys.space_prefix(sentencepiece)?,
            nfc: !t5 && keys.nfc(pre)?,
            ignore_merges: keys.flag("pith.tokenizer.ignore_merges")?.unwrap_or(llama3),
            fuse_unknown: keys.flag("pith.tokenizer.fuse_unknown")?.unwrap_or(sentencepiece),
            lstrip: keys.ids("pith.tokenizer.lstrip")?.unwrap_or_default(),
            rstrip: keys.ids("pith.tokenizer.rstrip")?.unwrap_or_default(),
            normalized: keys.ids("pith.tokenizer.normalized")?.unwrap_or_default(),
            unigram: Unigram::default(),
            tokens,
        };
        if t5 {
            vocab.unigram = keys.unigram(vocab.space_prefix)?;
        }
        vocab.eog = match keys.ids("pith.eog_token_ids")? {
            Some(ids) => ids,
            None => vocab.end_of_turn(&keys)?,
        };
        Ok(vocab)
    }

    /// The ids that end generation beside `eos`, where the file doesn't list them.
    fn end_of_turn(&self, keys: &Keys<'_, 'a>) -> Result<Vec<u32>> {
        let by_text =
            self.tokens.iter().zip(&self.kinds).zip(0u32..).filter_map(|((text, kind), id)| {
                let ends = || END_OF_TURN.iter().any(|end| end.as_bytes() == *text);
                (*kind == Kind::Control && ends()).then_some(id)
            });
        let mut ids: Vec<u32> = gathered(by_text)?;
        ids.extend(keys.id("tokenizer.ggml.eot_token_id", None)?);
        ids.extend(keys.id("tokenizer.ggml.eom_token_id", None)?);
        Ok(ids)
    }
}

fn splitter(pre: &str) -> Result<Splitter> {
    Splitter::by_name(pre).ok_or_else(|| {
        Error::Unsupported(format!(
            "tokenizer.ggml.pre is `{pre}`, a way of cutting text that pith doesn't know; \
             convert the original checkpoint with `pith convert`"
        ))
    })
}

/// Typed access to optional keys.
struct Keys<'g, 'a>(&'g Gguf<'a>);

impl<'a> Keys<'_, 'a> {
    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        of: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        of(value).map(Some).ok_or_else(|| {
            Error::malformed("GGUF", format!("key {key}: wanted {wanted}, got {}", value.brief()))
        })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// An id, checked against the vocabulary later; `absent` where the file doesn't say. −1 is how
    /// some writers say "none".
    fn id(&self, key: &str, absent: Option<u32>) -> Result<Option<u32>> {
        let id = self.typed(key, "a token id", |v| match v {
            Value::I32(-1) | Value::I64(-1) => Some(None),
            v => v.as_u64().and_then(|id| u32::try_from(id).ok()).map(Some),
        })?;
        Ok(id.unwrap_or(absent))
    }

    fn array<I>(
        &self,
        key: &str,
        of: &str,
        view: impl FnOnce(&Array<'a>) -> Option<I>,
    ) -> Result<Option<I>> {
        self.typed(key, &format!("an array of {of}"), |v| v.as_array().and_then(view))
    }

    fn ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(ids) = self.array(key, "token ids", Array::i64s)? else { return Ok(None) };
        let id = |id: i64| {
            u32::try_from(id)
                .map_err(|_| Error::malformed("GGUF", format!("key {key}: {id} is no token id")))
        };
        let mut all = Vec::new();
        for number in ids {
            push(&mut all, id(number)?)?;
        }
        Ok(Some(all))
    }

    /// The bytes of an array's strings.
    fn texts(&self, key: &str) -> Result<Option<Vec<&'a [u8]>>> {
        let count = self.0.get(key).and_then(Value::as_array).map_or(0, Array::len);
        let Some(texts) = self.array(key, "strings", Array::string_bytes)? else {
            return Ok(None);
        };
        let mut all = room(count)?;
        all.extend(texts.take(count));
        Ok(Some(all))
    }

    /// `[n_vocab]`; all normal where the file has no types.
    fn kinds(&self, n_vocab: usize) -> Result<Vec<Kind>> {
        let key = "tokenizer.ggml.token_type";
        let Some(types) = self.array(key, "whole numbers", Array::i64s)? else {
            return filled(n_vocab, Kind::Normal);
        };
        let kind = |(id, number): (usize, i64)| match number {
            1 => Ok(Kind::Normal),
            2 => Ok(Kind::Unknown),
            3 => Ok(Kind::Control),
            4 => Ok(Kind::User),
            5 => Ok(Kind::Unused),
            6 => Ok(Kind::Byte),
            _ => Err(Error::malformed(
                "GGUF",
                format!("{key}: token {id} is of type {number}; wanted 1 to 6"),
            )),
        };
        let mut kinds = room(n_vocab)?;
        for numbered in types.enumerate() {
            push(&mut kinds, kind(numbered)?)?;
        }
        Ok(kinds)
    }

    fn space_prefix(&self, sentencepiece: bool) -> Result<SpacePrefix> {
        let named =
            self.typed("pith.tokenizer.space_prefix", "never, every, first or missing", |v| {
                let name = v.as_str()?;
                SpacePrefix::ALL.into_iter().find(|p| p.name() == name)
            })?;
        let flag = self.flag("tokenizer.ggml.add_space_prefix")?;
        Ok(match (named, flag.unwrap_or(sentencepiece)) {
            (Some(named), _) => named,
            (None, false) => SpacePrefix::Never,
            (None, true) if sentencepiece => SpacePrefix::Every,
            (None, true) => SpacePrefix::Missing,
        })
    }

    fn nfc(&self, pre: &str) -> Result<bool> {
        let named = self.typed("pith.tokenizer.normalizer", "\"nfc\" or \"none\"", |v| match v
            .as_str()?
        {
            "nfc" => Some(true),
            "none" => Some(false),
            _ => None,
        })?;
        Ok(named.unwrap_or(matches!(pre, "qwen2" | "mpt" | "olmo")))
    }

    /// The parts of a Unigram vocabulary alone.
    fn unigram(&self, prefix: SpacePrefix) -> Result<Unigram> {
        let collapse = self.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
        let whitespace = self.flag("pith.tokenizer.whitespace")?.unwrap_or(false);
        let marks = self.named("pith.tokenizer.space_marks", &Marks::NAMES)?;
        let rules = self.typed("pith.tokenizer.normalizer", "known stages", |v| {
            Rules::of(v.as_str()?, collapse, whitespace, marks.unwrap_or(Marks::Kept))
        })?;
        if whitespace && prefix == SpacePrefix::First {
            return Err(Error::Unsupported(
                "pith.tokenizer.space_prefix is `first`, but words are cut at whitespace".into(),
            ));
        }
        let leading = match (collapse, prefix) {
            (true, _) => Leading::Each,
            (false, SpacePrefix::Never) => Leading::Keep,
            (false, _) => Leading::One,
        };
        let charsmap = self.array("tokenizer.ggml.precompiled_charsmap", "bytes", Array::i64s)?;
        let scores = self.array("pith.tokenizer.scores", "floats", Array::f64s)?;
        Ok(Unigram {
            // I8 in some files, which then are the same bits.
            charsmap: gathered(charsmap.into_iter().flatten().map(|byte| byte as u8))?,
            rules: rules.unwrap_or(Rules::SentencePiece { collapse }),
            scores: gathered(scores.into_iter().flatten())?,
            cut: self.ids("pith.tokenizer.cut")?.unwrap_or_default(),
            leading: self
                .named("pith.tokenizer.leading_space", &Leading::NAMES)?
                .unwrap_or(leading),
        })
    }

    /// A value by its name.
    fn named<T: Copy>(&self, key: &str, names: &[(&str, T)]) -> Result<Option<T>> {
        let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        self.typed(key, &format!("one of {}", all.join(", ")), |v| by_name(names, v.as_str()?))
    }
}
