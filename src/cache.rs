//! The KV cache: keys and values, `[n_layer][n_seq][n_head_kv][n_ctx][head_dim]`, as f16 or f32. A sequence's
//! rows lie at its absolute positions, so nothing moves when others come and go, and attention's
//! chunks are the same whether a position came from this step or an earlier one.

use std::ops::Range;

use crate::{Error, Result, kernel::Kernels};

/// Keys and values of `n_seq` sequences of up to `n_ctx` tokens.
pub struct Cache {
    shape: Shape,
    keys: Store,
    values: Store,
    /// Tokens of each sequence that the cache holds.
    lengths: Vec<usize>,
}

/// How the cache stores keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// binary16: half the memory and traffic, as other programs do.
    #[default]
    F16,
    /// f32: for comparisons with programs that round nothing.
    F32,
}

impl Type {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Type::F16 => 2,
            Type::F32 => 4,
        }
    }
}

/// Keys, or values.
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Store {
    /// `vec![0; n]` asks for zeroed pages without touching them, but aborts if refused: so a
    /// reservation is tried first.
    fn new(of: Type, len: usize) -> Option<Store> {
        match of {
            Type::F16 => {
                Vec::<u16>::new().try_reserve_exact(len).ok()?;
                Some(Store::F16(vec![0; len]))
            }
            Type::F32 => {
                Vec::<f32>::new().try_reserve_exact(len).ok()?;
                Some(Store::F32(vec![0.0; len]))
            }
        }
    }

    fn write(&mut self, kernels: &Kernels, span: Range<usize>, x: &[f32]) {
        match self {
            Store::F16(store) => kernels.to_f16(x, &mut store[span]),
            Store::F32(store) => store[span].copy_from_slice(x),
        }
    }

    fn read(&self, kernels: &Kernels, span: Range<usize>, out: &mut [f32]) {
        match self {
            Store::F16(store) => kernels.from_f16(&store[span], out),
            Store::F32(store) => out.copy_from_slice(&store[span]),
        }
    }

    fn copy_within(&mut self, from: Range<usize>, to: usize) {
        match self {
            Store::F16(store) => store.copy_within(from, to),
            Store::F32(store) => store.copy_within(from, to),
        }
    }
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
    /// How a value is stored.
    pub of: Type,
}

impl Shape {
    /// Values in the keys (and as many in the values); `None` on overflow.
    fn len(&self) -> Option<usize> {
        [self.n_seq, self.n_head_kv, self.n_ctx, self.head_dim]
            .iter()
            .try_fold(self.n_layer, |product, &n| product.checked_mul(n))
    }

    /// Bytes of the whole cache; `u64::MAX` where it doesn't fit in memory at all.
    pub fn bytes(&self) -> u64 {
        self.len().and_then(|n| n.checked_mul(2 * self.of.bytes())).map_or(u64::MAX, |n| n as u64)
    }
}

impl Cache {
    /// An empty cache. The system hands out its pages as they are first written.
    ///
    /// # Errors
    /// The memory can't be had.
    pub fn new(shape: Shape) -> Result<Cache> {
        let too_much = || Error::Memory { needed: shape.bytes(), limit: isize::MAX as u64 };
        let fits = |n: &usize| *n <= isize::MAX as usize / (2 * shape.of.bytes());
        let len = shape.len().filter(fits).ok_or_else(too_much)?;
        let store = || Store::new(shape.of, len).ok_or_else(too_much);
        Ok(Cache { shape, keys: store()?, values: store()?, lengths: vec![0; shape.n_seq] })
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

    /// Keys and values `[n, head_dim]` of some positions of one head, widened to f32.
    pub(crate) fn read(
        &self,
        kernels: &Kernels,
        (layer, seq, head): (usize, usize, usize),
        positions: Range<usize>,
        (keys, values): (&mut [f32], &mut [f32]),
    ) {
        let span = self.span(layer, seq, head, positions);
        self.keys.read(kernels, span.clone(), &mut keys[..span.len()]);
        self.values.read(kernels, span.clone(), &mut values[..span.len()]);
    }

    /// Stores one position's key and value `[head_dim]`.
    pub(crate) fn write(
        &mut self,
        kernels: &Kernels,
        (layer, seq, head): (usize, usize, usize),
        position: usize,
        (key, value): (&[f32], &[f32]),
    ) {
        let span = self.span(layer, seq, head, position..position + 1);
        self.keys.write(kernels, span.clone(), key);
        self.values.write(kernels, span, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(of: Type) -> Shape {
        Shape { n_layer: 2, n_seq: 3, n_head_kv: 2, n_ctx: 5, head_dim: 4, of }
    }

    fn read(cache: &Cache, at: (usize, usize, usize), position: usize) -> ([f32; 4], [f32; 4]) {
        let (mut k, mut v) = ([0.0; 4], [0.0; 4]);
        cache.read(Kernels::best(), at, position..position + 1, (&mut k, &mut v));
        (k, v)
    }

    #[test]
    fn rows_of_different_places_do_not_overlap() {
        for of in [Type::F16, Type::F32] {
            let mut cache = Cache::new(shape(of)).unwrap();
            let places = (0..2 * 3 * 2 * 5).map(|i| ((i / 30, i / 10 % 3, i / 5 % 2), i % 5));
            for (mark, (at, position)) in (1..).zip(places.clone()) {
                let mark = mark as f32;
                assert_eq!(read(&cache, at, position), ([0.0; 4], [0.0; 4]), "written twice");
                cache.write(Kernels::best(), at, position, (&[mark; 4], &[-mark; 4]));
            }
            for (mark, (at, position)) in (1..).zip(places) {
                let mark = mark as f32;
                assert_eq!(read(&cache, at, position), ([mark; 4], [-mark; 4]));
            }
        }
    }

    #[test]
    fn a_fork_copies_and_then_lives_alone() {
        let mut cache = Cache::new(shape(Type::F16)).unwrap();
        cache.write(Kernels::best(), (1, 0, 1), 2, (&[7.0; 4], &[8.0; 4]));
        cache.grow(0, 3);
        cache.fork(0, 2);
        assert_eq!((cache.len(2), read(&cache, (1, 2, 1), 2)), (3, ([7.0; 4], [8.0; 4])));
        cache.write(Kernels::best(), (1, 2, 1), 2, (&[9.0; 4], &[9.0; 4]));
        cache.truncate(2, 1);
        assert_eq!((cache.len(0), cache.len(2)), (3, 1));
        assert_eq!(read(&cache, (1, 0, 1), 2), ([7.0; 4], [8.0; 4]));
    }

    #[test]
    fn an_absurd_shape_is_refused() {
        let shape = Shape { n_ctx: usize::MAX / 64, ..shape(Type::F16) };
        assert!(matches!(Cache::new(shape), Err(Error::Memory { .. })));
    }
}
