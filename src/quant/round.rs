//! Roundings and small sums that the encoders share, with the results of ggml's C on x86-64 for
//! every input, NaN and infinity included: encoders must not panic on odd weights, and even their
//! garbage should be the same everywhere.
//!
//! Encoders are compiled once for each instruction set ([`super::encode`]), so that they and all that
//! they call are inlined; their loops are plain, over constant ranges, for the compiler to make vectors
//! of.

use super::SUPERBLOCK;

/// Below this magnitude a block counts as all zero (ggml's `GROUP_MAX_EPS`).
pub const ZERO: f32 = 1e-15;

/// To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves the integer in
/// the low bits of the mantissa. Larger input gives some integer in -2^22..2^22.
#[inline(always)]
pub fn nearest(x: f32) -> i32 {
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// [`nearest`], clamped to a code range.
#[inline(always)]
pub fn nearest_in(x: f32, low: i32, high: i32) -> i32 {
    nearest(x).min(high).max(low)
}

/// [`nearest_in`] as a float, clamped as one: SSE2 has no minimum of 32-bit integers, and the searches
/// spend their time here.
#[inline(always)]
pub fn nearest_float_in(x: f32, low: f32, high: f32) -> f32 {
    let code = nearest(x) as f32;
    let code = if code < high { code } else { high };
    if code > low { code } else { low }
}

/// Towards zero; `i32::MIN` for NaN and what does not fit, as the `cvttss2si` instruction does
/// (Rust's `as` would saturate).
#[inline(always)]
pub fn truncate(x: f32) -> i32 {
    if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN }
}

/// 1/x, or 0 for 0.
#[inline(always)]
pub fn inverse(x: f32) -> f32 {
    if x != 0.0 { 1.0 / x } else { 0.0 }
}

/// To the nearest integer, ties away from zero, as `roundf`: the largest number below one half can't
/// carry a value over.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    let x = x + 0.499_999_97_f32.copysign(x);
    // Numbers from 2^23 on are whole; NaN stays.
    if x.abs() < 8_388_608.0 { truncate(x) as f32 } else { x }
}

/// The larger of two numbers; the first where the second is NaN.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The first value of the largest magnitude, with its sign; 0 for no positive magnitude.
#[inline(always)]
pub fn extreme<const N: usize>(values: &[f32; N]) -> f32 {
    let mut largest = [0f32; 8];
    for (i, x) in values.iter().enumerate() {
        largest[i % 8] = larger(largest[i % 8], x.abs());
    }
    let largest = largest.iter().fold(0.0, |a, &b| larger(a, b));
    if largest == 0.0 {
        return 0.0;
    }
    let (mut up, mut down) = (false, false);
    for &x in values {
        up |= x == largest;
        down |= x == -largest;
    }
    match (up, down) {
        (true, false) => largest,
        (false, _) => -largest,
        (true, true) => *values.iter().find(|x| x.abs() == largest).unwrap_or(&0.0),
    }
}

/// A superblock's `SUBS` sub-blocks of `LEN` values side by side: value `j` of each in `[j]`.
#[inline(always)]
pub fn lanes<const SUBS: usize, const LEN: usize>(x: &[f32; SUPERBLOCK]) -> [[f32; SUBS]; LEN] {
    let mut lanes = [[0.0; SUBS]; LEN];
    for j in 0..LEN {
        for sub in 0..SUBS {
            lanes[j][sub] = x[sub * LEN + j];
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ties_to_even() {
        for (x, want) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (31.49, 31)] {
            assert_eq!(nearest(x), want, "{x}");
        }
    }

    #[test]
    fn round_is_that_of_the_library() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            assert!(round(x) == x.round() || x.is_nan(), "{x}");
            let halves = (bits >> 8) as f32 / 2.0 - 4_000_000.0;
            assert_eq!(round(halves), halves.round());
        }
        for x in [0.499_999_97, 0.5, 1.5, 8_388_607.5, 4_194_303.5, 126.5] {
            assert_eq!((round(x), round(-x)), (x.round(), (-x).round()), "{x}");
        }
    }

    #[test]
    fn extreme_is_the_first_of_the_largest() {
        assert_eq!(extreme(&[1.0, -3.0, 3.0, 2.0]), -3.0);
        assert_eq!(extreme(&[1.0, 3.0, -3.0, f32::NAN]), 3.0);
        assert_eq!(extreme(&[0.0, -2.0, f32::NAN]), -2.0);
        assert_eq!(extreme(&[f32::NAN, f32::NAN]).to_bits(), 0);
        assert_eq!(extreme(&[-0.0; 4]).to_bits(), 0);
    }

    #[test]
    fn odd_input_gives_a_code() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            assert!((-32..=31).contains(&nearest_in(x, -32, 31)), "{x}");
            assert_eq!(nearest_float_in(x, -32.0, 31.0), nearest_in(x, -32, 31) as f32, "{x}");
            assert_eq!(truncate(x), i32::MIN, "{x}");
        }
        assert_eq!(truncate(-1.9), -1);
    }
}
