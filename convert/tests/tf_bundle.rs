//! TensorFlow's checkpoints: what its Saver wrote gives the bytes of the safetensors route, and no
//! damage of an index panics. `data/make_tf.py` made the files.
#![allow(missing_docs)]

mod support;

use pith_convert::{
    Target, convert,
    source::{Data, Source, tf_bundle},
};
use proptest::prelude::*;
use serde_json::json;
use std::{fs, ops::ControlFlow, path::Path};
use support::{
    Checkpoint, data, options,
    table::{block, bytes, handle, number, table, tables},
    weights,
};

const N_EMBD: usize = 16;

fn open(name: &str) -> Source {
    Source::open(&data().join("tf").join(name)).unwrap()
}

/// What make_tf.py's `gpt2` makes, with Hugging Face's names.
fn twin(n_layer: usize, n_vocab: usize) -> Checkpoint {
    let mut tensors = vec![
        weights("wte.weight", &[n_vocab, N_EMBD]),
        weights("wpe.weight", &[16, N_EMBD]),
        weights("ln_f.weight", &[N_EMBD]),
        weights("ln_f.bias", &[N_EMBD]),
    ];
    for il in 0..n_layer {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push(weights(&format!("h.{il}.{name}"), shape));
        };
        for norm in ["ln_1", "ln_2"] {
            add(&format!("{norm}.weight"), &[N_EMBD]);
            add(&format!("{norm}.bias"), &[N_EMBD]);
        }
        for (name, n_in, n_out) in [
            ("attn.c_attn", N_EMBD, 3 * N_EMBD),
            ("attn.c_proj", N_EMBD, N_EMBD),
            ("mlp.c_fc", N_EMBD, 4 * N_EMBD),
            ("mlp.c_proj", 4 * N_EMBD, N_EMBD),
        ] {
            add(&format!("{name}.weight"), &[n_in, n_out]);
            add(&format!("{name}.bias"), &[n_out]);
        }
    }
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 16,
        "n_embd": N_EMBD, "n_layer": n_layer, "n_head": 4, "vocab_size": n_vocab,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    });
    Checkpoint { config, tensors }
}

fn bytes_of(folder: &Path, target: &str) -> (Vec<u8>, Vec<(String, String)>) {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.gguf");
    let report =
        convert(folder, &out, &options(target), &mut |_| ControlFlow::Continue(())).unwrap();
    (fs::read(out).unwrap(), report.ignored)
}

#[test]
fn openai_files_give_the_bytes_of_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    twin(2, 264).write(folder.path());
    for target in ["f32", "f16", "q8_0", "q4_k"] {
        let (got, ignored) = bytes_of(&data().join("tf/plain"), target);
        assert!(got == bytes_of(folder.path(), target).0, "{target}");
        assert_eq!(ignored, []);
    }
    // The index itself may be named, too.
    let (got, _) = bytes_of(&data().join("tf/plain/model.ckpt.index"), "f32");
    assert!(got == bytes_of(folder.path(), "f32").0);
}

/// With the tokenizer: encoder.json and vocab.bpe here, their Hugging Face names there.
#[test]
fn openai_folders_give_whole_models() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut twin = twin(2, 264);
    twin.config["eos_token_id"] = json!(263);
    twin.write(folder.path());
    let source = data().join("tf/plain");
    for (from, to) in [("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")] {
        fs::copy(source.join(from), folder.path().join(to)).unwrap();
    }
    let out = out.path().join("out.gguf");
    let options = pith_convert::Options { no_tokenizer: false, ..options("q8_0") };
    let converted = |from: &Path| {
        convert(from, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        fs::read(&out).unwrap()
    };
    let wanted = converted(folder.path());
    assert!(converted(&source) == wanted);
    let model = pith::model::Model::open(&out).unwrap();
    let opts = pith::tokenizer::Encode { add_special: true, parse_special: true };
    let ids = model.tokenizer().encode("the fox<|endoftext|>", opts);
    assert_eq!(ids.last(), Some(&263));
    assert!(model.tokenizer().is_eog(263));
}

#[test]
fn shards_slots_and_half_precision() {
    let mut twin = twin(1, 40);
    for value in twin.tensors.iter_mut().flat_map(|tensor| &mut tensor.values) {
        *value = half::f16::from_f32(*value).to_f32();
    }
    let folder = tempfile::tempdir().unwrap();
    twin.write(folder.path());
    for target in ["f32", "f16", "q8_0"] {
        let (got, ignored) = bytes_of(&data().join("tf/adam"), target);
        assert!(got == bytes_of(folder.path(), target).0, "{target}");
        let find =
            |name: &str| ignored.iter().find(|(n, _)| n == name).map(|(_, why)| why.as_str());
        assert_eq!(find("model/wte/Adam_1"), Some("an optimizer's slot beside the weights"));
        assert_eq!(find("global_step"), Some("a counter of the training beside the weights"));
        assert_eq!(ignored.len(), 2 * 16 + 3);
    }
    // `--type source` keeps half precision.
    let (kept, _) = bytes_of(&data().join("tf/adam"), "source");
    assert!(kept == bytes_of(&data().join("tf/adam"), "f16").0);
    assert_eq!(Target::by_name("source").unwrap(), Target::Source);
}

#[test]
fn every_type_is_read_or_refused_by_name() {
    let source = open("types");
    let values = |name: &str| source.values(source.tensor(name).unwrap());
    for name in ["a/float32", "a/float64", "a/float16", "a/bfloat16"] {
        assert_eq!(values(name).unwrap(), [1.0, 0.0], "{name}");
    }
    assert_eq!(values("a/scalar").unwrap(), [0.25]);
    assert!(values("a/empty").unwrap().is_empty());
    for (name, dtype) in [
        ("a/int8", "I8"),
        ("a/uint8", "U8"),
        ("a/int32", "I32"),
        ("a/int64", "I64"),
        ("a/bool", "BOOL"),
    ] {
        assert_eq!(source.tensor(name).unwrap().entry.dtype.name(), dtype);
        assert!(values(name).unwrap_err().to_string().contains(name));
    }
    let left: Vec<_> = source.leftovers().iter().map(|l| (&*l.name, l.what, l.beside)).collect();
    assert_eq!(left, [("a/string", "a string", false)]);
}

#[test]
fn snappy_blocks_hold_the_same() {
    let read = |name: &str| tf_bundle::read(&fs::read(data().join("tf").join(name)).unwrap());
    let entries = |name: &str| {
        let bundle = read(name).unwrap();
        bundle.tensors.iter().map(|(shard, entry)| format!("{shard} {entry:?}")).collect::<Vec<_>>()
    };
    assert_eq!(entries("snappy.index"), entries("types/model.ckpt.index"));
    assert_eq!(entries("snappy.index").len(), 11);
}

#[test]
fn the_checkpoint_file_names_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(data().join("tf/types").join(from), folder.path().join(to)).unwrap();
    };
    copy("model.ckpt.index", "model-1000.index");
    copy("model.ckpt.data-00000-of-00001", "model-1000.data-00000-of-00001");
    let state = |path: &str| {
        let text =
            format!("model_checkpoint_path: \"{path}\"\nall_model_checkpoint_paths: \"x\"\n");
        fs::write(folder.path().join("checkpoint"), text).unwrap();
        Source::open(folder.path())
    };
    assert_eq!(state("/elsewhere/run1/model-1000").unwrap().tensors().len(), 11);
    assert_eq!(state("model-1000").unwrap().files().count(), 2);
    let error = state("a/..").err().unwrap().to_string();
    assert!(error.contains("no plain file name"), "{error}");
    let error = state("model-2000").err().unwrap().to_string();
    assert!(error.contains("model-2000.index"), "{error}");
    fs::remove_file(folder.path().join("model-1000.data-00000-of-00001")).unwrap();
    let error = state("model-1000").err().unwrap().to_string();
    assert!(error.contains("model-1000.data-00000-of-00001"), "{error}");
}

/// A copy of a fixture, changed.
fn refused(name: &str, change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(data().join("tf").join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    change(folder.path());
    let error = support::convert_in(folder.path(), &options("q8_0")).expect_err("must be refused");
    error.to_string()
}

#[test]
fn what_is_not_understood_stops_by_name() {
    let error = refused("sliced", |_| ());
    assert!(error.contains("`model/wte`") && error.contains("slices"), "{error}");
    let error = refused("plain", |folder| fs::remove_file(folder.join("hparams.json")).unwrap());
    assert!(error.contains("hparams.json"), "{error}");
    let error = refused("plain", |folder| {
        let numbers = fs::read_to_string(folder.join("hparams.json")).unwrap();
        let more = numbers.replacen('{', "{\"rotary\": true,", 1);
        fs::write(folder.join("hparams.json"), more).unwrap();
    });
    assert!(error.contains("`rotary`: true"), "{error}");
    let error = refused("plain", |folder| {
        let file = folder.join("model.ckpt.data-00000-of-00001");
        let data = fs::read(&file).unwrap();
        fs::write(file, &data[..data.len() - 1]).unwrap();
    });
    assert!(error.contains("is it truncated?") && error.contains("`model/"), "{error}");
    let error = refused("plain", |folder| {
        let file = folder.join("model.ckpt.data-00000-of-00001");
        let mut data = fs::read(&file).unwrap();
        data[40_000] ^= 1;
        fs::write(file, data).unwrap();
    });
    assert!(error.contains("CRC-32C"), "{error}");
    let error = refused("plain", |folder| {
        fs::rename(folder.join("model.ckpt.index"), folder.join("model.safetensors")).unwrap();
    });
    assert!(error.contains("call it NAME.index"), "{error}");
}

const HEADER: &[u8] = &[8, 1, 26, 2, 8, 1];

/// A bundle of one shard with these tensors.
fn bundle(tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![(&b""[..], HEADER)];
    entries.extend(tensors.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())));
    table(&block(&entries), 0, None)
}

/// `BundleEntryProto` of an F32 vector of `n` at `offset`.
fn vector(n: u64, offset: u64) -> Vec<u8> {
    let shape = bytes(2, &bytes(2, &number(1, n)));
    [number(1, 1), shape, number(4, offset), number(5, n.wrapping_mul(4))].concat()
}

#[test]
fn index_rules() {
    let read = |file: &[u8]| tf_bundle::read(file).map_err(|error| error.to_string());
    let good = bundle(&[("a", vector(2, 0)), ("b", vector(1, 8))]);
    assert_eq!(read(&good).unwrap().tensors.len(), 2);
    let one = |value: Vec<u8>| bundle(&[("a", value)]);
    let raw = |entries: &[(&[u8], &[u8])]| table(&block(entries), 0, None);
    let header = |header: &[u8]| raw(&[(b"", header)]);
    let long = "n".repeat(1025);
    let own = handle(0, 14);
    let zeros = snap::raw::Encoder::new().compress_vec(&[0; 1000]).unwrap();
    let bomb = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &zeros[2..]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (good[..good.len() - 1].to_vec(), "magic"),
        (raw(&[]), "no header"),
        (raw(&[(b"a", HEADER)]), "no header"),
        (header(&[]), "number of shards"),
        (header(&[8, 0]), "number of shards"),
        (header(&number(1, 100_000)), "number of shards"),
        (header(&[8, 1, 16, 1]), "big-endian"),
        (header(&[8, 1, 26, 2, 16, 2]), "another reader"),
        (header(&[8, 1, 26, 2, 24, 1]), "another reader"),
        (header(&[8, 1, 32, 1]), "field 4"),
        (header(&[8]), "cut short"),
        (bundle(&[("b", vector(1, 0)), ("a", vector(1, 4))]), "out of order"),
        (bundle(&[("a", vector(1, 0)), ("a", vector(1, 4))]), "out of order"),
        (bundle(&[("a", vector(2, 0)), ("b", vector(2, 4))]), "overlap"),
        (bundle(&[(&long, vector(1, 0))]), "1025 bytes"),
        (raw(&[(b"", HEADER), (b"\xff", &vector(1, 0))]), "UTF-8"),
        (one([vector(1, 0), number(1, 99)].concat()), "`a` has TensorFlow's type 99"),
        (one([vector(1, 0), number(5, 5)].concat()), "takes 4 bytes, 5"),
        (one([vector(1, 0), number(3, 1)].concat()), "data file 1 of 1"),
        (one([vector(1, 0), number(4, u64::MAX)].concat()), "lies at"),
        (one([vector(1, 0), bytes(7, b"")].concat()), "`a` is stored in slices"),
        (one([vector(1, 0), number(9, 1)].concat()), "field 9"),
        (one([vector(1, 0), number(6, 1)].concat()), "field 6"),
        (one(vector(u64::MAX, 0)), "no plain shape"),
        (one(vector(1 << 62, 0)), "too many"),
        (one([number(1, 1), bytes(2, &number(3, 1))].concat()), "no plain shape"),
        (one([number(1, 1), bytes(2, &bytes(2, &[]).repeat(9))].concat()), "no plain shape"),
        (table(&block(&[(b"", HEADER)]), 2, None), "compression 2"),
        (table(b"abc", 0, None), "cut short"),
        (table(b"\0\0\0\0\xff\xff\xff\xff", 0, None), "cut short"),
        (table(&block(&[(b"", HEADER)]), 0, Some(&[own.clone(), own])), "CRC"),
        (table(&block(&[(b"", HEADER)]), 0, Some(&[handle(0, 17), handle(0, 17)])), "overlap"),
        (table(&[0; 9], 0, Some(&[handle(0, 1 << 40)])), "outside the file"),
        (table(&[0; 9], 0, Some(&[handle(u64::MAX, 9)])), "outside the file"),
        (table(&[0; 9], 0, Some(&[vec![0x80; 11]])), "outside the file"),
        (table(&[0; 9], 0, Some(&[handle(0, 9)])).split_off(1), "outside the file"),
        (table(&bomb, 1, None), "claims to hold 4294967295"),
        (table(&zeros[..zeros.len() - 1], 1, None), "snappy"),
        (table(&[], 1, None), "snappy"),
    ];
    for (i, (file, wanted)) in cases.into_iter().enumerate() {
        let error = read(&file).expect_err(wanted);
        assert!(error.contains(wanted), "case {i}, {wanted}: {error}");
    }
}

#[test]
fn several_blocks_are_one_table() {
    let (a, b) = (vector(2, 0), vector(1, 8));
    let first = block(&[(b"", HEADER), (b"a", &a)]);
    let second = block(&[(b"b", &b)]);
    let whole = tf_bundle::read(&bundle(&[("a", a.clone()), ("b", b.clone())])).unwrap();
    let two = tf_bundle::read(&tables(&[&first, &second], 0, None)).unwrap();
    assert_eq!(format!("{two:?}"), format!("{whole:?}"));
    let error = tf_bundle::read(&tables(&[&first, &first], 0, None)).unwrap_err().to_string();
    assert!(error.contains("out of order"), "{error}");
}

#[test]
fn truncations_and_flips_are_found() {
    for name in ["types/model.ckpt.index", "snappy.index", "sliced/model.ckpt.index"] {
        let good = fs::read(data().join("tf").join(name)).unwrap();
        let wanted = tf_bundle::read(&good).ok().map(|bundle| format!("{bundle:?}"));
        for len in 0..good.len() {
            assert!(tf_bundle::read(&good[..len]).is_err(), "cut to {len} bytes");
        }
        for bit in 0..8 * good.len() {
            let mut file = good.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            // The footer's padding and the unused metaindex may change; what is read may not.
            if let Ok(bundle) = tf_bundle::read(&file) {
                assert_eq!(Some(format!("{bundle:?}")), wanted, "bit {bit}");
            }
        }
    }
}

/// The same behind the checksum: the block is changed, then sealed.
#[test]
fn changed_blocks_with_a_right_checksum_never_panic() {
    let good = fs::read(data().join("tf/types/model.ckpt.index")).unwrap();
    // Its one data block begins the file; the metaindex block, which is empty, follows it.
    let len = (8..good.len()).find(|&n| tf_bundle::read(&table(&good[..n], 0, None)).is_ok());
    let inner = &good[..len.expect("the block is found")];
    let packed = snap::raw::Encoder::new().compress_vec(inner).unwrap();
    for (block, kind) in [(inner, 0), (packed.as_slice(), 1)] {
        for bit in 0..8 * block.len() {
            let mut block = block.to_vec();
            block[bit / 8] ^= 1 << (bit % 8);
            checked(&table(&block, kind, None));
        }
        for cut in 0..block.len() {
            checked(&table(&block[..cut], kind, None));
        }
    }
}

/// What is accepted lies in its files.
fn checked(file: &[u8]) {
    let Ok(bundle) = tf_bundle::read(file) else { return };
    for (shard, entry) in &bundle.tensors {
        assert!(*shard < bundle.n_shards);
        let Data::Mapped { range, .. } = &entry.data else { panic!("bundles pack nothing") };
        let n = entry.shape.iter().product::<usize>();
        assert_eq!(range.len(), n * entry.dtype.bits() / 8);
        assert_eq!(
            bundle.check_shard(*shard, 75).is_ok(),
            bundle.tensors.iter().all(|(of, entry)| {
                let Data::Mapped { range, .. } = &entry.data else {
                    panic!("bundles pack nothing")
                };
                of != shard || range.end <= 75
            })
        );
    }
}

proptest! {
    #[test]
    fn no_entry_panics(value in prop::collection::vec(any::<u8>(), 0..60)) {
        checked(&bundle(&[("a", value.clone())]));
        checked(&table(&block(&[(b"", &value)]), 0, None));
        checked(&table(&value, 0, None));
        checked(&table(&value, 1, None));
        checked(&table(&[0; 9], 0, Some(&[value])));
    }
}
