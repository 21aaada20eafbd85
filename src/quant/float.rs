//! The float formats, and the conversions between f32 and the two 16-bit floats.

use half::{bf16, f16};

/// Widens a binary16 number; exact.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// Rounds to binary16, nearest even; too large becomes infinity; a NaN becomes the quiet NaN with
/// its sign (as in ggml, where processors' instructions keep some of its payload).
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    if value.is_nan() {
        return if value.is_sign_negative() { 0xfe00 } else { 0x7e00 };
    }
    f16::from_f32(value).to_bits()
}

/// Widens a bfloat16 number; exact.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to bfloat16, nearest even; a NaN stays one, made quiet.
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    bf16::from_f32(value).to_bits()
}

pub fn decode_f32(bytes: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*bytes);
}

pub fn encode_f32(value: &[f32; 1], out: &mut [u8; 4]) {
    *out = value[0].to_le_bytes();
}

pub fn decode_f16(bytes: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f16_to_f32(u16::from_le_bytes(*bytes));
}

pub fn encode_f16(value: &[f32; 1], out: &mut [u8; 2]) {
    *out = f32_to_f16(value[0]).to_le_bytes();
}

pub fn decode_bf16(bytes: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = bf16_to_f32(u16::from_le_bytes(*bytes));
}

pub fn encode_bf16(value: &[f32; 1], out: &mut [u8; 2]) {
    *out = f32_to_bf16(value[0]).to_le_bytes();
}
