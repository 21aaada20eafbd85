//! Four-bit codes for 16 unevenly spaced levels: IQ4_NL (`w = d * LEVELS[q]`, 32 values) and IQ4_XS
//! (256 values; sub-blocks of 32 with `w = d * (scale - 32) * LEVELS[q]`, 6-bit scales).

use super::pack::{pack, put, take, take_f16, unpack};
use super::round::{ZERO, extreme, inverse, nearest_in};
use super::{SUPERBLOCK, f32_to_f16};

/// Values per sub-block.
const SUB: usize = 32;
/// Trial scales that a search evaluates side by side: their sums are independent chains, which the
/// compiler can keep in vector lanes while each still adds in the stated order.
const LANES: usize = 4;

/// What the codes stand for (ggml's `kvalues_iq4nl`).
pub const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Halfway between neighbouring levels: a value at or above `MIDDLES[i]` is nearer to level `i + 1`.
/// The last entry is never reached.
const MIDDLES: [f32; 16] = {
    let mut middles = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        middles[i] = (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The code of the nearest level, without branches; NaN gets the last.
#[inline]
fn code(x: f32) -> usize {
    let mut below = 0;
    for step in [8, 4, 2, 1] {
        let is_below = x < MIDDLES[(below + step - 1) & 15];
        below += if is_below { 0 } else { step };
    }
    below
}

fn decode_sub(scale: f32, codes: &[u8], out: &mut [f32; SUB]) {
    for (w, &code) in out.iter_mut().zip(codes) {
        *w = scale * f32::from(LEVELS[usize::from(code & 15)]);
    }
}

pub fn decode_nl(block: &[u8; 18], out: &mut [f32; SUB]) {
    let block = &mut block.as_slice();
    let d = take_f16(block);
    let mut codes = [0; SUB];
    unpack::<4, 16>(take::<16>(block), 0, &mut codes);
    decode_sub(d, &codes, out);
}

pub fn decode_xs(block: &[u8; 136], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let d = take_f16(block);
    let mut scales = [0; 8];
    unpack::<2, 1>(take::<2>(block), 4, &mut scales);
    unpack::<4, 1>(take::<4>(block), 0, &mut scales);
    let mut codes = [0; SUPERBLOCK];
    unpack::<4, 16>(take::<128>(block), 0, &mut codes);
    let subs = codes.as_chunks::<SUB>().0.iter().zip(out.as_chunks_mut().0);
    for (&scale, (codes, out)) in scales.iter().zip(subs) {
        decode_sub(d * (f32::from(scale) - 32.0), codes, out);
    }
}

pub fn encode_nl(x: &[f32; SUB], block: &mut [u8; 18]) {
    let scale = best_scale(x);
    let codes = encode_sub(x, scale);
    put(block, &[&f32_to_f16(scale).to_le_bytes(), &pack::<4, 16, 16>(&codes, 0)]);
}

pub fn encode_xs(x: &[f32; SUPERBLOCK], block: &mut [u8; 136]) {
    let subs = x.as_chunks::<SUB>().0;
    let mut scales = [0.0; 8];
    for (scale, x) in scales.iter_mut().zip(subs) {
        *scale = best_scale(x);
    }
    let d = -extreme(&scales) / 32.0;
    let id = inverse(d);
    let levels = scales.map(|scale| nearest_in(id * scale, -32, 31));

    let mut codes = [0; SUPERBLOCK];
    for ((codes, x), level) in codes.as_chunks_mut().0.iter_mut().zip(subs).zip(levels) {
        // By the scale before it is rounded to f16, as ggml does.
        *codes = encode_sub(x, d * level as f32);
    }
    let stored = levels.map(|level| (level + 32) as u8);
    put(
        block,
        &[
            &f32_to_f16(d).to_le_bytes(),
            &pack::<2, 1, 2>(&stored, 4),
            &pack::<4, 1, 4>(&stored, 0),
            &pack::<4, 16, 128>(&codes, 0),
        ],
    );
}

fn encode_sub(x: &[f32; SUB], scale: f32) -> [u8; SUB] {
    let inverse = inverse(scale);
    x.map(|x| code(inverse * x) as u8)
}

/// The scale with the least error, weighted by x^2 (ggml's `quantize_row_iq4_nl_impl` with 7 tries
/// to each side): of those that map the extreme value to level 0 give or take 7, and one that maps
/// it to -level 0, each refitted to its codes by least squares. 0 for a block of zeros.
///
/// ggml's `quantize_row_iq4_nl_ref` makes no tries; llama-quantize calls the one that does.
fn best_scale(x: &[f32; SUB]) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let lowest = f32::from(LEVELS[0]);
    let ([sum_qx], [sum_q2]) = moments(x, &[1.0 / (-max / lowest)]);
    let mut scale = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = scale * sum_qx;
    for first in (-7..=7).step_by(LANES) {
        let inverses: [f32; LANES] =
            std::array::from_fn(|lane| (lowest + (first + lane as i32) as f32) / max);
        let (sums_qx, sums_q2) = moments(x, &inverses);
        let n_tries = (8 - first) as usize;
        for (sum_qx, sum_q2) in sums_qx.into_iter().zip(sums_q2).take(n_tries) {
            if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
                scale = sum_qx / sum_q2;
                best = scale * sum_qx;
            }
        }
    }
    scale
}

/// For each inverse scale, with weights x^2: the sums of `w * q * x` and of `w * q * q` over the
/// levels q of its codes.
fn moments<const N: usize>(x: &[f32; SUB], inverses: &[f32; N]) -> ([f32; N], [f32; N]) {
    let (mut sums_qx, mut sums_q2) = ([0f32; N], [0f32; N]);
    for &x in x {
        let w = x * x;
        for lane in 0..N {
            let q = f32::from(LEVELS[code(inverses[lane] * x)]);
            sums_qx[lane] += w * q * x;
            sums_q2[lane] += w * q * q;
        }
    }
    (sums_qx, sums_q2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ggml's `best_index_int8`: a binary search, then the nearer of two.
    fn search(x: f32) -> usize {
        if x <= f32::from(LEVELS[0]) {
            return 0;
        }
        if x >= f32::from(LEVELS[15]) {
            return 15;
        }
        let upper = LEVELS.iter().position(|&level| x < f32::from(level)).unwrap_or(15);
        let (low, high) = (f32::from(LEVELS[upper - 1]), f32::from(LEVELS[upper]));
        if x - low < high - x { upper - 1 } else { upper }
    }

    #[test]
    fn codes_are_those_of_the_search() {
        let mut values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        for middle in MIDDLES.into_iter().chain(LEVELS.map(f32::from)) {
            values.extend([middle, middle.next_up(), middle.next_down(), middle + 0.3]);
        }
        for x in values {
            assert_eq!(code(x), search(x), "{x}");
        }
    }
}
