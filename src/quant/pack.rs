//! Codes of a few bits, packed into bytes; and the fields of a block, read and written in order.
//!
//! All formats pack alike, with two numbers. A byte holds `8 / BITS` fields. Byte `l` of a group
//! of `STRIDE` bytes holds, from its low bits up, codes `l`, `l + STRIDE`, `l + 2 * STRIDE`, ... of
//! the group's `STRIDE * 8 / BITS` codes. (`STRIDE` = 1 is plain little-endian bit order.)

/// Joins the fields of `bytes`, shifted left by `shift`, into `codes`, which has `8 / BITS` codes
/// per byte: `codes[..] |= field << shift`.
#[inline]
pub fn unpack<const BITS: usize, const STRIDE: usize>(
    bytes: &[u8],
    shift: usize,
    codes: &mut [u8],
) {
    let fields = 8 / BITS;
    debug_assert_eq!(bytes.len() * fields, codes.len());
    let mask = ((1u16 << BITS) - 1) as u8;
    for (group, codes) in bytes.chunks_exact(STRIDE).zip(codes.chunks_exact_mut(STRIDE * fields)) {
        for (field, codes) in codes.chunks_exact_mut(STRIDE).enumerate() {
            for (code, byte) in codes.iter_mut().zip(group) {
                *code |= ((byte >> (BITS * field)) & mask) << shift;
            }
        }
    }
}

/// The inverse of [`unpack`]: bits `shift..shift + BITS` of each code, packed.
#[inline(always)]
pub fn pack<const BITS: usize, const STRIDE: usize, const N: usize>(
    codes: &[u8],
    shift: usize,
) -> [u8; N] {
    let fields = 8 / BITS;
    debug_assert_eq!(N * fields, codes.len());
    let mask = ((1u16 << BITS) - 1) as u8;
    let mut bytes = [0; N];
    for (group, codes) in bytes.chunks_exact_mut(STRIDE).zip(codes.chunks_exact(STRIDE * fields)) {
        for (field, codes) in codes.chunks_exact(STRIDE).enumerate() {
            for (byte, code) in group.iter_mut().zip(codes) {
                *byte |= ((code >> shift) & mask) << (BITS * field);
            }
        }
    }
    bytes
}

/// Takes the next `N` bytes off the front of a block. The block's array type is at least as long as
/// its fields together, as the table's sizes are sums of them.
#[inline]
pub fn take<'a, const N: usize>(block: &mut &'a [u8]) -> &'a [u8; N] {
    let (field, rest) = block.split_first_chunk().expect("a block holds its fields");
    *block = rest;
    field
}

/// Takes the next two bytes as an f16 scale, widened.
#[inline]
pub fn take_f16(block: &mut &[u8]) -> f32 {
    super::f16_to_f32(u16::from_le_bytes(*take(block)))
}

/// Fills a block with its fields, which together are exactly as long.
#[inline(always)]
pub fn put<const N: usize>(block: &mut [u8; N], fields: &[&[u8]]) {
    let mut rest = block.as_mut_slice();
    for field in fields {
        let (head, tail) = rest.split_at_mut(field.len());
        head.copy_from_slice(field);
        rest = tail;
    }
    debug_assert!(rest.is_empty());
}
