use super::*;
use proptest::prelude::*;

/// The largest |decoded - x| that a format may show, as a fraction of the block's largest |x|: half
/// a step of its widest code range, and what coarse scales of sub-blocks cost.
fn bound(format: Format) -> f32 {
    use Format::*;
    match format {
        F32 => 0.0,
        F16 => 1.0 / 2048.0,
        BF16 => 1.0 / 256.0,
        Q8_0 => 0.006,
        Q6_K => 0.04,
        Q5_0 => 0.07,
        Q5_1 => 0.04,
        Q5_K => 0.07,
        Q4_0 => 0.13,
        Q4_1 => 0.07,
        Q4_K => 0.12,
        IQ4_NL | IQ4_XS => 0.15,
        Q3_K => 0.35,
        Q2_K => 0.6,
    }
}

fn round_trip(format: Format, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
    format.encode(values, &mut bytes);
    let mut out = vec![f32::NAN; values.len()];
    format.decode(&bytes, &mut out);
    out
}

#[test]
fn ids_names_and_indices_agree() {
    for (i, &format) in Format::ALL.iter().enumerate() {
        assert_eq!(format.index(), i);
        assert_eq!(Format::from_id(format as u32), Some(format));
        assert_eq!(Format::by_name(&format.name().to_lowercase()), Some(format));
        assert_eq!(format.name(), format!("{format:?}"));
    }
    for id in [4, 5, 9, 15, 31, 255, u32::MAX] {
        assert_eq!(Format::from_id(id), None, "{id}");
    }
    assert_eq!(Format::by_name("q4"), None);
}

#[test]
fn row_bytes_needs_whole_blocks_and_does_not_overflow() {
    assert_eq!(Format::Q4_K.row_bytes(512), Some(288));
    assert_eq!(Format::Q4_K.row_bytes(0), Some(0));
    assert_eq!(Format::Q4_K.row_bytes(576), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    assert_eq!(Format::Q8_0.row_bytes(usize::MAX - 31), None);
}

#[test]
#[should_panic(expected = "Q4_0: 32 values do not fill 17 bytes")]
fn decode_refuses_lengths_that_disagree() {
    Format::Q4_0.decode(&[0; 17], &mut [0.0; 32]);
}

#[test]
fn zeros_stay_zeros() {
    for &format in Format::ALL {
        assert!(round_trip(format, &[0.0; 512]).iter().all(|&w| w == 0.0), "{format}");
    }
}

#[test]
fn f16_rounds_to_nearest_even_and_overflows_to_infinity() {
    for (value, bits) in [
        (1.0, 0x3c00),
        (1.0 + 1.0 / 2048.0, 0x3c00),
        (1.0 + 3.0 / 2048.0, 0x3c02),
        (65504.0, 0x7bff),
        (65520.0, 0x7c00),
        (-1e9, 0xfc00),
        (2f32.powi(-24), 0x0001),
        (2f32.powi(-25), 0x0000),
        (f32::NAN, 0x7e00),
    ] {
        assert_eq!(f32_to_f16(value), bits, "{value}");
    }
    for bits in (0..=u16::MAX).filter(|bits| bits & 0x7fff <= 0x7c00) {
        assert_eq!(f32_to_f16(f16_to_f32(bits)), bits);
        assert_eq!(f32_to_bf16(bf16_to_f32(bits)), bits);
    }
}

#[test]
fn values_on_the_grid_survive() {
    // Each format holds these exactly: steps of one scale that f16 holds, with the extreme in
    // every block, as it sets the scale.
    let grid = |low: i32, high: i32| -> Vec<f32> {
        let step = |i| if i % 32 == 0 { low } else { low + i % (high - low + 1) };
        (0..256).map(|i| step(i) as f32 * 0.25).collect()
    };
    for (format, values) in [
        (Format::Q4_0, grid(-8, 7)),
        (Format::Q5_0, grid(-16, 15)),
        (Format::Q8_0, grid(-127, 127)),
        (Format::IQ4_NL, iq4::LEVELS.map(f32::from).repeat(16)),
    ] {
        assert_eq!(round_trip(format, &values), values, "{format}");
    }
}

fn extremes() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
        ]),
        -1f32..1f32,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn encode_takes_any_bits(values in prop::collection::vec(extremes(), 256)) {
        for &format in Format::ALL {
            round_trip(format, &values);
        }
    }

    #[test]
    fn decode_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 1024)) {
        for &format in Format::ALL {
            let blocks = bytes.len() / format.block_bytes();
            let mut out = vec![0.0; blocks * format.block_len()];
            format.decode(&bytes[..blocks * format.block_bytes()], &mut out);
        }
    }

    #[test]
    fn round_trip_is_within_the_bound(
        values in prop::collection::vec(-1f32..1f32, 256),
        scale in prop::sample::select(vec![1e-2f32, 1.0, 300.0]),
    ) {
        let values: Vec<f32> = values.iter().map(|x| x * scale).collect();
        for &format in Format::ALL {
            let back = round_trip(format, &values);
            let len = format.block_len();
            for (block, back) in values.chunks(len).zip(back.chunks(len)) {
                let largest = block.iter().fold(0f32, |max, x| max.max(x.abs()));
                for (x, w) in block.iter().zip(back) {
                    let tiny = if format == Format::F16 { 6e-8 } else { 0.0 };
                    prop_assert!(
                        (x - w).abs() <= bound(format) * largest + tiny,
                        "{format}: {x} became {w}, largest {largest}"
                    );
                }
            }
        }
    }
}
