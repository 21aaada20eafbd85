//! The reference: what every product is, one block at a time, in the plainest code. Other tables
//! are tested against it bit for bit.

use half::{bf16, f16};

use super::{A8, Acts, Encoders, Input, Kernels, PANEL, Pack, acts, attend, lanes, logits};
use crate::{quant::Format, team::Tile};

/// The scalar table: complete, and the base that other tables overlay.
pub const TABLE: Kernels = Kernels {
    name: "scalar",
    max_rows: 4,
    matmul: {
        let mut matmul: [super::Matmul; Format::COUNT] = [floats::<F32>; Format::COUNT];
        matmul[Format::F16.index()] = floats::<F16>;
        matmul[Format::BF16.index()] = floats::<BF16>;
        matmul[Format::Q4_0.index()] = blocks::<Q4_0>;
        matmul[Format::Q4_1.index()] = blocks::<Q4_1>;
        matmul[Format::Q5_0.index()] = blocks::<Q5_0>;
        matmul[Format::Q5_1.index()] = blocks::<Q5_1>;
        matmul[Format::Q8_0.index()] = blocks::<Q8_0>;
        matmul[Format::IQ4_NL.index()] = blocks::<IQ4_NL>;
        matmul[Format::Q2_K.index()] = superblocks::<Q2_K>;
        matmul[Format::Q3_K.index()] = superblocks::<Q3_K>;
        matmul[Format::Q4_K.index()] = superblocks::<Q4_K>;
        matmul[Format::Q5_K.index()] = superblocks::<Q5_K>;
        matmul[Format::Q6_K.index()] = superblocks::<Q6_K>;
        matmul[Format::IQ4_XS.index()] = superblocks::<IQ4_XS>;
        matmul
    },
    quantize: acts::quantize,
    quantize_panel: acts::quantize_panel,
    rms_norm: lanes::rms_norm,
    layer_norm: lanes::layer_norm,
    activate: lanes::activate,
    gate: lanes::gate,
    softcap: lanes::softcap,
    add: lanes::add,
    squares: lanes::squares,
    rope: lanes::rope,
    to_f16,
    from_f16,
    widen: attend::plain_widen,
    attend: attend::plain,
    merge: attend::merge,
    softmax: logits::softmax,
    encoders: Encoders::Plain,
};

fn to_f16(x: &[f32], out: &mut [u16]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f16::from_f32(*x).to_bits());
}

fn from_f16(x: &[u16], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f16::from_bits(*x).to_f32());
}

/// A weight format whose values multiply f32 activations.
trait Float {
    const BYTES: usize;
    fn value(bytes: &[u8]) -> f32;
}

struct F32;
impl Float for F32 {
    const BYTES: usize = 4;
    fn value(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

struct F16;
impl Float for F16 {
    const BYTES: usize = 2;
    fn value(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

struct BF16;
impl Float for BF16 {
    const BYTES: usize = 2;
    fn value(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// 16 lanes over the row, products rounded before they are added.
fn floats<F: Float>(w: &[u8], n_in: usize, x: Input<'_>, _: &mut [Pack], out: &mut Tile<'_, f32>) {
    let Input::F32(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    for (t, x) in x.chunks_exact(n_in).enumerate() {
        for (out, row) in out.row_mut(t).iter_mut().zip(w.chunks_exact(n_in * F::BYTES)) {
            let mut sums = [0.0; lanes::LANES];
            for (k, (w, x)) in row.chunks_exact(F::BYTES).zip(x).enumerate() {
                sums[k % lanes::LANES] += F::value(w) * x;
            }
            *out = lanes::combine(sums);
        }
    }
}

/// A format of blocks of 32: value = d * code + m.
trait Block {
    const BYTES: usize;
    /// Whether blocks have a minimum m.
    const HAS_MIN: bool = false;
    fn codes(block: &[u8]) -> [i8; 32];
    fn min(_: &[u8]) -> f32 {
        0.0
    }
}

/// Calls `f(token, its activations)` for every token, wherever it lies.
fn each_token(x: Input<'_>, n_in: usize, mut f: impl FnMut(usize, &[A8])) {
    let Input::Acts(Acts { panels, rows }) = x else {
        unreachable!("Kernels::matmul checks the kind")
    };
    let n_groups = n_in.div_ceil(256);
    let mut n = 0;
    for panels in panels.chunks_exact(n_groups) {
        for t in 0..PANEL {
            f(n + t, &panels.iter().map(|panel| panel.token(t)).collect::<Vec<_>>());
        }
        n += PANEL;
    }
    for (t, row) in rows.chunks_exact(n_groups).enumerate() {
        f(n + t, row);
    }
}

/// The tree that ends a sum over blocks of 32.
fn combine_blocks(l: [f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Eight lanes, lane = block index mod 8: lane += da * (d * S + m * Y).
fn blocks<F: Block>(w: &[u8], n_in: usize, x: Input<'_>, _: &mut [Pack], out: &mut Tile<'_, f32>) {
    each_token(x, n_in, |t, x| {
        if t >= out.n_rows() {
            return; // a panel's empty place
        }
        for (out, row) in out.row_mut(t).iter_mut().zip(w.chunks_exact(n_in / 32 * F::BYTES)) {
            let mut lanes = [0.0f32; 8];
            for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
                let (group, b) = (&x[b / 8], b % 8);
                let sum = dot(&F::codes(block), &group.codes[32 * b..]);
                let mut t = half(block) * sum as f32;
                if F::HAS_MIN {
                    let codes = i32::from(group.sums[2 * b]) + i32::from(group.sums[2 * b + 1]);
                    t += F::min(block) * codes as f32;
                }
                lanes[b] += group.scales[b] * t;
            }
            *out = combine_blocks(lanes);
        }
    });
}

/// Sum of products of codes, exact.
fn dot(w: &[i8], x: &[i8]) -> i32 {
    w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}

/// The binary16 at the start of some bytes.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Low nibbles are elements 0..16, high nibbles 16..32.
fn nibbles(bytes: &[u8]) -> [i8; 32] {
    std::array::from_fn(|i| match i {
        0..16 => (bytes[i] & 15) as i8,
        _ => (bytes[i - 16] >> 4) as i8,
    })
}

/// Nibbles with a fifth bit each from 32 bits.
fn five_bits(high: &[u8], bytes: &[u8]) -> [i8; 32] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let low = nibbles(bytes);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as i8)
}

/// Values of the non-linear 4-bit formats.
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[allow(non_camel_case_types)]
struct Q4_0;
impl Block for Q4_0 {
    const BYTES: usize = 18;
    fn codes(block: &[u8]) -> [i8; 32] {
        nibbles(&block[2..]).map(|n| n - 8)
    }
}

#[allow(non_camel_case_types)]
struct Q4_1;
impl Block for Q4_1 {
    const BYTES: usize = 20;
    const HAS_MIN: bool = true;
    fn codes(block: &[u8]) -> [i8; 32] {
        nibbles(&block[4..])
    }
    fn min(block: &[u8]) -> f32 {
        half(&block[2..])
    }
}

#[allow(non_camel_case_types)]
struct Q5_0;
impl Block for Q5_0 {
    const BYTES: usize = 22;
    fn codes(block: &[u8]) -> [i8; 32] {
        five_bits(&block[2..6], &block[6..]).map(|n| n - 16)
    }
}

#[allow(non_camel_case_types)]
struct Q5_1;
impl Block for Q5_1 {
    const BYTES: usize = 24;
    const HAS_MIN: bool = true;
    fn codes(block: &[u8]) -> [i8; 32] {
        five_bits(&block[4..8], &block[8..])
    }
    fn min(block: &[u8]) -> f32 {
        half(&block[2..])
    }
}

#[allow(non_camel_case_types)]
struct Q8_0;
impl Block for Q8_0 {
    const BYTES: usize = 34;
    fn codes(block: &[u8]) -> [i8; 32] {
        std::array::from_fn(|i| block[2 + i] as i8)
    }
}

#[allow(non_camel_case_types)]
struct IQ4_NL;
impl Block for IQ4_NL {
    const BYTES: usize = 18;
    fn codes(block: &[u8]) -> [i8; 32] {
        nibbles(&block[2..]).map(|n| IQ4_VALUES[n as usize])
    }
}

/// A superblock of 256: value = d * scale * code - dmin * min, scales and mins per 16.
struct Unpacked {
    codes: [i8; 256],
    d: f32,
    scales: [i32; 16],
    /// dmin, and the minimum of each 16.
    mins: Option<(f32, [i32; 16])>,
}

/// A format of superblocks.
trait Superblock {
    const BYTES: usize;
    fn unpack(block: &[u8]) -> Unpacked;
}

/// As [`blocks`], for the eight blocks of each superblock: lane += da * (d * S - dmin * M).
fn superblocks<F: Superblock>(
    w: &[u8],
    n_in: usize,
    x: Input<'_>,
    _: &mut [Pack],
    out: &mut Tile<'_, f32>,
) {
    each_token(x, n_in, |t, x| {
        if t >= out.n_rows() {
            return;
        }
        for (out, row) in out.row_mut(t).iter_mut().zip(w.chunks_exact(n_in / 256 * F::BYTES)) {
            let mut lanes = [0.0f32; 8];
            for (group, block) in x.iter().zip(row.chunks_exact(F::BYTES)) {
                let w = F::unpack(block);
                for (b, lane) in lanes.iter_mut().enumerate() {
                    *lane += group.scales[b] * block_of(&w, group, b);
                }
            }
            *out = combine_blocks(lanes);
        }
    });
}

/// d * S - dmin * M of block b of a superblock.
fn block_of(w: &Unpacked, x: &A8, b: usize) -> f32 {
    let halves = 2 * b..2 * b + 2;
    let scaled = |i: usize| w.scales[i] * dot(&w.codes[16 * i..][..16], &x.codes[16 * i..]);
    let t = w.d * halves.clone().map(scaled).sum::<i32>() as f32;
    match &w.mins {
        None => t,
        Some((dmin, mins)) => {
            let sum: i32 = halves.map(|i| mins[i] * i32::from(x.sums[i])).sum();
            t - dmin * sum as f32
        }
    }
}

/// Scales and mins of Q4_K and Q5_K: 6 bits each, for 8 blocks of 32.
fn six_bits(s: &[u8]) -> ([i32; 16], [i32; 16]) {
    let pair = |b: usize| match b {
        0..4 => (s[b] & 63, s[b + 4] & 63),
        _ => (s[b + 4] & 15 | s[b - 4] >> 6 << 4, s[b + 4] >> 4 | s[b] >> 6 << 4),
    };
    let pairs: [_; 16] = std::array::from_fn(|i| pair(i / 2));
    (pairs.map(|p| i32::from(p.0)), pairs.map(|p| i32::from(p.1)))
}

#[allow(non_camel_case_types)]
struct Q2_K;
impl Superblock for Q2_K {
    const BYTES: usize = 84;
    fn unpack(block: &[u8]) -> Unpacked {
        let (scales, qs) = (&block[..16], &block[16..80]);
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (h, j, l) = (e / 128, e / 32 % 4, e % 32);
                (qs[32 * h + l] >> (2 * j) & 3) as i8
            }),
            d: half(&block[80..]),
            scales: std::array::from_fn(|i| i32::from(scales[i] & 15)),
            mins: Some((half(&block[82..]), std::array::from_fn(|i| i32::from(scales[i] >> 4)))),
        }
    }
}

#[allow(non_camel_case_types)]
struct Q3_K;
impl Superblock for Q3_K {
    const BYTES: usize = 110;
    fn unpack(block: &[u8]) -> Unpacked {
        let (hmask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
        let scale = |i: usize| {
            let low = if i < 8 { scales[i] & 15 } else { scales[i - 8] >> 4 };
            let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
            i32::from(low | high << 4) - 32
        };
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (h, j, l) = (e / 128, e / 32 % 4, e % 32);
                let low = (qs[32 * h + l] >> (2 * j) & 3) as i8;
                let high = hmask[l] >> (4 * h + j) & 1;
                if high == 1 { low } else { low - 4 }
            }),
            d: half(&block[108..]),
            scales: std::array::from_fn(scale),
            mins: None,
        }
    }
}

#[allow(non_camel_case_types)]
struct Q4_K;
impl Superblock for Q4_K {
    const BYTES: usize = 144;
    fn unpack(block: &[u8]) -> Unpacked {
        let (scales, mins) = six_bits(&block[4..16]);
        let qs = &block[16..];
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (c, t, l) = (e / 64, e / 32 % 2, e % 32);
                (qs[32 * c + l] >> (4 * t) & 15) as i8
            }),
            d: half(block),
            scales,
            mins: Some((half(&block[2..]), mins)),
        }
    }
}

#[allow(non_camel_case_types)]
struct Q5_K;
impl Superblock for Q5_K {
    const BYTES: usize = 176;
    fn unpack(block: &[u8]) -> Unpacked {
        let (scales, mins) = six_bits(&block[4..16]);
        let (qh, qs) = (&block[16..48], &block[48..]);
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (c, t, l) = (e / 64, e / 32 % 2, e % 32);
                let high = qh[l] >> (2 * c + t) & 1;
                (qs[32 * c + l] >> (4 * t) & 15 | high << 4) as i8
            }),
            d: half(block),
            scales,
            mins: Some((half(&block[2..]), mins)),
        }
    }
}

#[allow(non_camel_case_types)]
struct Q6_K;
impl Superblock for Q6_K {
    const BYTES: usize = 210;
    fn unpack(block: &[u8]) -> Unpacked {
        let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (h, j, l) = (e / 128, e / 32 % 4, e % 32);
                let low = ql[64 * h + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
                let high = qh[32 * h + l] >> (2 * j) & 3;
                (low | high << 4) as i8 - 32
            }),
            d: half(&block[208..]),
            scales: std::array::from_fn(|i| i32::from(scales[i] as i8)),
            mins: None,
        }
    }
}

#[allow(non_camel_case_types)]
struct IQ4_XS;
impl Superblock for IQ4_XS {
    const BYTES: usize = 136;
    fn unpack(block: &[u8]) -> Unpacked {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (low, qs) = (&block[4..8], &block[8..]);
        let scale = |b: usize| {
            let low = low[b / 2] >> (4 * (b % 2)) & 15;
            i32::from(low) + (i32::from(high >> (2 * b) & 3) << 4) - 32
        };
        Unpacked {
            codes: std::array::from_fn(|e| {
                let (b, i) = (e / 32, e % 32);
                let n = qs[16 * b + i % 16] >> (4 * (i / 16)) & 15;
                IQ4_VALUES[n as usize]
            }),
            d: half(block),
            scales: std::array::from_fn(|i| scale(i / 2)),
            mins: None,
        }
    }
}
