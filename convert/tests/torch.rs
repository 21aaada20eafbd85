//! `torch.save` files: what torch wrote is read, what it never writes is refused by name.
#![allow(missing_docs)]

mod support;

use pith_convert::source::{self, Source, pickle::Pickle, zip};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use support::{
    data,
    zip::{archive, position},
};

fn values(source: &Source, name: &str) -> Vec<f32> {
    source.values(source.tensor(name).expect(name)).unwrap()
}

fn open(name: &str) -> Source {
    Source::open(&data().join(name)).unwrap()
}

fn refusal(file: &[u8]) -> String {
    source::read(file).expect_err("must be refused").to_string()
}

#[test]
fn views_types_and_wrappers_of_tensors() {
    for name in ["views.bin", "protocol4.bin", "legacy.bin", "legacy4.bin"] {
        let source = open(name);
        let row = |range: std::ops::Range<u32>| range.map(|i| i as f32).collect::<Vec<_>>();
        assert_eq!(values(&source, "middle"), row(6..18));
        let transposed: Vec<f32> =
            (0..6).flat_map(|i| (0..4).map(move |j| (j * 6 + i) as f32)).collect();
        assert_eq!(values(&source, "transposed"), transposed);
        let every_other: Vec<f32> = (0..12).map(|i| (2 * i) as f32).collect();
        assert_eq!(values(&source, "every_other"), every_other);
        assert_eq!(values(&source, "repeated"), [5.0; 6]);
        assert_eq!(values(&source, "parameter"), [1.0, -2.0]);
        assert_eq!(values(&source, "buffer"), [3.0]);
        assert_eq!(values(&source, "half"), [0.5, -1.5]);
        assert_eq!(values(&source, "bfloat"), [0.5, -1.5]);
        assert_eq!(values(&source, "double"), [0.25]);
        assert_eq!(values(&source, "scalar"), [7.0]);
        let mask = source.tensor("mask").unwrap();
        let error = source.view(mask).unwrap_err().to_string();
        assert!(error.contains("`mask`") && error.contains("BOOL"), "{error}");
        let is_legacy = name.starts_with("legacy");
        assert_eq!(source.tensors().len(), if is_legacy { 13 } else { 12 });
        if is_legacy {
            assert_eq!(values(&source, "again"), row(6..18));
        }
    }
    assert_eq!(open("module.bin").tensors().len(), 1);
}

#[test]
fn wrappers_and_prefixes_are_taken_off() {
    let source = open("wrapped.bin");
    assert_eq!(values(&source, "a"), [1.0, 1.0]);
    assert_eq!(values(&source, "b"), [0.0]);
    let beside: Vec<_> = source.leftovers().iter().map(|l| (l.name.as_str(), l.beside)).collect();
    assert_eq!(beside, [("epoch", true), ("lr", true), ("args", true)]);
    let inside: Vec<_> = open("entry.bin").leftovers().to_vec();
    assert_eq!((inside[0].name.as_str(), inside[0].beside), ("steps", false));
}

#[test]
fn wrappers_of_programs_are_taken_off() {
    for (name, wanted) in [
        ("tutorial.bin", ["wpe", "wte"]),
        ("merged.bin", ["lm_head.weight", "transformer.wte"]),
        ("attribute.bin", ["lm_head.weight", "model.embed_tokens"]),
        ("both.bin", ["wpe", "wte"]),
        // Adapters that aren't merged: the model is more than these tensors.
        ("lora.bin", ["base_model.model.h.lora_A.weight", "base_model.model.lm_head.weight"]),
    ] {
        let source = open(name);
        let names: Vec<_> = source.tensors().iter().map(|t| t.entry.name.as_str()).collect();
        assert_eq!(names, wanted, "{name}");
    }
    let error = Source::open(&data().join("whole.bin")).err().unwrap().to_string();
    assert!(error.contains("whole module") && error.contains("state_dict()"), "{error}");
}

/// A number, a flag, a short string, or a small dict of these comes with its value.
#[test]
fn small_things_beside_the_weights_keep_their_values() {
    let source = open("wrapped.bin");
    let value =
        |name: &str| source.leftovers().iter().find(|l| l.name == name).unwrap().value.clone();
    assert_eq!(value("epoch"), json!(3));
    assert_eq!(value("lr"), json!(0.1));
    assert_eq!(
        value("args"),
        json!({"sizes": "(a list)", "none": null, "dtype": "(an object)", "size": "(a list)",
            "device": "(an object)"})
    );
}

#[test]
fn functions_are_refused_by_name_and_never_called() {
    let before = fs::read_dir(".").unwrap().count();
    let error = Source::open(&data().join("evil.bin")).err().unwrap().to_string();
    assert!(error.contains("`posix.system`") && error.contains("evil.bin"), "{error}");
    assert_eq!(fs::read_dir(".").unwrap().count(), before, "nothing was run");
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..], "os.system"),
        (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02ctorch._utils\n_rebuild_wrapper\n.", "torch._utils._rebuild_wrapper"),
    ] {
        let error = Pickle::parse(pickle).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(refusal(&archive(&[("a/data.pkl", pickle)])).contains(name));
    }
}

#[test]
fn old_and_foreign_files_are_refused_by_name() {
    let tar = [&[0; 257][..], b"ustar"].concat();
    assert!(refusal(&tar).contains("before PyTorch 0.1.10"));
    assert!(refusal(b"GGUF\x03\0\0\0").contains("GGUF"));
    assert!(refusal(b"\x89HDF\r\n\x1a\n").contains("HDF5"));
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1").contains("git lfs pull"));
    assert!(refusal(b"").contains("neither"));
    let big = archive(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]);
    assert!(refusal(&big).contains("byte order `big`"));
    let none = archive(&[("a/other", b"")]);
    assert!(refusal(&none).contains("data.pkl"));
    let list = archive(&[("a/data.pkl", b"\x80\x02]q\0.")]);
    assert!(refusal(&list).contains("a list"));
}

#[test]
fn pickle_rules() {
    for (pickle, wanted) in [
        (&b""[..], "bytes wanted"),
        (b"\x80\x06.", "protocol 6"),
        (b"\x80\x02", "bytes wanted"),
        (b"\x80\x02.", "one value"),
        (b"\x80\x02NN.", "one value"),
        (b"\x80\x02(N.", "one value"),
        (b"\x80\x02N.N", "follow"),
        (b"\x80\x02I1\n.", "opcode 0x49"),
        (b"\x80\x02(cos\nsystem\no.", "os.system"),
        (b"\x80\x02ios\nsystem\n.", "os.system"),
        (b"\x80\x02(icollections\nOrderedDict\n.", "opcode 0x69"),
        (b"\x80\x02\x82\x01.", "opcode 0x82"),
        (b"\x80\x02P1\n.", "opcode 0x50"),
        (b"\x80\x020.", "empty"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02N(0.", "empty"),
        (b"\x80\x02Na.", "empty"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02]NNs.", "no dict"),
        (b"\x80\x02}(Nu.", "without a value"),
        (b"\x80\x02h\x07.", "slot 7 is empty"),
        (b"\x80\x02Nr\0\0\0\x7f.", "memo slot"),
        (b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01.", "9 bytes"),
        (b"\x80\x02X\xff\xff\xff\xff.", "bytes wanted"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "bytes wanted"),
        (b"\x80\x02X\x01\0\0\0\xff.", "UTF-8"),
        (b"\x80\x02N)R.", "no allowed name"),
        (b"\x80\x02N}b.", "attributes"),
        (b"\x80\x02NQ.", "no storage"),
        (b"\x80\x02ctorch\nSize\n)R.", "Size"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "RebuildTensor"),
    ] {
        let error = Pickle::parse(pickle).expect_err("must be refused").to_string();
        assert!(error.contains(wanted), "{}: {error}", pickle.escape_ascii());
    }
    let deep = [&b"\x80\x02"[..], &[b'('; 2000]].concat();
    assert!(Pickle::parse(&deep).unwrap_err().to_string().contains("inside each other"));
    // A list doubled by each of its copies: the copies count, so it ends early.
    let mut bomb = b"\x80\x02]q\0".to_vec();
    bomb.extend(b"(".iter().chain(&[b'N'; 1000]).chain(b"e"));
    let copy = b"0ccollections\nOrderedDict\nh\0\x85R";
    for _ in 0..10 {
        bomb.extend(copy);
    }
    assert!(Pickle::parse(&bomb).is_err());
}

/// A pickle of one F32 tensor `a` with this shape and stride, over a storage of `len` elements.
fn one_tensor(len: u8, offset: u8, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let tuple = |dims: &[u32]| {
        let ints = dims.iter().flat_map(|dim| [&b"J"[..], &dim.to_le_bytes()].concat());
        [&b"("[..], &ints.collect::<Vec<_>>(), b"t"].concat()
    };
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK";
    [
        &b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("[..],
        storage,
        &[len, b't', b'Q', b'K', offset],
        &tuple(shape),
        &tuple(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

#[test]
fn tensors_stay_in_their_storage() {
    let read = |pickle: &[u8], bytes: &[u8]| {
        source::read(&archive(&[("a/data.pkl", pickle), ("a/data/0", bytes)]))
    };
    let fine = one_tensor(4, 0, &[2, 2], &[2, 1]);
    assert_eq!(read(&fine, &[0; 16]).unwrap().0[0].shape, [2, 2]);
    for (pickle, bytes, wanted) in [
        (one_tensor(4, 1, &[2, 2], &[2, 1]), 16, "leaves its storage"),
        (one_tensor(4, 0, &[2, 2], &[3, 1]), 16, "leaves its storage"),
        (one_tensor(4, 0, &[2], &[2, 1]), 16, "with strides"),
        (one_tensor(4, 0, &[u32::MAX], &[1]), 16, "negative or odd shape"),
        (one_tensor(4, 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]), 16, "leaves its storage"),
        (one_tensor(4, 0, &[1 << 30, 1 << 20], &[0, 0]), 16, "tensors take"),
        (one_tensor(4, 0, &[1; 9], &[1; 9]), 16, "9 dimensions"),
        (one_tensor(4, 0, &[4], &[1]), 12, "has 12 bytes"),
    ] {
        let error = read(&pickle, &vec![0; bytes]).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let missing = archive(&[("a/data.pkl", &fine)]);
    assert!(refusal(&missing).contains("`data/0` is missing"));
    // The same name twice.
    let twice = [&fine[..fine.len() - 1], &fine[3..]].concat();
    assert!(read(&twice, &[0; 16]).unwrap_err().to_string().contains("stored twice"));
}

#[test]
fn zip_rules() {
    let good = archive(&[("a/data.pkl", b"\x80\x02}."), ("a/data/0", b"12345678")]);
    assert_eq!(zip::entries(&good).unwrap().len(), 2);
    let central = |n| position(&good, b"PK\x01\x02", n);
    let local = |n| position(&good, b"PK\x03\x04", n);
    let end = position(&good, b"PK\x05\x06", 0);
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        zip::entries(&file).err().map_or_else(|| "accepted".into(), |error| error.to_string())
    };
    for (at, bytes, wanted) in [
        (end, &b"XX"[..], "no end record"),
        (end + 4, &[1, 0], "several parts"),
        (end + 20, &[1, 0], "comment"),
        (end + 8, &[3, 0, 3, 0], "3 entries in"),
        (end + 8, &[0xff, 0x7f, 0xff, 0x7f], "32767 entries"),
        (end + 8, &[1, 0, 1, 0], "longer than its entries"),
        (end + 12, &[1], "doesn't end at its end record"),
        (end + 16, &[0xff; 4], "doesn't end at its end record"),
        (central(0), b"PX", "no directory entry"),
        (central(0) + 8, &[1, 0], "encrypted"),
        (central(0) + 10, &[8, 0], "compressed"),
        (central(0) + 34, &[1, 0], "another disk"),
        (central(0) + 20, &[9, 0, 0, 0], "stores"),
        (central(0) + 42, &[0xf0, 0xff, 0, 0], "bytes wanted"),
        (central(0) + 46, b"b", "disagree"),
        (central(0) + 46, &[0xff], "UTF-8"),
        (central(1) + 42, &[0, 0, 0, 0], "disagree"),
        (local(0), b"PX", "no local header"),
        (local(0) + 6, &[1, 0], "disagree"),
        (local(0) + 8, &[8, 0], "disagree"),
        (local(0) + 14, &[1], "disagree"),
        (local(0) + 18, &[1], "disagree"),
        (local(0) + 22, &[1], "disagree"),
        (local(0) + 30, b"b", "disagree"),
    ] {
        let error = patched(at, bytes);
        assert!(error.contains(wanted), "{at} {wanted}: {error}");
    }
    let mut commented = good.clone();
    commented.extend(b"PK\x05\x06");
    assert!(zip::entries(&commented).is_err());
    let twice = archive(&[("a/x", b""), ("a/x", b"")]);
    assert!(zip::entries(&twice).unwrap_err().to_string().contains("listed twice"));
    assert!(zip::entries(&archive(&[("", b"")])).unwrap_err().to_string().contains("name"));
    // An entry inside another: the second's local header is the first's data.
    let inner = archive(&[("b", b"")]);
    let mut nested = archive(&[("a", &inner[..31]), ("b", b"")]);
    let second = position(&nested, b"PK\x01\x02", 1);
    nested[second + 42..second + 46].copy_from_slice(&31u32.to_le_bytes());
    assert!(zip::entries(&nested).unwrap_err().to_string().contains("overlap"));
    let mut damaged = good.clone();
    damaged[local(1) + 30 + 8] ^= 1;
    let entries = zip::entries(&damaged).unwrap();
    assert!(entries[1].bytes(&damaged).unwrap_err().to_string().contains("CRC-32"));
}

/// Everything that a file says: tensors with their values, or the first error.
fn contents(file: &[u8]) -> Option<Vec<(String, Vec<f32>)>> {
    let source = Source::from_bytes(file.to_vec()).ok()?;
    let mut out = Vec::new();
    for tensor in source.tensors() {
        if source.view(tensor).is_ok() {
            out.push((tensor.entry.name.clone(), source.values(tensor).ok()?));
        }
    }
    Some(out)
}

#[test]
fn truncations_and_flips_are_found() {
    for name in ["legacy.bin", "legacy4.bin"] {
        let good = fs::read(data().join(name)).unwrap();
        for len in 0..good.len() {
            assert!(source::read(&good[..len]).is_err(), "{name} cut to {len} bytes");
        }
        assert!(source::read(&[&good, &[0][..]].concat()).is_err());
        // Nothing guards the values there, but no bit leads out of the file.
        for at in 0..8 * good.len() {
            let mut file = good.clone();
            file[at / 8] ^= 1 << (at % 8);
            contents(&file);
        }
    }
    let good = fs::read(data().join("views.bin")).unwrap();
    let wanted = contents(&good).unwrap();
    for len in 0..good.len() {
        assert!(source::read(&good[..len]).is_err(), "cut to {len} bytes");
    }
    for at in 0..good.len() {
        for bit in [0, 3, 7] {
            let mut file = good.clone();
            file[at] ^= 1 << bit;
            // Times and padding may change; what is read may not.
            if let Some(got) = contents(&file) {
                assert_eq!(got, wanted, "bit {bit} of byte {at}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_pickle_panics(ops in prop::collection::vec(prop_oneof![
        Just(b'('), Just(b't'), Just(b'}'), Just(b']'), Just(b'u'), Just(b'e'), Just(b'R'),
        Just(b'Q'), Just(b'b'), Just(b'h'), Just(b'q'), Just(b'N'), Just(b')'), Just(b'.'),
        Just(0x85), Just(0x86), Just(0x87), Just(0x94), any::<u8>()
    ], 0..200)) {
        let _ = Pickle::parse(&[b"\x80\x02", ops.as_slice()].concat());
    }

    #[test]
    fn no_archive_panics(tail in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..200) {
        let good = archive(&[("a/data.pkl", b"\x80\x02}."), ("a/data/0", b"12345678")]);
        let mut file = good[..good.len().saturating_sub(cut)].to_vec();
        file.extend(tail);
        let _ = source::read(&file);
    }
}
