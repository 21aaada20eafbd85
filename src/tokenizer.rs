//! Text to ids and back, from a GGUF file's keys alone. The ids are those of the `tokenizers`
//! package for the file's source, for three kinds of vocabulary:
//!
//! - byte-level BPE (`gpt2`): added tokens are cut out, the rest is brought to NFC where the family
//!   does so, cut into words ([`Splitter`]), and the bytes of each word are merged;
//! - SentencePiece-style BPE (`llama`): added tokens are cut out, a space is put before the rest
//!   ([`SpacePrefix`]), and its characters are merged; a character that is no piece becomes bytes;
//! - Unigram (`t5`): added tokens are cut out, the rest is changed by [`Rules`], SentencePiece's own or
//!   those of a `tokenizer.json`, and cut into the pieces whose scores have the highest sum.
//!
//! Tolerated: duplicate tokens (encoding gives the lowest id); bytes without a token (they become
//! the unknown token, or are left out where there is none, as `tokenizers` does).

mod added;
mod bytes;
mod charsmap;
mod decode;
mod encode;
mod grapheme;
mod merge;
mod normalize;
mod rules;
mod specials;
mod split;
mod table;
mod trie;
mod unigram;
mod vocab;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use decode::{Buffers, Stream};
pub use rules::{Leading, Marks, Rules, Stage, Unigram, name};
pub use specials::Specials;
pub use split::Splitter;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
pub use vocab::{Kind, Model, SpacePrefix, Vocab};

use self::{
    added::{Added, AddedToken},
    merge::{Merges, score_key},
    table::{Pairs, Pieces},
    unigram::Lattice,
};
use crate::{
    Error, Result,
    gguf::Gguf,
    memory::enough,
    zeros::{filled, gathered, gathered_set, push},
};

/// The mark that SentencePiece vocabularies have for a space. Pieces hold the space itself.
const SPACE_MARK: char = '▁';
/// The same in UTF-8.
const SPACE_MARK_BYTES: &[u8] = "▁".as_bytes();
const NO_ID: u32 = u32::MAX;
/// Text is merged in stretches of at most this many bytes, so that positions fit in 32 bits.
const MAX_WORD: usize = 1 << 30;

/// What to do with special tokens in [`Tokenizer::encode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encode {
    /// Put BOS before and EOS behind, where the model wants them.
    pub add_special: bool,
    /// Let the text of a special token become that token. Off for text that isn't trusted.
    pub parse_special: bool,
}

/// A vocabulary that is ready for use.
pub struct Tokenizer {
    normalizer: Normalizer,
    splitter: Splitter,
    pieces: Pieces,
    kinds: Vec<Kind>,
    merges: Merges,
    /// In place of merges.
    lattice: Option<Box<Lattice>>,
    /// The id of each byte, or `NO_ID`.
    byte_ids: [u32; 256],
    /// Added tokens that are looked for in the text as it came.
    added: Added,
    /// Added tokens that are looked for in the normalized text.
    added_normalized: Added,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    eog: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    /// What decoding does with the space that encoding put in front.
    leading: Leading,
    ignore_merges: bool,
    fuse_unknown: bool,
}

impl Tokenizer {
    /// The tokenizer that the file's keys describe; see [`Vocab::from_gguf`].
    ///
    /// # Errors
    /// Those of [`Vocab::from_gguf`] and [`Tokenizer::new`].
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Tokenizer> {
        Tokenizer::new(&Vocab::from_gguf(gguf)?)
    }

    /// The tokenizer of a vocabulary.
    ///
    /// # Errors
    /// The vocabulary contradicts itself: no tokens, arrays of different lengths, a special id that
    /// is no token, a merge whose parts or result are no tokens, a byte token that names no byte,
    /// BOS wanted but not there.
    pub fn new(vocab: &Vocab<'_>) -> Result<Tokenizer> {
        check(vocab)?;
        let pieces = pieces(vocab)?;
        let mut tokenizer = Tokenizer {
            normalizer: Normalizer::of(vocab),
            splitter: vocab.splitter,
            kinds: gathered(vocab.kinds.iter().copied())?,
            merges: merges(vocab, &pieces)?,
            lattice: match vocab.model {
                Model::Unigram => Some(Box::new(Lattice::new(vocab, &pieces)?)),
                _ => None,
            },
            byte_ids: byte_ids(vocab, &pieces),
            added: Added::new(Vec::new())?,
            added_normalized: Added::new(Vec::new())?,
            bos: vocab.bos,
            eos: vocab.eos,
            unknown: vocab.unknown,
            padding: vocab.padding,
            eog: sorted(vocab.eog.iter().copied().chain(vocab.eos))?,
            add_bos: vocab.add_bos,
            add_eos: vocab.add_eos,
            leading: match vocab.model {
                Model::Unigram => vocab.unigram.leading,
                Model::SentencePiece if vocab.space_prefix != SpacePrefix::Never => Leading::One,
                _ => Leading::Keep,
            },
            ignore_merges: vocab.ignore_merges,
            fuse_unknown: vocab.fuse_unknown,
            pieces,
        };
        if tokenizer.cuts_at_spaces() {
            tokenizer.splitter = Splitter::Spaces;
        }
        let (normalized, as_is) = tokenizer.added_tokens(vocab)?;
        tokenizer.added = Added::new(as_is)?;
        tokenizer.added_normalized = Added::new(normalized)?;
        Ok(tokenizer)
    }

    /// What a file without a tokenizer has: `n_vocab` ids that no text leads to and that stand for
    /// none.
    ///
    /// # Errors
    /// No ids, or more than 32 bits number.
    pub fn none(n_vocab: usize) -> Result<Tokenizer> {
        let kinds = filled(n_vocab, Kind::Unused)?;
        let mut vocab = Vocab::new(Model::ByteLevel, Vec::new());
        (vocab.tokens, vocab.kinds) = (filled(n_vocab, &b""[..])?, kinds);
        Tokenizer::new(&vocab)
    }

    /// Whether no text leads to any id: see [`Tokenizer::none`].
    pub fn is_none(&self) -> bool {
        self.kinds.iter().all(|kind| *kind == Kind::Unused)
    }

    /// Whether cutting at spaces gives the same ids as not cutting: no piece that merges can make
    /// has a space behind another character, and a space is never part of an unknown stretch.
    fn cuts_at_spaces(&self) -> bool {
        let inside = |piece: &[u8]| {
            let first = piece.iter().position(|&b| b != b' ').unwrap_or(piece.len());
            piece[first..].contains(&b' ')
        };
        let text = |kind: &Kind| *kind != Kind::Unused;
        let mut kinds = self.kinds.iter().zip(0u32..).filter(|(kind, _)| text(kind));
        self.splitter == Splitter::Whole
            && self.lattice.is_none()
            && !self.ignore_merges
            && self.pieces.find(b" ").is_some()
            && !kinds.any(|(_, id)| inside(self.pieces.get(id)))
    }

    /// Tokens that are looked for in normalized text (their own text normalized), and the others.
    fn added_tokens(&self, vocab: &Vocab<'_>) -> Result<(Vec<AddedToken>, Vec<AddedToken>)> {
        let set = |ids: &[u32]| gathered_set(ids.iter().copied());
        let normalized = set(&vocab.normalized)?;
        let (lstrip, rstrip) = (set(&vocab.lstrip)?, set(&vocab.rstrip)?);
        let cut = set(&vocab.unigram.cut)?;
        let own = vocab.model == Model::Unigram && vocab.unigram.rules.is_own();
        let added = |kind: &Kind, id| match kind {
            // SentencePiece finds its own by itself.
            Kind::User => !own || cut.contains(&id),
            kind => matches!(kind, Kind::Control | Kind::Unknown),
        };
        let (mut of_normalized, mut as_is) = (Vec::new(), Vec::new());
        for (kind, id) in vocab.kinds.iter().zip(0u32..).filter(|(kind, id)| added(kind, *id)) {
            enough()?;
            let text = String::from_utf8_lossy(vocab.tokens[id as usize]);
            let (text, list) = match normalized.contains(&id) {
                true => (self.normalize(&text).into_owned(), &mut of_normalized),
                false => (text.into_owned(), &mut as_is),
            };
            let (lstrip, rstrip) = (lstrip.contains(&id), rstrip.contains(&id));
            push(list, AddedToken { text, id, special: *kind != Kind::User, lstrip, rstrip })?;
        }
        Ok((of_normalized, as_is))
    }

    /// How many ids there are.
    pub fn n_vocab(&self) -> usize {
        self.pieces.len()
    }

    /// The id that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The id for what the vocabulary can't express.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The id that fills up batches.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether a sequence begins with [`Tokenizer::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a sequence ends with [`Tokenizer::eos`].
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether generation ends after `id`.
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// Whether `id` is a mark (control or unknown) rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// Whether no text leads to `id`: padding of the embedding, or past its end.
    pub fn is_unused(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Unused) | None)
    }

    /// The id of the added or special token that is exactly `text`.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        self.added.id(text).or_else(|| self.added_normalized.id(&self.normalize(text)))
    }

    /// The bytes that `id` stands for; none for an id that is out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        if (id as usize) < self.pieces.len() { self.pieces.get(id) } else { &[] }
    }

    /// Whether the text of `id` has spaces that are no marks.
    fn is_literal(&self, id: u32) -> bool {
        self.lattice.as_ref().is_some_and(|lattice| lattice.is_literal(id))
    }

    /// `text` as pieces are looked for in it.
    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.lattice {
            Some(lattice) => lattice.normalize(text),
            None => self.normalizer.apply(text),
        }
    }
}

/// How text is changed before it is cut into words. Applied to what lies between added tokens.
#[derive(Clone, Copy)]
struct Normalizer {
    model: Model,
    nfc: bool,
    space_prefix: SpacePrefix,
}

impl Normalizer {
    fn of(vocab: &Vocab<'_>) -> Normalizer {
        Normalizer { model: vocab.model, nfc: vocab.nfc, space_prefix: vocab.space_prefix }
    }

    fn apply(self, text: &str) -> Cow<'_, str> {
        match self.model {
            Model::ByteLevel if self.nfc => match is_nfc_quick(text.chars()) {
                IsNormalized::Yes => Cow::Borrowed(text),
                _ => text.nfc().collect(),
            },
            // A Unigram vocabulary has rules of its own.
            Model::ByteLevel | Model::Unigram => Cow::Borrowed(text),
            Model::SentencePiece => {
                let text = spaces(text);
                match self.space_prefix == SpacePrefix::Every && !text.is_empty() {
                    true => Cow::Owned(format!(" {text}")),
                    false => text,
                }
            }
        }
    }
}

/// Spaces for space marks.
fn spaces(text: &str) -> Cow<'_, str> {
    match text.contains(SPACE_MARK) {
        true => Cow::Owned(text.replace(SPACE_MARK, " ")),
        false => Cow::Borrowed(text),
    }
}

/// `ids` in order, each once.
fn sorted(ids: impl Iterator<Item = u32>) -> Result<Vec<u32>> {
    let mut ids = gathered(ids)?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn fault(what: impl Into<String>) -> Error {
    Error::malformed("GGUF", what)
}

/// Lengths and ids that must agree.
fn check(vocab: &Vocab<'_>) -> Result<()> {
    let n_vocab = vocab.tokens.len();
    if n_vocab == 0 || u32::try_from(n_vocab).is_err() {
        return Err(fault(format!("tokenizer.ggml.tokens has {n_vocab} tokens")));
    }
    if vocab.kinds.len() != n_vocab {
        let n = vocab.kinds.len();
        return Err(fault(format!(
            "tokenizer.ggml.token_type has {n} entries for {n_vocab} tokens"
        )));
    }
    let scored = match vocab.model {
        Model::ByteLevel => false,
        Model::SentencePiece => vocab.merges.is_none(),
        Model::Unigram => true,
    };
    if scored && vocab.scores.len() != n_vocab {
        let n = vocab.scores.len();
        return Err(fault(format!("tokenizer.ggml.scores has {n} entries for {n_vocab} tokens")));
    }
    if ![0, n_vocab].contains(&vocab.unigram.scores.len()) {
        let n = vocab.unigram.scores.len();
        return Err(fault(format!("pith.tokenizer.scores has {n} entries for {n_vocab} tokens")));
    }
    if vocab.merges.is_none() && vocab.model == Model::ByteLevel {
        return Err(fault("key tokenizer.ggml.merges is missing"));
    }
    if let Some(n) = vocab.merges.as_ref().map(Vec::len).filter(|&n| u32::try_from(n).is_err()) {
        return Err(fault(format!("tokenizer.ggml.merges has {n} entries")));
    }
    let named = [
        ("tokenizer.ggml.bos_token_id", vocab.bos.as_slice()),
        ("tokenizer.ggml.eos_token_id", vocab.eos.as_slice()),
        ("tokenizer.ggml.unknown_token_id", vocab.unknown.as_slice()),
        ("tokenizer.ggml.padding_token_id", vocab.padding.as_slice()),
        ("the end-of-generation ids", &vocab.eog),
        ("pith.tokenizer.lstrip", &vocab.lstrip),
        ("pith.tokenizer.rstrip", &vocab.rstrip),
        ("pith.tokenizer.normalized", &vocab.normalized),
        ("pith.tokenizer.cut", &vocab.unigram.cut),
    ];
    for (key, ids) in named {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(fault(format!("{key} names token {id}, but there are {n_vocab}")));
        }
    }
    for (key, wanted, id) in
        [("add_bos_token", vocab.add_bos, vocab.bos), ("add_eos_token", vocab.add_eos, vocab.eos)]
    {
        if wanted && id.is_none() {
            return Err(fault(format!("tokenizer.ggml.{key} is set, but no such token is named")));
        }
    }
    Ok(())
}

/// The bytes of every token, and which of them can be found by their bytes.
fn pieces(vocab: &Vocab<'_>) -> Result<Pieces> {
    let n_bytes = vocab.tokens.iter().map(|t| t.len()).sum();
    let mut pieces = Pieces::with_capacity(vocab.tokens.len(), n_bytes)?;
    let normalized = gathered_set(vocab.normalized.iter().map(|&id| id as usize))?;
    for (id, (&text, kind)) in vocab.tokens.iter().zip(&vocab.kinds).enumerate() {
        match (vocab.model, kind) {
            // What it swallows in the text, a space in front for one, is what it decodes to.
            (
                Model::ByteLevel | Model::SentencePiece,
                Kind::User | Kind::Control | Kind::Unknown,
            ) if normalized.contains(&id) => {
                let text = String::from_utf8_lossy(text);
                let text = Normalizer::of(vocab).apply(&text);
                pieces.push(|out| out.extend_from_slice(text.as_bytes()))?;
            }
            (_, Kind::Byte) => {
                let byte = byte_token(id, text)?;
                pieces.push(|out| out.push(byte))?;
            }
            (Model::ByteLevel, Kind::Normal) | (Model::SentencePiece | Model::Unigram, _) => {
                pieces.push(|out| plain_bytes(vocab.model, text, out))?;
            }
            (Model::ByteLevel, _) => pieces.push(|out| out.extend_from_slice(text))?,
        }
    }
    // A Unigram vocabulary finds its pieces by another table.
    if vocab.model == Model::Unigram {
        return Ok(pieces);
    }
    // Ordinary tokens first: of an ordinary and an added one with the same bytes, merges mean the
    // ordinary one. Bytes and padding of a SentencePiece vocabulary are no text.
    let with = |wanted: &[Kind], pieces: &mut Pieces| {
        for (kind, id) in vocab.kinds.iter().zip(0u32..) {
            if wanted.contains(kind) {
                pieces.index(id);
            }
        }
    };
    with(&[Kind::Normal], &mut pieces);
    with(&[Kind::User], &mut pieces);
    if vocab.merges.is_some() {
        with(&[Kind::Control, Kind::Unknown], &mut pieces);
    }
    Ok(pieces)
}

/// Appends the bytes of an ordinary token or of a part of a merge. Byte-level text with characters
/// that are no stand-ins is taken as it is, as `tokenizers` does when decoding.
fn plain_bytes(model: Model, text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    match model {
        Model::ByteLevel => {
            if bytes::decode(text, out).is_none() {
                out.truncate(start);
                out.extend_from_slice(text);
            }
        }
        Model::SentencePiece | Model::Unigram => {
            let mut rest = text;
            while let Some(at) = rest.iter().position(|b| *b == SPACE_MARK_BYTES[0]) {
                let (before, from) = rest.split_at(at);
                out.extend_from_slice(before);
                let (byte, len) = match from.starts_with(SPACE_MARK_BYTES) {
                    true => (b' ', SPACE_MARK_BYTES.len()),
                    false => (SPACE_MARK_BYTES[0], 1),
                };
                out.push(byte);
                rest = &from[len..];
            }
            out.extend_from_slice(rest);
        }
    }
}

/// The byte that `<0x0A>` names.
fn byte_token(id: usize, text: &[u8]) -> Result<u8> {
    let text = String::from_utf8_lossy(text);
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
    hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(|| {
        fault(format!(
            "token {id} is a byte by its type, but its text is {text:?}; wanted <0x00> to <0xFF>"
        ))
    })
}

/// The id of each byte: a piece of one byte, or a SentencePiece byte token.
fn byte_ids(vocab: &Vocab<'_>, pieces: &Pieces) -> [u32; 256] {
    let mut ids = [NO_ID; 256];
    match vocab.model {
        Model::ByteLevel => {
            for (byte, id) in (0..=255).zip(&mut ids) {
                *id = pieces.find(&[byte]).unwrap_or(NO_ID);
            }
        }
        Model::SentencePiece | Model::Unigram => {
            for (_, id) in vocab.kinds.iter().zip(0u32..).filter(|(kind, _)| **kind == Kind::Byte) {
                let slot = &mut ids[usize::from(pieces.get(id)[0])];
                *slot = id.min(*slot);
            }
        }
    }
    ids
}

/// The merges that the file lists, else those that its scores imply.
fn merges(vocab: &Vocab<'_>, pieces: &Pieces) -> Result<Merges> {
    let Some(merges) = &vocab.merges else {
        let mergeable = |k: &Kind| matches!(k, Kind::Normal | Kind::User);
        return Ok(Merges::Scored {
            keys: gathered(vocab.scores.iter().map(|&s| score_key(s)))?,
            mergeable: gathered(vocab.kinds.iter().map(mergeable))?,
        });
    };
    let mut pairs = Pairs::with_capacity(merges.len())?;
    let mut merged = Vec::new();
    for (merge, rank) in merges.iter().zip(0u32..) {
        let Some((left, right)) = parts(merge) else {
            let merge = String::from_utf8_lossy(merge);
            return Err(fault(format!("merge {rank} is {merge:?}; wanted two tokens and a space")));
        };
        merged.clear();
        plain_bytes(vocab.model, left, &mut merged);
        let n_left = merged.len();
        plain_bytes(vocab.model, right, &mut merged);
        let find = |piece: &[u8], what: &str| {
            pieces.find(piece).ok_or_else(|| {
                let merge = String::from_utf8_lossy(merge);
                fault(format!("merge {rank}, {merge:?}: its {what} is no token"))
            })
        };
        let (left, right) = merged.split_at(n_left);
        let (left, right) = (find(left, "left part")?, find(right, "right part")?);
        pairs.push(left, right, find(&merged, "result")?);
    }
    Ok(Merges::Listed(pairs))
}

/// The two parts of a merge. The first may begin with a space, so the one between them is looked
/// for behind its first byte.
fn parts(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = 1 + merge.get(1..)?.iter().position(|&b| b == b' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}
