//! Flax's msgpack and the names of transformers' Flax classes: what Flax wrote converts to the same
//! bytes as the safetensors of the same weights, and no damage of a file does harm.
#![allow(missing_docs)]

mod support;

use pith_convert::source::{Data, Source, msgpack};
use std::fs;
use support::{
    data,
    twin::{original, outcome, twin},
};

#[test]
fn flax_checkpoints_convert_like_safetensors() {
    for name in ["gpt2", "gpt2-bf16", "gptneo", "gptj", "opt", "bloom", "llama", "gemma", "mistral"]
    {
        let name = format!("flax/{name}");
        for target in ["f32", "q8_0"] {
            let wanted = outcome(twin(&name).path(), target).expect(&name);
            let got = outcome(original(&name).path(), target).expect(&name);
            assert!(got == wanted, "{name} {target}");
        }
    }
}

/// Files with safetensors too are read as those, whose place is first.
#[test]
fn safetensors_win_over_flax() {
    let folder = original("flax/gptj");
    fs::write(folder.path().join("model.safetensors"), b"no header").unwrap();
    assert!(outcome(folder.path(), "f32").unwrap_err().contains("safetensors"));
}

/// msgpack of some kinds of values.
fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0x80 | pairs.len() as u8];
    for (key, value) in pairs {
        out.extend(text(key));
        out.extend(value);
    }
    out
}

fn text(text: &str) -> Vec<u8> {
    [&[0xd9, text.len() as u8], text.as_bytes()].concat()
}

fn array(kind: u8, shape: &[u8], dtype: &str, bytes: &[u8]) -> Vec<u8> {
    let mut inner = vec![0x93, 0x90 | shape.len() as u8];
    inner.extend(shape);
    inner.extend(text(dtype));
    inner.extend([0xc4, bytes.len() as u8]);
    inner.extend(bytes);
    [&[0xc7, inner.len() as u8, kind], &inner[..]].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn part(values: &[f32]) -> Vec<u8> {
    array(1, &[values.len() as u8], "float32", &floats(values))
}

/// As Flax splits arrays of more than 2^30 bytes.
fn in_parts(shape: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    let keys: Vec<String> = (0..9).map(|i| i.to_string()).collect();
    let numbered = |values: &[Vec<u8>]| {
        let pairs = keys.iter().zip(values).map(|(key, value)| (key.as_str(), value.clone()));
        map(&pairs.collect::<Vec<_>>())
    };
    let dims: Vec<_> = shape.iter().map(|&dim| vec![dim]).collect();
    map(&[
        ("__msgpack_chunked_array__", vec![0xc3]),
        ("shape", numbered(&dims)),
        ("chunks", numbered(parts)),
    ])
}

#[test]
fn arrays_in_parts_are_joined() {
    let parts = in_parts(&[2, 3], &[part(&[0.0, 1.0, 2.0, 3.0]), part(&[4.0, 5.0])]);
    let file = map(&[("a", map(&[("b", parts), ("c", part(&[7.0]))]))]);
    let source = Source::from_bytes(file).unwrap();
    let joined = source.tensor("a/b").unwrap();
    assert_eq!(joined.entry.shape, [2, 3]);
    assert!(matches!(joined.entry.data, Data::Packed(_)));
    assert_eq!(source.values(joined).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(source.values(source.tensor("a/c").unwrap()).unwrap(), [7.0]);
    assert_eq!(source.tensors().len(), 2);
}

#[test]
fn msgpack_rules() {
    let one = part(&[1.0, 2.0]);
    let deep = (0..40).fold(one.clone(), |inner, _| map(&[("a", inner)]));
    let long = map(&[(&"k".repeat(200), one.clone())]);
    let long = (0..8).fold(long, |inner, _| map(&[(&"k".repeat(200), inner)]));
    // A long path above many small leaves.
    let keys: Vec<String> = ('a'..='o').map(String::from).collect();
    let short: Vec<_> = keys.iter().map(|key| (key.as_str(), vec![0xc0])).collect();
    let wide: Vec<_> = short.iter().map(|(key, _)| (*key, map(&short))).collect();
    let wide = (0..4).fold(map(&wide), |inner, _| map(&[(&"k".repeat(200), inner)]));
    let in_a = |value: Vec<u8>| map(&[("a", value)]);
    for (file, wanted) in [
        (in_a(array(1, &[3], "float32", &floats(&[1.0]))), "`a` of shape [3] and type float32"),
        (in_a(array(1, &[1], "complex64", &[0; 8])), "`a` has the unknown type `complex64`"),
        (in_a(array(1, &[1; 9], "float32", &[0; 4])), "at most 8 dimensions"),
        (in_a(array(1, &[0xff], "float32", &[0; 4])), "out of range"),
        (in_a(array(2, &[1], "float32", &[0; 4])), "`a` is msgpack's extension 2"),
        (in_a(vec![0x91, 1]), "`a` is a list"),
        (in_a(vec![0xc1]), "`a` is a list"),
        (in_a(vec![0xde, 0xff, 0xff]), "65535 pairs"),
        (in_a(vec![0xd9, 5, b'x']), "5 bytes wanted"),
        (in_a(vec![0xda, 0, 1, 0xff]), "UTF-8"),
        (map(&[("", one.clone())]), "a name of 0 bytes"),
        (map(&[("a", one.clone()), ("a", one.clone())]), "`a` is stored twice"),
        (map(&[("a", map(&[("b", one.clone())])), ("a/b", one.clone())]), "`a/b` is stored twice"),
        ([in_a(one.clone()), vec![0]].concat(), "1 bytes follow"),
        (wide, "its names take more bytes than the file"),
        (deep, "a name of 65 bytes"),
        (long, "a name of 1205 bytes"),
        (in_a(in_parts(&[3], std::slice::from_ref(&one))), "a shape of [3] in 8 bytes"),
        (in_a(in_parts(&[2], &[])), "it has none"),
        (
            in_a(in_parts(&[4], &[one.clone(), array(1, &[1], "float64", &[0; 8])])),
            "its parts differ",
        ),
        (in_parts(&[2], std::slice::from_ref(&one)), "stray"),
        (in_a(map(&[("b", one.clone()), ("__msgpack_chunked_array__", vec![0xc3])])), "stray"),
    ] {
        let error = msgpack::read(&file).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let file = map(&[
        ("step", vec![0xcd, 1, 2]),
        ("rate", array(3, &[], "float32", &[0; 4])),
        ("on", vec![0xc3]),
        ("note", text("x")),
        ("a", array(1, &[2], "int32", &[0; 8])),
    ]);
    let source = Source::from_bytes(file).unwrap();
    let others: Vec<_> = source.leftovers().iter().map(|l| (l.name.as_str(), l.what)).collect();
    let wanted =
        [("step", "a number"), ("rate", "a number"), ("on", "a number"), ("note", "a string")];
    assert_eq!(others, wanted);
    assert!(source.view(&source.tensors()[0]).unwrap_err().to_string().contains("I32"));
}

#[test]
fn truncations_and_flips_never_panic() {
    let parts = in_parts(&[2, 3], &[part(&[0.0, 1.0, 2.0, 3.0]), part(&[4.0, 5.0])]);
    let small = map(&[("a", map(&[("b", parts), ("c", part(&[7.0])), ("d", vec![0xcd, 1, 2])]))]);
    let real = fs::read(data().join("flax/llama/flax_model.msgpack")).unwrap();
    for good in [small, real] {
        assert!(Source::from_bytes(good.clone()).is_ok());
        for len in 0..good.len() {
            assert!(Source::from_bytes(good[..len].to_vec()).is_err(), "cut to {len} bytes");
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
}
