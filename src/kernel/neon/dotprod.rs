//! The table for aarch64 with dot products: four products and their sum in one instruction, whose
//! four weights are picked from a register by number. Stable Rust has no intrinsics for it yet.
#![allow(unsafe_code)]

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use super::{
    super::{Kernels, acts::PANEL, narrow::products, tables::integer_products, unpack::Class},
    Dot, Quad,
};

/// The table for dot products.
pub const TABLE: Kernels =
    Kernels { name: "dotprod", matmul: integer_products!(super::TABLE.matmul), ..super::TABLE };

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

products!("neon,dotprod", Quad<Sdot>, (4, 2, 8));

/// Dot products of four bytes.
pub struct Sdot;

/// Adds to each lane of `sum` four products of that lane's bytes.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has dot products by the contract of `Dot`.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// As [`sdot`], every lane of `a` with lane L of `b`.
#[inline(always)]
unsafe fn sdot_lane<const L: i32>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has dot products by the contract of `Dot`.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const L,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Dot for Sdot {
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> int32x4_t {
        // SAFETY: N times 16 codes are there by the trait's contract.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for i in 0..N {
                sum = sdot(sum, vld1q_s8(w.add(16 * i)), vld1q_s8(y.add(16 * i)));
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[int32x4_t; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        const { assert!(N.is_multiple_of(4)) };
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            for k in (0..N).step_by(4) {
                let mut codes = [[vdupq_n_s8(0); 4]; C];
                for (codes, y) in codes.iter_mut().zip(y) {
                    for (i, codes) in codes.iter_mut().enumerate() {
                        *codes = vld1q_s8(y.add(PANEL * (k + i)).cast());
                    }
                }
                for (sums, w) in sums.iter_mut().zip(w) {
                    let w = vld1q_s8(w.add(4 * k));
                    for (sum, y) in sums.iter_mut().zip(codes) {
                        *sum = sdot_lane::<0>(*sum, y[0], w);
                        *sum = sdot_lane::<1>(*sum, y[1], w);
                        *sum = sdot_lane::<2>(*sum, y[2], w);
                        *sum = sdot_lane::<3>(*sum, y[3], w);
                    }
                }
            }
        }
    }
}
