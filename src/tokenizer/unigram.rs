//! Unigram vocabularies: of all ways to cut a text into pieces the one whose scores have the highest
//! sum. As SentencePiece does it (`Model::EncodeOptimized` in `src/unigram_model.cc`), with sums in f32,
//! or as the `tokenizers` package does (`src/models/unigram/model.rs`), with sums in f64.

use std::{borrow::Cow, collections::HashSet};

use super::{
    NO_ID, byte_ids,
    charsmap::Charsmap,
    normalize,
    rules::Rules,
    table::Pieces,
    trie::{NONE, Trie},
    vocab::{Kind, SpacePrefix, Vocab},
};
use crate::{
    Result,
    zeros::{gathered, gathered_set},
};

/// What a character that is no piece costs below the lowest score.
const UNKNOWN_PENALTY: f64 = 10.0;
/// In place of a piece: one character that is none.
const UNKNOWN: u32 = NONE - 1;
/// Once all ways to cut a text meet at a place, and this many bytes lie before it, their pieces are
/// written, so that a long text needs no memory of its length.
const ENOUGH: usize = 1 << 16;
/// SentencePiece begins to count again from sums beyond this.
const RESET: f64 = 100_000.0;

/// A Unigram vocabulary that is ready for use.
pub(super) struct Lattice {
    rules: Rules,
    prefix: SpacePrefix,
    charsmap: Option<Charsmap>,
    /// SentencePiece: pieces that its normalization leaves as they are.
    whole: Trie,
    trie: Trie,
    /// By the trie's places.
    pieces: Vec<Piece>,
    unknown_score: f64,
    longest: usize,
    byte_ids: [u32; 256],
    unknown: Option<u32>,
    /// Tokens with a space in their text that is no mark.
    literal: HashSet<u32>,
}

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    len: usize,
    score: f64,
    /// A mark, which text may only become on request.
    special: bool,
}

impl Lattice {
    pub(super) fn new(vocab: &Vocab<'_>, pieces: &Pieces) -> Result<Lattice> {
        let unigram = &vocab.unigram;
        let own = unigram.rules.is_own();
        let cut = gathered_set(unigram.cut.iter().copied())?;
        let score = |id: u32| match unigram.scores.get(id as usize) {
            Some(score) => *score,
            None => f64::from(vocab.scores[id as usize]),
        };
        let kinds = || vocab.kinds.iter().copied().zip(0u32..);
        // A score of minus infinity or none is an added token's, which is no part of the model.
        let part = |&(kind, id): &(Kind, u32)| match kind {
            Kind::Normal => score(id) > f64::NEG_INFINITY,
            Kind::User if own => !cut.contains(&id),
            Kind::Unused => false,
            _ => !own && score(id) > f64::NEG_INFINITY,
        };
        let text = |id: u32| vocab.tokens[id as usize];
        let mut all: Vec<(Kind, u32)> =
            gathered(kinds().filter(part).filter(|(_, id)| !text(*id).is_empty()))?;
        all.sort_unstable_by_key(|(_, id)| (text(*id), *id));
        all.dedup_by_key(|(_, id)| text(*id));
        let texts: Vec<&[u8]> = gathered(all.iter().map(|(_, id)| text(*id)))?;
        let counted = all.iter().filter(|(kind, _)| !own || *kind == Kind::Normal);
        let lowest = counted.map(|(_, id)| score(*id)).fold(f64::INFINITY, f64::min);
        let piece = |&(kind, id): &(Kind, u32)| Piece {
            id,
            len: text(id).len(),
            score: match (own, kind) {
                (true, Kind::User) => f64::from((0.1 * (text(id).len() as f64 - 1.0)) as f32),
                _ => score(id),
            },
            special: kind == Kind::Control,
        };
        let users = all.iter().filter(|(kind, _)| own && *kind == Kind::User);
        let whole: Vec<&[u8]> = gathered(users.map(|(_, id)| text(*id)))?;
        let literal = gathered(kinds().map(|(_, id)| id).filter(|id| text(*id).contains(&b' ')))?;
        let charsmap = match unigram.charsmap.is_empty() {
            true => None,
            false => Some(Charsmap::parse(&unigram.charsmap)?),
        };
        let mut lattice = Lattice {
            rules: unigram.rules.clone(),
            prefix: vocab.space_prefix,
            charsmap,
            whole: Trie::new(&whole)?,
            longest: texts.iter().map(|text| text.len()).fold(4, usize::max),
            trie: Trie::new(&texts)?,
            pieces: gathered(all.iter().map(piece))?,
            unknown_score: 0.0,
            byte_ids: byte_ids(vocab, pieces),
            unknown: vocab.unknown,
            literal: gathered_set(literal.into_iter())?,
        };
        lattice.unknown_score = lattice.sum(lowest, -UNKNOWN_PENALTY);
        Ok(lattice)
    }

    /// As the library adds whose rules these are. What is f32 there is f32 here.
    fn sum(&self, a: f64, b: f64) -> f64 {
        if self.rules.is_own() { f64::from(a as f32 + b as f32) } else { a + b }
    }

    /// Whether the text of `id` has spaces that are no marks.
    pub(super) fn is_literal(&self, id: u32) -> bool {
        self.literal.contains(&id)
    }

    /// The text that pieces are looked for in.
    pub(super) fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let map = self.charsmap.as_ref();
        match &self.rules {
            Rules::SentencePiece { collapse } => {
                let spaces = (self.prefix != SpacePrefix::Never, *collapse);
                Cow::Owned(normalize::sentencepiece(text, map, &self.whole, spaces))
            }
            Rules::Stages { stages, .. } => normalize::stages(text, map, stages),
        }
    }

    /// Appends the ids of text that has been normalized.
    pub(super) fn encode(
        &self,
        text: &str,
        start: Start,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let n_sums = (self.longest + 1).next_power_of_two();
        if scratch.sums.len() < n_sums {
            scratch.sums.resize(n_sums, 0.0);
        }
        let mut search = Search {
            lattice: self,
            parse_special: start.parse_special,
            scratch,
            unknown: None,
            ids,
        };
        let (rules, prefix) = (&self.rules, self.prefix);
        normalize::words(text, rules, prefix, start.at_start, &mut |word| search.word(word));
    }

    /// The piece that is exactly `text`.
    fn find(&self, text: &str) -> Option<Piece> {
        let found = self.trie.prefixes(text.as_bytes()).find(|(len, _)| *len == text.len());
        found.map(|(_, place)| self.pieces[place as usize])
    }
}

/// Buffers of the search, kept between stretches of text.
#[derive(Default)]
pub(super) struct Scratch {
    /// The highest sum up to each place that a piece can reach, around a ring of a power of two.
    sums: Vec<f64>,
    /// By place, from the last one that was written: the last piece on the best way there, or `NONE`
    /// where no way leads. The lengths of pieces lead back.
    steps: Vec<u32>,
    /// The best way, from its end: where each piece starts and ends, and which it is.
    way: Vec<(usize, usize, u32)>,
}

/// What a stretch of text is.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// Nothing lies before it.
    pub(super) at_start: bool,
    /// It may become special tokens.
    pub(super) parse_special: bool,
}

/// One call of [`Lattice::encode`].
struct Search<'a> {
    lattice: &'a Lattice,
    parse_special: bool,
    scratch: &'a mut Scratch,
    /// A stretch of characters that are no pieces.
    unknown: Option<(usize, usize)>,
    ids: &'a mut Vec<u32>,
}

impl Search<'_> {
    fn word(&mut self, word: &str) {
        // The ids of what is before `written` are out. No piece goes beyond `reached` yet.
        let (mut written, mut reached) = (0, 0);
        self.begin();
        *self.sum_at(0) = 0.0;
        for (at, c) in word.char_indices() {
            if at == reached && at - written >= ENOUGH {
                self.write(word, written, at);
                written = at;
                self.begin();
            }
            self.count_again(written, at, reached);
            reached = reached.max(self.pieces(word, written, at, c.len_utf8()));
        }
        self.write(word, written, word.len());
        self.close(word);
    }

    fn begin(&mut self) {
        self.scratch.steps.clear();
        self.scratch.steps.push(NONE);
    }

    fn sum_at(&mut self, at: usize) -> &mut f64 {
        let mask = self.scratch.sums.len() - 1;
        &mut self.scratch.sums[at & mask]
    }

    /// Takes large sums down, as SentencePiece does: near them f32 is coarse.
    fn count_again(&mut self, written: usize, at: usize, reached: usize) {
        let sum = *self.sum_at(at);
        if !self.lattice.rules.is_own() || sum.abs() <= RESET {
            return;
        }
        for place in at..=reached {
            if place == at || self.scratch.steps[place - written] != NONE {
                let slot = *self.sum_at(place);
                *self.sum_at(place) = self.lattice.sum(slot, -sum);
            }
        }
    }

    /// Goes on from `at`, where a character of `width` bytes starts, by each piece that is there.
    /// Gives how far.
    fn pieces(&mut self, word: &str, written: usize, at: usize, width: usize) -> usize {
        let lattice = self.lattice;
        let sum = *self.sum_at(at);
        let (mut reached, mut known) = (at, false);
        for (len, place) in lattice.trie.prefixes(&word.as_bytes()[at..]) {
            let piece = lattice.pieces[place as usize];
            if piece.special && !self.parse_special {
                continue;
            }
            reached = at + len;
            known |= len == width;
            self.offer(reached, written, lattice.sum(piece.score, sum), place);
        }
        if known {
            return reached;
        }
        self.offer(at + width, written, lattice.sum(lattice.unknown_score, sum), UNKNOWN);
        reached.max(at + width)
    }

    /// A way to `to`; of two with the same sum the first counts.
    fn offer(&mut self, to: usize, written: usize, sum: f64, place: u32) {
        let i = to - written;
        if self.scratch.steps.len() <= i {
            self.scratch.steps.resize(i + 1, NONE);
        }
        if self.scratch.steps[i] == NONE || sum > *self.sum_at(to) {
            *self.sum_at(to) = sum;
            self.scratch.steps[i] = place;
        }
    }

    /// Writes the ids of the best way from `from`, where `steps` begins, to `to`.
    fn write(&mut self, word: &str, from: usize, to: usize) {
        let lattice = self.lattice;
        let mut end = to;
        while end > from {
            let place = self.scratch.steps[end - from];
            let start = match lattice.pieces.get(place as usize) {
                Some(piece) => end - piece.len,
                None => word.floor_char_boundary(end - 1),
            };
            self.scratch.way.push((start, end, place));
            end = start;
        }
        while let Some((start, end, place)) = self.scratch.way.pop() {
            let id = lattice.pieces.get(place as usize).map(|piece| piece.id);
            // For `tokenizers` the unknown piece's own text is unknown too.
            match id.filter(|_| lattice.rules.is_own() || id != lattice.unknown) {
                Some(id) => {
                    self.close(word);
                    self.ids.push(id);
                }
                None => self.unknown = Some((self.unknown.map_or(start, |(from, _)| from), end)),
            }
        }
    }

    /// Writes a stretch of unknown characters, if there is one: as bytes, or as one token.
    fn close(&mut self, word: &str) {
        let lattice = self.lattice;
        let Some((from, to)) = self.unknown.take() else { return };
        let text = &word[from..to];
        let bytes = text.bytes().map(|byte| lattice.byte_ids[usize::from(byte)]);
        // What is unknown character by character may be a piece as a whole: `tokenizers` looks again.
        let piece = if lattice.rules.is_own() { None } else { lattice.find(text) };
        match piece.filter(|piece| self.parse_special || !piece.special) {
            Some(piece) => self.ids.push(piece.id),
            None if bytes.clone().all(|id| id != NO_ID) => self.ids.extend(bytes),
            None => self.ids.extend(lattice.unknown),
        }
    }
}
