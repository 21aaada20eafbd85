//! Attention over chunks: against a plain softmax in f64, and every table against the scalar one.

use half::f16;
use pith::kernel::{CHUNK, Chunk, HEADS, Kernels, Query, Results, SIDE, Softmax, Stored};
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

/// Keys and values of some positions, as f32 or as f16, with NaN wherever nothing may be read.
struct Stores {
    n: usize,
    head_dim: usize,
    width: usize,
    /// `[n, head_dim]`, rounded to f16.
    keys: Vec<f32>,
    values: Vec<f32>,
    wide: (Vec<f32>, Vec<f32>),
    half: (Vec<u16>, Vec<u16>),
}

impl Stores {
    fn new(n: usize, head_dim: usize, random: &mut Random) -> Stores {
        let round =
            |x: Vec<f32>| -> Vec<f32> { x.iter().map(|&x| f16::from_f32(x).to_f32()).collect() };
        let keys = round(random.values(n * head_dim, 2.0));
        let values = round(random.values(n * head_dim, 1.0));
        let (width, padded) = (head_dim.next_multiple_of(SIDE), n.next_multiple_of(SIDE));
        let mut stored_keys = vec![f32::NAN; padded * head_dim];
        let mut stored_values = vec![f32::NAN; padded * width];
        for j in 0..n {
            stored_values[j * width..][..width].fill(0.0);
            for d in 0..head_dim {
                stored_keys[(j / SIDE * head_dim + d) * SIDE + j % SIDE] = keys[j * head_dim + d];
                stored_values[j * width + d] = values[j * head_dim + d];
            }
        }
        let halves = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
        let half = (halves(&stored_keys), halves(&stored_values));
        Stores { n, head_dim, width, keys, values, wide: (stored_keys, stored_values), half }
    }

    /// Chunk `c`.
    fn chunk(&self, c: usize, of_halves: bool, scale: f32, softcap: f32) -> Chunk<'_> {
        let (start, end) = (c * CHUNK, ((c + 1) * CHUNK).min(self.n.next_multiple_of(SIDE)));
        let (k, v) =
            (start * self.head_dim..end * self.head_dim, start * self.width..end * self.width);
        let (keys, values) = match of_halves {
            true => (Stored::F16(&self.half.0[k]), Stored::F16(&self.half.1[v])),
            false => (Stored::F32(&self.wide.0[k]), Stored::F32(&self.wide.1[v])),
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
    of_halves: bool,
    (scale, softcap): (f32, f32),
) -> Vec<f32> {
    let (head_dim, width) = (stores.head_dim, stores.width);
    let mut out = vec![f32::NAN; heads.seen.len() * head_dim];
    let mut scores = Box::new([[f32::NAN; CHUNK]; HEADS]);
    let mut mixed = vec![f32::NAN; HEADS * width];
    let mut states = vec![Softmax::NONE; heads.seen.len()];
    for c in 0..stores.n.div_ceil(CHUNK) {
        let chunk = stores.chunk(c, of_halves, scale, softcap);
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
        n in prop_oneof![1usize..40, 230usize..290, 500usize..530],
        head_dim in prop_oneof![1usize..40, Just(64), Just(80), Just(128), Just(257)],
        n_heads in 1usize..9,
        window in prop_oneof![Just(usize::MAX), 1usize..300],
        (softcap, slope) in prop_oneof![Just((0.0, 0.0)), Just((5.0, 0.0)), Just((0.0, 0.25))],
    ) {
        let mut random = Random(seed);
        let stores = Stores::new(n, head_dim, &mut random);
        // Heads of different rows: neighbours see a position more or less.
        let seen = (0..n_heads).map(|i| {
            let end = n.saturating_sub(i / 2).max(1);
            (end.saturating_sub(window), end)
        });
        let heads = Heads { q: random.values(n_heads * head_dim, 2.0), seen: seen.collect(), slope };
        let how = (1.0 / (head_dim as f32).sqrt(), softcap);
        let scalar = Kernels::by_name("scalar").unwrap();
        let reference = attend(scalar, &stores, &heads, 1, false, how);
        for (got, wanted) in reference.iter().zip(softmax_of(&stores, &heads, how)) {
            prop_assert!((f64::from(*got) - wanted).abs() < 4e-6, "{got} {wanted}");
        }
        for kernels in Kernels::available() {
            for by in 1..=HEADS {
                for of_halves in [false, true] {
                    let got = attend(kernels, &stores, &heads, by, of_halves, how);
                    prop_assert_eq!(bits(&got), bits(&reference), "{} by {}", kernels.name(), by);
                }
            }
        }
    }
}
