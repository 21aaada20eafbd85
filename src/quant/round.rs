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

/// What [`nearest`] is good for; codes are smaller, but for what isn't finite.
const SMALL: f32 = 2_097_152.0;

/// Towards zero, for |x| < 2^21; `i32::MIN` for all others, as the `cvttss2si` instruction gives for NaN
/// and what does not fit. (The compiler makes no vectors of Rust's `as`, which saturates.)
#[inline(always)]
pub fn truncate(x: f32) -> i32 {
    let n = nearest(x);
    let beyond = (n as f32).abs() > x.abs();
    let n = n - if beyond { if x > 0.0 { 1 } else { -1 } } else { 0 };
    if x.abs() < SMALL { n } else { i32::MIN }
}

/// To the nearest integer, ties away from zero as `roundf` does it, for |x| < 2^21; `i32::MIN` for all
/// others.
#[inline(always)]
pub fn nearest_away(x: f32) -> i32 {
    let n = nearest(x);
    let rest = x - n as f32;
    let up = rest == 0.5 && x > 0.0;
    let down = rest == -0.5 && x < 0.0;
    if x.abs() < SMALL { n + i32::from(up) - i32::from(down) } else { i32::MIN }
}

/// 1/x, or 0 for 0.
#[inline(always)]
pub fn inverse(x: f32) -> f32 {
    if x != 0.0 { 1.0 / x } else { 0.0 }
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
    for values in values.chunks(8) {
        for (largest, x) in largest.iter_mut().zip(values) {
            *largest = larger(*largest, x.abs());
        }
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
    fn small_numbers_are_rounded_as_the_library_does() {
        let check = |x: f32| {
            let (away, cut) = match x.abs() < SMALL {
                true => (x.round() as i32, x as i32),
                false => (i32::MIN, i32::MIN),
            };
            assert_eq!((nearest_away(x), truncate(x)), (away, cut), "{x:e}");
        };
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            check(f32::from_bits(bits));
            check((bits >> 10) as f32 / 2.0 - 1_000_000.0);
            check((bits >> 16) as f32 / 128.0 - 256.0);
        }
        for x in [0.0, -0.0, 0.499_999_97, 2_097_151.5, 2_097_152.0, f32::NAN, f32::INFINITY] {
            check(x);
            check(-x);
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
    }
}
