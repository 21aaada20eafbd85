//! Eight tokens in a 256-bit vector.

use std::{arch::x86_64::*, marker::PhantomData};

use super::{
    super::{
        acts::PANEL,
        lanes::LANES,
        panels::{STRIP, Vector},
        unpack::Class,
        vector::Floats,
    },
    dot::Dot,
    transpose,
};

/// Eight tokens, multiplied as `D` says.
pub struct Ymm<D>(PhantomData<D>);

impl<D: Dot> Floats for Ymm<D> {
    const LANES: usize = 8;
    type Float = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn upper(from: *const u16) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(x: __m256, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn all_halves(x: u16) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(x.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn totals(sums: &[[f32; LANES]; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract; a sum is two vectors long, the result one of four.
        unsafe {
            let mut eights = [_mm256_setzero_ps(); 4];
            for (eight, sum) in eights.iter_mut().zip(sums) {
                let at = sum.as_ptr();
                *eight = _mm256_add_ps(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8)));
            }
            let [a, b, c, d] = eights;
            // Sums of fours: a | c, b | d; of pairs: a a b b | c c d d.
            let ac = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a, c),
                _mm256_permute2f128_ps::<0x31>(a, c),
            );
            let bd = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(b, d),
                _mm256_permute2f128_ps::<0x31>(b, d),
            );
            let pairs = _mm256_add_ps(
                _mm256_shuffle_ps::<0b01_00_01_00>(ac, bd),
                _mm256_shuffle_ps::<0b11_10_11_10>(ac, bd),
            );
            let ones = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
            let (ab, cd) = (_mm256_castps256_ps128(ones), _mm256_extractf128_ps::<1>(ones));
            let mut totals = [0.0; 4];
            _mm_storeu_ps(totals.as_mut_ptr(), _mm_shuffle_ps::<0b10_00_10_00>(ab, cd));
            totals
        }
    }
}

impl<D: Dot> Vector for Ymm<D> {
    const UNSIGNED: bool = D::UNSIGNED;
    type Int = __m256i;

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[__m256i; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        // SAFETY: the same contract.
        unsafe { D::products::<K, N, R, C>(sums, w, y) }
    }

    #[inline(always)]
    unsafe fn pairs(sums: *const [i16; 2], [a, b]: [i16; 2]) -> __m256i {
        let factors = i32::from(b) << 16 | i32::from(a as u16);
        // SAFETY: by the trait's contract.
        unsafe { _mm256_madd_epi16(_mm256_loadu_si256(sums.cast()), _mm256_set1_epi32(factors)) }
    }
    #[inline(always)]
    unsafe fn none() -> __m256i {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn float(x: __m256i) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn fetch(at: *const u8) {
        // SAFETY: any address may be fetched.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(from: &[[f32; PANEL]; STRIP], to: &mut [[f32; STRIP]; PANEL]) {
        // SAFETY: by the trait's contract.
        unsafe { transpose::<8>(from, to) }
    }
}
