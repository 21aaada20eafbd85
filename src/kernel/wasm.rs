//! The table for WebAssembly's vectors (simd128): products of 16-bit numbers, which every format's
//! codes and the activations are widened to. A module that has vectors doesn't load where the engine
//! lacks them, so the build decides and nothing is detected. The other ops are the scalar table's,
//! whose loops LLVM compiles for vectors by itself.
//!
//! Relaxed instructions are out of the question: what they give depends on the machine.
#![allow(unsafe_code)]

use std::arch::wasm32::*;

use super::{
    Kernels,
    acts::PANEL,
    narrow::{Narrow, products},
    panels::Vector,
    scalar,
    tables::{all_products, over_floats},
    unpack::{Class, half},
    vector::Floats,
};

/// The table for simd128.
pub const TABLE: Kernels =
    Kernels { name: "simd128", matmul: all_products!(), from_f16, widen, attend, ..scalar::TABLE };

products!("simd128", Quad, (4, 1, 4));

over_floats!("simd128", Quad, (2, 2), (2, 2));

fn from_f16(x: &[u16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = half(*x);
    }
}

/// Four tokens, or four blocks of one token.
struct Quad;

/// Sixteen bytes as 16-bit numbers.
#[inline(always)]
fn wide(bytes: v128) -> [v128; 2] {
    [i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)]
}

/// Sums of neighbouring lanes.
#[inline(always)]
fn neighbours(low: v128, high: v128) -> v128 {
    let even = i32x4_shuffle::<0, 2, 4, 6>(low, high);
    i32x4_add(even, i32x4_shuffle::<1, 3, 5, 7>(low, high))
}

impl Floats for Quad {
    const LANES: usize = 4;
    type Float = v128;

    #[inline(always)]
    unsafe fn zero() -> v128 {
        f32x4_splat(0.0)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> v128 {
        // SAFETY: by the trait's contract.
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> v128 {
        // As `unpack::half`.
        // SAFETY: by the trait's contract four numbers are there.
        let x = unsafe { u32x4_load_extend_u16x4(from) };
        let sign = i32x4_shl(v128_and(x, i32x4_splat(0x8000)), 16);
        let rest = i32x4_shl(v128_and(x, i32x4_splat(0x7fff)), 13);
        let finite = f32x4_mul(rest, f32x4_splat(f32::from_bits((127 + 112) << 23)));
        let is_not = i32x4_gt(rest, i32x4_splat((0x7c00 << 13) - 1));
        let magnitude = v128_or(finite, v128_and(is_not, i32x4_splat(0x7f80_0000)));
        v128_or(magnitude, sign)
    }
    #[inline(always)]
    unsafe fn upper(from: *const u16) -> v128 {
        // SAFETY: by the trait's contract four numbers are there.
        i32x4_shl(unsafe { u32x4_load_extend_u16x4(from) }, 16)
    }
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> v128 {
        // SAFETY: by the trait's contract four codes are there.
        let codes = unsafe { v128_load32_zero(from.cast()) };
        f32x4_convert_i32x4(i32x4_extend_low_i16x8(i16x8_extend_low_i8x16(codes)))
    }
    #[inline(always)]
    unsafe fn store(x: v128, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { v128_store(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> v128 {
        f32x4_splat(x)
    }
    #[inline(always)]
    unsafe fn mul(a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }
    #[inline(always)]
    unsafe fn add(a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }
}

impl Vector for Quad {
    const UNSIGNED: bool = false;
    type Int = v128;

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[v128; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        const { assert!(N.is_multiple_of(2)) };
        // Two sums of two products for each token.
        let mut twos = [[[i32x4_splat(0); 2]; C]; R];
        for k in (0..N).step_by(2) {
            let mut codes = [[[i32x4_splat(0); 2]; 2]; C];
            for (codes, y) in codes.iter_mut().zip(y) {
                for (i, codes) in codes.iter_mut().enumerate() {
                    // SAFETY: N vectors of tokens are there by the trait's contract.
                    *codes = wide(unsafe { v128_load(y.add(PANEL * (k + i)).cast()) });
                }
            }
            for (twos, w) in twos.iter_mut().zip(w) {
                // SAFETY: N fours of codes, an even number, are there by the trait's contract.
                let w = unsafe { i16x8_load_extend_i8x8(w.add(4 * k)) };
                let w = [i64x2_shuffle::<0, 0>(w, w), i64x2_shuffle::<1, 1>(w, w)];
                for (twos, codes) in twos.iter_mut().zip(codes) {
                    for (w, y) in w.into_iter().zip(codes) {
                        twos[0] = i32x4_add(twos[0], i32x4_dot_i16x8(w, y[0]));
                        twos[1] = i32x4_add(twos[1], i32x4_dot_i16x8(w, y[1]));
                    }
                }
            }
        }
        for (sums, twos) in sums.iter_mut().zip(twos) {
            for (sum, [low, high]) in sums.iter_mut().zip(twos) {
                *sum = i32x4_add(*sum, neighbours(low, high));
            }
        }
    }

    #[inline(always)]
    unsafe fn pairs(sums: *const [i16; 2], [a, b]: [i16; 2]) -> v128 {
        let factors = i32::from(b) << 16 | i32::from(a as u16);
        // SAFETY: by the trait's contract.
        i32x4_dot_i16x8(unsafe { v128_load(sums.cast()) }, i32x4_splat(factors))
    }
    #[inline(always)]
    unsafe fn none() -> v128 {
        i32x4_splat(0)
    }
    #[inline(always)]
    unsafe fn float(x: v128) -> v128 {
        f32x4_convert_i32x4(x)
    }
}

impl Narrow for Quad {
    #[inline(always)]
    unsafe fn scaled(x: v128, factor: i16) -> v128 {
        i32x4_mul(x, i32x4_splat(factor.into()))
    }
    #[inline(always)]
    unsafe fn plus(a: v128, b: v128) -> v128 {
        i32x4_add(a, b)
    }
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> v128 {
        let mut sum = i32x4_splat(0);
        for i in 0..N {
            // SAFETY: N times 16 codes are there by the trait's contract.
            let (w, y) =
                unsafe { (v128_load(w.add(16 * i).cast()), v128_load(y.add(16 * i).cast())) };
            for (w, y) in wide(w).into_iter().zip(wide(y)) {
                sum = i32x4_add(sum, i32x4_dot_i16x8(w, y));
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn across([a, b, c, d]: [v128; 4]) -> v128 {
        neighbours(neighbours(a, b), neighbours(c, d))
    }
    #[inline(always)]
    unsafe fn pairs_by_pairs(sums: *const [i16; 2], factors: *const [i16; 2]) -> v128 {
        // SAFETY: by the trait's contract.
        let (sums, factors) = unsafe { (v128_load(sums.cast()), v128_load(factors.cast())) };
        i32x4_dot_i16x8(sums, factors)
    }
}
