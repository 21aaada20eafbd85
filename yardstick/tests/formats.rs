//! Every format, bit for bit, against ggml in the same process.

use pith::quant::Format;
use yardstick::ggml;

#[path = "../../tests/support/quant_inputs.rs"]
mod quant_inputs;

use quant_inputs::{KINDS, Random, bytes, golden_lines, values};

/// Values per kind and format; rows of 256.
const N: usize = 256 * 256;

fn encode(format: Format, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; format.row_bytes(values.len()).unwrap()];
    format.encode(values, &mut blocks);
    blocks
}

fn decode(format: Format, blocks: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
    format.decode(blocks, &mut values);
    values
}

fn assert_same_blocks(format: Format, kind: &str, values: &[f32], ours: &[u8], theirs: &[u8]) {
    let (len, size) = (format.block_len(), format.block_bytes());
    for (i, (a, b)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
        assert_eq!(a, b, "{format} {kind} block {i}: {:?}", &values[i * len..(i + 1) * len]);
    }
}

fn assert_same_values(format: Format, ours: &[f32], theirs: &[f32]) {
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(same, "{format} value {i}: {a} and ggml's {b}");
    }
}

#[test]
fn decode_equals_ggml() {
    for &format in Format::ALL {
        let blocks = bytes(4096 * format.block_bytes(), 1);
        assert_same_values(format, &decode(format, &blocks), &ggml::decode(format, &blocks));
    }
}

#[test]
fn encode_equals_ggml() {
    for &format in Format::ALL {
        for (seed, kind) in KINDS.iter().enumerate() {
            let values = values(kind, N, 1000 + seed as u64);
            let (ours, theirs) = (encode(format, &values), ggml::encode(format, &values, 256));
            assert_same_blocks(format, kind, &values, &ours, &theirs);
            assert_same_values(format, &decode(format, &ours), &ggml::decode(format, &ours));
        }
    }
}

/// `quantize_row_*_ref` is the same encoder, but for IQ4_NL, whose reference makes no tries.
#[test]
fn the_reference_rows_are_the_chunks() {
    let values = values("normal", N, 5);
    for &format in Format::ALL {
        if let Some(reference) = ggml::encode_ref(format, &values) {
            let same = reference == ggml::encode(format, &values, 256);
            assert_eq!(same, format != Format::IQ4_NL, "{format}");
        }
    }
}

/// Finite floats of any magnitude, side by side.
#[test]
fn encode_equals_ggml_on_wild_values() {
    let random = &mut Random(7);
    let values: Vec<f32> = std::iter::repeat_with(|| f32::from_bits(random.bits() as u32))
        .filter(|x| x.is_finite())
        .take(N)
        .collect();
    for &format in Format::ALL {
        let (ours, theirs) = (encode(format, &values), ggml::encode(format, &values, 256));
        assert_same_blocks(format, "wild", &values, &ours, &theirs);
    }
}

/// The golden file of pith's own tests is what ggml says today.
#[test]
fn the_golden_file_is_ggmls() {
    let golden = include_str!("../../tests/golden/quant.txt");
    let theirs = Format::ALL.iter().flat_map(|&format| {
        let encode = |values: &[f32]| ggml::encode(format, values, 256);
        let decode = |blocks: &[u8]| ggml::decode(format, blocks);
        golden_lines(format.name(), format.block_bytes(), encode, decode)
    });
    assert!(golden.lines().filter(|line| !line.starts_with('#')).eq(theirs));
}
