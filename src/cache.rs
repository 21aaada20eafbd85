//! The KV cache: keys `[n_layer][n_seq][n_head_kv][n_ctx / 16][head_dim][16]`, sixteen positions side
//! by side as attention wants them, and values `[n_layer][n_seq][n_head_kv][n_ctx][head_dim]`, with
//! n_ctx and the values' head_dim rounded up to 16. Where values are codes, their scales lie in the
//! same ways, with a scale for each 32 dimensions of a position.
//!
//! A sequence's rows lie at its absolute positions, so nothing moves when others come and go, and
//! attention's chunks are the same whether a position came from this step or an earlier one.

use std::ops::Range;

use crate::{
    Error, Result,
    kernel::{A8, Kernels, SHARE, SIDE, Stored},
    zeros::{filled, zeros},
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
    /// Codes of 8 bits with a binary16 scale for each 32 dimensions of a head: 17/32 of the memory of
    /// F16. A key or value is quantized by itself, as activations are ([`Kernels::quantize`]).
    // Of normally distributed values the rms error is 0.535 %, with f32 scales as well, which would
    // take 6 % more memory.
    Q8_0,
}

impl Type {
    /// All of them.
    pub const ALL: &[Type] = &[Type::F16, Type::F32, Type::Q8_0];

    /// "f16", "f32", "q8_0".
    pub fn name(self) -> &'static str {
        match self {
            Type::F16 => "f16",
            Type::F32 => "f32",
            Type::Q8_0 => "q8_0",
        }
    }

    /// The type of this name.
    pub fn by_name(name: &str) -> Option<Type> {
        Type::ALL.iter().copied().find(|of| of.name() == name)
    }
}

/// Keys, or values.
struct Store {
    /// Stored dimensions.
    width: usize,
    /// Scales of a row.
    n_scales: usize,
    /// From a dimension to the next: [`SIDE`] where as many positions lie side by side, or 1.
    stride: usize,
    data: Data,
}

enum Data {
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8_0 { codes: Vec<i8>, scales: Vec<u16> },
}

impl Store {
    /// Zeros; the caller has checked that the numbers' bytes fit in memory.
    fn new(shape: &Shape, width: usize, stride: usize) -> Result<Store> {
        let (rows, n_scales) = (shape.rows().unwrap_or(usize::MAX), shape.n_scales());
        let len = rows * width;
        let data = match shape.of {
            Type::F16 => Data::F16(zeros(len)?),
            Type::F32 => Data::F32(zeros(len)?),
            Type::Q8_0 => Data::Q8_0 { codes: zeros(len)?, scales: zeros(rows * n_scales)? },
        };
        Ok(Store { width, n_scales, stride, data })
    }

    /// Stores a row.
    fn write(&mut self, kernels: &Kernels, row: usize, x: &[f32]) {
        let stride = self.stride;
        // Of the row's first number, where a row has `width`.
        let first = |width: usize| row / stride * stride * width + row % stride;
        let (at, scales_at) = (first(self.width), first(self.n_scales));
        match &mut self.data {
            Data::F16(store) => {
                let mut halves = [0; 64];
                for (i, x) in x.chunks(halves.len()).enumerate() {
                    let halves = &mut halves[..x.len()];
                    kernels.to_f16(x, halves);
                    spread(halves, &mut store[at + i * 64 * stride..], stride);
                }
            }
            Data::F32(store) => spread(x, &mut store[at..], stride),
            Data::Q8_0 { codes, scales } => {
                let (mut group, mut halves) = (A8::ZERO, [0; 256 / SHARE]);
                for (i, x) in x.chunks(256).enumerate() {
                    kernels.quantize(x, std::slice::from_mut(&mut group));
                    spread(&group.codes[..x.len()], &mut codes[at + i * 256 * stride..], stride);
                    kernels.to_f16(&group.scales, &mut halves);
                    let to = &mut scales[scales_at + i * halves.len() * stride..];
                    spread(&halves[..x.len().div_ceil(SHARE)], to, stride);
                }
            }
        }
    }

    /// Rows from and to multiples of 16.
    fn get(&self, rows: Range<usize>) -> Stored<'_> {
        let span = |width: usize| rows.start * width..rows.end * width;
        match &self.data {
            Data::F16(store) => Stored::F16(&store[span(self.width)]),
            Data::F32(store) => Stored::F32(&store[span(self.width)]),
            Data::Q8_0 { codes, scales } => Stored::Q8_0 {
                codes: &codes[span(self.width)],
                scales: &scales[span(self.n_scales)],
            },
        }
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        match &self.data {
            Data::F16(_) => 2 * self.width,
            Data::F32(_) => 4 * self.width,
            Data::Q8_0 { .. } => self.width + 2 * self.n_scales,
        }
    }

    /// Rows from and to multiples of 16, as little-endian bytes.
    fn save(&self, rows: Range<usize>, to: &mut [u8]) {
        match self.get(rows.clone()) {
            Stored::F16(x) => save(x, to, u16::to_le_bytes),
            Stored::F32(x) => save(x, to, f32::to_le_bytes),
            Stored::Q8_0 { codes, scales } => {
                let (of_codes, of_scales) = to.split_at_mut(codes.len());
                save(codes, of_codes, i8::to_le_bytes);
                save(scales, of_scales, u16::to_le_bytes);
            }
        }
    }

    fn load(&mut self, rows: Range<usize>, from: &[u8]) {
        let span = |width: usize| rows.start * width..rows.end * width;
        match &mut self.data {
            Data::F16(store) => load(from, &mut store[span(self.width)], u16::from_le_bytes),
            Data::F32(store) => load(from, &mut store[span(self.width)], f32::from_le_bytes),
            Data::Q8_0 { codes, scales } => {
                let codes = &mut codes[span(self.width)];
                let (of_codes, of_scales) = from.split_at(codes.len());
                load(of_codes, codes, i8::from_le_bytes);
                load(of_scales, &mut scales[span(self.n_scales)], u16::from_le_bytes);
            }
        }
    }

    /// Copies rows from and to multiples of 16.
    fn copy_within(&mut self, rows: Range<usize>, to: usize) {
        let span = |width: usize| rows.start * width..rows.end * width;
        match &mut self.data {
            Data::F16(store) => store.copy_within(span(self.width), to * self.width),
            Data::F32(store) => store.copy_within(span(self.width), to * self.width),
            Data::Q8_0 { codes, scales } => {
                codes.copy_within(span(self.width), to * self.width);
                scales.copy_within(span(self.n_scales), to * self.n_scales);
            }
        }
    }
}

/// Numbers as little-endian bytes.
fn save<T: Copy, const N: usize>(from: &[T], to: &mut [u8], bytes: impl Fn(T) -> [u8; N]) {
    to.as_chunks_mut().0.iter_mut().zip(from).for_each(|(to, from)| *to = bytes(*from));
}

/// Numbers of little-endian bytes.
fn load<T, const N: usize>(from: &[u8], to: &mut [T], number: impl Fn([u8; N]) -> T) {
    to.iter_mut().zip(from.as_chunks().0).for_each(|(to, from)| *to = number(*from));
}

/// Writes numbers `stride` apart.
fn spread<T: Copy>(from: &[T], to: &mut [T], stride: usize) {
    to.iter_mut().step_by(stride).zip(from).for_each(|(to, from)| *to = *from);
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

    /// Scales of a key or value, where there are any.
    fn n_scales(&self) -> usize {
        self.head_dim.div_ceil(SHARE)
    }

    /// Keys, and values; `None` on overflow.
    fn rows(&self) -> Option<usize> {
        let n_ctx = self.n_ctx.checked_next_multiple_of(SIDE)?;
        let factors = [self.n_seq, self.n_head_kv, n_ctx];
        factors.iter().try_fold(self.n_layer, |product, &n| product.checked_mul(n))
    }

    /// Bytes of the whole cache; `u64::MAX` where it doesn't fit in memory at all.
    pub fn bytes(&self) -> u64 {
        let width = self.head_dim.checked_next_multiple_of(SIDE);
        let numbers = width.and_then(|width| width.checked_add(self.head_dim));
        let of_pair = numbers.and_then(|n| match self.of {
            Type::F16 => n.checked_mul(2),
            Type::F32 => n.checked_mul(4),
            Type::Q8_0 => n.checked_add(2 * 2 * self.n_scales()),
        });
        let bytes = of_pair.and_then(|of_pair| self.rows()?.checked_mul(of_pair));
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    }
}

impl Cache {
    /// An empty cache. The system hands out its pages as they are first written.
    ///
    /// # Errors
    /// The memory can't be had.
    pub fn new(shape: Shape) -> Result<Cache> {
        if shape.bytes() > isize::MAX as u64 {
            return Err(Error::OutOfMemory { wanted: shape.bytes() });
        }
        let keys = Store::new(&shape, shape.head_dim, SIDE)?;
        let values = Store::new(&shape, shape.value_width(), 1)?;
        Ok(Cache { shape, keys, values, lengths: filled(shape.n_seq, 0)? })
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

    /// Makes `to` a copy of the first `n` positions of `from`, which has them.
    pub fn fork(&mut self, from: usize, n: usize, to: usize) {
        if from == to {
            return;
        }
        for (layer, head) in self.heads() {
            let rows = self.rows((layer, from, head), 0..n);
            let target = self.rows((layer, to, head), 0..n).start;
            self.keys.copy_within(rows.clone(), target);
            self.values.copy_within(rows, target);
        }
        self.lengths[to] = n;
    }

    /// Bytes of `n` positions of a sequence, as [`Cache::save`] writes them.
    pub(crate) fn saved_bytes(&self, n: usize) -> usize {
        let Shape { n_layer, n_head_kv, .. } = self.shape;
        let rows = n.next_multiple_of(SIDE);
        n_layer * n_head_kv * rows * (self.keys.row_bytes() + self.values.row_bytes())
    }

    /// The keys and values of a sequence's first `n` positions, head by head, in whole sixteens.
    pub(crate) fn save(&self, seq: usize, n: usize, mut to: &mut [u8]) {
        for (layer, head) in self.heads() {
            let rows = self.rows((layer, seq, head), 0..n);
            for store in [&self.keys, &self.values] {
                let bytes = to.split_off_mut(..rows.len() * store.row_bytes());
                store.save(rows.clone(), bytes.unwrap_or_default());
            }
        }
    }

    /// Makes a sequence what was saved: `from` is as long as [`Cache::saved_bytes`] says.
    pub(crate) fn load(&mut self, seq: usize, n: usize, mut from: &[u8]) {
        for (layer, head) in self.heads() {
            let rows = self.rows((layer, seq, head), 0..n);
            for store in [&mut self.keys, &mut self.values] {
                let bytes = from.split_off(..rows.len() * store.row_bytes());
                store.load(rows.clone(), bytes.unwrap_or_default());
            }
        }
        self.lengths[seq] = n;
    }

    /// Layers and key/value heads.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Shape { n_layer, n_head_kv, .. } = self.shape;
        (0..n_layer).flat_map(move |layer| (0..n_head_kv).map(move |head| (layer, head)))
    }

    /// Rows before the first of one head, and where of a sequence's rows `positions` are, in whole
    /// sixteens.
    fn rows(&self, (layer, seq, head): Place, positions: Range<usize>) -> Range<usize> {
        let Shape { n_seq, n_head_kv, n_ctx, .. } = self.shape;
        debug_assert!(seq < n_seq && head < n_head_kv && positions.end <= n_ctx);
        let first = ((layer * n_seq + seq) * n_head_kv + head) * n_ctx.next_multiple_of(SIDE);
        first + positions.start / SIDE * SIDE..first + positions.end.next_multiple_of(SIDE)
    }

    /// Keys `[n / 16, head_dim, 16]` and values `[n, value_width]` of some positions of one head,
    /// which begin at a multiple of 16; n is rounded up to one.
    pub(crate) fn get(&self, at: Place, positions: Range<usize>) -> (Stored<'_>, Stored<'_>) {
        debug_assert!(positions.start.is_multiple_of(SIDE));
        let rows = self.rows(at, positions);
        (self.keys.get(rows.clone()), self.values.get(rows))
    }

    /// Stores one position's key and value `[head_dim]`.
    pub(crate) fn write(
        &mut self,
        kernels: &Kernels,
        at: Place,
        position: usize,
        (key, value): (&[f32], &[f32]),
    ) {
        let row = self.rows(at, position..position + 1).start + position % SIDE;
        self.keys.write(kernels, row, key);
        self.values.write(kernels, row, value);
    }
}

/// A layer, a sequence, and a key/value head.
pub(crate) type Place = (usize, usize, usize);

#[cfg(test)]
mod tests {
    use super::*;

    /// More than 32 dimensions, and no multiple of 16.
    const DIMS: usize = 36;

    fn shape(of: Type) -> Shape {
        Shape { n_layer: 2, n_seq: 3, n_head_kv: 2, n_ctx: 18, head_dim: DIMS, of }
    }

    /// A row whose codes are all 127 or -127, so that only its scales are rounded.
    fn row(mark: f32) -> [f32; DIMS] {
        std::array::from_fn(|d| if d < SHARE { mark } else { mark / -2.0 })
    }

    fn read(cache: &Cache, at: Place, position: usize) -> [[f32; DIMS]; 2] {
        let start = position / SIDE * SIDE;
        let side = position - start;
        let (keys, values) = cache.get(at, start..position + 1);
        let widen = |half: u16| half::f16::from_bits(half).to_f32();
        let get = |stored: Stored<'_>, i: usize, share: usize| match stored {
            Stored::F16(x) => widen(x[i]),
            Stored::F32(x) => x[i],
            Stored::Q8_0 { codes, scales } => widen(scales[share]) * f32::from(codes[i]),
        };
        let width = cache.shape().value_width();
        let key = |d| get(keys, d * SIDE + side, d / SHARE * SIDE + side);
        let value = |d| get(values, side * width + d, side * 2 + d / SHARE);
        [std::array::from_fn(key), std::array::from_fn(value)]
    }

    fn check(cache: &Cache, at: Place, position: usize, marks: [f32; 2]) {
        for (got, wanted) in read(cache, at, position).into_iter().zip(marks.map(row)) {
            for (got, wanted) in got.into_iter().zip(wanted) {
                let rounding = wanted.abs() / 2048.0;
                assert!((got - wanted).abs() <= rounding, "{at:?}, {position}: {got} {wanted}");
            }
        }
    }

    #[test]
    fn rows_of_different_places_do_not_overlap() {
        for &of in Type::ALL {
            let mut cache = Cache::new(shape(of)).unwrap();
            let places = (0..2 * 3 * 2 * 18).map(|i| ((i / 108, i / 36 % 3, i / 18 % 2), i % 18));
            for (mark, (at, position)) in (1..).zip(places.clone()) {
                let mark = mark as f32;
                check(&cache, at, position, [0.0, 0.0]); // else it was written with another place's
                cache.write(Kernels::best(), at, position, (&row(mark), &row(-mark)));
            }
            for (mark, (at, position)) in (1..).zip(places) {
                check(&cache, at, position, [mark as f32, -(mark as f32)]);
            }
        }
    }

    #[test]
    fn a_fork_copies_and_then_lives_alone() {
        for &of in Type::ALL {
            let mut cache = Cache::new(shape(of)).unwrap();
            cache.write(Kernels::best(), (1, 0, 1), 2, (&row(7.0), &row(8.0)));
            cache.grow(0, 3);
            cache.fork(0, cache.lengths[0], 2);
            assert_eq!(cache.len(2), 3);
            check(&cache, (1, 2, 1), 2, [7.0, 8.0]);
            cache.write(Kernels::best(), (1, 2, 1), 2, (&row(9.0), &row(9.0)));
            cache.truncate(2, 1);
            assert_eq!((cache.len(0), cache.len(2)), (3, 1));
            check(&cache, (1, 0, 1), 2, [7.0, 8.0]);
        }
    }

    #[test]
    fn a_shape_knows_its_bytes() {
        for &of in Type::ALL {
            let cache = Cache::new(shape(of)).unwrap();
            let bytes = |store: &Store| match &store.data {
                Data::F16(x) => size_of_val(&x[..]),
                Data::F32(x) => size_of_val(&x[..]),
                Data::Q8_0 { codes, scales } => size_of_val(&codes[..]) + size_of_val(&scales[..]),
            };
            let held = bytes(&cache.keys) + bytes(&cache.values);
            assert_eq!(shape(of).bytes(), held as u64, "{}", of.name());
        }
    }

    /// Zeros, subnormals, ties, the ends of f32, NaN: whatever comes is stored alike.
    #[test]
    fn every_table_stores_the_same() {
        let odd = [
            0.0,
            -0.0,
            1e-45,
            1e-38,
            -3e-6,
            0.5,
            1.5,
            -2.5,
            127.0,
            1e5,
            -3e38,
            f32::INFINITY,
            f32::NAN,
        ];
        let rows: Vec<Vec<f32>> = (0..odd.len() * 5)
            .map(|i| {
                (0..DIMS).map(|d| if d % 5 == i % 5 { odd[i / 5] } else { d as f32 }).collect()
            })
            .collect();
        let stored = |of: Type, kernels: &Kernels| {
            let n_ctx = rows.len();
            let mut cache = Cache::new(Shape { n_ctx, ..shape(of) }).unwrap();
            for (position, row) in rows.iter().enumerate() {
                cache.write(kernels, (0, 0, 0), position, (row, row));
            }
            let bits = |store: Stored<'_>| -> Vec<u32> {
                match store {
                    Stored::F16(x) => x.iter().map(|&x| x.into()).collect(),
                    Stored::F32(x) => x.iter().map(|x| x.to_bits()).collect(),
                    Stored::Q8_0 { codes, scales } => {
                        let codes = codes.iter().map(|&code| u32::from(code.cast_unsigned()));
                        codes.chain(scales.iter().map(|&scale| scale.into())).collect()
                    }
                }
            };
            let (keys, values) = cache.get((0, 0, 0), 0..n_ctx);
            [bits(keys), bits(values)]
        };
        for &of in Type::ALL {
            let wanted = stored(of, Kernels::by_name("scalar").unwrap());
            for kernels in Kernels::available() {
                assert_eq!(stored(of, kernels), wanted, "{} {}", kernels.name(), of.name());
            }
        }
    }

    #[test]
    fn an_absurd_shape_is_refused() {
        for &of in Type::ALL {
            let shape = Shape { n_ctx: usize::MAX / 64, ..shape(of) };
            assert!(matches!(Cache::new(shape), Err(Error::OutOfMemory { .. })));
        }
    }
}
