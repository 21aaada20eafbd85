//! The KV cache, as f16 or f32: keys `[n_layer][n_seq][n_head_kv][n_ctx / 16][head_dim][16]`, sixteen
//! positions side by side as attention wants them, and values
//! `[n_layer][n_seq][n_head_kv][n_ctx][head_dim]`, with n_ctx and the values' head_dim rounded up to 16.
//! A sequence's rows lie at its absolute positions, so nothing moves when others come and go, and
//! attention's chunks are the same whether a position came from this step or an earlier one.

use std::ops::Range;

use crate::{
    Error, Result,
    kernel::{Kernels, SIDE, Stored},
};

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

    /// Stores values from `at` on, each `stride` further.
    fn write(&mut self, kernels: &Kernels, at: usize, stride: usize, x: &[f32]) {
        match self {
            Store::F16(store) => {
                let mut halves = [0; 64];
                for (i, x) in x.chunks(halves.len()).enumerate() {
                    let halves = &mut halves[..x.len()];
                    kernels.to_f16(x, halves);
                    let to = store[at + i * 64 * stride..].iter_mut().step_by(stride);
                    to.zip(halves).for_each(|(to, half)| *to = *half);
                }
            }
            Store::F32(store) => {
                let to = store[at..].iter_mut().step_by(stride);
                to.zip(x).for_each(|(to, x)| *to = *x);
            }
        }
    }

    fn get(&self, span: Range<usize>) -> Stored<'_> {
        match self {
            Store::F16(store) => Stored::F16(&store[span]),
            Store::F32(store) => Stored::F32(&store[span]),
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
    /// Stored dimensions of a value.
    pub fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(SIDE)
    }

    /// Numbers in the keys and in the values; `None` on overflow.
    fn lens(&self) -> Option<(usize, usize)> {
        let n_ctx = self.n_ctx.checked_next_multiple_of(SIDE)?;
        let rows = [self.n_seq, self.n_head_kv, n_ctx];
        let rows = rows.iter().try_fold(self.n_layer, |product, &n| product.checked_mul(n))?;
        let width = self.head_dim.checked_next_multiple_of(SIDE)?;
        Some((rows.checked_mul(self.head_dim)?, rows.checked_mul(width)?))
    }

    /// Bytes of the whole cache; `u64::MAX` where it doesn't fit in memory at all.
    pub fn bytes(&self) -> u64 {
        let n = self.lens().and_then(|(keys, values)| keys.checked_add(values));
        n.and_then(|n| n.checked_mul(self.of.bytes())).map_or(u64::MAX, |n| n as u64)
    }
}

impl Cache {
    /// An empty cache. The system hands out its pages as they are first written.
    ///
    /// # Errors
    /// The memory can't be had.
    pub fn new(shape: Shape) -> Result<Cache> {
        let too_much = || Error::Memory { needed: shape.bytes(), limit: isize::MAX as u64 };
        if shape.bytes() > isize::MAX as u64 {
            return Err(too_much());
        }
        let (keys, values) = shape.lens().ok_or_else(too_much)?;
        let store = |len| Store::new(shape.of, len).ok_or_else(too_much);
        let lengths = vec![0; shape.n_seq];
        Ok(Cache { shape, keys: store(keys)?, values: store(values)?, lengths })
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
                let (source, target) = ((layer, from, head), (layer, to, head));
                let keys = self.key_span(source, 0..n);
                self.keys.copy_within(keys, self.key_span(target, 0..n).start);
                let values = self.value_span(source, 0..n);
                self.values.copy_within(values, self.value_span(target, 0..n).start);
            }
        }
        self.lengths[to] = n;
    }

    /// Rows before the first of one head, and where of a sequence's rows `positions` are, in whole
    /// sixteens.
    fn rows(&self, (layer, seq, head): Place, positions: Range<usize>) -> Range<usize> {
        let Shape { n_seq, n_head_kv, n_ctx, .. } = self.shape;
        debug_assert!(seq < n_seq && head < n_head_kv && positions.end <= n_ctx);
        let first = ((layer * n_seq + seq) * n_head_kv + head) * n_ctx.next_multiple_of(SIDE);
        first + positions.start / SIDE * SIDE..first + positions.end.next_multiple_of(SIDE)
    }

    fn key_span(&self, place: Place, positions: Range<usize>) -> Range<usize> {
        let (rows, width) = (self.rows(place, positions), self.shape.head_dim);
        rows.start * width..rows.end * width
    }

    fn value_span(&self, place: Place, positions: Range<usize>) -> Range<usize> {
        let (rows, width) = (self.rows(place, positions), self.shape.value_width());
        rows.start * width..rows.end * width
    }

    /// Keys `[n / 16, head_dim, 16]` and values `[n, value_width]` of some positions of one head,
    /// which begin at a multiple of 16; n is rounded up to one.
    pub(crate) fn get(&self, at: Place, positions: Range<usize>) -> (Stored<'_>, Stored<'_>) {
        debug_assert!(positions.start.is_multiple_of(SIDE));
        let values = self.value_span(at, positions.clone());
        (self.keys.get(self.key_span(at, positions)), self.values.get(values))
    }

    /// Stores one position's key and value `[head_dim]`.
    pub(crate) fn write(
        &mut self,
        kernels: &Kernels,
        at: Place,
        position: usize,
        (key, value): (&[f32], &[f32]),
    ) {
        let side = position % SIDE;
        let keys = self.key_span(at, position..position + 1).start + side;
        self.keys.write(kernels, keys, SIDE, key);
        let values = self.value_span(at, position..position + 1).start;
        self.values.write(kernels, values + side * self.shape.value_width(), 1, value);
    }
}

/// A layer, a sequence, and a key/value head.
pub(crate) type Place = (usize, usize, usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(of: Type) -> Shape {
        Shape { n_layer: 2, n_seq: 3, n_head_kv: 2, n_ctx: 18, head_dim: 4, of }
    }

    fn read(cache: &Cache, at: (usize, usize, usize), position: usize) -> ([f32; 4], [f32; 4]) {
        let start = position / SIDE * SIDE;
        let side = position - start;
        let (keys, values) = cache.get(at, start..position + 1);
        let get = |stored: Stored<'_>, i: usize| match stored {
            Stored::F16(x) => half::f16::from_bits(x[i]).to_f32(),
            Stored::F32(x) => x[i],
        };
        let key = std::array::from_fn(|d| get(keys, d * SIDE + side));
        (key, std::array::from_fn(|d| get(values, side * SIDE + d)))
    }

    #[test]
    fn rows_of_different_places_do_not_overlap() {
        for of in [Type::F16, Type::F32] {
            let mut cache = Cache::new(shape(of)).unwrap();
            let places = (0..2 * 3 * 2 * 18).map(|i| ((i / 108, i / 36 % 3, i / 18 % 2), i % 18));
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
