//! The merge loop of byte-pair encoding, once for both kinds of vocabulary: symbols in a linked
//! list, candidates in a heap, so a megabyte of one character costs n·log n.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::table::{Pairs, Pieces};

/// Which pairs merge, and in which order.
pub(super) enum Merges {
    /// The pairs that the file lists, in its order.
    Listed(Pairs),
    /// Any two pieces whose text together is a piece: highest score first, then the lower merged
    /// id, left id, right id. That is the order in which SentencePiece vocabularies are turned into
    /// merge lists for the `tokenizers` package.
    Scored {
        /// One score per id, as [`score_key`].
        keys: Vec<u32>,
        /// One flag per id: bytes, specials and padding never take part.
        mergeable: Vec<bool>,
    },
}

/// Maps a score to a key so that a higher score has a smaller key; any bit pattern is allowed.
pub(super) fn score_key(score: f32) -> u32 {
    let bits = score.to_bits();
    // The usual total order of floats, turned round.
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

/// A stretch of text that is one id.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
    /// Byte range in the text; `end == start` marks a symbol that was merged away.
    start: u32,
    end: u32,
}

const NONE: u32 = u32::MAX;

/// A candidate: order first, then position, then what it makes.
type Candidate = Reverse<(u128, u32, u32)>;

/// Buffers of the merge loop, kept between words.
#[derive(Default)]
pub(super) struct Word {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Word {
    /// Forgets the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends `id` for the bytes `start..end` of the text, which must not be empty.
    pub(super) fn push(&mut self, id: u32, start: usize, end: usize) {
        // `Tokenizer::encode` cuts its text below 4 GiB.
        let (at, start, end) = (self.symbols.len() as u32, start as u32, end as u32);
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: NONE, start, end });
    }

    /// Merges until no pair is left, then appends the ids to `out`.
    pub(super) fn merge(
        &mut self,
        merges: &Merges,
        pieces: &Pieces,
        text: &[u8],
        out: &mut Vec<u32>,
    ) {
        for at in 1..self.symbols.len() {
            self.offer(merges, pieces, text, at as u32 - 1);
        }
        while let Some(Reverse((_, at, merged))) = self.queue.pop() {
            let left = self.symbols[at as usize];
            if left.start == left.end || left.next == NONE {
                continue;
            }
            // A neighbour may have changed since; what is there now must still make this piece.
            if self.pair(merges, pieces, text, at).is_none_or(|(_, now)| now != merged) {
                continue;
            }
            let right = self.symbols[left.next as usize];
            self.symbols[left.next as usize].end = right.start;
            self.symbols[at as usize] =
                Symbol { id: merged, next: right.next, end: right.end, ..left };
            if right.next != NONE {
                self.symbols[right.next as usize].prev = at;
            }
            if left.prev != NONE {
                self.offer(merges, pieces, text, left.prev);
            }
            self.offer(merges, pieces, text, at);
        }
        out.extend(self.symbols.iter().filter(|s| s.start != s.end).map(|s| s.id));
    }

    fn offer(&mut self, merges: &Merges, pieces: &Pieces, text: &[u8], at: u32) {
        if let Some((order, merged)) = self.pair(merges, pieces, text, at) {
            self.queue.push(Reverse((order, at, merged)));
        }
    }

    /// What the symbol `at` and the next one merge to, with the merge's place in the order.
    fn pair(&self, merges: &Merges, pieces: &Pieces, text: &[u8], at: u32) -> Option<(u128, u32)> {
        let left = self.symbols[at as usize];
        let right = self.symbols.get(left.next as usize)?;
        match merges {
            Merges::Listed(pairs) => {
                let (rank, merged) = pairs.get(left.id, right.id)?;
                Some((u128::from(rank), merged))
            }
            Merges::Scored { keys, mergeable } => {
                if !mergeable[left.id as usize] || !mergeable[right.id as usize] {
                    return None;
                }
                let merged = pieces.find(&text[left.start as usize..right.end as usize])?;
                let order = [keys[merged as usize], merged, left.id, right.id];
                let order = order.iter().fold(0, |order, &word| order << 32 | u128::from(word));
                mergeable[merged as usize].then_some((order, merged))
            }
        }
    }
}
