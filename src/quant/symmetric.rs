//! Superblocks whose 16 sub-blocks of 16 have a signed scale only: `w = (d * scale) * (q - half)`.
//!
//! | format | codes | half | scales |
//! |---|---|---|---|
//! | Q3_K | 3 bits | 4 | 6 bits, stored plus 32 |
//! | Q6_K | 6 bits | 32 | i8 |

use super::pack::{pack, put, take, take_f16, unpack};
use super::round::{ZERO, extreme, lanes, nearest, nearest_float_in, nearest_in};
use super::{SUPERBLOCK, f16_to_f32, f32_to_f16};

/// Values in a sub-block, and sub-blocks in a superblock.
const SUB: usize = 16;

/// Writes `w = (d * scale) * (q - half)`.
fn decode(
    d: f32,
    scales: &[i8; SUB],
    codes: &[u8; SUPERBLOCK],
    half: i32,
    out: &mut [f32; SUPERBLOCK],
) {
    let subs = codes.as_chunks::<SUB>().0.iter().zip(out.as_chunks_mut::<SUB>().0);
    for (&scale, (codes, out)) in scales.iter().zip(subs) {
        let scale = d * f32::from(scale);
        for (w, &code) in out.iter_mut().zip(codes) {
            *w = scale * (i32::from(code) - half) as f32;
        }
    }
}

pub fn decode_q3_k(block: &[u8; 110], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let mut codes = [0; SUPERBLOCK];
    unpack::<1, 32>(take::<32>(block), 2, &mut codes);
    unpack::<2, 32>(take::<64>(block), 0, &mut codes);
    let scales = unpack_q3_scales(take(block));
    decode(take_f16(block), &scales, &codes, 4, out);
}

pub fn decode_q6_k(block: &[u8; 210], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let mut codes = [0; SUPERBLOCK];
    unpack::<4, 64>(take::<128>(block), 0, &mut codes);
    unpack::<2, 32>(take::<64>(block), 4, &mut codes);
    let scales = take::<SUB>(block).map(|scale| scale as i8);
    decode(take_f16(block), &scales, &codes, 32, out);
}

/// Q3_K's scales: 16 low nibbles, then 16 times 2 high bits.
fn unpack_q3_scales(bytes: &[u8; 12]) -> [i8; SUB] {
    let mut scales = [0; SUB];
    unpack::<4, 8>(&bytes[..8], 0, &mut scales);
    unpack::<2, 4>(&bytes[8..], 4, &mut scales);
    scales.map(|scale| scale as i8 - 32)
}

pub fn encode_q3_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 110]) {
    let (scales, mut codes) = fit(x, fit_by_coordinates);
    let (d, scales) = to_levels(&scales, -32.0, |level| (level as i8).clamp(-32, 31));
    recode(x, &mut codes, d, &scales, 4);
    let stored = scales.map(|scale| (scale + 32) as u8);
    put(
        block,
        &[
            &pack::<1, 32, 32>(&codes, 2),
            &pack::<2, 32, 64>(&codes, 0),
            &pack::<4, 8, 8>(&stored, 0),
            &pack::<2, 4, 4>(&stored, 4),
            &d.to_le_bytes(),
        ],
    );
}

#[inline(always)]
pub fn encode_q6_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 210]) {
    let (scales, mut codes) = fit_by_trials(x);
    if extreme(&scales).abs() < ZERO {
        block.fill(0);
        return;
    }
    let (d, scales) = to_levels(&scales, -128.0, |level| level.min(127) as i8);
    recode(x, &mut codes, d, &scales, 32);
    put(
        block,
        &[
            &pack::<4, 64, 128>(&codes, 0),
            &pack::<2, 32, 64>(&codes, 4),
            &scales.map(|scale| scale as u8),
            &d.to_le_bytes(),
        ],
    );
}

/// Fits every sub-block by itself.
fn fit(
    x: &[f32; SUPERBLOCK],
    fit_sub: impl Fn(&[f32; SUB], &mut [u8; SUB]) -> f32,
) -> ([f32; SUB], [u8; SUPERBLOCK]) {
    let mut scales = [0.0; SUB];
    let mut codes = [0; SUPERBLOCK];
    let subs = x.as_chunks().0.iter().zip(codes.as_chunks_mut().0);
    for (scale, (x, codes)) in scales.iter_mut().zip(subs) {
        *scale = fit_sub(x, codes);
    }
    (scales, codes)
}

/// Expresses signed scales as integers times one f16 number (given as bits), so that the largest
/// becomes `lowest`, the end of the range that has one step more.
fn to_levels(scales: &[f32; SUB], lowest: f32, to_level: impl Fn(i32) -> i8) -> (u16, [i8; SUB]) {
    let max = extreme(scales);
    if max == 0.0 {
        return (0, [-32; SUB]);
    }
    let inverse = lowest / max;
    (f32_to_f16(1.0 / inverse), scales.map(|scale| to_level(nearest(inverse * scale))))
}

/// Rounds each value again, to the scales as they are stored. Sub-blocks whose scale became 0 keep
/// their codes.
#[inline(always)]
fn recode(
    x: &[f32; SUPERBLOCK],
    codes: &mut [u8; SUPERBLOCK],
    d: u16,
    scales: &[i8; SUB],
    half: i32,
) {
    let d = f16_to_f32(d);
    let subs = x.as_chunks::<SUB>().0.iter().zip(codes.as_chunks_mut::<SUB>().0);
    for (&scale, (x, codes)) in scales.iter().zip(subs) {
        let scale = d * f32::from(scale);
        if scale == 0.0 {
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (nearest_in(x / scale, -half, half - 1) + half) as u8;
        }
    }
}

/// Q6_K's fit of all sub-blocks, side by side (ggml's `make_qx_quants`, weights x^2): the scale that maps
/// the extreme value to -32, and 18 around it; the best by weighted least squares wins.
#[inline(always)]
fn fit_by_trials(x: &[f32; SUPERBLOCK]) -> ([f32; SUB], [u8; SUPERBLOCK]) {
    let lanes = lanes::<SUB, SUB>(x);
    // The first value of the largest magnitude, as `extreme` has it.
    let mut max = [0f32; SUB];
    for j in 0..SUB {
        for lane in 0..SUB {
            let x = lanes[j][lane];
            max[lane] = if x.abs() > max[lane].abs() { x } else { max[lane] };
        }
    }
    let mut best_inverse = max.map(|max| -32.0 / max);
    let (sum_lx, sum_l2) = moments(&lanes, &best_inverse);
    let (mut scale, mut best) = ([0f32; SUB], [0f32; SUB]);
    for lane in 0..SUB {
        let quotient = sum_lx[lane] / sum_l2[lane];
        scale[lane] = if sum_l2[lane] != 0.0 { quotient } else { 0.0 };
        best[lane] = scale[lane] * sum_lx[lane];
    }
    for tenths in TENTHS {
        let inverse = max.map(|max| -(32.0 + 0.1 * tenths) / max);
        let (sum_lx, sum_l2) = moments(&lanes, &inverse);
        for lane in 0..SUB {
            let (lx, l2) = (sum_lx[lane], sum_l2[lane]);
            let better = l2 > 0.0 && lx * lx > best[lane] * l2;
            let choose = |new: f32, old: f32| if better { new } else { old };
            scale[lane] = choose(lx / l2, scale[lane]);
            best[lane] = choose(scale[lane] * lx, best[lane]);
            best_inverse[lane] = choose(inverse[lane], best_inverse[lane]);
        }
    }
    let mut codes = [0; SUPERBLOCK];
    for lane in 0..SUB {
        if max[lane].abs() < ZERO {
            scale[lane] = 0.0;
            continue;
        }
        for j in 0..SUB {
            let code = nearest_in(best_inverse[lane] * lanes[j][lane], -32, 31) + 32;
            codes[lane * SUB + j] = code as u8;
        }
    }
    (scale, codes)
}

/// The steps by which a trial's range differs from 32, in tenths, in the order of the trials.
const TENTHS: [f32; 18] = [
    -9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0,
    9.0,
];

/// For each lane's inverse scale, with weights x^2: the sums of `w * x * l` and of `w * l * l` over its
/// codes l in -32..32.
#[inline(always)]
fn moments(x: &[[f32; SUB]; SUB], inverse: &[f32; SUB]) -> ([f32; SUB], [f32; SUB]) {
    let (mut sums_lx, mut sums_l2) = ([0f32; SUB], [0f32; SUB]);
    for j in 0..SUB {
        for lane in 0..SUB {
            let x = x[j][lane];
            let w = x * x;
            let l = nearest_float_in(inverse[lane] * x, -32.0, 31.0);
            sums_lx[lane] += w * x * l;
            sums_l2[lane] += w * l * l;
        }
    }
    (sums_lx, sums_l2)
}

/// Q3_K's fit (ggml's `make_q3_quants`, weights x^2): from the scale that maps the extreme value to
/// -4, up to five rounds in which each code in turn moves to where the other codes' best scale wants
/// it, if that lowers the weighted squared error. Returns the scale, fills the codes.
fn fit_by_coordinates(x: &[f32; SUB], codes: &mut [u8; SUB]) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let inverse = -4.0 / max;
    let mut levels = x.map(|x| nearest_in(inverse * x, -4, 3));
    let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
    for (&x, &l) in x.iter().zip(&levels) {
        let (w, l) = (x * x, l as f32);
        sum_lx += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, level) in x.iter().zip(&mut levels) {
            let (w, l) = (x * x, *level as f32);
            let others_lx = sum_lx - w * x * l;
            if others_lx > 0.0 {
                let others_l2 = sum_l2 - w * l * l;
                let new = nearest_in(x * others_l2 / others_lx, -4, 3);
                if new != *level {
                    let l = new as f32;
                    let new_lx = others_lx + w * x * l;
                    let new_l2 = others_l2 + w * l * l;
                    if new_l2 > 0.0 && new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2 {
                        (*level, sum_lx, sum_l2) = (new, new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    *codes = levels.map(|level| (level + 4) as u8);
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q3_scales_round_trip() {
        let scales: [i8; SUB] = std::array::from_fn(|i| (i as i8 * 5 + 3) % 64 - 32);
        let stored = scales.map(|scale| (scale + 32) as u8);
        let mut bytes = [0; 12];
        put(&mut bytes, &[&pack::<4, 8, 8>(&stored, 0), &pack::<2, 4, 4>(&stored, 4)]);
        assert_eq!(unpack_q3_scales(&bytes), scales);
    }
}
