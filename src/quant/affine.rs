//! Superblocks whose sub-blocks have a scale and a minimum: `w = (d * scale) * q - (dmin * min)`.
//!
//! | format | sub-blocks | codes | scale and min |
//! |---|---|---|---|
//! | Q2_K | 16 of 16 | 2 bits | 4 bits each |
//! | Q4_K | 8 of 32 | 4 bits | 6 bits each |
//! | Q5_K | 8 of 32 | 5 bits | 6 bits each |

use super::pack::{pack, put, take, take_f16, unpack};
use super::round::{LANES, nearest, nearest_float_in, nearest_in};
use super::{SUPERBLOCK, f16_to_f32, f32_to_f16};

/// The 6-bit scales and minimums of eight sub-blocks, as Q4_K and Q5_K pack them in 12 bytes: the
/// first four of each lie in the low 6 bits of bytes 0..4 and 4..8, the low nibbles of the last
/// four in bytes 8..12 (minimums in the high nibbles), and their top 2 bits above the first four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SixBits {
    scales: [u8; 8],
    mins: [u8; 8],
}

impl SixBits {
    fn unpack(bytes: &[u8; 12]) -> Self {
        let mut six = SixBits { scales: [0; 8], mins: [0; 8] };
        for i in 0..4 {
            let (scale, min, low) = (bytes[i], bytes[i + 4], bytes[i + 8]);
            six.scales[i] = scale & 63;
            six.mins[i] = min & 63;
            six.scales[i + 4] = (low & 15) | ((scale >> 6) << 4);
            six.mins[i + 4] = (low >> 4) | ((min >> 6) << 4);
        }
        six
    }

    fn pack(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for i in 0..4 {
            let (scale, min) = (self.scales[i + 4], self.mins[i + 4]);
            bytes[i] = self.scales[i] | ((scale >> 4) << 6);
            bytes[i + 4] = self.mins[i] | ((min >> 4) << 6);
            bytes[i + 8] = (scale & 15) | ((min & 15) << 4);
        }
        bytes
    }
}

/// Writes `w = (d * scale) * q - (dmin * min)` for sub-blocks of `LEN` values.
fn decode<const LEN: usize>(
    d: f32,
    dmin: f32,
    levels: impl Iterator<Item = (u8, u8)>,
    codes: &[u8; SUPERBLOCK],
    out: &mut [f32; SUPERBLOCK],
) {
    let subs = codes.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<LEN>().0);
    for ((scale, min), (codes, out)) in levels.zip(subs) {
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (w, &code) in out.iter_mut().zip(codes) {
            *w = scale * f32::from(code) - min;
        }
    }
}

pub fn decode_q2_k(block: &[u8; 84], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let levels: &[u8; 16] = take(block);
    let mut codes = [0; SUPERBLOCK];
    unpack::<2, 32>(take::<64>(block), 0, &mut codes);
    let (d, dmin) = (take_f16(block), take_f16(block));
    decode::<16>(d, dmin, levels.iter().map(|&both| (both & 15, both >> 4)), &codes, out);
}

pub fn decode_q4_k(block: &[u8; 144], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let (d, dmin) = (take_f16(block), take_f16(block));
    let six = SixBits::unpack(take(block));
    let mut codes = [0; SUPERBLOCK];
    unpack::<4, 32>(take::<128>(block), 0, &mut codes);
    decode::<32>(d, dmin, six.scales.into_iter().zip(six.mins), &codes, out);
}

pub fn decode_q5_k(block: &[u8; 176], out: &mut [f32; SUPERBLOCK]) {
    let block = &mut block.as_slice();
    let (d, dmin) = (take_f16(block), take_f16(block));
    let six = SixBits::unpack(take(block));
    let mut codes = [0; SUPERBLOCK];
    unpack::<1, 32>(take::<32>(block), 4, &mut codes);
    unpack::<4, 32>(take::<128>(block), 0, &mut codes);
    decode::<32>(d, dmin, six.scales.into_iter().zip(six.mins), &codes, out);
}

pub fn encode_q2_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 84]) {
    let search = Search { code_max: 3, first: -0.5, trials: 16, error: Error::Absolute };
    let fit = Fit::<16>::of::<16>(x, &search, |x| x.map(f32::abs));
    let (d, scales) = to_levels(&fit.scales, 15.0);
    let (dmin, mins) = to_levels(&fit.mins, 15.0);
    // ggml does not clamp here: an (unseen) negative scale would spill into the minimum's bits.
    let levels: [u8; 16] = std::array::from_fn(|i| scales[i] | (mins[i] << 4));
    let split = levels.map(|both| (both & 15, both >> 4));
    let codes = recode(x, fit.codes, d, dmin, &split, 3);
    put(block, &[&levels, &pack::<2, 32, 64>(&codes, 0), &d.to_le_bytes(), &dmin.to_le_bytes()]);
}

pub fn encode_q4_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 144]) {
    let search = Search { code_max: 15, first: -1.0, trials: 21, error: Error::Squared };
    let (d, dmin, six, codes) = encode_six_bits(x, &search);
    put(block, &[&d, &dmin, &six, &pack::<4, 32, 128>(&codes, 0)]);
}

pub fn encode_q5_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 176]) {
    let search = Search { code_max: 31, first: -0.5, trials: 16, error: Error::Squared };
    let (d, dmin, six, codes) = encode_six_bits(x, &search);
    let high = pack::<1, 32, 32>(&codes, 4);
    put(block, &[&d, &dmin, &six, &high, &pack::<4, 32, 128>(&codes, 0)]);
}

/// What Q4_K and Q5_K share: the bytes of d, dmin and the levels, and the codes.
fn encode_six_bits(
    x: &[f32; SUPERBLOCK],
    search: &Search,
) -> ([u8; 2], [u8; 2], [u8; 12], [u8; SUPERBLOCK]) {
    let fit = Fit::<8>::of::<32>(x, search, |x| {
        let rms = (x.iter().fold(0.0, |sum, x| sum + x * x) / 32.0).sqrt();
        x.map(|x| rms + x.abs())
    });
    let (d, scales) = to_levels(&fit.scales, 63.0);
    let (dmin, mins) = to_levels(&fit.mins, 63.0);
    let six = SixBits { scales: scales.map(|l| l.min(63)), mins: mins.map(|l| l.min(63)) };
    let levels: [(u8, u8); 8] = std::array::from_fn(|i| (six.scales[i], six.mins[i]));
    let codes = recode(x, fit.codes, d, dmin, &levels, search.code_max);
    (d.to_le_bytes(), dmin.to_le_bytes(), six.pack(), codes)
}

/// Expresses numbers >= 0 as integers `0..=top` times one f16 number (given as bits).
fn to_levels<const N: usize>(values: &[f32; N], top: f32) -> (u16, [u8; N]) {
    let max = values.iter().fold(0f32, |max, &v| if v > max { v } else { max });
    let inverse = if max > 0.0 { top / max } else { 0.0 };
    (f32_to_f16(max / top), values.map(|v| nearest(inverse * v) as u8))
}

/// Rounds each value again, to the scales and minimums as they are stored. Sub-blocks whose scale
/// became 0 keep their codes.
fn recode<const SUBS: usize>(
    x: &[f32; SUPERBLOCK],
    mut codes: [u8; SUPERBLOCK],
    d: u16,
    dmin: u16,
    levels: &[(u8, u8); SUBS],
    code_max: u8,
) -> [u8; SUPERBLOCK] {
    let len = SUPERBLOCK / SUBS;
    let (d, dmin) = (f16_to_f32(d), f16_to_f32(dmin));
    for ((x, codes), &(scale, min)) in
        x.chunks_exact(len).zip(codes.chunks_exact_mut(len)).zip(levels)
    {
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        if scale == 0.0 {
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            *code = nearest_in((x + min) / scale, 0, i32::from(code_max)) as u8;
        }
    }
    codes
}

/// How the error of a trial is summed.
#[derive(Clone, Copy, PartialEq)]
enum Error {
    Absolute,
    Squared,
}

/// The search for a sub-block's scale and minimum (ggml's `make_qkx2_quants`).
struct Search {
    /// The largest code.
    code_max: u8,
    /// Trial `i` spreads the range over `code_max + first + 0.1 * i` steps.
    first: f32,
    /// Number of trials.
    trials: usize,
    error: Error,
}

/// The best scale, negated minimum and codes for each of the `SUBS` sub-blocks.
struct Fit<const SUBS: usize> {
    scales: [f32; SUBS],
    mins: [f32; SUBS],
    codes: [u8; SUPERBLOCK],
}

impl<const SUBS: usize> Fit<SUBS> {
    fn of<const LEN: usize>(
        x: &[f32; SUPERBLOCK],
        search: &Search,
        weigh: impl Fn(&[f32; LEN]) -> [f32; LEN],
    ) -> Self {
        let mut fit = Fit { scales: [0.0; SUBS], mins: [0.0; SUBS], codes: [0; SUPERBLOCK] };
        let subs = x.as_chunks::<LEN>().0.iter().zip(fit.codes.as_chunks_mut::<LEN>().0);
        for (i, (x, codes)) in subs.enumerate() {
            (fit.scales[i], fit.mins[i]) = search.run(x, &weigh(x), codes);
        }
        fit
    }
}

/// What all trials of one sub-block have in common.
struct Block<'a, const LEN: usize> {
    x: &'a [f32; LEN],
    weights: &'a [f32; LEN],
    /// What code 0 starts from: the smallest value, or the best trial's minimum; at most 0.
    min: f32,
    /// Sums of the weights and of the weighted values.
    sum_w: f32,
    sum_x: f32,
}

/// One scale and minimum, and the weighted error that they leave.
#[derive(Clone, Copy)]
struct Trial {
    scale: f32,
    min: f32,
    error: f32,
}

impl Search {
    /// Fills `codes`; returns the scale and the negated minimum, which is >= 0.
    fn run<const LEN: usize>(
        &self,
        x: &[f32; LEN],
        weights: &[f32; LEN],
        codes: &mut [u8; LEN],
    ) -> (f32, f32) {
        let (mut min, mut max) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
        for (&x, &w) in x.iter().zip(weights).skip(1) {
            min = if x < min { x } else { min };
            max = if x > max { x } else { max };
            sum_w += w;
            sum_x += w * x;
        }
        if min > 0.0 {
            min = 0.0;
        }
        if max == min {
            codes.fill(0);
            return (0.0, -min);
        }
        let mut block = Block { x, weights, min, sum_w, sum_x };

        // The inverse scale and minimum that the best codes come from.
        let mut origin = (f32::from(self.code_max) / (max - min), min);
        let mut best = Trial { scale: 1.0 / origin.0, min, error: 0.0 };
        best.error = self.errors(&block, &[origin.0], &[best])[0];
        // A better trial moves the minimum from which the later ones start, so that those already
        // made with the old one are void.
        let mut next = 0;
        while next < self.trials {
            let inverses: [f32; LANES] = std::array::from_fn(|lane| {
                let wider = self.first + 0.1 * (next + lane) as f32;
                (wider + f32::from(self.code_max)) / (max - block.min)
            });
            let trials = self.try_scales(&block, &inverses);
            let better = trials.into_iter().take(self.trials - next).enumerate().find_map(
                |(lane, trial)| Some((lane, trial.filter(|trial| trial.error < best.error)?)),
            );
            if let Some((lane, trial)) = better {
                origin = (inverses[lane], block.min);
                best = trial;
                block.min = best.min;
                next += lane + 1;
            } else {
                next += LANES;
            }
        }
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = self.code(origin.0, x, origin.1) as u8;
        }
        (best.scale, -best.min)
    }

    #[inline]
    fn code(&self, inverse: f32, x: f32, min: f32) -> f32 {
        nearest_float_in(inverse * (x - min), 0.0, f32::from(self.code_max))
    }

    /// For each trial inverse scale: its codes, the scale and minimum that fit these codes best
    /// (weighted least squares, minimum at most 0), and their error. `None` where the codes don't
    /// determine the two.
    fn try_scales<const LEN: usize>(
        &self,
        block: &Block<LEN>,
        inverses: &[f32; LANES],
    ) -> [Option<Trial>; LANES] {
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for (&x, &w) in block.x.iter().zip(block.weights) {
            for lane in 0..LANES {
                let l = self.code(inverses[lane], x, block.min);
                sum_l[lane] += w * l;
                sum_l2[lane] += w * l * l;
                sum_xl[lane] += w * l * x;
            }
        }
        let Block { sum_w, sum_x, .. } = *block;
        let determinants: [f32; LANES] =
            std::array::from_fn(|i| sum_w * sum_l2[i] - sum_l[i] * sum_l[i]);
        let mut trials: [Trial; LANES] = std::array::from_fn(|i| {
            let scale = (sum_w * sum_xl[i] - sum_x * sum_l[i]) / determinants[i];
            let min = (sum_l2[i] * sum_x - sum_l[i] * sum_xl[i]) / determinants[i];
            if min > 0.0 {
                Trial { scale: sum_xl[i] / sum_l2[i], min: 0.0, error: 0.0 }
            } else {
                Trial { scale, min, error: 0.0 }
            }
        });
        let errors = self.errors(block, inverses, &trials);
        for (trial, error) in trials.iter_mut().zip(errors) {
            trial.error = error;
        }
        std::array::from_fn(|i| (determinants[i] > 0.0).then_some(trials[i]))
    }

    /// The weighted error of each trial, for the codes of its inverse scale.
    fn errors<const LEN: usize, const N: usize>(
        &self,
        block: &Block<LEN>,
        inverses: &[f32; N],
        trials: &[Trial; N],
    ) -> [f32; N] {
        let mut errors = [0f32; N];
        for (&x, &w) in block.x.iter().zip(block.weights) {
            for i in 0..N {
                let l = self.code(inverses[i], x, block.min);
                let diff = trials[i].scale * l + trials[i].min - x;
                let loss = if self.error == Error::Absolute { diff.abs() } else { diff * diff };
                errors[i] += w * loss;
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bits_round_trip() {
        let six =
            SixBits { scales: [1, 2, 63, 0, 17, 33, 62, 48], mins: [63, 5, 0, 9, 16, 32, 1, 47] };
        assert_eq!(SixBits::unpack(&six.pack()), six);
    }
}
