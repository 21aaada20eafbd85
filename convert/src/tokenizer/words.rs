//! The vocabulary proper: tokens with their ids, added tokens, merges.

use std::collections::{BTreeSet, HashMap, HashSet};

use pith::{Error, Result, tokenizer::Kind};
use serde_json::Value;

use super::object::{Object, short, wrong};

/// A token that is cut out of the text first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AddedToken {
    pub(super) text: String,
    pub(super) special: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    /// SentencePiece's own code finds it, in normalized text: it isn't cut out.
    pub(super) native: bool,
}

impl AddedToken {
    /// A special token without further flags.
    pub(super) fn special(text: String) -> AddedToken {
        AddedToken { text, special: true, ..AddedToken::default() }
    }

    /// Reads an entry of `added_tokens` or `added_tokens_decoder`, less its id.
    pub(super) fn read(mut object: Object) -> Result<AddedToken> {
        object.harmless(&["__type"]);
        let place = object.place("content");
        let text = object
            .string("content")?
            .ok_or_else(|| Error::malformed("JSON", format!("{place}: the key is missing")))?;
        if object.flag("single_word")?.unwrap_or(false) {
            return Err(Error::Unsupported(format!(
                "added token {text:?} is single_word: pith can't match only whole words"
            )));
        }
        let special = object.flag("special")?.unwrap_or(false);
        let token = AddedToken {
            special,
            lstrip: object.flag("lstrip")?.unwrap_or(false),
            rstrip: object.flag("rstrip")?.unwrap_or(false),
            normalized: object.flag("normalized")?.unwrap_or(!special),
            native: false,
            text,
        };
        object.done()?;
        Ok(token)
    }
}

/// Tokens, added tokens and merges of one checkpoint.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Text to id.
    pub(super) ids: HashMap<String, u32>,
    /// All ids.
    taken: BTreeSet<u32>,
    /// Flags of the added tokens, by id.
    pub(super) added: HashMap<u32, AddedToken>,
    pub(super) merges: Vec<(String, String)>,
    /// By id, where the vocabulary has scores and no merges.
    pub(super) scores: Option<Vec<f32>>,
}

impl Words {
    /// Reads a map from text to id.
    pub(super) fn read_ids(&mut self, place: &str, value: Value) -> Result<()> {
        let Value::Object(map) = value else { return Err(wrong(place, "an object", &value)) };
        for (text, id) in map {
            let id = id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| wrong(&format!("{place}.{text:?}"), "a token id", &id))?;
            self.ids.insert(text, id);
        }
        self.taken = self.ids.values().copied().collect();
        if self.taken.len() != self.ids.len() {
            return Err(Error::malformed("JSON", format!("{place}: two tokens have the same id")));
        }
        Ok(())
    }

    /// Reads one token.
    pub(super) fn read_piece(&mut self, place: &str, id: u32, text: &str) -> Result<()> {
        if self.ids.insert(text.to_owned(), id).is_some() {
            return Err(Error::malformed(
                "SentencePiece",
                format!("{place}: the piece {text:?} is there twice"),
            ));
        }
        self.taken.insert(id);
        Ok(())
    }

    /// Reads merges: "left right", or pairs.
    pub(super) fn read_merges(&mut self, place: &str, list: Vec<Value>) -> Result<()> {
        for merge in list {
            let pair = match &merge {
                Value::String(text) => text.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                    _ => None,
                },
                _ => None,
            };
            let Some((a, b)) = pair else {
                return Err(wrong(place, "\"left right\" or a pair", &merge));
            };
            // GGUF has them as text with one space between.
            if a.is_empty() || b.is_empty() || a.contains(' ') || b.contains(' ') {
                let merge = short(&merge);
                return Err(Error::Unsupported(format!("{place}: a part of {merge} has a space")));
            }
            self.merges.push((a.to_string(), b.to_string()));
        }
        Ok(())
    }

    /// Adds an added token. With an id it must agree with what is there; without one, it gets the
    /// next id unless its text is a token already. Flags given later win.
    pub(super) fn add(&mut self, id: Option<u32>, token: AddedToken) -> Result<u32> {
        let next = self.taken.last().map_or(0, |last| last.saturating_add(1));
        let known = self.ids.get(&token.text).copied();
        let new = known.or(id).unwrap_or(next);
        let taken = known.is_none() && !self.taken.insert(new);
        if id.is_some_and(|id| id != new) || taken {
            return Err(Error::malformed(
                "JSON",
                format!("added token {:?}: id {id:?} contradicts the vocabulary", token.text),
            ));
        }
        self.ids.insert(token.text.clone(), new);
        self.added.insert(new, token);
        Ok(new)
    }

    /// Texts and kinds, `[n]` up to the highest id; gaps are `[PAD<i>]`.
    pub(super) fn table(
        &self,
        n: usize,
        byte_fallback: bool,
        unknown: Option<u32>,
    ) -> (Vec<String>, Vec<Kind>) {
        let mut tokens: Vec<String> = (0..n).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![Kind::Unused; n];
        for (text, &id) in &self.ids {
            let at = id as usize;
            if at >= n {
                continue;
            }
            tokens[at].clone_from(text);
            kinds[at] = match self.added.get(&id) {
                Some(token) if token.special && unknown == Some(id) => Kind::Unknown,
                Some(token) if token.special => Kind::Control,
                Some(_) => Kind::User,
                None if byte_fallback && is_byte(text) => Kind::Byte,
                None => Kind::Normal,
            };
        }
        (tokens, kinds)
    }

    /// Scores from which the runtime gets exactly these merges in this order, if there are any: a
    /// merge list from SentencePiece has every pair that makes a token, by the token's score, then
    /// the parts' ids. Scores are minus the order of the tokens that merges make.
    pub(super) fn merge_scores(&self, kinds: &[Kind]) -> (Vec<f32>, bool) {
        let mut scores = vec![f32::NAN; kinds.len()];
        let mergeable = |id: u32| matches!(kinds.get(id as usize), Some(Kind::Normal | Kind::User));
        let id = |text: &str| self.ids.get(text).copied().filter(|&id| mergeable(id));
        let (mut n_made, mut last, mut exact) = (0, None, true);
        let mut seen = HashSet::new();
        for (a, b) in &self.merges {
            let made = id(&format!("{a}{b}"));
            let (Some(a), Some(b), Some(made)) = (id(a), id(b), made) else {
                exact = false;
                continue;
            };
            let score = &mut scores[made as usize];
            if score.is_nan() {
                // Whole numbers up to 2^24 are exact.
                *score = -(n_made as f32);
                n_made += 1;
            }
            // Order: by score, then by the ids of the parts; each pair once.
            let order = (-*score as u32, a, b);
            exact &= last.is_none_or(|last| last < order) && seen.insert((a, b));
            last = Some(order);
        }
        scores.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = -(n_made as f32));
        let splits = |text: &str| {
            let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            cuts.filter(|(a, b)| id(a).is_some() && id(b).is_some()).count()
        };
        let n_pairs: usize = self.ids.keys().filter(|t| id(t).is_some()).map(|t| splits(t)).sum();
        (scores, exact && n_pairs == self.merges.len())
    }
}

fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
