//! Vectors of f32, which attention and products are written in once for all instruction sets.
#![allow(unsafe_code)]

use super::lanes::{LANES, combine};

/// Vectors of f32 in one instruction set.
///
/// # Safety
/// Every function needs the instruction set, and pointers to as much as it says.
pub trait Floats {
    /// Numbers of a vector; divides 16.
    const LANES: usize;
    /// A vector.
    type Float: Copy;

    /// Zeros.
    unsafe fn zero() -> Self::Float;
    /// LANES numbers.
    unsafe fn load(from: *const f32) -> Self::Float;
    /// LANES binary16 numbers.
    unsafe fn widen(from: *const u16) -> Self::Float;
    /// LANES numbers whose upper halves are given (bfloat16).
    unsafe fn upper(from: *const u16) -> Self::Float;
    /// LANES codes.
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> Self::Float {
        let mut wide = [0.0; LANES];
        // SAFETY: by the trait's contract; there are no more lanes than 16.
        unsafe {
            for (i, wide) in wide.iter_mut().enumerate().take(Self::LANES) {
                *wide = f32::from(*from.add(i));
            }
            Self::load(wide.as_ptr())
        }
    }
    /// Writes LANES numbers.
    unsafe fn store(x: Self::Float, to: *mut f32);
    /// One number in all lanes.
    unsafe fn all(x: f32) -> Self::Float;
    /// One binary16 number in all lanes.
    #[inline(always)]
    unsafe fn all_halves(x: u16) -> Self::Float {
        // SAFETY: by the trait's contract.
        unsafe { Self::all(half::f16::from_bits(x).to_f32()) }
    }
    /// a * b.
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// a + b.
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    /// The trees of four sums of 16 lanes each ([`combine`]).
    #[inline(always)]
    unsafe fn totals(sums: &[[f32; LANES]; 4]) -> [f32; 4] {
        [combine(sums[0]), combine(sums[1]), combine(sums[2]), combine(sums[3])]
    }
}
