//! One negative test per rule of the safetensors header, and none of its damages panics.
#![allow(missing_docs)]

mod support;

use pith_convert::source::{Data, Source, safetensors::read};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use support::{N_EMBD, data, gpt2, safetensors, twin::outcome, weights, with_header};

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn a_header_is_read() {
    let entries = read(&with_header(ONE, &[0; 8])).unwrap();
    assert_eq!((entries[0].name.as_str(), &entries[0].shape[..]), ("a", &[2][..]));
    let Data::Mapped { range, .. } = &entries[0].data else { panic!("safetensors pack nothing") };
    assert_eq!(*range, 8 + ONE.len()..8 + ONE.len() + 8);
    let spaced = format!(r#"{{"__metadata__":{{"format":"pt"}},{}   "#, &ONE[1..]);
    assert_eq!(read(&with_header(&spaced, &[0; 8])).unwrap().len(), 1);
    assert_eq!(read(&with_header("{}", &[])).unwrap().len(), 0);
}

#[test]
fn header_rules() {
    let max = u64::MAX;
    for (header, n_data, wanted) in [
        (ONE.to_owned(), 7, "7 follow"),
        (ONE.to_owned(), 9, "9 follow"),
        ("{".to_owned(), 0, "header"),
        ("[]".to_owned(), 0, "object of tensors"),
        (ONE.replace('}', ""), 8, "header"),
        (ONE.replace("F32", "F33"), 8, "F33"),
        (ONE.replace("F32", "F4"), 8, "takes 1 bytes"),
        (ONE.replace("[2]", "[3]"), 8, "takes 12 bytes, 8"),
        (ONE.replace("[2]", "[-2]"), 8, "tensor `a`"),
        (ONE.replace("[2]", "[2.0]"), 8, "tensor `a`"),
        (ONE.replace("[2]", "[1,1,1,1,1,1,1,1,2]"), 8, "9 dimensions"),
        (ONE.replace("[2]", &format!("[{max},{max}]")), 8, "no whole size"),
        (ONE.replace("[2]", &format!("[{max}0]")), 8, "tensor `a`"),
        (ONE.replace("[0,8]", "[4,12]"), 12, "lies at 4..12"),
        (ONE.replace("[0,8]", "[8,0]"), 8, "lies at 8..0"),
        (ONE.replace("[0,8]", "[0,8,9]"), 8, "tensor `a`"),
        (ONE.replace("[0,8]", &format!("[0,{max}]")), 8, "takes 8 bytes"),
        (ONE.replace(r#""shape":[2],"#, ""), 8, "shape"),
        (
            ONE.replace(r#""dtype":"F32","#, r#""dtype":"F32","dtype":"F32","#),
            8,
            "dtype given twice",
        ),
        (ONE.replace(r#""dtype":"F32","#, r#""dtype":"F32","more":1,"#), 8, "more"),
        (format!("{{{0},{0}}}", &ONE[1..ONE.len() - 1]), 8, "`a` is listed twice"),
        (
            format!(r#"{{{},"b":{}"#, &ONE[1..ONE.len() - 1], &ONE[5..]),
            8,
            "tensor `b` lies at 0..8; the one before it ends at 8",
        ),
    ] {
        let error = read(&with_header(&header, &vec![0; n_data])).expect_err(&header).to_string();
        assert!(error.contains(wanted), "{header}: {error}");
    }
    assert!(read(&[1, 2, 3]).unwrap_err().to_string().contains("length field"));
    for length in [u64::MAX, 1 << 40, 100] {
        let file = [&length.to_le_bytes()[..], b"{}"].concat();
        assert!(read(&file).unwrap_err().to_string().contains(&length.to_string()));
    }
}

/// Sizes whose sum passes the end of the address space.
#[test]
fn sums_do_not_wrap() {
    let part = 1u64 << 61;
    let tensor = |i: u64| {
        let (start, end) = (i * part, (i + 1).saturating_mul(part));
        format!(
            r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
            end - start
        )
    };
    let tensors: Vec<_> = (0..8).map(tensor).collect();
    let header = format!("{{{}}}", tensors.join(","));
    assert!(read(&with_header(&header, &[])).is_err());
}

#[test]
fn bytes_of_eight_bit_floats() {
    let source = Source::open(&data().join("f8.bin")).unwrap();
    let bits = |name: &str| {
        let values = source.values(source.tensor(name).unwrap()).unwrap();
        let bits = |value: f32| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
        values.into_iter().map(bits).collect::<Vec<_>>()
    };
    for name in ["e4m3", "e5m2"] {
        assert_eq!(bits(name), bits(&format!("{name}.f32")), "{name}");
    }
}

/// A conversion of GPT-2 one of whose matrices has this type, and another tensor beside it.
fn converted_with(dtype: &str, bits: usize, beside: Option<&str>) -> String {
    const NAME: &str = "transformer.h.0.mlp.c_fc.weight";
    let mut checkpoint = gpt2();
    checkpoint.remove(NAME);
    if let Some(name) = beside {
        checkpoint.tensors.push(weights(name, &[1]));
    }
    let file = safetensors(&checkpoint.tensors);
    let (header, data) = file[8..].split_at(file[0] as usize + 256 * file[1] as usize);
    let (start, n) = (data.len(), N_EMBD * 64 * bits / 8);
    let line = json!({"dtype": dtype, "shape": [N_EMBD, 64], "data_offsets": [start, start + n]});
    let mut header: Value = serde_json::from_slice(header).unwrap();
    header[NAME] = line;
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write_config(folder.path());
    let file = with_header(&header.to_string(), &[data, &vec![0x38; n][..]].concat());
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    outcome(folder.path(), "f32").err().unwrap_or_default()
}

#[test]
fn small_floats_are_read_or_refused_by_name() {
    for dtype in ["F8_E4M3", "F8_E5M2"] {
        assert_eq!(converted_with(dtype, 8, None), "");
        for scale in ["weight_scale", "weight_scale_inv"] {
            let scale = format!("transformer.h.0.mlp.c_fc.{scale}");
            let error = converted_with(dtype, 8, Some(&scale));
            assert!(error.contains(&scale) && error.contains("c_fc.weight`"), "{error}");
            assert!(error.contains(dtype) && error.contains("BF16"), "{error}");
        }
    }
    for (dtype, bits) in [
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("F4", 4),
    ] {
        let error = converted_with(dtype, bits, None);
        assert!(error.contains("c_fc.weight`") && error.contains(dtype), "{error}");
    }
}

#[test]
fn truncations_and_flips_never_panic() {
    let good = safetensors(&[weights("a", &[3, 4]), weights("b", &[5]), weights("c", &[])]);
    assert_eq!(read(&good).unwrap().len(), 3);
    for len in 0..good.len() {
        assert!(read(&good[..len]).is_err(), "cut to {len} bytes");
    }
    for bit in 0..8 * good.len() {
        let mut file = good.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        let Ok(source) = Source::from_bytes(file) else { continue };
        for tensor in source.tensors() {
            let _ = source.values(tensor);
        }
    }
}

proptest! {
    #[test]
    fn no_header_panics(
        shape in prop::collection::vec(any::<u64>(), 0..4),
        start in any::<u64>(),
        end in any::<u64>(),
        dtype in prop::sample::select(vec!["F64", "F16", "F4", "BOOL"]),
    ) {
        let header = format!(
            r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#
        );
        let _ = read(&with_header(&header, &[0; 8]));
    }
}
