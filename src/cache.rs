//! The KV cache: f16 keys and values, `[n_layer][n_seq][n_head_kv][n_ctx][head_dim]`. A sequence's
//! rows lie at its absolute positions, so nothing moves when others come and go, and attention's
//! chunks are the same whether a position came from this step or an earlier one.

use std::ops::Range;

use crate::{Error, Result};

/// Keys and values of `n_seq` sequences of up to `n_ctx` tokens.
pub struct Cache {
    shape: Shape,
    keys: Vec<u16>,
    values: Vec<u16>,
    /// Tokens of each sequence that the cache holds.
    lengths: Vec<usize>,
}

/// The cache's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub n_layer: usize,
    /// Sequences.
    pub n_seq: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Positions per sequence.
    pub n_ctx: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Shape {
    /// f16 values in the keys (and as many in the values); `None` on overflow.
    fn len(&self) -> Option<usize> {
        [self.n_seq, self.n_head_kv, self.n_ctx, self.head_dim]
            .iter()
            .try_fold(self.n_layer, |product, &n| product.checked_mul(n))
    }

    /// Bytes of the whole cache; `u64::MAX` where it doesn't fit in memory at all.
    pub fn bytes(&self) -> u64 {
        self.len().and_then(|n| n.checked_mul(4)).map_or(u64::MAX, |n| n as u64)
    }
}

impl Cache {
    /// An empty cache. The system hands out its pages as they are first written.
    ///
    /// # Errors
    /// The memory can't be had.
    pub fn new(shape: Shape) -> Result<Cache> {
        let too_much = || Error::Memory { needed: shape.bytes(), limit: isize::MAX as u64 };
        let len = shape.len().filter(|&n| n <= isize::MAX as usize / 4).ok_or_else(too_much)?;
        // `vec![0; n]` asks for zeroed pages without touching them, but aborts if refused.
        let probe = Vec::<u16>::new().try_reserve_exact(len);
        probe.map_err(|_| too_much())?;
        let lengths = vec![0; shape.n_seq];
        Ok(Cache { shape, keys: vec![0; len], values: vec![0; len], lengths })
    }

    /// The cache's dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Tokens of a sequence that the cache holds.
    pub fn len(&self, seq: usize) -> usize {
        self.lengths[seq]
    }

    /// Whether a sequence is empty.
    pub fn is_empty(&self, seq: usize) -> bool {
        self.len(seq) == 0
    }

    /// Says that a step has written a sequence's rows up to `len`.
    pub(crate) fn grow(&mut self, seq: usize, len: usize) {
        debug_assert!(len <= self.shape.n_ctx);
        self.lengths[seq] = len;
    }

    /// Forgets what lies at or after position `len`.
    pub fn truncate(&mut self, seq: usize, len: usize) {
        self.lengths[seq] = self.lengths[seq].min(len);
    }

    /// Makes `to` a copy of `from`.
    pub fn fork(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let n = self.lengths[from];
        for layer in 0..self.shape.n_layer {
            for head in 0..self.shape.n_head_kv {
                let source = self.span(layer, from, head, 0..n);
                let target = self.span(layer, to, head, 0..n).start;
                self.keys.copy_within(source.clone(), target);
                self.values.copy_within(source, target);
            }
        }
        self.lengths[to] = n;
    }

    /// Where positions of one head lie.
    fn span(&self, layer: usize, seq: usize, head: usize, positions: Range<usize>) -> Range<usize> {
        let Shape { n_seq, n_head_kv, n_ctx, head_dim, .. } = self.shape;
        debug_assert!(seq < n_seq && head < n_head_kv && positions.end <= n_ctx);
        let first = ((layer * n_seq + seq) * n_head_kv + head) * n_ctx * head_dim;
        first + positions.start * head_dim..first + positions.end * head_dim
    }

    /// Keys and values `[n, head_dim]` of some positions of one head.
    pub fn rows(
        &self,
        layer: usize,
        seq: usize,
        head: usize,
        positions: Range<usize>,
    ) -> (&[u16], &[u16]) {
        let span = self.span(layer, seq, head, positions);
        (&self.keys[span.clone()], &self.values[span])
    }

    /// Where one position's key and value `[head_dim]` are to be written.
    pub(crate) fn row_mut(
        &mut self,
        layer: usize,
        seq: usize,
        head: usize,
        position: usize,
    ) -> (&mut [u16], &mut [u16]) {
        let span = self.span(layer, seq, head, position..position + 1);
        (&mut self.keys[span.clone()], &mut self.values[span])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { n_layer: 2, n_seq: 3, n_head_kv: 2, n_ctx: 5, head_dim: 4 };

    #[test]
    fn rows_of_different_places_do_not_overlap() {
        let mut cache = Cache::new(SHAPE).unwrap();
        let mut mark = 0;
        for layer in 0..2 {
            for seq in 0..3 {
                for head in 0..2 {
                    for position in 0..5 {
                        mark += 1;
                        let (k, v) = cache.row_mut(layer, seq, head, position);
                        assert!(k.iter().chain(v.iter()).all(|&x| x == 0), "written twice");
                        k.fill(mark);
                        v.fill(mark);
                    }
                }
            }
        }
    }

    #[test]
    fn a_fork_copies_and_then_lives_alone() {
        let mut cache = Cache::new(SHAPE).unwrap();
        cache.row_mut(1, 0, 1, 2).0.fill(7);
        cache.grow(0, 3);
        cache.fork(0, 2);
        assert_eq!((cache.len(2), cache.rows(1, 2, 1, 2..3).0), (3, &[7; 4][..]));
        cache.row_mut(1, 2, 1, 2).0.fill(9);
        cache.truncate(2, 1);
        assert_eq!((cache.len(0), cache.len(2)), (3, 1));
        assert_eq!(cache.rows(1, 0, 1, 2..3).0, &[7; 4]);
    }

    #[test]
    fn an_absurd_shape_is_refused() {
        let shape = Shape { n_ctx: usize::MAX / 64, ..SHAPE };
        assert!(matches!(Cache::new(shape), Err(Error::Memory { .. })));
    }
}
