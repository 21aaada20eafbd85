//! Sixteen tokens in a 512-bit vector, multiplied by AVX-512 VNNI.

use std::arch::x86_64::*;

use super::{
    super::{
        acts::PANEL,
        lanes::LANES,
        panels::{STRIP, Vector},
        unpack::Class,
        vector::Floats,
    },
    transpose,
};

/// Sixteen tokens.
pub struct Zmm;

impl Floats for Zmm {
    const LANES: usize = 16;
    type Float = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn upper(from: *const u16) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(x: __m512, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn all_halves(x: u16) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(x.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn totals(sums: &[[f32; LANES]; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract; a sum is one vector long, the result a vector of four.
        unsafe {
            let [a, b, c, d] = sums;
            let (a, b) = (_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr()));
            let (c, d) = (_mm512_loadu_ps(c.as_ptr()), _mm512_loadu_ps(d.as_ptr()));
            // Sums of eights: a a | b b and c c | d d; of fours: a | b | c | d.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            let fours = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let pairs = _mm512_add_ps(fours, _mm512_permute_ps::<0b11_10_11_10>(fours));
            let ones = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
            let at = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let ones = _mm512_castps512_ps128(_mm512_permutexvar_ps(at, ones));
            let mut totals = [0.0; 4];
            _mm_storeu_ps(totals.as_mut_ptr(), ones);
            totals
        }
    }
}

impl Vector for Zmm {
    const UNSIGNED: bool = true;
    type Int = __m512i;

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[__m512i; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            for k in 0..N {
                let mut codes = [_mm512_setzero_si512(); C];
                for (codes, y) in codes.iter_mut().zip(y) {
                    *codes = _mm512_loadu_si512(y.add(PANEL * k).cast());
                }
                for (sums, w) in sums.iter_mut().zip(w) {
                    let w = _mm512_set1_epi32(w.add(4 * k).cast::<i32>().read_unaligned());
                    for (sum, y) in sums.iter_mut().zip(codes) {
                        *sum = _mm512_dpbusd_epi32(*sum, w, y);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pairs(sums: *const [i16; 2], [a, b]: [i16; 2]) -> __m512i {
        let factors = i32::from(b) << 16 | i32::from(a as u16);
        // SAFETY: by the trait's contract.
        unsafe { _mm512_madd_epi16(_mm512_loadu_si512(sums.cast()), _mm512_set1_epi32(factors)) }
    }
    #[inline(always)]
    unsafe fn none() -> __m512i {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn float(x: __m512i) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn fetch(at: *const u8) {
        // SAFETY: any address may be fetched.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(from: &[[f32; PANEL]; STRIP], to: &mut [[f32; STRIP]; PANEL]) {
        // SAFETY: by the trait's contract.
        unsafe { transpose::<16>(from, to) }
    }
}
