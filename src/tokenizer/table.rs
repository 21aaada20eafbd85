//! The vocabulary's two tables: the bytes of every piece in one arena with an index from bytes to
//! id, and a map from a pair of ids to the merge it makes. Both are open-addressed with linear
//! probing; the hash is seeded per process, so a crafted vocabulary can't make probing quadratic.

use std::hash::{BuildHasher, RandomState};

use crate::{Error, Result};

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
        let (words, tail) = bytes.as_chunks::<8>();
        let mut hash = bytes.len() as u64;
        for word in words {
            hash = self.word(hash, u64::from_le_bytes(*word)).wrapping_mul(self.0);
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        self.word(hash, u64::from_le_bytes(last))
    }
}

/// Slots for `n` entries at a load of at most two thirds.
fn n_slots(n: usize) -> usize {
    (n + n / 2 + 1).next_power_of_two()
}

/// The bytes of every piece, and which id has given bytes.
pub(super) struct Pieces {
    /// All pieces, one after the other.
    bytes: Vec<u8>,
    /// Where each piece starts; one more entry than there are pieces.
    starts: Vec<u32>,
    /// Ids by hash of their bytes, `EMPTY` where there is none.
    slots: Vec<u32>,
    seed: Seed,
    longest: usize,
}

impl Pieces {
    /// An empty table with room for `n_pieces` of `n_bytes` in all.
    pub(super) fn with_capacity(n_pieces: usize, n_bytes: usize) -> Pieces {
        let mut starts = Vec::with_capacity(n_pieces + 1);
        starts.push(0);
        Pieces {
            bytes: Vec::with_capacity(n_bytes),
            starts,
            slots: vec![EMPTY; n_slots(n_pieces)],
            seed: Seed::new(),
            longest: 0,
        }
    }

    /// Appends a piece; its id is the number of pieces before it.
    pub(super) fn push(&mut self, piece: impl IntoIterator<Item = u8>) -> Result<()> {
        self.bytes.extend(piece);
        let end = u32::try_from(self.bytes.len()).map_err(|_| {
            Error::malformed("GGUF", "tokenizer.ggml.tokens holds more than 4 GiB of text")
        })?;
        self.starts.push(end);
        Ok(())
    }

    /// Makes `id` findable by its bytes. False, and no change, if another id already is.
    pub(super) fn index(&mut self, id: u32) -> bool {
        let piece = self.get(id);
        match self.probe(piece) {
            Ok(_) => false,
            Err(slot) => {
                self.longest = self.longest.max(piece.len());
                self.slots[slot] = id;
                true
            }
        }
    }

    /// The slot that holds `piece`, or the empty one where it belongs. There always is one: the
    /// slots outnumber the pieces.
    fn probe(&self, piece: &[u8]) -> std::result::Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = self.seed.bytes(piece) as usize & mask;
        loop {
            match self.slots[at] {
                EMPTY => return Err(at),
                id if self.get(id) == piece => return Ok(id),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// The id whose bytes are `piece`.
    pub(super) fn find(&self, piece: &[u8]) -> Option<u32> {
        // Longer than any piece: don't spend time on hashing it.
        if piece.len() > self.longest { None } else { self.probe(piece).ok() }
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
    /// `[left, right, rank, merged]`; `left == EMPTY` marks a free slot.
    slots: Vec<[u32; 4]>,
    seed: Seed,
}

impl Pairs {
    /// An empty map with room for `n` pairs.
    pub(super) fn with_capacity(n: usize) -> Pairs {
        Pairs { slots: vec![[EMPTY; 4]; n_slots(n)], seed: Seed::new() }
    }

    fn probe(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.seed.word(0, u64::from(left) << 32 | u64::from(right)) as usize & mask;
        while self.slots[at][0] != EMPTY && self.slots[at][..2] != [left, right] {
            at = (at + 1) & mask;
        }
        at
    }

    /// Adds or replaces a pair. No more pairs than `with_capacity` was told.
    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32, merged: u32) {
        let at = self.probe(left, right);
        self.slots[at] = [left, right, rank, merged];
    }

    /// What `left` and `right` merge to, and at which rank.
    pub(super) fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let [found, _, rank, merged] = self.slots[self.probe(left, right)];
        (found != EMPTY).then_some((rank, merged))
    }
}
