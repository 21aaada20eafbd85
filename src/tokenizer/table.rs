//! The vocabulary's two tables: the bytes of every piece in one arena with an index from bytes to
//! id, and a map from a pair of ids to the merge it makes. Both are open-addressed with linear
//! probing; the hash is seeded per process, so a crafted vocabulary can't make probing quadratic.

use std::hash::{BuildHasher, RandomState};

use crate::{
    Error, Result,
    zeros::{filled, room},
};

const EMPTY: u32 = u32::MAX;

/// Two random words; the hash is a folded 64×64-bit multiply.
#[derive(Clone, Copy)]
struct Seed(u64, u64);

impl Seed {
    fn new() -> Seed {
        let state = RandomState::new();
        Seed(state.hash_one(0u64) | 1, state.hash_one(1u64) | 1)
    }

    fn word(self, hash: u64, word: u64) -> u64 {
        let wide = u128::from(hash ^ word ^ self.0) * u128::from(self.1);
        (wide as u64) ^ ((wide >> 64) as u64)
    }

    fn bytes(self, bytes: &[u8]) -> u64 {
        let mut hash = bytes.len() as u64;
        for word in bytes.as_chunks::<8>().0 {
            hash = self.word(hash, u64::from_le_bytes(*word)).wrapping_mul(self.0);
        }
        self.word(hash, last_word(bytes))
    }
}

/// The last eight bytes, or all of fewer: with the length it tells short texts apart.
fn last_word(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.last_chunk::<8>() {
        return u64::from_le_bytes(*word);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
    }
    bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Slots for `n` entries at a load of at most two thirds.
fn n_slots(n: usize) -> usize {
    (n + n / 2 + 1).next_power_of_two()
}

/// Numbers below a bound, found by hash. A slot is a number with some bits of its entry's hash above
/// it, so that entries are rarely compared in vain: they lie elsewhere, and not in the cache.
struct Index {
    /// `EMPTY` where there is none.
    slots: Vec<u32>,
    /// The bits of a slot that are the number; never all ones for a number.
    number: u32,
}

impl Index {
    /// An empty index with room for the numbers below `n`, which 32 bits hold.
    fn with_capacity(n: usize) -> Result<Index> {
        let bound = u32::try_from(n).unwrap_or(u32::MAX);
        let number = u32::MAX.checked_shr(bound.leading_zeros()).unwrap_or(0);
        Ok(Index { slots: filled(n_slots(n), EMPTY)?, number })
    }

    /// The slot of the entry that `is` the wanted one and its number, or else the empty slot where
    /// it belongs. There always is one: the slots outnumber the entries.
    fn probe(&self, hash: u64, is: impl Fn(u32) -> bool) -> (usize, Option<u32>) {
        let (mask, tag) = (self.slots.len() - 1, (hash >> 32) as u32);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return (at, None);
            }
            if (slot ^ tag) & !self.number == 0 && is(slot & self.number) {
                return (at, Some(slot & self.number));
            }
            at = (at + 1) & mask;
        }
    }

    /// Fills the slot that [`Index::probe`] has found for this hash.
    fn put(&mut self, slot: usize, hash: u64, number: u32) {
        self.slots[slot] = (hash >> 32) as u32 & !self.number | number;
    }
}

/// The bytes of every piece, and which id has given bytes.
pub(super) struct Pieces {
    /// All pieces, one after the other.
    bytes: Vec<u8>,
    /// Where each piece starts; one more entry than there are pieces.
    starts: Vec<u32>,
    /// Ids by their bytes.
    ids: Index,
    seed: Seed,
    longest: usize,
}

impl Pieces {
    /// An empty table with room for `n_pieces` of `n_bytes` in all.
    pub(super) fn with_capacity(n_pieces: usize, n_bytes: usize) -> Result<Pieces> {
        let mut starts = room(n_pieces + 1)?;
        starts.push(0);
        Ok(Pieces {
            bytes: room(n_bytes)?,
            starts,
            ids: Index::with_capacity(n_pieces)?,
            seed: Seed::new(),
            longest: 0,
        })
    }

    /// Appends the piece that `write` appends; its id is the number of pieces before it.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        write(&mut self.bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| {
            Error::malformed("GGUF", "tokenizer.ggml.tokens holds more than 4 GiB of text")
        })?;
        self.starts.push(end);
        Ok(())
    }

    /// Makes `id` findable by its bytes. False, and no change, if another id already is.
    pub(super) fn index(&mut self, id: u32) -> bool {
        let (hash, len) = (self.seed.bytes(self.get(id)), self.get(id).len());
        let (slot, None) = self.probe(hash, self.get(id)) else { return false };
        self.longest = self.longest.max(len);
        self.ids.put(slot, hash, id);
        true
    }

    fn probe(&self, hash: u64, piece: &[u8]) -> (usize, Option<u32>) {
        self.ids.probe(hash, |id| self.get(id) == piece)
    }

    /// The id whose bytes are `piece`.
    pub(super) fn find(&self, piece: &[u8]) -> Option<u32> {
        // Longer than any piece: don't spend time on hashing it.
        let short = piece.len() <= self.longest;
        if short { self.probe(self.seed.bytes(piece), piece).1 } else { None }
    }

    /// The bytes of `id`, which must be below `len`.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize]
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// (left id, right id) to (rank, merged id).
pub(super) struct Pairs {
    /// `[left, right, merged]` by rank.
    merges: Vec<[u32; 3]>,
    /// Ranks by left and right.
    ranks: Index,
    seed: Seed,
}

impl Pairs {
    /// An empty map with room for `n` pairs.
    pub(super) fn with_capacity(n: usize) -> Result<Pairs> {
        Ok(Pairs { merges: room(n)?, ranks: Index::with_capacity(n)?, seed: Seed::new() })
    }

    fn hash(&self, left: u32, right: u32) -> u64 {
        self.seed.word(0, u64::from(left) << 32 | u64::from(right))
    }

    fn probe(&self, hash: u64, left: u32, right: u32) -> (usize, Option<u32>) {
        self.ranks.probe(hash, |rank| self.merges[rank as usize][..2] == [left, right])
    }

    /// Adds a pair of the next rank. One that is there already goes by its new rank and result. No
    /// more pairs than `with_capacity` was told.
    pub(super) fn push(&mut self, left: u32, right: u32, merged: u32) {
        let (rank, hash) = (self.merges.len() as u32, self.hash(left, right));
        let (slot, _) = self.probe(hash, left, right);
        self.ranks.put(slot, hash, rank);
        self.merges.push([left, right, merged]);
    }

    /// What `left` and `right` merge to, and at which rank.
    pub(super) fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let rank = self.probe(self.hash(left, right), left, right).1?;
        Some((rank, self.merges[rank as usize][2]))
    }
}
