//! The formats unpacked from eight rows at once, which become the lanes of 256-bit vectors.

use std::arch::x86_64::*;

use super::{
    super::super::{
        scalar::IQ4_VALUES,
        unpack::{
            IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Unpack,
        },
    },
    Half, LoadEight, Rows,
};

impl Rows {
    /// 16 bytes of rows r and r + 4.
    #[inline(always)]
    unsafe fn two(self, r: usize, at: usize) -> __m256i {
        // SAFETY: the CPU has AVX2; the bytes are there.
        unsafe {
            let at = self.at.add(r * self.bytes + at);
            let x = _mm256_castsi128_si256(_mm_loadu_si128(at.cast()));
            _mm256_inserti128_si256::<1>(x, _mm_loadu_si128(at.add(4 * self.bytes).cast()))
        }
    }

    /// 16 bytes of each row from byte `at` on, as four vectors of 32 bits.
    #[inline(always)]
    unsafe fn fours(self, at: usize) -> [__m256i; 4] {
        // SAFETY: passed on.
        unsafe {
            let (a, b) = (self.two(0, at), self.two(1, at));
            let (c, d) = (self.two(2, at), self.two(3, at));
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    /// 32 bytes of each row from byte `at` on.
    #[inline(always)]
    unsafe fn eights(self, at: usize) -> [__m256i; 8] {
        // SAFETY: passed on.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (self.fours(at), self.fours(at + 16)) };
        [a, b, c, d, e, f, g, h]
    }
}

/// Each byte's bits from `shift` on, of which `mask` are kept.
#[inline(always)]
unsafe fn field<const SHIFT: i32>(x: __m256i, mask: i8) -> __m256i {
    // SAFETY: the CPU has AVX-512 BW and VL.
    unsafe { _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(x), _mm256_set1_epi8(mask)) }
}

/// As [`field`], of several vectors. Not `map`, whose closures aren't compiled with the CPU's
/// features.
#[inline(always)]
unsafe fn fields<const SHIFT: i32, const N: usize>(mut x: [__m256i; N], mask: i8) -> [__m256i; N] {
    for x in &mut x {
        // SAFETY: passed on.
        *x = unsafe { field::<SHIFT>(*x, mask) };
    }
    x
}

/// 128 added to each signed byte.
#[inline(always)]
unsafe fn unsigned(mut x: [__m256i; 8]) -> [__m256i; 8] {
    for x in &mut x {
        // SAFETY: the CPU has AVX-512 VL.
        *x = unsafe { _mm256_xor_si256(*x, _mm256_set1_epi8(i8::MIN)) };
    }
    x
}

/// The binary16 in the low half of each lane.
#[inline(always)]
unsafe fn low_half(x: __m256i) -> __m256 {
    // SAFETY: the CPU has AVX-512 VL.
    unsafe { _mm256_cvtph_ps(_mm256_cvtepi32_epi16(x)) }
}

/// The binary16 in the high half of each lane.
#[inline(always)]
unsafe fn high_half(x: __m256i) -> __m256 {
    // SAFETY: the CPU has AVX-512 VL.
    unsafe { low_half(_mm256_srli_epi32::<16>(x)) }
}

/// -x.
#[inline(always)]
unsafe fn minus(x: __m256) -> __m256 {
    // SAFETY: the CPU has AVX2.
    unsafe { _mm256_xor_ps(x, _mm256_set1_ps(-0.0)) }
}

/// Low nibbles, then high nibbles.
#[inline(always)]
unsafe fn nibbles(x: [__m256i; 4]) -> [__m256i; 8] {
    // SAFETY: the CPU has AVX-512 BW and VL.
    unsafe {
        let ([a, b, c, d], [e, f, g, h]) = (fields::<0, _>(x, 15), fields::<4, _>(x, 15));
        [a, b, c, d, e, f, g, h]
    }
}

/// 16 is added to code k of 32 where bit k is set.
#[inline(always)]
unsafe fn fifth_bits(mut codes: [__m256i; 8], bits: __m256i) -> [__m256i; 8] {
    // SAFETY: the CPU has AVX-512 BW and VL.
    unsafe {
        let own = [_mm256_set1_epi32(0x0804_0201), _mm256_set1_epi32(0x8040_2010_u32 as i32)];
        for (k, codes) in codes.iter_mut().enumerate() {
            // Byte k / 2 of a lane's four, four times.
            let byte = _mm256_add_epi8(
                _mm256_setr_epi32(
                    0,
                    0x0404_0404,
                    0x0808_0808,
                    0x0c0c_0c0c,
                    0,
                    0x0404_0404,
                    0x0808_0808,
                    0x0c0c_0c0c,
                ),
                _mm256_set1_epi8((k / 2) as i8),
            );
            let set = _mm256_test_epi8_mask(_mm256_shuffle_epi8(bits, byte), own[k % 2]);
            *codes = _mm256_mask_add_epi8(*codes, set, *codes, _mm256_set1_epi8(16));
        }
        codes
    }
}

/// Values of the non-linear 4-bit formats, 128 added, for nibbles.
#[inline(always)]
unsafe fn iq4_values(mut nibbles: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the table is 16 bytes long; the CPU has AVX-512 BW and VL.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_VALUES.as_ptr().cast()));
        let table = _mm256_xor_si256(table, _mm256_set1_epi8(i8::MIN));
        for x in &mut nibbles {
            *x = _mm256_shuffle_epi8(table, *x);
        }
        nibbles
    }
}

/// A format of blocks of 32: codes, d, and m where there are minima.
macro_rules! blocks {
    ($name:ident, |$rows:ident| ($codes:expr, $d:expr $(, $m:expr)?)) => {
        impl LoadEight for $name {
            #[inline(always)]
            unsafe fn load_eight(rows: Rows, n_blocks: usize, out: &mut Half) {
                for b in 0..n_blocks {
                    // SAFETY: passed on.
                    unsafe {
                        let $rows = Rows { at: rows.at.add(b * (Self::BYTES / 8)), ..rows };
                        out.codes(b, $codes);
                        out.d(b, $d);
                        $(out.m(b, $m);)?
                    }
                }
            }
        }
    };
}

blocks!(Q4_0, |rows| (nibbles(rows.fours(2)), low_half(rows.fours(0)[0])));
blocks!(Q4_1, |rows| (
    nibbles(rows.fours(4)),
    low_half(rows.fours(0)[0]),
    high_half(rows.fours(0)[0])
));
blocks!(Q5_0, |rows| (
    fifth_bits(nibbles(rows.fours(6)), rows.fours(2)[0]),
    low_half(rows.fours(0)[0])
));
blocks!(Q5_1, |rows| (
    fifth_bits(nibbles(rows.fours(8)), rows.fours(4)[0]),
    low_half(rows.fours(0)[0]),
    high_half(rows.fours(0)[0])
));
blocks!(Q8_0, |rows| (unsigned(rows.eights(2)), low_half(rows.fours(0)[0])));
blocks!(IQ4_NL, |rows| (iq4_values(nibbles(rows.fours(2))), low_half(rows.fours(0)[0])));

/// Byte `i` of each lane.
#[inline(always)]
unsafe fn byte(x: __m256i, i: usize) -> __m256i {
    // SAFETY: the CPU has AVX-512 VL.
    unsafe {
        let shift = _mm_cvtsi32_si128(8 * i as i32);
        _mm256_and_si256(_mm256_srl_epi32(x, shift), _mm256_set1_epi32(255))
    }
}

/// Byte `i` of each lane, signed.
#[inline(always)]
unsafe fn signed_byte(x: __m256i, i: usize) -> __m256i {
    // SAFETY: the CPU has AVX-512 VL.
    unsafe {
        let shift = _mm_cvtsi32_si128(24 - 8 * i as i32);
        _mm256_srai_epi32::<24>(_mm256_sll_epi32(x, shift))
    }
}

/// Factors of Q4_K and Q5_K: d times a scale, -dmin times a minimum, eight times 6 bits each in 12
/// bytes. Products with a binary16 are exact.
#[inline(always)]
unsafe fn six_bits(rows: Rows, out: &mut Half) {
    // SAFETY: passed on.
    unsafe {
        let [factors, a, b, c] = rows.fours(0);
        let top = |x| _mm256_and_si256(_mm256_srli_epi32::<2>(x), _mm256_set1_epi8(0x30));
        let scales = [field::<0>(a, 63), _mm256_or_si256(field::<0>(c, 15), top(a))];
        let mins = [field::<0>(b, 63), _mm256_or_si256(field::<4>(c, 15), top(b))];
        let (d, m) = (low_half(factors), minus(high_half(factors)));
        for b in 0..8 {
            out.d(b, _mm256_mul_ps(d, _mm256_cvtepi32_ps(byte(scales[b / 4], b % 4))));
            out.m(b, _mm256_mul_ps(m, _mm256_cvtepi32_ps(byte(mins[b / 4], b % 4))));
        }
    }
}

/// Sixteen signed bytes as f32.
#[inline(always)]
unsafe fn per_16(bytes: [__m256i; 4]) -> [__m256; 16] {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let mut out = [_mm256_setzero_ps(); 16];
        for (i, out) in out.iter_mut().enumerate() {
            *out = _mm256_cvtepi32_ps(signed_byte(bytes[i / 4], i % 4));
        }
        out
    }
}

/// 2-bit fields j = 0..4 of 32 bytes.
#[inline(always)]
unsafe fn two_bits(x: [__m256i; 8]) -> [[__m256i; 8]; 4] {
    // SAFETY: the CPU has AVX-512 BW and VL.
    unsafe {
        [fields::<0, _>(x, 3), fields::<2, _>(x, 3), fields::<4, _>(x, 3), fields::<6, _>(x, 3)]
    }
}

/// `value` is added to the codes of block b where bit b is set.
#[inline(always)]
unsafe fn add_bit(codes: &mut [__m256i; 8], bits: [__m256i; 8], b: usize, value: i8) {
    for (codes, bits) in codes.iter_mut().zip(bits) {
        // SAFETY: the CPU has AVX-512 BW and VL.
        unsafe {
            let set = _mm256_test_epi8_mask(bits, _mm256_set1_epi8((1u8 << b) as i8));
            *codes = _mm256_mask_add_epi8(*codes, set, *codes, _mm256_set1_epi8(value));
        }
    }
}

/// A format of superblocks.
macro_rules! superblock {
    ($name:ident, |$rows:ident, $out:ident| $fill:expr) => {
        impl LoadEight for $name {
            #[inline(always)]
            unsafe fn load_eight($rows: Rows, _: usize, $out: &mut Half) {
                // SAFETY: passed on.
                unsafe { $fill }
            }
        }
    };
}

superblock!(Q2_K, |rows, out| {
    for h in 0..2 {
        for (j, codes) in two_bits(rows.eights(16 + 32 * h)).into_iter().enumerate() {
            out.codes(4 * h + j, codes);
        }
    }
    let both = rows.fours(0);
    out.scales(per_16(fields::<0, _>(both, 15)));
    out.mins(per_16(fields::<4, _>(both, 15)));
    let factors = rows.fours(68)[3];
    let d = low_half(factors);
    (0..8).for_each(|b| out.d(b, d));
    let m = minus(high_half(factors));
    (0..8).for_each(|b| out.m(b, m));
});

superblock!(Q3_K, |rows, out| {
    let high = rows.eights(0);
    for h in 0..2 {
        for (j, mut codes) in two_bits(rows.eights(32 + 32 * h)).into_iter().enumerate() {
            add_bit(&mut codes, high, 4 * h + j, 4);
            out.codes(4 * h + j, codes);
        }
    }
    let [_, a, b, c] = rows.fours(92);
    let top = |x| _mm256_slli_epi32::<4>(_mm256_and_si256(x, _mm256_set1_epi8(3)));
    let scale = |low, x| _mm256_sub_epi8(_mm256_or_si256(low, top(x)), _mm256_set1_epi8(32));
    let scales = [
        scale(field::<0>(a, 15), c),
        scale(field::<0>(b, 15), _mm256_srli_epi32::<2>(c)),
        scale(field::<4>(a, 15), _mm256_srli_epi32::<4>(c)),
        scale(field::<4>(b, 15), _mm256_srli_epi32::<6>(c)),
    ];
    out.scales(per_16(scales));
    let d = high_half(rows.fours(94)[3]);
    (0..8).for_each(|b| out.d(b, d));
});

superblock!(Q4_K, |rows, out| {
    for c in 0..4 {
        let both = rows.eights(16 + 32 * c);
        out.codes(2 * c, fields::<0, _>(both, 15));
        out.codes(2 * c + 1, fields::<4, _>(both, 15));
    }
    six_bits(rows, out);
});

superblock!(Q5_K, |rows, out| {
    let high = rows.eights(16);
    for c in 0..4 {
        let both = rows.eights(48 + 32 * c);
        let low = [fields::<0, _>(both, 15), fields::<4, _>(both, 15)];
        for (t, mut codes) in low.into_iter().enumerate() {
            add_bit(&mut codes, high, 2 * c + t, 16);
            out.codes(2 * c + t, codes);
        }
    }
    six_bits(rows, out);
});

superblock!(Q6_K, |rows, out| {
    for h in 0..2 {
        let (first, second) = (rows.eights(64 * h), rows.eights(64 * h + 32));
        let low = [
            fields::<0, _>(first, 15),
            fields::<0, _>(second, 15),
            fields::<4, _>(first, 15),
            fields::<4, _>(second, 15),
        ];
        let high = two_bits(rows.eights(128 + 32 * h));
        for (j, (mut codes, high)) in low.into_iter().zip(high).enumerate() {
            for (codes, high) in codes.iter_mut().zip(high) {
                *codes = _mm256_or_si256(*codes, _mm256_slli_epi16::<4>(high));
            }
            out.codes(4 * h + j, codes);
        }
    }
    out.scales(per_16(rows.fours(192)));
    let d = high_half(rows.fours(194)[3]);
    (0..8).for_each(|b| out.d(b, d));
});

superblock!(IQ4_XS, |rows, out| {
    for b in 0..8 {
        out.codes(b, iq4_values(nibbles(rows.fours(8 + 16 * b))));
    }
    let [first, low, ..] = rows.fours(0);
    let (d, high) = (low_half(first), _mm256_srli_epi32::<16>(first));
    for b in 0..8 {
        // Nibble b of `low`, and above it bits 2b and 2b + 1 of `high`.
        let low = _mm256_srl_epi32(low, _mm_cvtsi32_si128(4 * b));
        let high = _mm256_srl_epi32(high, _mm_cvtsi32_si128(2 * b));
        let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
        let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
        let scale = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
        out.d(b as usize, _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)));
    }
});
