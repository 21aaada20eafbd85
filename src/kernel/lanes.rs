//! The ops that every table shares, as plain Rust over 16 lanes. A table compiles these bodies for
//! its own instruction set: LLVM turns lanes into vectors, and since Rust lets it neither contract
//! nor reassociate floating-point arithmetic, the bits stay those of the scalar table.

use pith_models::{Act, Pairing};

use super::math;

/// Lanes of a sum.
pub const LANES: usize = 16;

/// The tree that ends a sum in lanes: halves are added until one is left.
#[inline(always)]
pub fn combine(lanes: [f32; LANES]) -> f32 {
    fold(lanes, |a, b| a + b)
}

/// Lane i becomes f(lane i, lane i + 8), then with 4, 2 and 1 in place of 8; returns the first.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    // Written out: as one more loop, LLVM takes it lane by lane.
    for i in 0..8 {
        lanes[i] = f(lanes[i], lanes[i + 8]);
    }
    for i in 0..4 {
        lanes[i] = f(lanes[i], lanes[i + 4]);
    }
    for i in 0..2 {
        lanes[i] = f(lanes[i], lanes[i + 2]);
    }
    f(lanes[0], lanes[1])
}

/// Sum of `f(a, b)` over pairs, in lanes.
#[inline(always)]
fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    for (i, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
        lanes[i] += f(*a, *b);
    }
    combine(lanes)
}

/// a . b
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum2(a, b, |a, b| a * b)
}

/// Sum of f(x).
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(x, x, |x, _| f(x))
}

/// The sums of (a - b)^2 and of a^2.
#[inline(always)]
pub fn squares(a: &[f32], b: &[f32], out: &mut [f32; 2]) {
    // One sum in a loop: of two, LLVM makes scalars.
    *out = [sum2(a, b, |a, b| (a - b) * (a - b)), sum(a, |a| a * a)];
}

/// x = f(x). A loop here and no `for_each`: what the standard library's functions call isn't
/// always inlined, and by itself lacks the instruction set of the table.
#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// x = f(x, y).
#[inline(always)]
fn each2(x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = f(*x, *y);
    }
}

/// out = f(x, y), in one pass: a row's values are loaded and stored once.
#[inline(always)]
fn map2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = f(*x, *y);
    }
}

/// x / sqrt(mean(x^2) + eps) * weight.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let mean = sum(x, |x| x * x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    match weight {
        Some(weight) => map2(x, weight, out, |x, w| x * scale * w),
        None => map2(x, x, out, |x, _| x * scale),
    }
}

/// (x - mean) / sqrt(variance + eps) * weight + bias.
#[inline(always)]
pub fn layer_norm(
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    match weight {
        Some(weight) => map2(x, weight, out, |x, w| (x - mean) * scale * w),
        None => map2(x, x, out, |x, _| (x - mean) * scale),
    }
    if let Some(bias) = bias {
        each2(out, bias, |out, b| out + b);
    }
}

/// x = act(x).
#[inline(always)]
pub fn activate(act: Act, x: &mut [f32]) {
    match act {
        Act::GeluTanh => each(x, math::gelu_tanh),
        Act::GeluErf => each(x, math::gelu_erf),
        Act::Relu => each(x, math::relu),
        Act::Silu => each(x, math::silu),
    }
}

/// out = act(gate) * up.
#[inline(always)]
pub fn gate(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match act {
        Act::GeluTanh => map2(gate, up, out, |x, up| math::gelu_tanh(x) * up),
        Act::GeluErf => map2(gate, up, out, |x, up| math::gelu_erf(x) * up),
        Act::Relu => map2(gate, up, out, |x, up| math::relu(x) * up),
        Act::Silu => map2(gate, up, out, |x, up| math::silu(x) * up),
    }
}

/// x = cap * tanh(x / cap).
#[inline(always)]
pub fn softcap(x: &mut [f32], cap: f32) {
    each(x, |x| cap * math::tanh(x / cap));
}

/// x += y.
#[inline(always)]
pub fn add(x: &mut [f32], y: &[f32]) {
    each2(x, y, |x, y| x + y);
}

/// (a, b) becomes (a cos - b sin, a sin + b cos), pair by pair.
#[inline(always)]
pub fn rope(pairing: Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    match pairing {
        Pairing::Half => {
            let (low, high) = head.split_at_mut(cos.len());
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                turn(a, b, *cos, *sin);
            }
        }
        Pairing::Adjacent => {
            for (([a, b], cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                turn(a, b, *cos, *sin);
            }
        }
    }
}
