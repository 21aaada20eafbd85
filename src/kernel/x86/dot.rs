//! How 256-bit vectors multiply codes: with VNNI in one instruction, without it in two or three; and
//! what an instruction set takes out of blocks in its own way.

use std::arch::x86_64::*;

use super::{
    super::{acts::PANEL, unpack::Class},
    load, words,
};

/// Products of weight codes with activation codes, summed by fours in 32-bit lanes.
///
/// # Safety
/// Every function needs the instruction set, and pointers to as much as it says.
pub trait Dot {
    /// Whether weights must have no sign.
    const UNSIGNED: bool;

    /// Sums of four products in each lane.
    unsafe fn fours<K: Class>(w: __m256i, y: __m256i) -> __m256i;

    /// As [`Dot::fours`], for classes of 0..=63, times a factor for each 32 bits: (factor, factor)
    /// in 16 bits each.
    unsafe fn scaled_fours(w: __m256i, y: __m256i, factors: __m256i) -> __m256i;

    /// As halves, d and (where there are minima) m of eight blocks of 32, BYTES each.
    #[inline(always)]
    unsafe fn factors<K: Class, const BYTES: usize>(blocks: &[u8]) -> [__m128i; 2] {
        // SAFETY: passed on.
        unsafe { load::some_factors::<K, 8, BYTES>(blocks) }
    }

    /// Codes of 4 bits, and 16 more where the bit is set.
    #[inline(always)]
    unsafe fn fifth_bits(codes: __m256i, bits: &[u8; 4]) -> __m256i {
        // SAFETY: passed on.
        unsafe { load::fifth_bits(codes, bits) }
    }

    /// As [`super::super::panels::Vector::products`], eight tokens a vector.
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[__m256i; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    );
}

/// AVX2: two products become a sum of 16 bits, two of these one of 32.
pub struct Avx2;

impl Avx2 {
    /// Sums of two products. The left operand of the instruction is unsigned, so signed weights
    /// lend their signs to the activations. |w| <= 128 and |y| <= 127 keep a pair below 2^15.
    #[inline(always)]
    unsafe fn pairs<K: Class>(w: __m256i, y: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2 by the trait's contract.
        unsafe {
            if K::SIGNED {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w))
            } else {
                _mm256_maddubs_epi16(w, y)
            }
        }
    }

    /// How many sums of two products fit into 16 bits together: 8, 4, 2 or 1, but no more than N.
    const fn depth<K: Class>(n: usize) -> usize {
        let fit = match K::MAX {
            0 => 1,
            1..=15 => 8,
            16..=31 => 4,
            _ => 2,
        };
        if fit < n { fit } else { n }
    }
}

impl Dot for Avx2 {
    const UNSIGNED: bool = false;

    #[inline(always)]
    unsafe fn fours<K: Class>(w: __m256i, y: __m256i) -> __m256i {
        // SAFETY: passed on.
        unsafe { _mm256_madd_epi16(Self::pairs::<K>(w, y), _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    unsafe fn scaled_fours(w: __m256i, y: __m256i, factors: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2 by the trait's contract.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(w, y), factors) }
    }

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[__m256i; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        let depth = const { Self::depth::<K>(N) };
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut k = 0;
            while k < N {
                let mut wide = [[_mm256_setzero_si256(); C]; R];
                for i in 0..depth {
                    let mut codes = [_mm256_setzero_si256(); C];
                    for (codes, y) in codes.iter_mut().zip(y) {
                        *codes = _mm256_loadu_si256(y.add(PANEL * (k + i)).cast());
                    }
                    for (wide, w) in wide.iter_mut().zip(w) {
                        let at = w.add(4 * (k + i)).cast::<i32>();
                        let w = _mm256_set1_epi32(at.read_unaligned());
                        for (wide, y) in wide.iter_mut().zip(codes) {
                            let pairs = Self::pairs::<K>(w, y);
                            *wide = if i == 0 { pairs } else { _mm256_add_epi16(*wide, pairs) };
                        }
                    }
                }
                for (sums, wide) in sums.iter_mut().zip(wide) {
                    for (sum, wide) in sums.iter_mut().zip(wide) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(wide, ones));
                    }
                }
                k += depth;
            }
        }
    }
}

/// VNNI multiplies bytes without a sign by signed ones, four to a sum.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $dot:ident $(, $of_blocks:item)*) => {
        $(#[$doc])*
        pub struct $name;

        impl Dot for $name {
            const UNSIGNED: bool = true;
            $($of_blocks)*

            #[inline(always)]
            unsafe fn fours<K: Class>(w: __m256i, y: __m256i) -> __m256i {
                // SAFETY: the CPU has VNNI by the trait's contract.
                unsafe { $dot(_mm256_setzero_si256(), w, y) }
            }

            #[inline(always)]
            unsafe fn scaled_fours(w: __m256i, y: __m256i, factors: __m256i) -> __m256i {
                // SAFETY: the CPU has VNNI by the trait's contract.
                unsafe {
                    // 4 * 63 * 127 fits 16 bits: the upper half of a sum is only its sign, and
                    // meets a factor of 0.
                    let factors = _mm256_and_si256(factors, _mm256_set1_epi32(0xffff));
                    _mm256_madd_epi16($dot(_mm256_setzero_si256(), w, y), factors)
                }
            }

            #[inline(always)]
            unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
                sums: &mut [[__m256i; C]; R],
                w: [*const i8; R],
                y: [*const [i8; 4]; C],
            ) {
                // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's
                // contract.
                unsafe {
                    for k in 0..N {
                        let mut codes = [_mm256_setzero_si256(); C];
                        for (codes, y) in codes.iter_mut().zip(y) {
                            *codes = _mm256_loadu_si256(y.add(PANEL * k).cast());
                        }
                        for (sums, w) in sums.iter_mut().zip(w) {
                            let w = _mm256_set1_epi32(w.add(4 * k).cast::<i32>().read_unaligned());
                            for (sum, y) in sums.iter_mut().zip(codes) {
                                *sum = $dot(*sum, w, y);
                            }
                        }
                    }
                }
            }
        }
    };
}

vnni!(
    /** AVX-512 VNNI with VL. */
    Avx512Vnni,
    _mm256_dpbusd_epi32,
    #[inline(always)]
    unsafe fn factors<K: Class, const BYTES: usize>(blocks: &[u8]) -> [__m128i; 2] {
        // SAFETY: passed on.
        unsafe { words::factors::<K, BYTES>(blocks) }
    },
    #[inline(always)]
    unsafe fn fifth_bits(codes: __m256i, bits: &[u8; 4]) -> __m256i {
        // SAFETY: passed on.
        unsafe { words::fifth_bits(codes, bits) }
    }
);

vnni!(/** AVX-VNNI. */ AvxVnni, _mm256_dpbusd_avx_epi32);
