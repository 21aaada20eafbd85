//! How 256-bit vectors multiply codes: with VNNI in one instruction, without it in two or three.

use std::arch::{asm, x86_64::*};

use super::{
    super::{
        acts::PANEL,
        unpack::{Class, Min},
    },
    load,
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
    ($(#[$doc:meta])* $name:ident, $dot:ident $(, $own:item)*) => {
        $(#[$doc])*
        pub struct $name;

        impl Dot for $name {
            const UNSIGNED: bool = true;
            $($own)*

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

/// Where the 16 bits at byte `at` of eight blocks lie in whole lines of 64 bytes, read from byte 0 on, the
/// last one from the blocks' end back: for lines 2 * `pair` and 2 * `pair` + 1 the index of each word,
/// and which of the eight words these lines have.
const fn places(bytes: usize, at: usize, pair: usize) -> ([i16; 32], u32) {
    let (mut index, mut mask) = ([0; 32], 0);
    let mut b = 0;
    while b < 8 {
        let mut line = 0;
        while line < 2 {
            let from = line_at(bytes, 2 * pair + line);
            let place = bytes * b + at;
            if mask >> b & 1 == 0 && from <= place && place + 2 <= from + 64 {
                index[b] = (32 * line + (place - from) / 2) as i16;
                mask |= 1 << b;
            }
            line += 1;
        }
        b += 1;
    }
    (index, mask)
}

/// Where line `i` of eight blocks is read from.
const fn line_at(bytes: usize, i: usize) -> usize {
    let last = 8 * bytes - 64;
    if 64 * i < last { 64 * i } else { last }
}

vnni!(
    /** AVX-512 VNNI with VL. */
    Avx512Vnni,
    _mm256_dpbusd_epi32,
    /// An instruction takes any words of two registers; without it there are sixteen.
    #[inline(always)]
    unsafe fn factors<K: Class, const BYTES: usize>(blocks: &[u8]) -> [__m128i; 2] {
        // SAFETY: the CPU has AVX-512 BW.
        unsafe {
            let m = match K::MIN {
                Min::None => _mm_setzero_si128(),
                _ => words::<BYTES, 2>(blocks),
            };
            [words::<BYTES, 0>(blocks), m]
        }
    },
    #[inline(always)]
    unsafe fn fifth_bits(codes: __m256i, bits: &[u8; 4]) -> __m256i {
        // SAFETY: the CPU has AVX-512 BW and VL.
        unsafe {
            _mm256_mask_add_epi8(codes, u32::from_le_bytes(*bits), codes, _mm256_set1_epi8(16))
        }
    }
);

/// The 16 bits at byte AT, which is even, of eight blocks.
#[inline(always)]
unsafe fn words<const BYTES: usize, const AT: usize>(blocks: &[u8]) -> __m128i {
    let (low, high) = const { (places(BYTES, AT, 0), places(BYTES, AT, 1)) };
    let (at, mut zero) = (blocks[..8 * BYTES].as_ptr(), 0usize);
    // SAFETY: the CPU has AVX-512 BW; lines are inside eight blocks.
    unsafe {
        // LLVM doesn't learn that this is 0, nor that codes lie in these lines too: it would take them out
        // of here, by many more instructions than loads are.
        asm!("/* {} */", inout(reg) zero, options(pure, nomem, nostack, preserves_flags));
        let at = at.add(zero);
        let line = |i| _mm512_loadu_si512(at.add(line_at(BYTES, i)).cast());
        let index = |of: &[i16; 32]| _mm512_loadu_si512(of.as_ptr().cast());
        let mut words = _mm512_permutex2var_epi16(line(0), index(&low.0), line(1));
        if low.1 != 0xff {
            let rest = _mm512_permutex2var_epi16(line(2), index(&high.0), line(3));
            words = _mm512_mask_blend_epi16(low.1, rest, words);
        }
        _mm512_castsi512_si128(words)
    }
}

vnni!(/** AVX-VNNI. */ AvxVnni, _mm256_dpbusd_avx_epi32);
