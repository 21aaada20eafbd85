//! A sequence as bytes: its tokens, keys and values, to go on with later or elsewhere.
//!
//! ```text
//! magic      8 bytes
//! model      u64     what the model and its adapters are: Session::identity
//! layout     u64     the cache's type
//! n          u64     tokens
//! ids        u32 x n
//! rows       of each layer and key/value head: keys, then values, as the cache has them
//! hash       u64     FNV-1a of all before
//! ```
//! All numbers are little-endian.

use super::Session;
use crate::{
    Error, Result,
    bytes::{FNV, fnv},
    cache::Type,
};

const MAGIC: &[u8; 8] = b"pithKV\x01\0";
const HEAD: usize = 32;

impl Session<'_> {
    /// Bytes of a sequence's saved state.
    ///
    /// # Panics
    /// There is no sequence `seq`.
    pub fn state_size(&self, seq: usize) -> usize {
        let n = self.ids[seq].len();
        HEAD + n * size_of::<u32>() + self.cache.saved_bytes(n) + size_of::<u64>()
    }

    /// Saves a sequence into the first [`Session::state_size`] bytes of `to`.
    ///
    /// # Errors
    /// There is no such sequence, or `to` is too short.
    pub fn save_state(&self, seq: usize, to: &mut [u8]) -> Result<()> {
        self.check_seq(seq)?;
        let (n_bytes, room) = (self.state_size(seq), to.len());
        let to = to.get_mut(..n_bytes).ok_or_else(|| {
            Error::Invalid(format!("room for {room} bytes of a state of {n_bytes}"))
        })?;
        let ids = &self.ids[seq];
        to[..8].copy_from_slice(MAGIC);
        for (i, word) in [self.identity(), layout(self.cache.shape().of), ids.len() as u64]
            .into_iter()
            .enumerate()
        {
            to[8 * (i + 1)..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let (body, end) = to.split_at_mut(n_bytes - 8);
        let (ids_at, rows_at) = body[HEAD..].split_at_mut(4 * ids.len());
        for (to, id) in ids_at.as_chunks_mut().0.iter_mut().zip(ids) {
            *to = id.to_le_bytes();
        }
        self.cache.save(seq, ids.len(), rows_at);
        end.copy_from_slice(&fnv(FNV, body).to_le_bytes());
        Ok(())
    }

    /// Makes a sequence what was saved, by a session over the same model and adapters with the same type of cache.
    ///
    /// # Errors
    /// The bytes are no state, damaged or another model's, or longer than this context; the sequence is
    /// then as it was.
    pub fn load_state(&mut self, seq: usize, from: &[u8]) -> Result<()> {
        self.check_seq(seq)?;
        let fault = |fault: &str| Error::malformed("state", fault);
        let word = |at: usize| from.get(at..at + 8)?.first_chunk().copied().map(u64::from_le_bytes);
        if !from.starts_with(MAGIC) {
            return Err(fault("it doesn't begin as a saved state of this version does"));
        }
        let (Some(model), Some(stored), Some(n)) = (word(8), word(16), word(24)) else {
            return Err(fault("it is cut off"));
        };
        if model != self.identity() {
            return Err(fault("it was saved with another model or other adapters"));
        }
        if stored != layout(self.cache.shape().of) {
            return Err(fault("it was saved with another type of KV cache"));
        }
        let n_ctx = self.n_ctx();
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if n > n_ctx {
            return Err(Error::ContextFull { n_ctx, wanted: n });
        }
        if from.len() != HEAD + 4 * n + self.cache.saved_bytes(n) + 8 {
            return Err(fault("its length is not that of its tokens"));
        }
        let (body, end) = from.split_at(from.len() - 8);
        if fnv(FNV, body).to_le_bytes() != end {
            return Err(fault("its bytes are damaged: their hash is another"));
        }
        let (ids, rows) = body[HEAD..].split_at(4 * n);
        let ids = ids.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id));
        let n_vocab = self.model.hparams().n_vocab;
        if ids.clone().any(|id| id as usize >= n_vocab) {
            return Err(fault("it has a token that the model doesn't have"));
        }
        self.ids[seq].clear();
        self.ids[seq].extend(ids);
        self.cache.load(seq, n, rows);
        Ok(())
    }

    /// What tells models and adapters apart; reading all their weights would take seconds.
    fn identity(&self) -> u64 {
        let mut hash = self.model.identity();
        for low in self.plan.low_ranks() {
            hash = fnv(hash, low.b.weight.name.as_bytes());
            hash = fnv(hash, &low.scale.to_le_bytes());
            let data = self.model.data(&low.b.weight);
            hash = fnv(hash, &data[..data.len().min(256)]);
        }
        hash
    }
}

fn layout(of: Type) -> u64 {
    match of {
        Type::F16 => 0,
        Type::F32 => 1,
        Type::Q8_0 => 2,
    }
}
