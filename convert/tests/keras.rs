//! HDF5 and the names of transformers' TF classes: what TensorFlow wrote converts to the same bytes as
//! the safetensors of the same weights, and no damage of a file does harm.
#![allow(missing_docs)]

mod support;

use pith_convert::source::{Data, Source, hdf5};
use std::fs;
use support::{
    data, safetensors,
    twin::{inflated, original, outcome, twin},
    weights,
};

#[test]
fn tf_checkpoints_convert_like_safetensors() {
    for name in ["gpt2", "opt", "gptj", "mistral"] {
        let name = format!("keras/{name}");
        for target in ["f32", "q8_0", "source"] {
            let wanted = outcome(twin(&name).path(), target).expect(&name);
            let got = outcome(original(&name).path(), target).expect(&name);
            assert!(got == wanted, "{name} {target}");
        }
    }
}

/// `score`, by Keras' own `save_weights`. What the family makes of it, it makes of both.
#[test]
fn a_classifier_has_its_names() {
    let name = "keras/gpt2-weights";
    let (file, wanted) = (original(name), twin(name));
    let weights = file.path().join("weights.h5");
    assert_eq!(outcome(&weights, "f32"), outcome(wanted.path(), "f32"));
    for folder in [&file, &wanted] {
        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, text.replace("ForSequenceClassification", "LMHeadModel")).unwrap();
    }
    let error = outcome(&weights, "f32").unwrap_err();
    assert!(error.contains("a tensor that") && error.contains("`score.weight` [2, 8]"), "{error}");
    assert_eq!(outcome(wanted.path(), "f32").unwrap_err(), error);
}

#[test]
fn an_index_and_its_shards_agree() {
    let folder = original("keras/opt");
    let index = folder.path().join("tf_model.h5.index.json");
    let text = fs::read_to_string(&index).unwrap();
    for (from, to, wanted) in [
        ("/fc1/bias:0", "/fc9/bias:0", "isn't listed"),
        ("tfopt_for_causal_lm/", "tfopt_for_causal_lm/x/", "isn't listed"),
        ("00001-of", "00002-of", "not in tf_model-00002"),
    ] {
        fs::write(&index, text.replacen(from, to, 1)).unwrap();
        let error = outcome(folder.path(), "f32").unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let twice = text.replacen("\"tfopt_for_causal_lm/", "\"tf/model/decoder/embed_positions/embeddings:0\": \"tf_model-00001-of-00003.h5\", \"tfopt_for_causal_lm/", 1);
    fs::write(&index, twice).unwrap();
    assert!(outcome(folder.path(), "f32").unwrap_err().contains("under two names"));
}

/// Names that transformers' TF classes don't write, in whatever container.
#[test]
fn other_names_are_refused() {
    let folder = twin("keras/gpt2");
    let numbered = inflated(&data().join("hdf5/numbered-latest.h5.z"));
    let made = |tensors: &[(&str, &[usize])]| {
        safetensors(&tensors.iter().map(|(name, shape)| weights(name, shape)).collect::<Vec<_>>())
    };
    for (file, wanted) in [
        (numbered, "`layers/dense/vars/0` is a variable without a name"),
        (made(&[("h/kernel:0", &[2, 2, 2])]), "`h/kernel:0` has shape [2, 2, 2]"),
        (made(&[("h/0/kernel", &[2])]), "`h/0/kernel` has shape [2]"),
        (
            made(&[("wte/embeddings:0", &[2]), ("wte/weight:0", &[2])]),
            "both `wte/embeddings:0` and `wte/weight:0` are `wte.weight`",
        ),
    ] {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, file).unwrap();
        let error = outcome(&path, "f32").unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
}

fn open(name: &str) -> Source {
    Source::from_bytes(inflated(&data().join("hdf5").join(name))).expect(name)
}

fn counting(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

#[test]
fn types_and_layouts() {
    for version in ["earliest", "v110", "latest"] {
        let source = open(&format!("variants-{version}.h5.z"));
        let values = |name: &str| source.values(source.tensor(name).expect(name)).expect(name);
        for name in ["f8", "f4", "f2", "bf2", "big_f8", "big_f4", "big_f2", "compact"] {
            let name = format!("a/b_._c/{name}:0");
            assert_eq!(source.tensor(&name).unwrap().entry.shape, [2, 3], "{name}");
            assert_eq!(values(&name), counting(6), "{name} {version}");
        }
        assert_eq!(values("a/b_._c/scalar:0"), [7.0]);
        assert!(values("a/b_._c/empty:0").is_empty());
        for (name, n) in [
            ("plain", 35),
            ("whole", 35),
            ("gzip", 35),
            ("one", 35),
            ("all", 60),
            ("sum", 7),
            ("big", 35),
        ] {
            assert_eq!(values(&format!("chunks/{name}:0")), counting(n), "{name} {version}");
        }
        for (name, dtype) in [("i8", "I64"), ("u1", "U8")] {
            let tensor = source.tensor(&format!("a/b_._c/{name}:0")).unwrap();
            assert!(source.view(tensor).unwrap_err().to_string().contains(dtype));
        }
        let mut others: Vec<_> =
            source.leftovers().iter().map(|other| (other.name.as_str(), other.what)).collect();
        others.sort_unstable();
        assert_eq!(
            others,
            [
                ("others/flags", "flags or other named values"),
                ("others/none", "a dataset without values"),
                ("others/text", "strings or lists"),
            ]
        );
        let plain = &source.tensor("a/b_._c/f4:0").unwrap().entry;
        assert!(matches!(plain.data, Data::Mapped { .. }), "it lies in the file as it is");
        assert_eq!(source.tensors().len(), 19);
    }
}

#[test]
fn many_links_and_chunks() {
    for (version, n) in [("earliest", 130), ("latest", 1030)] {
        let source = open(&format!("many-{version}.h5.z"));
        let values = |name: &str| source.values(source.tensor(name).expect(name)).unwrap();
        assert_eq!(values("layers/layer_with_a_long_name_99/x:0"), counting(2));
        assert_eq!(values("paged:0"), counting(n));
        assert_eq!(values("packed:0"), counting(n));
    }
}

#[test]
fn what_leads_elsewhere_is_refused_by_name() {
    for (name, wanted) in [
        ("soft", "`x` is a soft link"),
        ("external-link", "`x` is a link into another file"),
        ("external", "`x`: its values lie in another file"),
        ("virtual", "`x`: its values are put together"),
        ("lzf", "`x`: filter 32000"),
        ("unwritten", "`x`: its values were never written"),
        ("unwritten-chunk", "`x`: a part of it was never written"),
        ("twice", "is linked twice"),
        ("loop", "linked twice, or a group holds itself"),
        ("named-type", "`x`: a type or size that objects share"),
    ] {
        for version in ["earliest", "v110", "latest"] {
            let path = data().join(format!("hdf5/{name}-{version}.h5.z"));
            let error = hdf5::read(&inflated(&path)).expect_err(name).to_string();
            assert!(error.contains(wanted), "{name} {version}: {error}");
        }
    }
    let growing = |version| inflated(&data().join(format!("hdf5/growing-{version}.h5.z")));
    let error = hdf5::read(&growing("latest")).unwrap_err().to_string();
    assert!(error.contains("`x`: chunks of a dataset that may grow"), "{error}");
    let old = Source::from_bytes(growing("earliest")).unwrap();
    assert_eq!(old.values(&old.tensors()[0]).unwrap(), counting(3));
    let source = open("compound-earliest.h5.z");
    assert_eq!(source.leftovers()[0].what, "values that are no numbers");
    for (file, wanted) in [
        (&b"\x89HDF\r\n\x1a\n"[..], "wanted"),
        (b"\x89HDF\r\n\x1a\n\x09", "superblock of version 9"),
        (b"\x89HDF\r\n\x1a\r\x00", "wanted here"),
    ] {
        let error = hdf5::read(file).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Lists and reads what `file` holds, in whatever state it is.
fn read_all(file: Vec<u8>) -> bool {
    let len = file.len();
    let Ok(source) = Source::from_bytes(file) else { return false };
    let mut whole = true;
    for tensor in source.tensors() {
        let n: usize = tensor.entry.shape.iter().product();
        assert!(n <= 4 * len, "`{}` has {n} values in a file of {len} bytes", tensor.entry.name);
        whole &= source.values(tensor).is_ok();
    }
    whole
}

#[test]
fn truncations_and_flips_never_panic() {
    for version in ["earliest", "v110", "latest"] {
        let good = inflated(&data().join(format!("hdf5/tiny-{version}.h5.z")));
        assert!(read_all(good.clone()));
        for len in 0..good.len() {
            assert!(!read_all(good[..len].to_vec()), "cut to {len} bytes");
        }
        for bit in 0..8 * good.len() {
            let mut file = good.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            read_all(file);
        }
        let good = inflated(&data().join(format!("hdf5/variants-{version}.h5.z")));
        for at in (0..good.len()).step_by(3) {
            let mut file = good.clone();
            file[at] = [0, 255, 1, 127][at % 4];
            read_all(file);
        }
    }
}

/// A file whose chunks claim to become more than any file of its length may hold.
#[test]
fn sizes_are_bounded_by_the_file() {
    let good = inflated(&data().join("hdf5/tiny-earliest.h5.z"));
    // The dataspace and the chunk's size of `packed:0`: 4 values in chunks of 3.
    let find = |bytes: &[u8]| good.windows(bytes.len()).position(|window| window == bytes).unwrap();
    let space = find(&[1, 1, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]) + 8;
    let chunk = find(&[3, 2, 2]) + 11;
    for (values, chunk_values) in
        [(1u64 << 62, 3u32), (1 << 40, u32::MAX), (4, 1 << 30), (1 << 20, 1)]
    {
        let mut file = good.clone();
        file[space..space + 8].copy_from_slice(&values.to_le_bytes());
        file[chunk..chunk + 4].copy_from_slice(&chunk_values.to_le_bytes());
        let error = hdf5::read(&file).unwrap_err().to_string();
        assert!(error.contains("`packed:0`") && error.contains("shape"), "{error}");
    }
}
