//! Blocks of 32 values with one scale: Q4_0, Q5_0 and Q8_0 (`w = d * q`, signed), Q4_1 and Q5_1
//! (`w = d * q + m`, m the smallest value).
//!
//! Nibbles are packed so that byte `j` holds values `j` and `j + 16`; fifth bits are in plain order.

use super::f32_to_f16;
use super::pack::{pack, put, take, take_f16, unpack};
use super::round::{extreme, inverse, larger, nearest_away, truncate};

/// Values per block.
const LEN: usize = 32;

fn nibbles(bytes: &[u8; 16]) -> [u8; LEN] {
    let mut codes = [0; LEN];
    unpack::<4, 16>(bytes, 0, &mut codes);
    codes
}

fn five_bits(high: &[u8; 4], low: &[u8; 16]) -> [u8; LEN] {
    let mut codes = nibbles(low);
    unpack::<1, 1>(high, 4, &mut codes);
    codes
}

fn signed(d: f32, codes: &[u8; LEN], offset: i32, out: &mut [f32; LEN]) {
    for (w, &code) in out.iter_mut().zip(codes) {
        *w = d * (i32::from(code) - offset) as f32;
    }
}

fn shifted(d: f32, m: f32, codes: &[u8; LEN], out: &mut [f32; LEN]) {
    for (w, &code) in out.iter_mut().zip(codes) {
        *w = d * f32::from(code) + m;
    }
}

pub fn decode_q4_0(block: &[u8; 18], out: &mut [f32; LEN]) {
    let block = &mut block.as_slice();
    let d = take_f16(block);
    signed(d, &nibbles(take(block)), 8, out);
}

pub fn decode_q4_1(block: &[u8; 20], out: &mut [f32; LEN]) {
    let block = &mut block.as_slice();
    let (d, m) = (take_f16(block), take_f16(block));
    shifted(d, m, &nibbles(take(block)), out);
}

pub fn decode_q5_0(block: &[u8; 22], out: &mut [f32; LEN]) {
    let block = &mut block.as_slice();
    let d = take_f16(block);
    signed(d, &five_bits(take(block), take(block)), 16, out);
}

pub fn decode_q5_1(block: &[u8; 24], out: &mut [f32; LEN]) {
    let block = &mut block.as_slice();
    let (d, m) = (take_f16(block), take_f16(block));
    shifted(d, m, &five_bits(take(block), take(block)), out);
}

pub fn decode_q8_0(block: &[u8; 34], out: &mut [f32; LEN]) {
    let block = &mut block.as_slice();
    let d = take_f16(block);
    for (w, &code) in out.iter_mut().zip(take::<LEN>(block)) {
        *w = d * f32::from(code as i8);
    }
}

/// Scale (f16 bits) and codes `0..2 * half` of a signed format. The value of the largest magnitude
/// gets code 0, that is `-half`: the range has one more step on that side.
// Inlined, it makes LLVM 22 crash where it compiles for WebAssembly's vectors.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
#[cfg_attr(target_arch = "wasm32", inline(never))]
fn encode_signed(x: &[f32; LEN], half: i8) -> ([u8; 2], [u8; LEN]) {
    let d = extreme(x) / -f32::from(half);
    let id = inverse(d);
    let mut codes = [0; LEN];
    for i in 0..LEN {
        let code = truncate(x[i] * id + (f32::from(half) + 0.5)) as i8;
        codes[i] = code.min(2 * half - 1) as u8;
    }
    (f32_to_f16(d).to_le_bytes(), codes)
}

/// Scale and minimum (f16 bits) and codes of a format whose codes are steps up from the minimum.
/// `to_code` turns the distance in steps, plus one half, into a code.
#[inline(always)]
fn encode_shifted(
    x: &[f32; LEN],
    steps: f32,
    to_code: impl Fn(f32) -> u8,
) -> ([u8; 2], [u8; 2], [u8; LEN]) {
    let (mut min, mut max) = ([f32::MAX; 8], [-f32::MAX; 8]);
    for x in x.chunks_exact(8) {
        for lane in 0..8 {
            min[lane] = -larger(-min[lane], -x[lane]);
            max[lane] = larger(max[lane], x[lane]);
        }
    }
    let mut min = min.iter().fold(f32::MAX, |a, &b| -larger(-a, -b));
    let mut max = max.iter().fold(-f32::MAX, |a, &b| larger(a, b));
    // Of zeros, whose signs may differ, the first counts.
    let zero = || *x.iter().find(|&&x| x == 0.0).unwrap_or(&0.0);
    if min == 0.0 {
        min = zero();
    }
    if max == 0.0 {
        max = zero();
    }
    let d = (max - min) / steps;
    let id = inverse(d);
    let mut codes = [0; LEN];
    for i in 0..LEN {
        codes[i] = to_code((x[i] - min) * id + 0.5);
    }
    (f32_to_f16(d).to_le_bytes(), f32_to_f16(min).to_le_bytes(), codes)
}

#[inline(always)]
pub fn encode_q4_0(x: &[f32; LEN], block: &mut [u8; 18]) {
    let (d, codes) = encode_signed(x, 8);
    put(block, &[&d, &pack::<4, 16, 16>(&codes, 0)]);
}

#[inline(always)]
pub fn encode_q4_1(x: &[f32; LEN], block: &mut [u8; 20]) {
    let (d, m, codes) = encode_shifted(x, 15.0, |steps| (truncate(steps) as i8).min(15) as u8);
    put(block, &[&d, &m, &pack::<4, 16, 16>(&codes, 0)]);
}

#[inline(always)]
pub fn encode_q5_0(x: &[f32; LEN], block: &mut [u8; 22]) {
    let (d, codes) = encode_signed(x, 16);
    put(block, &[&d, &pack::<1, 1, 4>(&codes, 4), &pack::<4, 16, 16>(&codes, 0)]);
}

#[inline(always)]
pub fn encode_q5_1(x: &[f32; LEN], block: &mut [u8; 24]) {
    let (d, m, codes) = encode_shifted(x, 31.0, |steps| truncate(steps) as u8);
    put(block, &[&d, &m, &pack::<1, 1, 4>(&codes, 4), &pack::<4, 16, 16>(&codes, 0)]);
}

#[inline(always)]
pub fn encode_q8_0(x: &[f32; LEN], block: &mut [u8; 34]) {
    let mut largest = [0f32; 8];
    let mut has_nan = false;
    for x in x.chunks_exact(8) {
        for lane in 0..8 {
            largest[lane] = larger(largest[lane], x[lane].abs());
            has_nan |= x[lane].is_nan();
        }
    }
    let mut amax = largest.iter().fold(0.0, |a, &b| larger(a, b));
    if has_nan {
        // Not f32::max, which would skip a NaN where ggml's MAX takes what follows it.
        amax = x.iter().fold(0.0, |amax, x| if amax > x.abs() { amax } else { x.abs() });
    }
    let d = amax / 127.0;
    let id = inverse(d);
    let mut codes = [0; LEN];
    for i in 0..LEN {
        codes[i] = nearest_away(x[i] * id) as u8;
    }
    put(block, &[&f32_to_f16(d).to_le_bytes(), &codes]);
}
