//! Elementary functions made of IEEE additions, multiplications, divisions and bit operations
//! only, so that every machine gets the same bits: no libm, no fused multiply-add. The f32 ones
//! are branch-free, so that LLVM can run them over lanes (which never changes a result: Rust
//! allows neither contraction nor reassociation).

use std::{
    f64::consts::{LN_2, LOG2_E, PI},
    // An `if` may become a branch again, which keeps a loop from running over lanes.
    hint::select_unpredictable as select,
};

/// e^x, within 2 ulp; 0 below -87.3 (where the result would be subnormal), infinite above 88.7.
/// n = round(x / ln 2), then a degree-7 Taylor polynomial of the rest, |r| <= ln(2) / 2.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Two factors, because 2^n itself may overflow where the product doesn't.
    let (p, n) = exp_parts(x.clamp(-88.0, 89.0));
    let value = p * power_of_two(n >> 1) * power_of_two(n - (n >> 1));
    let value = select(x < -87.3, 0.0, value);
    let value = select(x > 88.72, f32::INFINITY, value);
    select(x.is_nan(), x, value)
}

/// e^x = p 2^n, for |x| below 90.
#[inline(always)]
fn exp_parts(clamped: f32) -> (f32, i32) {
    const LN2_HIGH: f32 = 0.693_359_4; // 12 bits, so that n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.388_888_9e-3 + r * 1.984_127e-4;
    p = 8.333_333e-3 + r * p;
    p = 4.166_666_6e-2 + r * p;
    p = 1.666_666_7e-1 + r * p;
    p = 0.5 + r * p;
    p = 1.0 + (r + r * r * p);
    // n as an integer is in the low bits of `shifted`; a cast would saturate, which LLVM doesn't turn
    // into one instruction.
    (p, (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

/// e^x for x up to 0, as softmax needs it: the bits of [`exp`] for half of its work above the
/// polynomial, since the power of two can't overflow.
#[inline(always)]
pub fn exp_to_0(x: f32) -> f32 {
    let clamped = select(x < -88.0, -88.0, x);
    let (p, n) = exp_parts(clamped);
    select(x < -87.3, 0.0, p * power_of_two(n))
}

/// 2^n of a whole number from -126 to 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// tanh(x), absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // 1 - 2 / (e^2|x| + 1) loses digits near 0, where the series takes over.
    let a = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let s = x * x;
    let mut p = -0.053_968_254 + s * 0.021_869_488;
    p = 0.133_333_33 + s * p;
    p = -0.333_333_34 + s * p;
    let small = a + a * s * p;
    let value = select(a < 0.25, small, large);
    select(x < 0.0, -value, value)
}

/// x, or 0 where its sign bit is set. A mask: a choice between x and 0 becomes a store for the
/// zeros alone, and masked stores are many times slower.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    let sign = (x.to_bits() as i32 >> 31) as u32;
    f32::from_bits(x.to_bits() & !sign)
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// GELU, tanh form (Hendrycks & Gimpel 2016): 0.5 x (1 + tanh(u)) = x / (1 + e^-2u) with
/// u = sqrt(2/pi) (x + 0.044715 x^3).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let u = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// GELU, exact form: 0.5 x (1 + erf(x / sqrt 2)).
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// erf(x), absolute error below 5e-7: Taylor series near 0, else 1 - t e^(-x^2 + P(t)) with
/// t = 1 / (1 + x / 2) (Numerical Recipes in C, 6.2, `erfcc`).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.5 * a);
    let mut p = -0.822_152_23 + t * 0.170_872_77;
    p = 1.488_515_9 + t * p;
    p = -1.135_204 + t * p;
    p = 0.278_868_07 + t * p;
    p = -0.186_288_06 + t * p;
    p = 0.096_784_18 + t * p;
    p = 0.374_091_96 + t * p;
    p = 1.000_023_7 + t * p;
    let large = 1.0 - t * exp(-a * a - 1.265_512_2 + t * p);
    let s = x * x;
    let mut q = -8.548_327e-4 + s * 1.205_533_3e-4;
    q = 5.223_977_6e-3 + s * q;
    q = -2.686_617e-2 + s * q;
    q = 1.128_379_2e-1 + s * q;
    q = -3.761_264e-1 + s * q;
    q = std::f32::consts::FRAC_2_SQRT_PI + s * q;
    let value = select(a < 0.5, a * q, large);
    select(x < 0.0, -value, value)
}

/// e^x in f64, relative error below 1e-14 over the range that rope and ALiBi use (|x| < 700).
pub fn exp64(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1; // fdlibm's split
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let n = (x.clamp(-700.0, 700.0) * LOG2_E).round();
    let r = (x.clamp(-700.0, 700.0) - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor: |r| <= 0.35, so term 14 is below 1e-17.
    let mut p = 1.0;
    for k in (1..=14).rev() {
        p = 1.0 + r / f64::from(k) * p;
    }
    p * f64::from_bits(((n as i64 + 1023) << 52) as u64)
}

/// 2^x in f64.
pub fn exp2(x: f64) -> f64 {
    exp64(x * LN_2)
}

/// ln(x) of a positive normal f64: x = m 2^e with m near 1, then the series of atanh.
pub fn ln64(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let z = (m - 1.0) / (m + 1.0);
    let s = z * z;
    let mut p = 0.0;
    for k in (0..14).rev() {
        p = 1.0 / f64::from(2 * k + 1) + s * p;
    }
    e as f64 * LN_2 + 2.0 * z * p
}

/// (cos x, sin x) of an f64, error below 1e-9 up to |x| = 10^7: reduction by multiples of pi/2 in
/// three parts (Cody & Waite), then Taylor series on |r| <= pi/4.
pub fn cos_sin(x: f64) -> (f64, f64) {
    const PART1: f64 = 1.570_796_251_296_997; // 24 bits each, so that the products are exact
    const PART2: f64 = 7.549_789_415_861_596e-8;
    const PART3: f64 = 5.390_302_858_158_12e-15;
    let n = (x * (2.0 / PI)).round();
    let r = ((x - n * PART1) - n * PART2) - n * PART3;
    let s = r * r;
    let (mut sin, mut cos) = (1.0, 1.0);
    for k in (1..=9).rev() {
        let k = f64::from(2 * k);
        sin = 1.0 - s / (k * (k + 1.0)) * sin;
        cos = 1.0 - s / ((k - 1.0) * k) * cos;
    }
    sin *= r;
    match n.rem_euclid(4.0) as u8 {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(lo: f64, hi: f64, n: usize) -> impl Iterator<Item = f64> {
        (0..=n).map(move |i| lo + (hi - lo) * i as f64 / n as f64)
    }

    /// erf by its Taylor series in f64: fine for |x| < 3.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for k in 1..120 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
        }
        sum * 2.0 / PI.sqrt()
    }

    #[test]
    fn exp_to_0_has_the_bits_of_exp() {
        let odd = [0.0, -0.0, -87.3, -87.299_995, -88.0, -1e30, f32::NEG_INFINITY];
        for x in sweep(-90.0, 0.0, 400_000).map(|x| x as f32).chain(odd) {
            assert_eq!(exp_to_0(x).to_bits(), exp(x).to_bits(), "exp({x})");
        }
        assert!(exp_to_0(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for x in sweep(-87.2, 88.7, 400_000) {
            let (x32, wanted) = (x as f32, f64::from(x as f32).exp());
            let error = (f64::from(exp(x32)) - wanted).abs() / wanted;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x32}): error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e30)), (0.0, 0.0));
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_erf_and_activations_are_close() {
        for x in sweep(-12.0, 12.0, 200_000) {
            let (x32, x) = (x as f32, f64::from(x as f32));
            assert!((f64::from(tanh(x32)) - x.tanh()).abs() < 2e-7, "tanh({x})");
            assert!(
                (f64::from(sigmoid(x32)) - 1.0 / (1.0 + (-x).exp())).abs() < 2e-7,
                "sigmoid({x})"
            );
            let wanted = x / (1.0 + (-x).exp());
            assert!((f64::from(silu(x32)) - wanted).abs() < 2e-6, "silu({x})");
            let u = (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
            let wanted = 0.5 * x * (1.0 + u.tanh());
            assert!((f64::from(gelu_tanh(x32)) - wanted).abs() < 4e-6, "gelu_tanh({x})");
            let erf64 = if x.abs() < 3.0 { erf_series(x) } else { continue };
            assert!((f64::from(erf(x32)) - erf64).abs() < 5e-7, "erf({x}): {} {erf64}", erf(x32));
            let wanted = 0.5 * x * (1.0 + erf_series(x / 2f64.sqrt()));
            assert!((f64::from(gelu_erf(x32)) - wanted).abs() < 1e-6, "gelu_erf({x})");
        }
        assert!((erf(4.0) - 1.0).abs() < 1e-7 && (erf(-40.0) + 1.0).abs() < 1e-7);
        assert_eq!([-0.0, -3.0, 0.0, 2.5].map(|x| relu(x).to_bits()), [0, 0, 0, 2.5f32.to_bits()]);
        assert_eq!((silu(-200.0), gelu_tanh(-50.0), gelu_erf(-50.0)), (-0.0, -0.0, -0.0));
    }

    #[test]
    fn f64_functions_agree_with_the_standard_library() {
        for x in sweep(-50.0, 50.0, 20_000) {
            assert!((exp64(x) / x.exp() - 1.0).abs() < 1e-13, "exp({x})");
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 1e-13, "exp2({x})");
        }
        for x in sweep(1e-3, 2e6, 20_000) {
            assert!((ln64(x) - x.ln()).abs() < 1e-13 * x.ln().abs().max(1.0), "ln({x})");
            let (cos, sin) = cos_sin(x);
            assert!((cos - x.cos()).abs() < 1e-9 && (sin - x.sin()).abs() < 1e-9, "cos_sin({x})");
        }
    }
}
