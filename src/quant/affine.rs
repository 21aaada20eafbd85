//! Superblocks whose sub-blocks have a scale and a minimum: `w = (d * scale) * q - (dmin * min)`.
//!
//! | format | sub-blocks | codes | scale and min |
//! |---|---|---|---|
//! | Q2_K | 16 of 16 | 2 bits | 4 bits each |
//! | Q4_K | 8 of 32 | 4 bits | 6 bits each |
//! | Q5_K | 8 of 32 | 5 bits | 6 bits each |

use super::pack::{pack, put, take, take_f16, unpack};
use super::round::{lanes, nearest, nearest_float_in, nearest_in};
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

#[inline(always)]
pub fn encode_q2_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 84]) {
    let search = Search { code_max: 3, first: -0.5, trials: 16, error: Error::Absolute };
    let lanes = lanes::<16, 16>(x);
    let mut weights = [[0.0; 16]; 16];
    for j in 0..16 {
        for lane in 0..16 {
            weights[j][lane] = lanes[j][lane].abs();
        }
    }
    let fit = search.run(&lanes, &weights);
    let (d, scales) = to_levels(&fit.scales, 15.0);
    let (dmin, mins) = to_levels(&fit.mins, 15.0);
    // ggml does not clamp here: an (unseen) negative scale would spill into the minimum's bits.
    let levels: [u8; 16] = std::array::from_fn(|i| scales[i] | (mins[i] << 4));
    let split = levels.map(|both| (both & 15, both >> 4));
    let codes = recode(x, fit.codes, d, dmin, &split, 3);
    put(block, &[&levels, &pack::<2, 32, 64>(&codes, 0), &d.to_le_bytes(), &dmin.to_le_bytes()]);
}

#[inline(always)]
pub fn encode_q4_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 144]) {
    let search = Search { code_max: 15, first: -1.0, trials: 21, error: Error::Squared };
    let (d, dmin, six, codes) = encode_six_bits(x, &search);
    put(block, &[&d, &dmin, &six, &pack::<4, 32, 128>(&codes, 0)]);
}

#[inline(always)]
pub fn encode_q5_k(x: &[f32; SUPERBLOCK], block: &mut [u8; 176]) {
    let search = Search { code_max: 31, first: -0.5, trials: 16, error: Error::Squared };
    let (d, dmin, six, codes) = encode_six_bits(x, &search);
    let high = pack::<1, 32, 32>(&codes, 4);
    put(block, &[&d, &dmin, &six, &high, &pack::<4, 32, 128>(&codes, 0)]);
}

/// What Q4_K and Q5_K share: the bytes of d, dmin and the levels, and the codes.
#[inline(always)]
fn encode_six_bits(
    x: &[f32; SUPERBLOCK],
    search: &Search,
) -> ([u8; 2], [u8; 2], [u8; 12], [u8; SUPERBLOCK]) {
    let lanes = lanes::<8, 32>(x);
    let mut squares = [0f32; 8];
    for j in 0..32 {
        for lane in 0..8 {
            squares[lane] += lanes[j][lane] * lanes[j][lane];
        }
    }
    let rms = squares.map(|sum| (sum / 32.0).sqrt());
    let mut weights = [[0.0; 8]; 32];
    for j in 0..32 {
        for lane in 0..8 {
            weights[j][lane] = rms[lane] + lanes[j][lane].abs();
        }
    }
    let fit = search.run(&lanes, &weights);
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
#[inline(always)]
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

/// The search for the sub-blocks' scales and minimums (ggml's `make_qkx2_quants`). All sub-blocks of a
/// superblock are searched side by side, a lane for each: lanes never meet, so that each sums in ggml's
/// order.
struct Search {
    /// The largest code.
    code_max: u8,
    /// Trial `i` spreads the range over `code_max + first + 0.1 * i` steps.
    first: f32,
    /// Number of trials.
    trials: usize,
    error: Error,
}

/// The best scale, negated minimum (which is >= 0) and codes for each of the `SUBS` sub-blocks.
struct Fit<const SUBS: usize> {
    scales: [f32; SUBS],
    mins: [f32; SUBS],
    codes: [u8; SUPERBLOCK],
}

/// The trial's sums over the codes `l` of each sub-block, weighted: of `l`, `l * l`, `x * l`.
struct Sums<const SUBS: usize> {
    l: [f32; SUBS],
    l2: [f32; SUBS],
    xl: [f32; SUBS],
}

impl Search {
    #[inline(always)]
    fn run<const SUBS: usize, const LEN: usize>(
        &self,
        x: &[[f32; SUBS]; LEN],
        weights: &[[f32; SUBS]; LEN],
    ) -> Fit<SUBS> {
        let code_max = f32::from(self.code_max);
        // `min` is what code 0 starts from: the smallest value, then the best trial's minimum.
        let (mut min, mut max) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (weights[0], [0f32; SUBS]);
        for lane in 0..SUBS {
            sum_x[lane] = weights[0][lane] * x[0][lane];
        }
        for j in 1..LEN {
            for lane in 0..SUBS {
                let (x, w) = (x[j][lane], weights[j][lane]);
                min[lane] = if x < min[lane] { x } else { min[lane] };
                max[lane] = if x > max[lane] { x } else { max[lane] };
                sum_w[lane] += w;
                sum_x[lane] += w * x;
            }
        }
        let min = min.map(|min| if min > 0.0 { 0.0 } else { min });
        let mut from = min;

        // The inverse scale and minimum that the best codes come from.
        let (mut inverse, mut origin) = ([0f32; SUBS], min);
        let mut best_scale = [0f32; SUBS];
        for lane in 0..SUBS {
            inverse[lane] = code_max / (max[lane] - min[lane]);
            best_scale[lane] = 1.0 / inverse[lane];
        }
        let mut best_min = min;
        let mut codes = [[0f32; SUBS]; LEN];
        self.codes(x, weights, &inverse, &min, &mut codes);
        let mut best_error = self.errors(x, weights, &codes, &best_scale, &best_min);
        for i in 0..self.trials {
            let wider = self.first + 0.1 * i as f32;
            let mut tried = [0f32; SUBS];
            for lane in 0..SUBS {
                tried[lane] = (wider + code_max) / (max[lane] - from[lane]);
            }
            let sums = self.codes(x, weights, &tried, &from, &mut codes);
            // The scale and minimum that fit the codes best (weighted least squares, minimum at most
            // 0), where the codes determine them.
            let (mut scale, mut least) = ([0f32; SUBS], [0f32; SUBS]);
            let mut determinant = [0f32; SUBS];
            for lane in 0..SUBS {
                let Sums { l, l2, xl } = &sums;
                let (sum_w, sum_x) = (sum_w[lane], sum_x[lane]);
                let det = sum_w * l2[lane] - l[lane] * l[lane];
                let both = (sum_w * xl[lane] - sum_x * l[lane]) / det;
                let low = (l2[lane] * sum_x - l[lane] * xl[lane]) / det;
                let alone = xl[lane] / l2[lane];
                scale[lane] = if low > 0.0 { alone } else { both };
                least[lane] = if low > 0.0 { 0.0 } else { low };
                determinant[lane] = det;
            }
            let error = self.errors(x, weights, &codes, &scale, &least);
            for lane in 0..SUBS {
                let better = determinant[lane] > 0.0 && error[lane] < best_error[lane];
                let choose = |new: f32, old: f32| if better { new } else { old };
                inverse[lane] = choose(tried[lane], inverse[lane]);
                origin[lane] = choose(from[lane], origin[lane]);
                best_scale[lane] = choose(scale[lane], best_scale[lane]);
                best_min[lane] = choose(least[lane], best_min[lane]);
                best_error[lane] = choose(error[lane], best_error[lane]);
                from[lane] = choose(least[lane], from[lane]);
            }
        }
        self.codes(x, weights, &inverse, &origin, &mut codes);
        let mut fit = Fit { scales: best_scale, mins: [0.0; SUBS], codes: [0; SUPERBLOCK] };
        for lane in 0..SUBS {
            fit.mins[lane] = -best_min[lane];
            if max[lane] == min[lane] {
                (fit.scales[lane], fit.mins[lane]) = (0.0, -min[lane]);
                continue;
            }
            for j in 0..LEN {
                fit.codes[lane * LEN + j] = codes[j][lane] as i32 as u8;
            }
        }
        fit
    }

    /// The codes of each lane's inverse scale and minimum, and their sums.
    #[inline(always)]
    fn codes<const SUBS: usize, const LEN: usize>(
        &self,
        x: &[[f32; SUBS]; LEN],
        weights: &[[f32; SUBS]; LEN],
        inverse: &[f32; SUBS],
        min: &[f32; SUBS],
        codes: &mut [[f32; SUBS]; LEN],
    ) -> Sums<SUBS> {
        let mut sum_l = [0f32; SUBS];
        for j in 0..LEN {
            for lane in 0..SUBS {
                let steps = inverse[lane] * (x[j][lane] - min[lane]);
                let l = nearest_float_in(steps, 0.0, f32::from(self.code_max));
                codes[j][lane] = l;
                sum_l[lane] += weights[j][lane] * l;
            }
        }
        // One sum in a loop: of three, LLVM makes scalars, and without one it makes vectors across `j`.
        Sums {
            l: sum_l,
            l2: sum::<SUBS, LEN>(|j, lane| weights[j][lane] * codes[j][lane] * codes[j][lane]),
            xl: sum::<SUBS, LEN>(|j, lane| weights[j][lane] * codes[j][lane] * x[j][lane]),
        }
    }

    /// The weighted error of each lane's scale and minimum with its codes.
    #[inline(always)]
    fn errors<const SUBS: usize, const LEN: usize>(
        &self,
        x: &[[f32; SUBS]; LEN],
        weights: &[[f32; SUBS]; LEN],
        codes: &[[f32; SUBS]; LEN],
        scale: &[f32; SUBS],
        min: &[f32; SUBS],
    ) -> [f32; SUBS] {
        sum::<SUBS, LEN>(|j, lane| {
            let diff = scale[lane] * codes[j][lane] + min[lane] - x[j][lane];
            let loss = if self.error == Error::Absolute { diff.abs() } else { diff * diff };
            weights[j][lane] * loss
        })
    }
}

/// Sums of each lane over its values `[j]`, ascending.
#[inline(always)]
fn sum<const SUBS: usize, const LEN: usize>(term: impl Fn(usize, usize) -> f32) -> [f32; SUBS] {
    let mut sums = [0f32; SUBS];
    for j in 0..LEN {
        for lane in 0..SUBS {
            sums[lane] += term(j, lane);
        }
    }
    sums
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
