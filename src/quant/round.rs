//! Roundings and small sums that the encoders share, with the results of ggml's C on x86-64 for
//! every input, NaN and infinity included: encoders must not panic on odd weights, and even their
//! garbage should be the same everywhere.

/// Below this magnitude a block counts as all zero (ggml's `GROUP_MAX_EPS`).
pub const ZERO: f32 = 1e-15;

/// Trial scales that a search evaluates side by side. Their sums are independent chains, so that
/// the compiler can keep them in vector lanes while each still adds in the stated order. (Eight made
/// Q4_K slower: a trial that is better voids those after it.)
pub const LANES: usize = 4;

/// To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves the integer in
/// the low bits of the mantissa. Larger input gives some integer in -2^22..2^22.
#[inline]
pub fn nearest(x: f32) -> i32 {
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// [`nearest`], clamped to a code range.
#[inline]
pub fn nearest_in(x: f32, low: i32, high: i32) -> i32 {
    nearest(x).min(high).max(low)
}

/// [`nearest_in`] as a float, clamped as one: SSE2 has no minimum of 32-bit integers, and the searches
/// spend their time here.
#[inline]
pub fn nearest_float_in(x: f32, low: f32, high: f32) -> f32 {
    let code = nearest(x) as f32;
    let code = if code < high { code } else { high };
    if code > low { code } else { low }
}

/// Towards zero; `i32::MIN` for NaN and what does not fit, as the `cvttss2si` instruction does
/// (Rust's `as` would saturate).
#[inline]
pub fn truncate(x: f32) -> i32 {
    if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN }
}

/// 1/x, or 0 for 0.
#[inline]
pub fn inverse(x: f32) -> f32 {
    if x != 0.0 { 1.0 / x } else { 0.0 }
}

/// The first value of the largest magnitude, with its sign; 0 for no positive magnitude.
#[inline]
pub fn extreme(values: &[f32]) -> f32 {
    let mut extreme = 0f32;
    for &x in values {
        if x.abs() > extreme.abs() {
            extreme = x;
        }
    }
    extreme
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
    fn odd_input_gives_a_code() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            assert!((-32..=31).contains(&nearest_in(x, -32, 31)), "{x}");
            assert_eq!(nearest_float_in(x, -32.0, 31.0), nearest_in(x, -32, 31) as f32, "{x}");
            assert_eq!(truncate(x), i32::MIN, "{x}");
        }
        assert_eq!(truncate(-1.9), -1);
    }
}
