//! A GGUF file as the source: the bytes of a direct conversion, keys kept, and what stops it.
#![allow(missing_docs)]

mod support;

use pith::{
    bytes::Bytes,
    gguf::{Gguf, OwnedValue, Value, Writer},
    quant::Format,
};
use pith_convert::{Options, Report, convert};
use std::{fs, ops::ControlFlow, path::Path};
use support::*;

fn requantized(source: &Path, target: &str) -> pith::Result<(Vec<u8>, Report)> {
    requantized_by(source, Options { no_tokenizer: false, name: None, ..options(target) })
}

fn requantized_by(source: &Path, options: Options) -> pith::Result<(Vec<u8>, Report)> {
    let out = source.with_extension("out.gguf");
    let report = convert(source, &out, &options, &mut |_| ControlFlow::Continue(()))?;
    Ok((fs::read(out).unwrap(), report))
}

/// GPT-2 and Llama, wide enough for superblocks in some rows.
fn checkpoints() -> [Checkpoint; 3] {
    let mut wide = gpt2();
    wide.config["n_inner"] = 256.into();
    for il in 0..2 {
        for (name, shape) in [
            ("c_fc.weight", vec![32, 256]),
            ("c_fc.bias", vec![256]),
            ("c_proj.weight", vec![256, 32]),
        ] {
            let name = format!("transformer.h.{il}.mlp.{name}");
            *wide.tensor(&name) = weights(&name, &shape);
        }
    }
    [wide, llama(), llama().untied()]
}

#[test]
fn an_unquantized_source_gives_the_bytes_of_the_checkpoint() {
    for mut checkpoint in checkpoints() {
        // What both F32 and F16 hold exactly.
        for value in checkpoint.tensors.iter_mut().flat_map(|tensor| &mut tensor.values) {
            *value = half::f16::from_f32(*value).to_f32();
        }
        let folder = tempfile::tempdir().unwrap();
        checkpoint.write(folder.path());
        for from in ["f32", "f16"] {
            let source = folder.path().join("source.gguf");
            fs::write(&source, converted(folder.path(), from)).unwrap();
            for &format in Format::ALL {
                let (got, report) = requantized(&source, format.name()).unwrap();
                assert!(got == converted(folder.path(), format.name()), "{from} to {format}");
                assert_eq!(report.requantized, []);
                let check = report.check.unwrap();
                assert!(check.n_tokens == 16 && check.kl < check.kl_limit, "{format}: {check:?}");
            }
            let (same, _) = requantized(&source, "source").unwrap();
            assert!(same == fs::read(&source).unwrap());
        }
    }
}

#[test]
fn what_has_its_format_is_copied_and_what_was_quantized_is_told() {
    for checkpoint in checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint.write(folder.path());
        let source = folder.path().join("source.gguf");
        for format in ["q8_0", "q4_k", "iq4_nl"] {
            fs::write(&source, converted(folder.path(), format)).unwrap();
            for to in [format, "source"] {
                let (same, report) = requantized(&source, to).unwrap();
                assert!(same == fs::read(&source).unwrap(), "{format} to {to}");
                assert_eq!(report.requantized, []);
            }
        }
        fs::write(&source, converted(folder.path(), "q8_0")).unwrap();
        let (got, report) = requantized(&source, "q4_0").unwrap();
        let (got, before) = (Gguf::parse(&got).unwrap(), Bytes::map(&source).unwrap());
        let before = Gguf::parse(&before).unwrap();
        let changed: Vec<_> = report.requantized.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!changed.is_empty() && report.requantized.iter().all(|(_, f)| *f == Format::Q8_0));
        assert_eq!(report.to_json()["requantized"][0]["from"], "Q8_0");
        for (new, old) in got.tensors().iter().zip(before.tensors()) {
            assert_eq!(new.name, old.name);
            assert_eq!(changed.contains(&new.name), new.format != old.format);
            if new.format == old.format {
                assert!(new.data == old.data);
                continue;
            }
            let mut values = vec![0.0; old.n_in() * old.n_rows()];
            old.format.decode(old.data, &mut values);
            let mut wanted = vec![0; new.data.len()];
            new.format.encode(&values, &mut wanted);
            assert!(new.data == wanted, "{}", new.name);
        }
    }
}

/// A file of another program: its own alignment, keys of all types, no type of the whole.
fn foreign(path: &Path, alignment: u32, change: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::new(alignment).unwrap();
    writer.set("general.architecture", OwnedValue::String("gpt2".into())).unwrap();
    writer.set("x.u8", OwnedValue::U8(200)).unwrap();
    writer.set("x.f64", OwnedValue::F64(0.1)).unwrap();
    writer.set("x.texts", OwnedValue::Strings(vec!["ä".into(), String::new()])).unwrap();
    writer.set("x.flags", OwnedValue::Bools(vec![true, false])).unwrap();
    change(&mut writer);
    writer.declare("token_embd.weight", Format::F32, &[32, 2]).unwrap();
    let mut file = writer.create(path).unwrap();
    file.write("token_embd.weight", &[0; 256]).unwrap();
    file.finish().unwrap();
}

#[test]
fn keys_of_all_types_and_the_alignment_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.gguf");
    foreign(&source, 64, |_| ());
    // The runtime runs no such file, so that it can't be checked.
    let refused = requantized(&source, "q8_0").unwrap_err().to_string();
    assert!(refused.contains("embedding_length"), "{refused}");
    let options = Options { no_tokenizer: false, name: None, check: false, ..options("q8_0") };
    let (got, _) = requantized_by(&source, options.clone()).unwrap();
    let (got, before) = (Gguf::parse(&got).unwrap(), fs::read(&source).unwrap());
    let before = Gguf::parse(&before).unwrap();
    assert_eq!(got.alignment(), 64);
    let n = before.metadata().len();
    for (new, old) in got.metadata().iter().zip(before.metadata()) {
        assert_eq!(format!("{new:?}"), format!("{old:?}"));
    }
    let added: Vec<_> = got.metadata()[n..].to_vec();
    let wanted =
        [("general.file_type", Value::U32(7)), ("general.quantization_version", Value::U32(2))];
    assert_eq!(added, wanted);
    // An array in an array, which nothing of pith's writes.
    let nested = [
        b"GGUF\x03\0\0\0".as_slice(),
        &[0; 8],
        &2u64.to_le_bytes(),
        &string("general.architecture"),
        &8u32.to_le_bytes(),
        &string("gpt2"),
        &string("x"),
        &9u32.to_le_bytes(),
        &9u32.to_le_bytes(),
        &1u64.to_le_bytes(),
        &10u32.to_le_bytes(),
        &1u64.to_le_bytes(),
        &7u64.to_le_bytes(),
    ]
    .concat();
    fs::write(&source, &nested).unwrap();
    let (got, _) = requantized_by(&source, options).unwrap();
    let (got, before) = (Gguf::parse(&got).unwrap(), Gguf::parse(&nested).unwrap());
    assert_eq!(format!("{:?}", got.get("x")), format!("{:?}", before.get("x")));
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn what_is_not_understood_stops_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.gguf");
    let refused = |source: &Path| requantized(source, "q8_0").unwrap_err().to_string();
    foreign(&source, 32, |writer| {
        writer.set("split.count", OwnedValue::U16(3)).unwrap();
    });
    assert!(refused(&source).contains("llama-gguf-split --merge"));
    fs::write(&source, b"GGUF").unwrap();
    assert!(refused(&source).contains("GGUF"));
    let mut writer = Writer::default();
    writer.set("general.architecture", OwnedValue::String("bert".into())).unwrap();
    writer.create(&source).unwrap().finish().unwrap();
    assert!(refused(&source).contains("`bert`"));
    let mut writer = Writer::default();
    writer.set("general.architecture", OwnedValue::String("gpt2".into())).unwrap();
    writer.declare("blk.0.surprise.weight", Format::F32, &[1]).unwrap();
    let mut file = writer.create(&source).unwrap();
    file.write("blk.0.surprise.weight", &[0; 4]).unwrap();
    file.finish().unwrap();
    assert!(refused(&source).contains("`blk.0.surprise.weight`"));
}

#[test]
fn the_source_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.gguf");
    foreign(&source, 32, |_| ());
    let before = fs::read(&source).unwrap();
    let options = Options { no_tokenizer: false, ..options("q8_0") };
    for out in [
        source.clone(),
        folder.path().join("../").join(folder.path().file_name().unwrap()).join("source.gguf"),
    ] {
        let error = convert(&source, &out, &options, &mut |_| ControlFlow::Continue(()));
        assert!(error.unwrap_err().to_string().contains("part of the checkpoint"));
    }
    let error = convert(&source, folder.path(), &options, &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("is a folder"));
    assert!(fs::read(&source).unwrap() == before);
    // A broken conversion leaves nothing behind.
    let out = folder.path().join("out.gguf");
    let stopped = convert(&source, &out, &options, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(pith::Error::Stopped)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
