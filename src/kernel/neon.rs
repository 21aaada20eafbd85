//! The NEON table, for any aarch64, and what the tables above it share with it: vectors of four
//! tokens, or of four blocks of one token. The other ops are the scalar table's, whose loops LLVM
//! compiles for NEON by itself.
#![allow(unsafe_code)]

pub mod dotprod;
pub mod i8mm;

use std::{arch::aarch64::*, marker::PhantomData};

use super::{
    Kernels,
    acts::PANEL,
    narrow::{Narrow, products},
    panels::Vector,
    scalar,
    tables::{all_products, over_floats},
    unpack::Class,
    vector::Floats,
};

/// The NEON table.
pub const TABLE: Kernels = Kernels {
    name: "neon",
    matmul: all_products!(),
    to_f16,
    from_f16,
    widen,
    attend,
    ..scalar::TABLE
};

products!("neon", Quad<Bytes>, (2, 2, 4));

over_floats!("neon", Quad<Bytes>, (2, 4), (4, 4));

fn to_f16(x: &[f32], out: &mut [u16]) {
    let (whole, rest) = x.as_chunks::<4>();
    let (whole_out, rest_out) = out.as_chunks_mut::<4>();
    for (x, out) in whole.iter().zip(whole_out) {
        // SAFETY: every aarch64 CPU has NEON; both arrays are 4 values long.
        unsafe {
            let halves = vcvt_f16_f32(vld1q_f32(x.as_ptr()));
            vst1_u16(out.as_mut_ptr(), vreinterpret_u16_f16(halves));
        }
    }
    // SAFETY: the scalar table needs no CPU feature.
    unsafe { (scalar::TABLE.to_f16)(rest, rest_out) }
}

fn from_f16(x: &[u16], out: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<4>();
    let (whole_out, rest_out) = out.as_chunks_mut::<4>();
    for (x, out) in whole.iter().zip(whole_out) {
        // SAFETY: as above.
        unsafe { vst1q_f32(out.as_mut_ptr(), Quad::<Bytes>::widen(x.as_ptr())) };
    }
    // SAFETY: the scalar table needs no CPU feature.
    unsafe { (scalar::TABLE.from_f16)(rest, rest_out) }
}

/// How codes are multiplied.
///
/// # Safety
/// Every function needs the instruction set, and pointers to as much as it says.
pub trait Dot {
    /// As [`Narrow::dot`].
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> int32x4_t;

    /// As [`Vector::products`], four tokens a vector.
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[int32x4_t; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    );
}

/// Products of bytes, added up in 16 bits as long as they fit.
pub struct Bytes;

impl Bytes {
    /// How many pairs of products fit into 16 bits together: 8, 4, 2 or 1, but no more than N.
    const fn depth<K: Class>(n: usize) -> usize {
        let fit = match K::MAX {
            0 => 1, // 2 * 128 * 127 < 2^15
            1..=15 => 8,
            16..=31 => 4,
            _ => 2,
        };
        if fit < n { fit } else { n }
    }
}

impl Dot for Bytes {
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> int32x4_t {
        // SAFETY: N times 16 codes are there by the trait's contract.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            let mut pairs = vdupq_n_s16(0);
            for i in 0..N {
                let (w, y) = (vld1q_s8(w.add(16 * i)), vld1q_s8(y.add(16 * i)));
                pairs = vmlal_s8(pairs, vget_low_s8(w), vget_low_s8(y));
                pairs = vmlal_high_s8(pairs, w, y);
                if K::SIGNED || i + 1 == N {
                    sum = vpadalq_s16(sum, pairs);
                    pairs = vdupq_n_s16(0);
                }
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
        let depth = const { Self::depth::<K>(N) };
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            for k in (0..N).step_by(depth) {
                // Four lanes of a token, two tokens a vector.
                let mut fours = [[[vdupq_n_s16(0); 2]; C]; R];
                for k in k..k + depth {
                    let mut codes = [vdupq_n_s8(0); C];
                    for (codes, y) in codes.iter_mut().zip(y) {
                        *codes = vld1q_s8(y.add(PANEL * k).cast());
                    }
                    for (fours, w) in fours.iter_mut().zip(w) {
                        let w = vdupq_n_s32(w.add(4 * k).cast::<i32>().read_unaligned());
                        let w = vreinterpretq_s8_s32(w);
                        for ([low, high], y) in fours.iter_mut().zip(codes) {
                            *low = vmlal_s8(*low, vget_low_s8(w), vget_low_s8(y));
                            *high = vmlal_high_s8(*high, w, y);
                        }
                    }
                }
                for (sums, fours) in sums.iter_mut().zip(fours) {
                    for (sum, [low, high]) in sums.iter_mut().zip(fours) {
                        *sum = vpadalq_s16(*sum, vpaddq_s16(low, high));
                    }
                }
            }
        }
    }
}

/// Four tokens, or four blocks of one token, multiplied as `D` says.
pub struct Quad<D>(PhantomData<D>);

/// Lane i is the sum of pair i of the products.
#[inline(always)]
unsafe fn pairs(sums: *const [i16; 2], factors: int16x8_t) -> int32x4_t {
    // SAFETY: every aarch64 CPU has NEON; four pairs are there by the callers' contract.
    unsafe {
        let sums = vld1q_s16(sums.cast());
        let low = vmull_s16(vget_low_s16(sums), vget_low_s16(factors));
        vpaddq_s32(low, vmull_high_s16(sums, factors))
    }
}

impl<D> Floats for Quad<D> {
    const LANES: usize = 4;
    type Float = float32x4_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))) }
    }
    #[inline(always)]
    unsafe fn upper(from: *const u16) -> float32x4_t {
        // SAFETY: by the trait's contract four numbers are there.
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from)))) }
    }
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> float32x4_t {
        // SAFETY: by the trait's contract four codes are there.
        unsafe {
            let codes = vdup_n_s32(from.cast::<i32>().read_unaligned());
            let wide = vmovl_s8(vreinterpret_s8_s32(codes));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store(x: float32x4_t, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { vst1q_f32(to, x) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vaddq_f32(a, b) }
    }
}

impl<D: Dot> Vector for Quad<D> {
    const UNSIGNED: bool = false;
    type Int = int32x4_t;

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[int32x4_t; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        // SAFETY: the same contract.
        unsafe { D::products::<K, N, R, C>(sums, w, y) }
    }

    #[inline(always)]
    unsafe fn pairs(sums: *const [i16; 2], [a, b]: [i16; 2]) -> int32x4_t {
        let factors = i32::from(b) << 16 | i32::from(a as u16);
        // SAFETY: by the trait's contract.
        unsafe { pairs(sums, vreinterpretq_s16_s32(vdupq_n_s32(factors))) }
    }
    #[inline(always)]
    unsafe fn none() -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn float(x: int32x4_t) -> float32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vcvtq_f32_s32(x) }
    }
}

impl<D: Dot> Narrow for Quad<D> {
    #[inline(always)]
    unsafe fn scaled(x: int32x4_t, factor: i16) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vmulq_n_s32(x, factor.into()) }
    }
    #[inline(always)]
    unsafe fn plus(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> int32x4_t {
        // SAFETY: the same contract.
        unsafe { D::dot::<K, N>(w, y) }
    }
    #[inline(always)]
    unsafe fn across([a, b, c, d]: [int32x4_t; 4]) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
    }
    #[inline(always)]
    unsafe fn pairs_by_pairs(sums: *const [i16; 2], factors: *const [i16; 2]) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { pairs(sums, vld1q_s16(factors.cast())) }
    }
}
