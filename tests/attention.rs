//! Attention over chunks: against a plain softmax in f64, and every table against the scalar one.

use std::ops::Range;

use half::f16;
use pith::kernel::{
    A8, CHUNK, Chunk, HEADS, Kernels, Query, Results, SHARE, SIDE, Softmax, Stored,
};
use proptest::prelude::*;

/// splitmix64: the tests' inputs are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).collect()
    }
}

/// Keys or values as a cache type stores them.
enum Narrow {
    F16(Vec<u16>),
    Q8_0(Vec<i8>, Vec<u16>),
}

impl Narrow {
    /// Rows `span` of `width` numbers and `n_scales` scales.
    fn get(&self, span: Range<usize>, width: usize, n_scales: usize) -> Stored<'_> {
        let of = |width: usize| span.start * width..span.end * width;
        match self {
            Narrow::F16(x) => Stored::F16(&x[of(width)]),
            Narrow::Q8_0(codes, scales) => {
                Stored::Q8_0 { codes: &codes[of(width)], scales: &scales[of(n_scales)] }
            }
        }
    }
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
enum Kind {
    F16,
    Q8_0,
    /// Q8_0 with scales from the ends of their range.
    Extreme,
}

const KINDS: [Kind; 3] = [Kind::F16, Kind::Q8_0, Kind::Extreme];

/// Numbers as some type stores them, and what they count as.
fn narrow(kind: Kind, x: &[f32], head_dim: usize, random: &mut Random) -> (Narrow, Vec<f32>) {
    let widen = |half: &u16| f16::from_bits(*half).to_f32();
    if let Kind::F16 = kind {
        let halves: Vec<u16> = x.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
        let wide = halves.iter().map(widen).collect();
        return (Narrow::F16(halves), wide);
    }
    let (mut codes, mut scales, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    for x in x.chunks(head_dim) {
        let mut groups = vec![A8::ZERO; head_dim.div_ceil(256)];
        Kernels::best().quantize(x, &mut groups);
        let some_codes: Vec<i8> = groups.iter().flat_map(|g| g.codes).take(head_dim).collect();
        let of_groups = groups.iter().flat_map(|g| g.scales).take(head_dim.div_ceil(SHARE));
        let some_scales: Vec<u16> = match kind {
            Kind::Extreme => {
                let ends = [0, 1, 0x3ff, 0x2000, 0x3c00, 0x7bff]; // 0, subnormal, 2^-7, 1, the most
                of_groups.map(|_| ends[random.next() as usize % ends.len()]).collect()
            }
            _ => of_groups.map(|scale| f16::from_f32(scale).to_bits()).collect(),
        };
        wide.extend(
            (0..head_dim).map(|d| widen(&some_scales[d / SHARE]) * f32::from(some_codes[d])),
        );
        codes.extend(some_codes);
        scales.extend(some_scales);
    }
    (Narrow::Q8_0(codes, scales), wide)
}

/// Rows `[n, width]` as the cache lays out keys: sixteen side by side, each dimension of all of them
/// before the next. `odd` is where nothing may be read.
fn side_by_side<T: Copy>(rows: &[T], n: usize, width: usize, odd: T) -> Vec<T> {
    let mut out = vec![odd; n.next_multiple_of(SIDE) * width];
    for (j, row) in rows.chunks(width).enumerate() {
        for (d, x) in row.iter().enumerate() {
            out[(j / SIDE * width + d) * SIDE + j % SIDE] = *x;
        }
    }
    out
}

/// Rows `[n, from]` as the cache lays out values: rows of `to`, zeros after the numbers.
fn padded<T: Copy>(rows: &[T], n: usize, (from, to): (usize, usize), zero: T, odd: T) -> Vec<T> {
    let mut out = vec![odd; n.next_multiple_of(SIDE) * to];
    for (row, out) in rows.chunks(from).zip(out.chunks_mut(to)) {
        out.fill(zero);
        out[..from].copy_from_slice(row);
    }
    out
}

/// Keys and values of some positions, as a type stores them and widened to f32, with NaN wherever
/// nothing may be read.
struct Stores {
    n: usize,
    head_dim: usize,
    width: usize,
    /// What stored numbers count as, `[n, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    wide: (Vec<f32>, Vec<f32>),
    narrow: (Narrow, Narrow),
}

impl Stores {
    fn new(kind: Kind, n: usize, head_dim: usize, random: &mut Random) -> Stores {
        let (keys, values) = (random.values(n * head_dim, 2.0), random.values(n * head_dim, 1.0));
        Stores::of(kind, (&keys, &values), head_dim, random)
    }

    fn of(kind: Kind, x: (&[f32], &[f32]), head_dim: usize, random: &mut Random) -> Stores {
        const NAN: u16 = 0x7e00;
        let (n, width) = (x.0.len() / head_dim, head_dim.next_multiple_of(SIDE));
        let shares = head_dim.div_ceil(SHARE);
        let (narrow_keys, keys) = narrow(kind, x.0, head_dim, random);
        let (narrow_values, values) = narrow(kind, x.1, head_dim, random);
        let pad = (head_dim, width);
        let wide_keys = side_by_side(&keys, n, head_dim, f32::NAN);
        let wide_values = padded(&values, n, pad, 0.0, f32::NAN);
        let narrow_keys = match narrow_keys {
            Narrow::F16(x) => Narrow::F16(side_by_side(&x, n, head_dim, NAN)),
            Narrow::Q8_0(codes, scales) => Narrow::Q8_0(
                side_by_side(&codes, n, head_dim, 1),
                side_by_side(&scales, n, shares, NAN),
            ),
        };
        let narrow_values = match narrow_values {
            Narrow::F16(x) => Narrow::F16(padded(&x, n, pad, 0, NAN)),
            Narrow::Q8_0(codes, scales) => Narrow::Q8_0(
                padded(&codes, n, pad, 0, 1),
                padded(&scales, n, (shares, shares), 0, NAN),
            ),
        };
        let (wide, narrow) = ((wide_keys, wide_values), (narrow_keys, narrow_values));
        Stores { n, head_dim, width, keys, values, wide, narrow }
    }

    /// Chunk `c`.
    fn chunk(&self, c: usize, of_wide: bool, scale: f32, softcap: f32) -> Chunk<'_> {
        let span = c * CHUNK..((c + 1) * CHUNK).min(self.n.next_multiple_of(SIDE));
        let of = |width: usize| span.start * width..span.end * width;
        let shares = self.head_dim.div_ceil(SHARE);
        let (keys, values) = match of_wide {
            true => (
                Stored::F32(&self.wide.0[of(self.head_dim)]),
                Stored::F32(&self.wide.1[of(self.width)]),
            ),
            false => (
                self.narrow.0.get(span.clone(), self.head_dim, shares),
                self.narrow.1.get(span.clone(), self.width, shares),
            ),
        };
        Chunk { keys, values, head_dim: self.head_dim, width: self.width, scale, softcap }
    }
}

/// Query heads at the last positions, each of which sees a window.
struct Heads {
    q: Vec<f32>,
    seen: Vec<(usize, usize)>,
    slope: f32,
}

/// What all heads get, `[n_heads, head_dim]`, heads taken `by` at a time.
fn attend(
    kernels: &Kernels,
    stores: &Stores,
    heads: &Heads,
    by: usize,
    of_wide: bool,
    (scale, softcap): (f32, f32),
) -> Vec<f32> {
    let (head_dim, width) = (stores.head_dim, stores.width);
    let mut out = vec![f32::NAN; heads.seen.len() * head_dim];
    let mut scores = Box::new([[f32::NAN; CHUNK]; HEADS]);
    let mut mixed = vec![f32::NAN; HEADS * width];
    let mut states = vec![Softmax::NONE; heads.seen.len()];
    for c in 0..stores.n.div_ceil(CHUNK) {
        let chunk = stores.chunk(c, of_wide, scale, softcap);
        let start = c * CHUNK;
        let inside = |at: usize| at.saturating_sub(start).min(CHUNK);
        let seeing: Vec<usize> = (0..heads.seen.len())
            .filter(|&i| inside(heads.seen[i].0) < inside(heads.seen[i].1))
            .collect();
        for some in seeing.chunks(by) {
            let queries: Vec<Query<'_>> = some
                .iter()
                .map(|&i| Query {
                    q: &heads.q[i * head_dim..][..head_dim],
                    first: inside(heads.seen[i].0),
                    end: inside(heads.seen[i].1),
                    position: heads.seen[i].1 - 1 - start,
                    slope: heads.slope,
                })
                .collect();
            let mut softmax = [Softmax::NONE; HEADS];
            let results = Results { scores: &mut scores, softmax: &mut softmax, mixed: &mut mixed };
            kernels.attend(&chunk, &queries, results);
            for ((&i, new), mixed) in some.iter().zip(softmax).zip(mixed.chunks(width)) {
                let out = &mut out[i * head_dim..][..head_dim];
                kernels.merge(&mut states[i], out, new, mixed);
            }
        }
    }
    for (out, state) in out.chunks_exact_mut(head_dim).zip(states) {
        out.iter_mut().for_each(|v| *v /= state.sum);
    }
    out
}

/// The same in f64.
fn softmax_of(stores: &Stores, heads: &Heads, (scale, softcap): (f32, f32)) -> Vec<f64> {
    let head_dim = stores.head_dim;
    let mut out = Vec::new();
    for (q, &(first, end)) in heads.q.chunks_exact(head_dim).zip(&heads.seen) {
        let score = |j: usize| {
            let keys = &stores.keys[j * head_dim..][..head_dim];
            let dot: f64 = q.iter().zip(keys).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let mut s = dot * f64::from(scale);
            if softcap != 0.0 {
                s = f64::from(softcap) * (s / f64::from(softcap)).tanh();
            }
            (s - f64::from(heads.slope) * (end - 1 - j) as f64).exp()
        };
        let weights: Vec<f64> = (first..end).map(score).collect();
        let total: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|d| {
            let value = |j: usize| f64::from(stores.values[j * head_dim + d]);
            weights.iter().zip(first..end).map(|(w, j)| w * value(j)).sum::<f64>() / total
        }));
    }
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_table_mixes_values_by_softmax(
        seed: u64,
        kind in prop::sample::select(&KINDS[..]),
        n in prop_oneof![1usize..40, 230usize..290, 500usize..530],
        head_dim in prop_oneof![1usize..40, Just(64), Just(80), Just(128), Just(257)],
        n_heads in 1usize..9,
        window in prop_oneof![Just(usize::MAX), 1usize..300],
        (softcap, slope) in prop_oneof![Just((0.0, 0.0)), Just((5.0, 0.0)), Just((0.0, 0.25))],
    ) {
        let mut random = Random(seed);
        let stores = Stores::new(kind, n, head_dim, &mut random);
        // Heads of different rows: neighbours see a position more or less.
        let seen = (0..n_heads).map(|i| {
            let end = n.saturating_sub(i / 2).max(1);
            (end.saturating_sub(window), end)
        });
        let heads = Heads { q: random.values(n_heads * head_dim, 2.0), seen: seen.collect(), slope };
        let how = (1.0 / (head_dim as f32).sqrt(), softcap);
        let scalar = Kernels::by_name("scalar").unwrap();
        let reference = attend(scalar, &stores, &heads, 1, true, how);
        if !matches!(kind, Kind::Extreme) {
            for (got, wanted) in reference.iter().zip(softmax_of(&stores, &heads, how)) {
                prop_assert!((f64::from(*got) - wanted).abs() < 4e-6, "{got} {wanted}");
            }
        }
        for kernels in Kernels::available() {
            let chunk = stores.chunk(0, false, 1.0, 0.0);
            let (mut keys, mut values) =
                (vec![1.0; chunk.keys.len()], vec![1.0; chunk.values.len()]);
            kernels.widen(&chunk, &mut keys, &mut values);
            prop_assert_eq!(bits(&keys), bits(&stores.wide.0[..keys.len()]));
            prop_assert_eq!(bits(&values), bits(&stores.wide.1[..values.len()]));
            for by in 1..=HEADS {
                for of_wide in [false, true] {
                    let got = attend(kernels, &stores, &heads, by, of_wide, how);
                    prop_assert_eq!(bits(&got), bits(&reference), "{} by {}", kernels.name(), by);
                }
            }
        }
    }
}

/// What rounding keys and values to Q8_0 costs: the rms error is 0.5 % of what is stored, and as
/// errors of positions are independent, hardly more of what attention makes of it.
#[test]
fn q8_0_stays_within_a_percent_of_what_was_not_rounded() {
    let mut random = Random(1);
    for (n, head_dim) in [(40, 48), (256, 64), (700, 80), (1000, 128)] {
        let (keys, values) = (random.values(n * head_dim, 2.0), random.values(n * head_dim, 1.0));
        let seen = vec![(0, n); 8];
        let heads = Heads { q: random.values(8 * head_dim, 2.0), seen, slope: 0.0 };
        let how = (1.0 / (head_dim as f32).sqrt(), 0.0);
        let stores = Stores::of(Kind::Q8_0, (&keys, &values), head_dim, &mut random);
        let got = attend(Kernels::best(), &stores, &heads, HEADS, false, how);
        let wanted = softmax_of(&Stores { keys, values, ..stores }, &heads, how);
        let (mut error, mut size) = (0.0, 0.0);
        for (got, wanted) in got.iter().zip(wanted) {
            error += (f64::from(*got) - wanted).powi(2);
            size += wanted.powi(2);
        }
        let relative = (error / size).sqrt();
        println!("{n} positions of {head_dim}: {relative:.5}");
        assert!(relative < 0.01, "{n} positions of {head_dim}: {relative}");
    }
}
