//! The table for aarch64 with matrix products of bytes: one instruction multiplies eight codes of
//! two weight rows with those of two tokens. Stable Rust has no intrinsics for it yet. A token in a
//! row of its own would use half of that, so tokens in rows are multiplied by dot products.
#![allow(unsafe_code)]

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use super::{
    super::{Kernels, acts::PANEL, narrow::products, tables::integer_products, unpack::Class},
    Dot, Quad,
    dotprod::{self, Sdot},
};

/// The table for matrix products.
pub const TABLE: Kernels =
    Kernels { name: "i8mm", matmul: integer_products!(super::TABLE.matmul), ..super::TABLE };

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    dotprod::is_here() && is_aarch64_feature_detected!("i8mm")
}

products!("neon,dotprod,i8mm", Quad<Smmla>, (4, 2, 8));

/// Products of 2 x 8 and 8 x 2 bytes.
pub struct Smmla;

/// sum[2i + j] += a[8i..8i + 8] . b[8j..8j + 8]
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has matrix products by the contract of `Dot`.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Dot for Smmla {
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> int32x4_t {
        // SAFETY: the same contract, and the CPU has dot products too.
        unsafe { Sdot::dot::<K, N>(w, y) }
    }

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[int32x4_t; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        const { assert!(N.is_multiple_of(2) && R.is_multiple_of(2)) };
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            // Of the two rows r and r + 1: tokens 0 and 1, tokens 2 and 3.
            let mut squares = [[[vdupq_n_s32(0); 2]; C]; R];
            for k in (0..N).step_by(2) {
                let mut codes = [[vdupq_n_s8(0); 2]; C];
                for (codes, y) in codes.iter_mut().zip(y) {
                    let first = vld1q_s32(y.add(PANEL * k).cast());
                    let second = vld1q_s32(y.add(PANEL * (k + 1)).cast());
                    codes[0] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
                    codes[1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
                }
                for r in (0..R).step_by(2) {
                    let rows = vcombine_s8(vld1_s8(w[r].add(4 * k)), vld1_s8(w[r + 1].add(4 * k)));
                    for (squares, y) in squares[r].iter_mut().zip(codes) {
                        squares[0] = smmla(squares[0], rows, y[0]);
                        squares[1] = smmla(squares[1], rows, y[1]);
                    }
                }
            }
            for r in (0..R).step_by(2) {
                for c in 0..C {
                    let [low, high] = squares[r][c].map(|x| vreinterpretq_s64_s32(x));
                    let rows = [vzip1q_s64(low, high), vzip2q_s64(low, high)];
                    for (i, row) in rows.into_iter().enumerate() {
                        sums[r + i][c] = vaddq_s32(sums[r + i][c], vreinterpretq_s32_s64(row));
                    }
                }
            }
        }
    }
}
