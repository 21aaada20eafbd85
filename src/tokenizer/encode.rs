//! Text to ids.

use std::{borrow::Cow, ops::Range};

use super::{
    Encode, Kind, MAX_WORD, Model, NO_ID, SpacePrefix, Tokenizer,
    added::{Allowed, Part},
    merge::Word,
    unigram::{self, Scratch},
};

impl Tokenizer {
    /// The ids of `text`.
    pub fn encode(&self, text: &str, opts: Encode) -> Vec<u32> {
        let allowed = if opts.parse_special { Allowed::ALL } else { Allowed::NONE };
        self.encode_allowed(text, opts.add_special, allowed)
    }

    /// The ids of a `text` that is trusted at some places only: of the special tokens in it those
    /// are parsed that are exactly one of `places` (in order and apart), and all else is text. See
    /// [`Tokenizer::specials`].
    pub fn encode_guarded(
        &self,
        text: &str,
        add_special: bool,
        places: &[Range<usize>],
    ) -> Vec<u32> {
        self.encode_allowed(text, add_special, Allowed::at(places))
    }

    /// Takes off the end that the tokenizer puts behind texts, if it does: a text that is to go on has none.
    pub fn take_end(&self, ids: &mut Vec<u32>) {
        if self.add_eos && ids.last().copied() == self.eos() {
            ids.pop();
        }
    }

    fn encode_allowed(&self, text: &str, add_special: bool, allowed: Allowed<'_>) -> Vec<u32> {
        let mut out = Encoder {
            tokenizer: self,
            word: Word::default(),
            scratch: Scratch::default(),
            ids: Vec::new(),
        };
        if add_special && self.add_bos {
            out.ids.extend(self.bos);
        }
        self.added.split(text, allowed, |part| match part {
            Part::Id(id) => out.ids.push(id),
            Part::Text(range) => out.between(text, range, allowed),
        });
        if add_special && self.add_eos {
            out.ids.extend(self.eos);
        }
        out.ids
    }
}

/// One call of [`Tokenizer::encode`].
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    word: Word,
    scratch: Scratch,
    ids: Vec<u32>,
}

impl Encoder<'_> {
    /// `text[range]`, what lies between two added tokens.
    fn between(&mut self, text: &str, range: Range<usize>, allowed: Allowed<'_>) {
        let tokenizer = self.tokenizer;
        let at_start = range.start == 0;
        let places = tokenizer.normalized_places(text, range.clone(), allowed);
        let allowed = places.as_deref().map_or(allowed, Allowed::at);
        let text = tokenizer.normalize(&text[range]);
        tokenizer.added_normalized.split(&text, allowed, |part| match part {
            Part::Id(id) => self.ids.push(id),
            Part::Text(range) => {
                let (text, at_start) = (&text[range.clone()], at_start && range.start == 0);
                match &tokenizer.lattice {
                    None => self.plain(text, at_start),
                    Some(lattice) => {
                        let start = unigram::Start { at_start, parse_special: allowed.all };
                        lattice.encode(text, start, &mut self.scratch, &mut self.ids);
                    }
                }
            }
        });
    }

    /// Text without added tokens.
    fn plain(&mut self, text: &str, at_start: bool) {
        let prefix = match self.tokenizer.normalizer.space_prefix {
            SpacePrefix::Never | SpacePrefix::Every => false,
            SpacePrefix::First => at_start && !text.starts_with(' '),
            SpacePrefix::Missing => !text.starts_with(' '),
        };
        let prefixed = if prefix { Cow::Owned(format!(" {text}")) } else { Cow::Borrowed(text) };
        let mut rest: &str = &prefixed;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(MAX_WORD));
            self.tokenizer.splitter.split(head, &mut |word| self.word(word));
            rest = tail;
        }
    }

    fn word(&mut self, word: &[u8]) {
        let tokenizer = self.tokenizer;
        if tokenizer.ignore_merges
            && let Some(id) = tokenizer.pieces.find(word)
            && matches!(tokenizer.kinds[id as usize], Kind::Normal | Kind::User)
        {
            self.ids.push(id);
            return;
        }
        self.word.clear();
        // The end of an unknown stretch that the next known character closes.
        let mut unknown = None;
        match tokenizer.normalizer.model {
            Model::ByteLevel => {
                for (at, &byte) in word.iter().enumerate() {
                    let id = tokenizer.byte_ids[usize::from(byte)];
                    let id = (id != NO_ID).then_some(id);
                    self.symbol(id, at, at + 1, &mut unknown);
                }
            }
            Model::SentencePiece => self.characters(word, &mut unknown),
            Model::Unigram => {} // has no merges
        }
        self.flush(&mut unknown);
        self.word.merge(&tokenizer.merges, &tokenizer.pieces, word, &mut self.ids);
    }

    /// Symbols of a SentencePiece text: characters that are pieces, else bytes, else unknown.
    fn characters(&mut self, text: &[u8], unknown: &mut Option<(usize, usize)>) {
        let (pieces, byte_ids) = (&self.tokenizer.pieces, &self.tokenizer.byte_ids);
        let mut at = 0;
        while at < text.len() {
            // A character's bytes: the first one and the continuation bytes behind it.
            let more = text[at + 1..].iter().take_while(|&&b| b & 0xc0 == 0x80).count();
            let (from, to) = (at, at + 1 + more);
            at = to;
            let character = &text[from..to];
            let bytes = || character.iter().map(|&b| byte_ids[usize::from(b)]);
            match pieces.find(character) {
                None if bytes().all(|id| id != NO_ID) => {
                    // As `tokenizers`: bytes don't close an unknown stretch.
                    for (id, at) in bytes().zip(from..) {
                        self.word.push(id, at, at + 1);
                    }
                }
                id => self.symbol(id, from, to, unknown),
            }
        }
    }

    /// One character or byte; `None` is one that the vocabulary doesn't have.
    fn symbol(
        &mut self,
        id: Option<u32>,
        from: usize,
        to: usize,
        unknown: &mut Option<(usize, usize)>,
    ) {
        match (id, *unknown) {
            (Some(id), _) => {
                self.flush(unknown);
                self.word.push(id, from, to);
            }
            (None, Some((start, _))) if self.tokenizer.fuse_unknown => *unknown = Some((start, to)),
            (None, _) => {
                self.flush(unknown);
                *unknown = Some((from, to));
            }
        }
    }

    /// Writes the unknown token for an unknown stretch, where the vocabulary has one.
    fn flush(&mut self, unknown: &mut Option<(usize, usize)>) {
        if let (Some((from, to)), Some(id)) = (unknown.take(), self.tokenizer.unknown) {
            self.word.push(id, from, to);
        }
    }
}
