//! Tiles of logits: every table against plain arithmetic and against the scalar table, bit for bit.

use pith::kernel::{
    Candidate, Kernels,
    logits::{self, TILE, log_sum_exp},
};
use proptest::prelude::*;

/// Logits as models give them, with ties, both zeros, and some that are masked.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -40.0f32..40.0,
        1 => prop::sample::select(vec![0.0, -0.0, 3.5, -1e30, f32::NEG_INFINITY]),
    ];
    prop::collection::vec(logit, 0..3 * TILE)
}

fn tiles<'a>(
    kernels: &'a Kernels,
    logits: &'a [f32],
) -> impl Iterator<Item = pith::kernel::Softmax> + Clone {
    logits.chunks(TILE).map(|tile| kernels.softmax(tile))
}

/// The best `n` ids, tiles taken in the order of `tiles`.
fn top(logits: &[f32], n: usize, tiles: impl Iterator<Item = usize>) -> Vec<Candidate> {
    let mut best = vec![Candidate::NONE; n];
    for tile in tiles {
        let first = tile * TILE;
        let end = logits.len().min(first + TILE);
        logits::top(&logits[first..end], first as u32, &mut best);
    }
    best.retain(|best| *best != Candidate::NONE);
    best
}

fn ids_and_bits(best: &[Candidate]) -> Vec<(u32, u32)> {
    best.iter().map(|c| (c.id, c.logit.to_bits())).collect()
}

proptest! {
    #[test]
    fn tiles_make_the_logarithm_of_the_sum(logits in logits()) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let from = if max == f32::NEG_INFINITY { 0.0 } else { f64::from(max) };
        let sum: f64 = logits.iter().map(|&l| (f64::from(l) - from).exp()).sum();
        let scalar = Kernels::by_name("scalar").unwrap();
        let got = log_sum_exp(tiles(scalar, &logits));
        let wanted = from + sum.ln();
        prop_assert!(got == wanted || (got - wanted).abs() < 1e-6, "{} {}", got, wanted);
        for kernels in Kernels::available() {
            prop_assert_eq!(log_sum_exp(tiles(kernels, &logits)).to_bits(), got.to_bits());
            for (a, b) in tiles(kernels, &logits).zip(tiles(scalar, &logits)) {
                prop_assert_eq!((a.max.to_bits(), a.sum.to_bits()), (b.max.to_bits(), b.sum.to_bits()));
            }
        }
    }

    #[test]
    fn the_best_ids_are_those_of_a_sort(
        logits in logits(),
        n in prop_oneof![0usize..5, Just(40)],
        nan in any::<prop::sample::Index>(),
    ) {
        let mut logits = logits;
        if !logits.is_empty() {
            let at = nan.index(logits.len());
            logits[at] = f32::NAN;
        }
        let mut wanted: Vec<(u32, f32)> =
            (0..).zip(logits.iter().copied()).filter(|(_, l)| !l.is_nan()).collect();
        // Stable: of equal logits the lower id is first.
        wanted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        wanted.truncate(n);
        let wanted: Vec<_> = wanted.iter().map(|&(id, logit)| (id, logit.to_bits())).collect();
        let n_tiles = logits.len().div_ceil(TILE);
        prop_assert_eq!(&ids_and_bits(&top(&logits, n, 0..n_tiles)), &wanted);
        prop_assert_eq!(&ids_and_bits(&top(&logits, n, (0..n_tiles).rev())), &wanted);
    }
}

#[test]
fn what_is_no_number_makes_the_sum_none() {
    for kernels in Kernels::available() {
        let sum = |tile: &[f32]| log_sum_exp(tiles(kernels, tile));
        for (bad, at) in [(f32::NAN, 0), (f32::NAN, TILE + 3), (f32::INFINITY, 7)] {
            let mut logits = vec![1.0; TILE + 20];
            logits[at] = bad;
            assert!(sum(&logits).is_nan(), "{bad} at {at}");
            logits.fill(f32::NEG_INFINITY);
            assert_eq!(sum(&logits), f64::NEG_INFINITY);
            logits[at] = bad;
            assert!(sum(&logits).is_nan(), "{bad} at {at} among -inf");
        }
        // What lies below all others by more than f32 can tell, and the far ends of f32.
        assert_eq!(sum(&[f32::MAX, f32::MIN]), f64::from(f32::MAX));
        assert_eq!(sum(&[-0.0]), 0.0);
        assert_eq!(sum(&[]), f64::NEG_INFINITY);
    }
}
