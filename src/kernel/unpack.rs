//! Weights unpacked for panels of tokens: one plain routine per format, compiled by each table for
//! its own instruction set, so that a table needs one microkernel per [`Class`] and no more.
//!
//! This is deliberately another program than `scalar`, which it is tested against.

use super::{
    panels::{PACK, Pack},
    scalar::IQ4_VALUES,
};

/// 256 weights of one row, or what is left of it: the weight of a code is `d * (code - offset) + m`,
/// or `d * scale * (code - offset) + m * min` where halves of a block have their own scales.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Group {
    /// Codes in their natural order.
    pub codes: [i8; 256],
    /// Factor of the sum of products of each block of 32.
    pub d: [f32; 8],
    /// Factor of the sum of activation codes of each block.
    pub m: [f32; 8],
    /// Scales of both halves of each block, where the format has such.
    pub scales: [[i16; 2]; 8],
    /// Minima of both halves of each block, where the format has such.
    pub mins: [[i16; 2]; 8],
}

impl Group {
    /// Zeros.
    pub const ZERO: Group =
        Group { codes: [0; 256], d: [0.0; 8], m: [0.0; 8], scales: [[0; 2]; 8], mins: [[0; 2]; 8] };
}

/// What a product must do beside multiplying codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Min {
    /// Nothing.
    None,
    /// Add m times the sum of a block's activation codes.
    Block,
    /// As `Block`, with an integer factor for each half.
    Halves,
}

/// What a microkernel must know of a format.
pub trait Class {
    /// Largest code, where codes are 0..=MAX; 0 where they are any signed bytes.
    const MAX: u8;
    /// To be taken off each code.
    const OFFSET: i16 = 0;
    /// Whether halves of a block have scales of their own.
    const HALVES: bool = false;
    /// Minima.
    const MIN: Min = Min::None;
    /// Whether codes are signed bytes.
    const SIGNED: bool = Self::MAX == 0;
}

macro_rules! class {
    ($(#[$doc:meta])* $name:ident, $max:expr $(, $what:ident = $value:expr)*) => {
        $(#[$doc])*
        pub struct $name;
        impl Class for $name {
            const MAX: u8 = $max;
            $(const $what: class!(@type $what) = $value;)*
        }
    };
    (@type OFFSET) => { i16 };
    (@type HALVES) => { bool };
    (@type MIN) => { Min };
}

class!(/** Codes of 4 bits with an offset. */ Nibbles, 15, OFFSET = 8);
class!(/** Codes of 4 bits with a minimum. */ NibblesMin, 15, MIN = Min::Block);
class!(/** Codes of 5 bits with an offset. */ Fives, 31, OFFSET = 16);
class!(/** Codes of 5 bits with a minimum. */ FivesMin, 31, MIN = Min::Block);
class!(/** Signed bytes. */ Bytes, 0);
class!(/** Codes of 2 bits, scales and minima of 16. */ Twos, 3, HALVES = true, MIN = Min::Halves);
class!(/** Codes of 3 bits, scales of 16. */ Threes, 7, OFFSET = 4, HALVES = true);
class!(/** Codes of 6 bits, scales of 16. */ Sixes, 63, OFFSET = 32, HALVES = true);

/// How a format is unpacked.
pub trait Unpack {
    /// Bytes of 256 weights.
    const BYTES: usize;
    /// What it takes to multiply it.
    type Class: Class;
    /// Whether a block is 256 weights, so that rows are of whole ones; else it is 32.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const SUPER: bool;
    /// Whole blocks of up to 256 weights.
    fn unpack(blocks: &[u8], out: &mut Group);
}

/// binary16 to f32, exact: a table's own conversion isn't at hand in plain code, and `half` asks
/// the CPU for its features at each call.
#[inline(always)]
pub fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff) << 13;
    // Exponents count from 15 in binary16 and from 127 in f32; the product is exact, also where
    // the half is subnormal.
    let finite = (f32::from_bits(rest) * f32::from_bits((127 + 112) << 23)).to_bits();
    let magnitude = if rest >= 0x7c00 << 13 { rest | 0x7f80_0000 } else { finite };
    f32::from_bits(magnitude | sign)
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("a whole block")
}

/// Low nibbles, then high nibbles.
#[inline(always)]
fn nibbles(bytes: &[u8; 16], out: &mut [i8]) {
    let out: &mut [i8; 32] = out.first_chunk_mut().expect("32 codes");
    for i in 0..16 {
        out[i] = (bytes[i] & 15) as i8;
        out[16 + i] = (bytes[i] >> 4) as i8;
    }
}

/// Adds 16 where the bit is set.
#[inline(always)]
fn fifth_bits(bits: &[u8; 4], out: &mut [i8]) {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    for (out, &bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        // Eight codes in a word: each byte keeps one of eight bits, and moves it to 16's place by
        // way of the highest. Vectors without shifts of their own for each lane would do worse.
        let kept = (u64::from(bits) * ONES) & 0x8040_2010_0804_0201;
        let sixteens = ((kept + 0x7f * ONES) >> 3) & (0x10 * ONES);
        let codes = u64::from_le_bytes(out.map(i8::cast_unsigned)) | sixteens;
        *out = codes.to_le_bytes().map(u8::cast_signed);
    }
}

#[inline(always)]
fn iq4_values(out: &mut [i8]) {
    for code in out {
        *code = IQ4_VALUES[*code as usize & 15];
    }
}

/// A format of blocks of 32, `$bytes` each.
macro_rules! blocks {
    ($name:ident, $class:ident, $bytes:expr, |$block:ident, $codes:ident| $unpack:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;
        impl Unpack for $name {
            const BYTES: usize = 8 * $bytes;
            type Class = $class;
            const SUPER: bool = false;
            #[inline(always)]
            fn unpack(blocks: &[u8], out: &mut Group) {
                for (b, $block) in blocks.chunks_exact($bytes).enumerate() {
                    let $block: &[u8; $bytes] = part($block, 0);
                    out.d[b] = half_at($block, 0);
                    if matches!(<$class as Class>::MIN, Min::Block) {
                        out.m[b] = half_at($block, 2);
                    }
                    let $codes = &mut out.codes[32 * b..][..32];
                    $unpack;
                }
            }
        }
    };
}

blocks!(Q4_0, Nibbles, 18, |block, codes| nibbles(part(block, 2), codes));
blocks!(Q4_1, NibblesMin, 20, |block, codes| nibbles(part(block, 4), codes));
blocks!(Q5_0, Fives, 22, |block, codes| {
    nibbles(part(block, 6), codes);
    fifth_bits(part(block, 2), codes);
});
blocks!(Q5_1, FivesMin, 24, |block, codes| {
    nibbles(part(block, 8), codes);
    fifth_bits(part(block, 4), codes);
});
blocks!(Q8_0, Bytes, 34, |block, codes| {
    for (code, byte) in codes.iter_mut().zip(&block[2..]) {
        *code = *byte as i8;
    }
});
blocks!(IQ4_NL, Bytes, 18, |block, codes| {
    nibbles(part(block, 2), codes);
    iq4_values(codes);
});

/// A format of superblocks, `$bytes` each.
macro_rules! superblock {
    ($name:ident, $class:ident, $bytes:expr, |$block:ident, $out:ident| $unpack:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;
        impl Unpack for $name {
            const BYTES: usize = $bytes;
            type Class = $class;
            const SUPER: bool = true;
            #[inline(always)]
            fn unpack(blocks: &[u8], $out: &mut Group) {
                let $block: &[u8; $bytes] = part(blocks, 0);
                $unpack
            }
        }
    };
}

/// Fields of 2 bits of 64 bytes: field j of 32 bytes are 32 codes.
#[inline(always)]
fn two_bits(bytes: &[u8; 64], codes: &mut [i8; 256]) {
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                codes[128 * h + 32 * j + l] = (bytes[32 * h + l] >> (2 * j) & 3) as i8;
            }
        }
    }
}

/// Nibbles of 128 bytes: low ones of 32 bytes, then their high ones.
#[inline(always)]
fn nibbles_by_32(bytes: &[u8; 128], codes: &mut [i8; 256]) {
    for c in 0..4 {
        for l in 0..32 {
            codes[64 * c + l] = (bytes[32 * c + l] & 15) as i8;
            codes[64 * c + 32 + l] = (bytes[32 * c + l] >> 4) as i8;
        }
    }
}

/// Scales and mins of Q4_K and Q5_K, 6 bits each, and what they multiply. Products with a binary16
/// are exact in f32.
#[inline(always)]
fn six_bits(s: &[u8; 12], d: f32, dmin: f32, out: &mut Group) {
    for b in 0..4 {
        out.d[b] = d * f32::from(s[b] & 63);
        out.m[b] = -(dmin * f32::from(s[b + 4] & 63));
        out.d[b + 4] = d * f32::from(s[b + 8] & 15 | s[b] >> 6 << 4);
        out.m[b + 4] = -(dmin * f32::from(s[b + 8] >> 4 | s[b + 4] >> 6 << 4));
    }
}

superblock!(Q2_K, Twos, 84, |block, out| {
    two_bits(part(block, 16), &mut out.codes);
    out.d = [half_at(block, 80); 8];
    out.m = [-half_at(block, 82); 8];
    for i in 0..16 {
        out.scales[i / 2][i % 2] = i16::from(block[i] & 15);
        out.mins[i / 2][i % 2] = i16::from(block[i] >> 4);
    }
});

superblock!(Q3_K, Threes, 110, |block, out| {
    two_bits(part(block, 32), &mut out.codes);
    let high: &[u8; 32] = part(block, 0);
    for b in 0..8 {
        for l in 0..32 {
            out.codes[32 * b + l] |= ((high[l] >> b & 1) << 2) as i8;
        }
    }
    out.d = [half_at(block, 108); 8];
    let s: &[u8; 12] = part(block, 96);
    for i in 0..16 {
        let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
        let top = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        out.scales[i / 2][i % 2] = i16::from(low | top << 4) - 32;
    }
});

superblock!(Q4_K, NibblesMin, 144, |block, out| {
    nibbles_by_32(part(block, 16), &mut out.codes);
    six_bits(part(block, 4), half_at(block, 0), half_at(block, 2), out);
});

superblock!(Q5_K, FivesMin, 176, |block, out| {
    nibbles_by_32(part(block, 48), &mut out.codes);
    let high: &[u8; 32] = part(block, 16);
    for b in 0..8 {
        for l in 0..32 {
            out.codes[32 * b + l] |= ((high[l] >> b & 1) << 4) as i8;
        }
    }
    six_bits(part(block, 4), half_at(block, 0), half_at(block, 2), out);
});

superblock!(Q6_K, Sixes, 210, |block, out| {
    let (low, high): (&[u8; 128], &[u8; 64]) = (part(block, 0), part(block, 128));
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                let low = low[64 * h + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
                let high = high[32 * h + l] >> (2 * j) & 3;
                out.codes[128 * h + 32 * j + l] = (low | high << 4) as i8;
            }
        }
    }
    out.d = [half_at(block, 208); 8];
    for i in 0..16 {
        out.scales[i / 2][i % 2] = i16::from(block[192 + i] as i8);
    }
});

superblock!(IQ4_XS, Bytes, 136, |block, out| {
    let high = u16::from_le_bytes([block[2], block[3]]);
    let d = half_at(block, 0);
    for b in 0..8 {
        let codes = &mut out.codes[32 * b..][..32];
        nibbles(part(block, 8 + 16 * b), codes);
        iq4_values(codes);
        let low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
        let scale = i16::from(low) + ((high >> (2 * b) & 3) << 4) as i16 - 32;
        out.d[b] = d * f32::from(scale);
    }
});

/// Rows of `n_in` weights, as they lie in the file, into packs `[n_rows.div_ceil(8),
/// n_in.div_ceil(256)]`. With `UNSIGNED`, signed codes get 128 added, for instructions that take
/// weights without a sign. Returns what is to be taken off each code.
#[inline(always)]
pub fn rows<F: Unpack, const UNSIGNED: bool>(
    w: &[u8],
    n_in: usize,
    n_rows: usize,
    out: &mut [Pack],
) -> i16 {
    let n_groups = n_in.div_ceil(256);
    let flip = UNSIGNED && F::Class::SIGNED;
    let mut group = Group::ZERO;
    for (r, row) in w.chunks_exact(w.len() / n_rows).enumerate() {
        for (g, blocks) in row.chunks(F::BYTES).enumerate() {
            F::unpack(blocks, &mut group);
            if flip {
                for code in &mut group.codes {
                    *code ^= i8::MIN;
                }
            }
            out[r / PACK * n_groups + g].put(r % PACK, &group);
        }
    }
    if flip { 128 } else { F::Class::OFFSET }
}
