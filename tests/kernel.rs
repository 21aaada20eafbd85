//! The contract of `pith::kernel`: the scalar table against plain f64 arithmetic, and every other
//! table against the scalar one, bit for bit.

use pith::{
    kernel::{A8, Acts, Input, Kernels, PANEL, Pack, Panel, RopeAngles},
    quant::Format,
    team::{Mat, Team},
};
use pith_models::{Act, Pairing};
use proptest::prelude::*;

/// splitmix64: the tests' inputs are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.unit() * scale).collect()
    }
}

/// Bytes of weights: any codes, and scales that are finite, of either sign, sometimes zero or
/// subnormal.
fn weights(format: Format, n_rows: usize, n_in: usize, random: &mut Random) -> Vec<u8> {
    let n = n_rows * format.row_bytes(n_in).unwrap();
    let mut bytes: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
    let finite = |bytes: &mut [u8], random: &mut Random| {
        let bits = match random.next() % 8 {
            0 => 0,
            1 => (random.next() % 1024) as u16,
            _ => half::f16::from_f32(random.unit()).to_bits(),
        };
        bytes[..2].copy_from_slice(&bits.to_le_bytes());
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let scales: &[usize] = match format {
            Format::F32 => {
                block.copy_from_slice(&random.unit().to_le_bytes());
                &[]
            }
            Format::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(random.unit()).to_le_bytes());
                &[]
            }
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q2_K => &[80, 82],
            Format::Q3_K => &[108],
            Format::Q6_K => &[208],
            _ => &[0],
        };
        scales.iter().for_each(|&at| finite(&mut block[at..], random));
    }
    bytes
}

/// Activations as a table makes them.
enum Activations {
    F32(Vec<f32>),
    Acts { panels: Vec<Panel>, rows: Vec<A8> },
}

impl Activations {
    fn new(kernels: &Kernels, format: Format, n_in: usize, x: &[f32]) -> Activations {
        if format.is_float() {
            return Activations::F32(x.to_vec());
        }
        let n_groups = n_in.div_ceil(256);
        let (n_panels, n_rows) = kernels.split(x.len() / n_in);
        let in_panels = x.len().min(n_panels * PANEL * n_in);
        let mut panels = vec![Panel::ZERO; n_panels * n_groups];
        for (x, out) in x[..in_panels].chunks(PANEL * n_in).zip(panels.chunks_exact_mut(n_groups)) {
            // In two parts, as threads may share a row of panels.
            let (some, rest) = out.split_at_mut(n_groups / 2);
            kernels.quantize_panel(x, n_in, 0, some);
            kernels.quantize_panel(x, n_in, n_groups / 2, rest);
        }
        let mut rows = vec![A8::ZERO; n_rows * n_groups];
        for (x, out) in x[in_panels..].chunks(n_in).zip(rows.chunks_exact_mut(n_groups)) {
            kernels.quantize(x, out);
        }
        Activations::Acts { panels, rows }
    }

    /// Those of each token, wherever a table wants them.
    fn codes(&self, n_in: usize, n_tokens: usize) -> Vec<A8> {
        let Activations::Acts { panels, rows } = self else { return Vec::new() };
        let in_panels = panels.chunks_exact(n_in.div_ceil(256)).flat_map(|panels| {
            (0..PANEL).flat_map(move |t| panels.iter().map(move |panel| panel.token(t)))
        });
        let n = n_tokens * n_in.div_ceil(256) - rows.len();
        in_panels.take(n).chain(rows.iter().copied()).collect()
    }

    fn input(&self) -> Input<'_> {
        match self {
            Activations::F32(x) => Input::F32(x),
            Activations::Acts { panels, rows } => Input::Acts(Acts { panels, rows }),
        }
    }
}

fn matmul(
    kernels: &Kernels,
    format: Format,
    w: &[u8],
    n_in: usize,
    x: &Activations,
    n_tokens: usize,
) -> Vec<f32> {
    let n_rows = w.len() / format.row_bytes(n_in).unwrap();
    let mut out = vec![f32::NAN; n_tokens * n_rows];
    let mut scratch = vec![Pack::ZERO; Kernels::scratch_packs(n_in)];
    let mut mat = Mat::new(&mut out, n_tokens, n_rows, n_rows);
    kernels.matmul(format, w, n_in, x.input(), &mut scratch, &mut mat.tile());
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn scalar() -> &'static Kernels {
    Kernels::by_name("scalar").unwrap()
}

/// Activations with zeros of both signs, whole blocks of zeros, subnormals and outliers.
fn activations(n: usize, scale: f32, random: &mut Random) -> Vec<f32> {
    let mut x = random.values(n, scale);
    for block in x.chunks_mut(32) {
        match random.next() % 12 {
            0 => block.fill(0.0),
            1 => block.fill(-0.0),
            2 => block.iter_mut().for_each(|x| *x *= 1e-42 / scale),
            3 => block[0] *= 1000.0,
            _ => {}
        }
    }
    x
}

#[test]
fn the_reference_is_the_product_of_decoded_weights() {
    let mut random = Random(1);
    for &format in Format::ALL {
        let (n_in, n_rows, n_tokens) = (512, 5, 3);
        let w = weights(format, n_rows, n_in, &mut random);
        let x = activations(n_tokens * n_in, 1.0, &mut random);
        let quantized = Activations::new(scalar(), format, n_in, &x);
        let got = matmul(scalar(), format, &w, n_in, &quantized, n_tokens);
        let mut decoded = vec![0.0; n_rows * n_in];
        format.decode(&w, &mut decoded);
        let x: Vec<f64> = match &quantized {
            Activations::F32(x) => x.iter().map(|&x| x.into()).collect(),
            Activations::Acts { rows, .. } => rows
                .iter()
                .flat_map(|g| (0..256).map(|i| f64::from(g.scales[i / 32]) * f64::from(g.codes[i])))
                .collect(),
        };
        for (i, got) in got.into_iter().enumerate() {
            let (x, w) = (&x[i / n_rows * n_in..][..n_in], &decoded[i % n_rows * n_in..][..n_in]);
            let terms = || x.iter().zip(w).map(|(x, w)| x * f64::from(*w));
            let (wanted, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let error = (f64::from(got) - wanted).abs();
            assert!(error <= size / f64::from(1 << 20), "{}: {got} {wanted}", format.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_table_gives_the_scalar_bits(
        seed: u64,
        blocks in 1usize..30,
        n_rows in prop_oneof![1usize..12, 30usize..70],
        n_tokens in prop_oneof![1usize..24, 30usize..35, Just(64)],
        exponent in -30i32..30,
    ) {
        let mut random = Random(seed);
        let scale = 2f32.powi(exponent);
        for &format in Format::ALL {
            let n_in = match format.block_len() {
                1 => 3 * blocks, // any length
                32 => 32 * blocks,
                len => len * blocks.div_ceil(8),
            };
            let w = weights(format, n_rows, n_in, &mut random);
            let values = activations(n_tokens * n_in, scale, &mut random);
            let reference = Activations::new(scalar(), format, n_in, &values);
            let wanted = matmul(scalar(), format, &w, n_in, &reference, n_tokens);
            for kernels in Kernels::available() {
                let x = Activations::new(kernels, format, n_in, &values);
                let name = (kernels.name(), format.name());
                let same = x.codes(n_in, n_tokens) == reference.codes(n_in, n_tokens);
                prop_assert!(same, "{name:?} quantizes differently");
                let got = matmul(kernels, format, &w, n_in, &x, n_tokens);
                prop_assert_eq!(bits(&got), bits(&wanted), "{:?}", name);
                // One token alone gets what it gets among others.
                let alone = n_tokens / 2;
                let x = &values[alone * n_in..][..n_in];
                let x = Activations::new(kernels, format, n_in, x);
                let got = matmul(kernels, format, &w, n_in, &x, 1);
                prop_assert_eq!(bits(&got), bits(&wanted[alone * n_rows..][..n_rows]), "{:?}", name);
            }
        }
    }

    #[test]
    fn elementwise_ops_give_the_scalar_bits(seed: u64, n in 1usize..400, exponent in -20i32..8) {
        let mut random = Random(seed);
        let n = 2 * n;
        let (x, y) = (random.values(n, 2f32.powi(exponent)), random.values(n, 3.0));
        let (w, b) = (random.values(n, 1.0), random.values(n, 1.0));
        let run = |k: &Kernels| {
            let mut out = Vec::new();
            let mut keep = |x: &[f32]| out.extend(bits(x));
            let mut z = vec![0.0; n];
            k.rms_norm(&x, Some(&w), 1e-5, &mut z);
            keep(&z);
            k.layer_norm(&x, Some(&w), Some(&b), 1e-5, &mut z);
            keep(&z);
            for act in [Act::GeluTanh, Act::GeluErf, Act::Relu, Act::Silu] {
                k.gate(act, &x, &y, &mut z);
                keep(&z);
            }
            k.softcap(&mut z, 30.0);
            keep(&z);
            k.add(&mut z, &y);
            keep(&z);
            keep(&k.squares(&x, &y));
            for pairing in [Pairing::Half, Pairing::Adjacent] {
                k.rope(pairing, &mut z, &w[..n / 2], &b[..n / 2]);
                keep(&z);
            }
            let mut halves = vec![0; n];
            k.to_f16(&x, &mut halves);
            k.from_f16(&halves, &mut z);
            keep(&z);
            out
        };
        let wanted = run(scalar());
        for kernels in Kernels::available() {
            prop_assert_eq!(&run(kernels), &wanted, "{}", kernels.name());
        }
    }
}

/// Every binary16 widens exactly, and every f32 halfway between two rounds to even.
#[test]
fn f16_conversion_is_exact_and_rounds_to_even() {
    for kernels in Kernels::available() {
        let all: Vec<u16> = (0..=u16::MAX).filter(|b| b & 0x7c00 != 0x7c00).collect();
        let mut wide = vec![0.0; all.len()];
        kernels.from_f16(&all, &mut wide);
        let mut back = vec![0; all.len()];
        kernels.to_f16(&wide, &mut back);
        assert_eq!(back, all, "{}", kernels.name());
        let halfway: Vec<f32> =
            wide.iter().zip(&wide[1..]).map(|(a, b)| a + (b - a) / 2.0).collect();
        let mut rounded = vec![0; halfway.len()];
        kernels.to_f16(&halfway, &mut rounded);
        for (i, got) in rounded.into_iter().enumerate() {
            // Neighbours in the list are neighbours in value within one sign.
            if (all[i] ^ all[i + 1]) & 0x8000 == 0 {
                assert_eq!(got & 1, 0, "{} rounds {} to {got:#06x}", kernels.name(), halfway[i]);
            }
        }
    }
}

/// For emulators, which play a CPU that is known.
#[test]
#[ignore = "PITH_KERNELS names the best table for this CPU"]
fn the_cpu_gets_its_own_table() {
    assert_eq!(Kernels::best().name(), std::env::var("PITH_KERNELS").unwrap());
}

#[test]
fn rope_angles_are_those_of_f64() {
    let angles = RopeAngles::new(64, 10_000.0, 0.5, None, 1.0);
    let (mut cos, mut sin) = (vec![0.0; 32], vec![0.0; 32]);
    for position in [0, 1, 77, 4095, 131_071] {
        angles.fill(position, &mut cos, &mut sin);
        for i in 0..32 {
            let angle = position as f64 * 0.5 * 10_000f64.powf(-2.0 * i as f64 / 64.0);
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7, "cos {position} {i}");
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7, "sin {position} {i}");
        }
    }
}

#[test]
fn products_without_tokens_or_weights_are_empty_sums() {
    for kernels in Kernels::available() {
        for &format in Format::ALL {
            let none = Activations::new(kernels, format, 256, &[]);
            assert!(matmul(kernels, format, &[], 256, &none, 0).is_empty());
            let mut out = [f32::NAN; 6];
            let none = Acts { panels: &[], rows: &[] };
            let input = if format.is_float() { Input::F32(&[]) } else { Input::Acts(none) };
            let mut mat = Mat::new(&mut out, 2, 3, 3);
            kernels.matmul(format, &[], 0, input, &mut [], &mut mat.tile());
            assert_eq!(bits(&out), [0; 6], "{} {}", kernels.name(), format.name());
        }
    }
}

/// NaN counts as 0, infinity takes the scale along, a block too small for 127 / amax is 0.
#[test]
fn quantizing_odd_values_is_defined() {
    for kernels in Kernels::available() {
        {
            let quantize = |x: &[f32]| {
                let mut out = vec![A8::ZERO; x.len().div_ceil(256)];
                kernels.quantize(x, &mut out);
                out
            };
            let mut x = vec![f32::NAN; 32];
            assert_eq!(quantize(&x), [A8::ZERO], "{}", kernels.name());
            (x[3], x[5]) = (-2.0, 1.0);
            let group = quantize(&x)[0];
            assert_eq!((group.codes[3], group.codes[5], group.codes[0]), (-127, 64, 0));
            assert_eq!(group.scales[0], 2.0 / 127.0);
            x[7] = f32::NEG_INFINITY;
            assert_eq!(quantize(&x)[0].scales[0], f32::INFINITY);
            x.fill(1e-40);
            assert_eq!(quantize(&x), [A8::ZERO], "{}", kernels.name());
            // A tail shorter than a block: the missing values are zeros.
            let group = quantize(&[1.0, -0.5, 0.25])[0];
            assert_eq!(group.codes[..4], [127, -64, 32, 0]);
            assert_eq!(group.sums[0], 127 - 64 + 32);
        }
    }
}

#[test]
fn tiles_on_any_number_of_threads_give_the_same_product() {
    let mut random = Random(5);
    let (format, n_in, n_rows, n_tokens) = (Format::Q4_0, 96, 37, 5);
    let w = weights(format, n_rows, n_in, &mut random);
    let x = activations(n_tokens * n_in, 1.0, &mut random);
    let kernels = Kernels::best();
    let x = Activations::new(kernels, format, n_in, &x);
    let wanted = matmul(kernels, format, &w, n_in, &x, n_tokens);
    let row_bytes = format.row_bytes(n_in).unwrap();
    // A build without threads has teams of one.
    let most = if cfg!(feature = "threads") { 4 } else { 1 };
    for n_threads in 1..=most {
        let mut out = vec![f32::NAN; n_tokens * n_rows];
        Team::new(n_threads).unwrap().step(|region| {
            let mat = Mat::new(&mut out, n_tokens, n_rows, n_rows);
            region.tiles(mat, n_tokens, 8, |_, mut tile| {
                let span = tile.col0() * row_bytes..(tile.col0() + tile.n_cols()) * row_bytes;
                let mut scratch = vec![Pack::ZERO; Kernels::scratch_packs(n_in)];
                kernels.matmul(format, &w[span], n_in, x.input(), &mut scratch, &mut tile);
            });
        });
        assert_eq!(bits(&out), bits(&wanted));
    }
}

/// Encoders too are compiled for each instruction set, and none may change a bit: random rows of every
/// size, constant ones, zeros of both signs, and what overflows on the way.
#[test]
fn encoders_give_the_same_bytes_in_every_table() {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for i in 0..60 {
        let scale = 10f32.powi(i % 12 - 8);
        rows.push((0..512).map(|_| (next() as f32 / 8_388_608.0 - 1.0) * scale).collect());
        rows.push((0..512).map(|_| scale * [0.0, -0.0, 1.0, -1.0][next() as usize % 4]).collect());
        let any = |bits| Some(f32::from_bits(bits)).filter(|x| x.is_finite()).unwrap_or(0.0);
        rows.push((0..512).map(|_| any(next() << 8 | i as u32)).collect());
        rows.push(vec![scale; 512]);
        // Halfway between codes.
        let halves = (0..512).map(|j| if j % 32 == 0 { 127.0 } else { next() as u8 as f32 / 2.0 });
        rows.push(halves.collect());
        rows.push(rows[rows.len() - 1].iter().map(|x| x / 127.0 * -8.0).collect());
    }
    for kernels in Kernels::available() {
        for &format in Format::ALL {
            for row in &rows {
                let n_bytes = format.row_bytes(row.len()).unwrap();
                let (mut wanted, mut got) = (vec![0; n_bytes], vec![0; n_bytes]);
                format.encode(row, &mut wanted);
                kernels.encode(format, row, &mut got);
                assert!(wanted == got, "{} {format}: {:?}", kernels.name(), &row[..4]);
            }
        }
    }
}
