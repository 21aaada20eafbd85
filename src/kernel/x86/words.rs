//! What AVX-512 takes out of blocks of 32 in its own way: an instruction picks any 16-bit words of two
//! registers, and bits in memory select bytes.

use std::arch::{asm, x86_64::*};

use super::super::unpack::{Class, Min};

/// As halves, d and (where there are minima) m of eight blocks, BYTES each.
///
/// # Safety
/// The CPU has AVX-512 BW.
#[inline(always)]
pub unsafe fn factors<K: Class, const BYTES: usize>(blocks: &[u8]) -> [__m128i; 2] {
    // SAFETY: passed on.
    unsafe {
        let m = match K::MIN {
            Min::None => _mm_setzero_si128(),
            _ => words::<BYTES, 2>(blocks),
        };
        [words::<BYTES, 0>(blocks), m]
    }
}

/// Codes of 4 bits, and 16 more where the bit is set.
///
/// # Safety
/// The CPU has AVX-512 BW and VL.
#[inline(always)]
pub unsafe fn fifth_bits(codes: __m256i, bits: &[u8; 4]) -> __m256i {
    // SAFETY: passed on.
    unsafe { _mm256_mask_add_epi8(codes, u32::from_le_bytes(*bits), codes, _mm256_set1_epi8(16)) }
}

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
