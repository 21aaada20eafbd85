//! Whole conversions: what is written, that containers don't matter, and what stops one.
#![allow(missing_docs)]

mod support;

use pith::{Error, bytes::Bytes, gguf::Gguf, quant::Format};
use pith_convert::{Progress, Target, convert, source::Source};
use serde_json::json;
use std::{fs, ops::ControlFlow, path::Path};
use support::*;

fn tensor(gguf: &Gguf<'_>, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).expect(name);
    let mut values = vec![0.0; tensor.n_in() * tensor.n_rows()];
    tensor.format.decode(tensor.data, &mut values);
    values
}

fn f32_file(checkpoint: &Checkpoint) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    converted(folder.path(), "f32")
}

#[test]
fn gpt2_matrices_are_transposed() {
    let mut checkpoint = gpt2();
    let file = f32_file(&checkpoint);
    let gguf = Gguf::parse(&file).unwrap();
    let source = checkpoint.tensor("transformer.h.1.mlp.c_fc.weight").values.clone();
    let up = tensor(&gguf, "blk.1.ffn_up.weight");
    assert_eq!(gguf.tensor("blk.1.ffn_up.weight").unwrap().dims[..2], [32, 64]);
    for (i, value) in up.iter().enumerate() {
        let (row, column) = (i / 32, i % 32);
        assert_eq!(*value, source[column * 64 + row]);
    }
    let embedding = &checkpoint.tensor("transformer.wte.weight").values;
    assert_eq!(tensor(&gguf, "token_embd.weight"), *embedding);
    assert!(gguf.tensor("output.weight").is_none());
    assert_eq!(gguf.require_str("general.architecture").unwrap(), "gpt2");
    assert_eq!(gguf.require_u64("gpt2.block_count").unwrap(), 2);
    assert_eq!(gguf.require_u64("gpt2.feed_forward_length").unwrap(), 64);
    assert_eq!(gguf.require_u64("general.file_type").unwrap(), 0);
}

#[test]
fn llama_rope_rows_become_adjacent_pairs() {
    let mut checkpoint = llama();
    let file = f32_file(&checkpoint);
    let gguf = Gguf::parse(&file).unwrap();
    for (name, heads) in [("q", 4), ("k", 2)] {
        let source = format!("model.layers.0.self_attn.{name}_proj.weight");
        let source = checkpoint.tensor(&source).values.clone();
        let permuted = tensor(&gguf, &format!("blk.0.attn_{name}.weight"));
        for head in 0..heads {
            for (i, s) in (0..4).flat_map(|i| [(i, 0), (i, 1)]) {
                let (new, old) = (head * 8 + 2 * i + s, head * 8 + s * 4 + i);
                assert_eq!(permuted[new * 32..][..32], source[old * 32..][..32]);
            }
        }
    }
    assert_eq!(gguf.require_u64("llama.rope.dimension_count").unwrap(), 8);
}

#[test]
fn containers_do_not_matter() {
    for checkpoint in [gpt2(), gpt2().untied(), llama(), llama().untied()] {
        for target in ["f32", "q8_0", "q4_k"] {
            let folder = tempfile::tempdir().unwrap();
            let (single, sharded) = (folder.path().join("a"), folder.path().join("b"));
            checkpoint.write(&single);
            checkpoint.write_sharded(&sharded);
            assert!(converted(&single, target) == converted(&sharded, target));
        }
    }
}

/// torch wrote these: fp16 GPT-2 (tied, whole) and bf16 Llama (untied, two shards).
#[test]
fn torch_files_give_the_bytes_of_safetensors() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
    for (name, is_tied) in [("gpt2-bin", true), ("llama-bin", false)] {
        let source = Source::open(&goldens.join(name)).unwrap();
        let mut tensors = Vec::new();
        for tensor in source.tensors() {
            let Ok(values) = source.values(tensor) else { continue };
            let shape = tensor.entry.shape.clone();
            tensors.push(Weights { name: tensor.entry.name.clone(), shape, values });
        }
        let config = fs::read(goldens.join(name).join("config.json")).unwrap();
        let checkpoint = Checkpoint { config: serde_json::from_slice(&config).unwrap(), tensors };
        let folder = tempfile::tempdir().unwrap();
        let (single, sharded) = (folder.path().join("a"), folder.path().join("b"));
        checkpoint.write(&single);
        checkpoint.write_sharded(&sharded);
        for target in ["f32", "q8_0", "q4_0"] {
            let out = folder.path().join("bin.gguf");
            let report = convert(&goldens.join(name), &out, &options(target), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(report.tied, is_tied);
            let bytes = fs::read(&out).unwrap();
            assert!(bytes == converted(&single, target), "{name} {target}: single");
            assert!(bytes == converted(&sharded, target), "{name} {target}: sharded");
        }
    }
}

#[test]
fn a_head_that_differs_is_written_and_an_equal_one_is_not() {
    let mut same = gpt2();
    let embedding = same.tensor("transformer.wte.weight").clone();
    same.tensors.push(Weights { name: "lm_head.weight".into(), ..embedding });
    assert!(f32_file(&same) == f32_file(&gpt2()));
    let untied = f32_file(&gpt2().untied());
    assert!(Gguf::parse(&untied).unwrap().tensor("output.weight").is_some());
    let mut lost = llama();
    lost.config["tie_word_embeddings"] = json!(false);
    assert!(lost.error().contains("lm_head.weight"));
}

#[test]
fn thread_counts_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    gpt2().write(folder.path());
    let wanted = converted(folder.path(), "q4_0");
    for threads in 2..=4 {
        let options = pith_convert::Options { threads, ..options("q4_0") };
        convert_in(folder.path(), &options).unwrap();
        assert!(fs::read(folder.path().join("out.gguf")).unwrap() == wanted);
    }
}

#[test]
fn fallbacks_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    gpt2().write(folder.path());
    let report = convert_in(folder.path(), &options("q4_k")).unwrap();
    let embedding = report.fallbacks.iter().find(|f| f.tensor == "token_embd.weight").unwrap();
    assert_eq!((embedding.wanted, embedding.got), (Format::Q6_K, Format::Q8_0));
    let up = report.fallbacks.iter().find(|f| f.tensor == "blk.0.ffn_up.weight").unwrap();
    assert_eq!((up.wanted, up.got, up.n_in), (Format::Q4_K, Format::Q5_0, 32));
    assert_eq!(report.fallbacks.len(), 1 + 2 * 4);
    let json = report.to_json();
    assert_eq!(json["fallbacks"][0]["got"], "Q8_0");
    assert_eq!(json["formats"][0], json!({"format": "F32", "tensors": 19, "bytes": 5120}));
}

#[test]
fn unknown_keys_stop_by_name_unless_allowed() {
    let mut checkpoint = gpt2();
    checkpoint.config["mup_scale"] = json!(2.0);
    checkpoint.config["absent"] = json!(null);
    assert!(checkpoint.error().contains("`mup_scale`: 2.0"));
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    let options =
        pith_convert::Options { allow_unknown: vec!["mup_scale".into()], ..options("q8_0") };
    assert_eq!(convert_in(folder.path(), &options).unwrap().allowed_unknown, ["mup_scale"]);
    let bytes = Bytes::map(&folder.path().join("out.gguf")).unwrap();
    assert!(Gguf::parse(&bytes).unwrap().get("pith.convert.allowed_unknown").is_some());
}

#[test]
fn configurations_that_make_no_sense_stop_by_name() {
    for (key, value, wanted) in [
        ("architectures", json!(["BertModel"]), "`BertModel`"),
        ("architectures", json!([]), "architectures"),
        ("n_head", json!(5), "doesn't divide by 5 heads"),
        ("n_head", json!(0), "head_count is 0"),
        ("n_embd", json!(null), "embedding_length"),
        ("n_layer", json!(-1), "`n_layer`"),
        ("n_layer", json!(2_000_000_000), "`n_layer`"),
        ("n_layer", json!(5000), "5000 layers"),
        ("n_layer", json!("2"), "`n_layer`"),
        ("n_positions", json!(17), "`transformer.wpe.weight` has shape [16, 32]"),
        ("vocab_size", json!(41), "vocab_size"),
        ("activation_function", json!("softplus"), "softplus"),
        ("scale_attn_by_inverse_layer_idx", json!(1), "scale_attn_by_inverse_layer_idx"),
        ("layer_norm_epsilon", json!("small"), "layer_norm_epsilon"),
        ("eos_token_id", json!("x"), "eos_token_id"),
    ] {
        let mut checkpoint = gpt2();
        checkpoint.config[key] = value;
        let error = checkpoint.error();
        assert!(error.contains(wanted), "{key}: {error}");
    }
}

#[test]
fn rope_scaling_is_taken_or_refused_by_name() {
    let config = |scaling| {
        let mut checkpoint = llama();
        checkpoint.config["rope_scaling"] = scaling;
        checkpoint
    };
    for kind in ["dynamic", "mrope", "proportional"] {
        assert!(config(json!({"type": kind, "factor": 2.0})).error().contains(kind));
    }
    let odd = config(json!({"rope_type": "default", "mscale": 1.0}));
    assert!(odd.error().contains("`rope_scaling.mscale`"));
    assert!(config(json!({"type": "linear"})).error().contains("`factor`"));
    let file = f32_file(&config(json!({"type": "linear", "factor": 4.0})));
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.require_str("llama.rope.scaling.type").unwrap(), "linear");
    assert_eq!(gguf.get("llama.rope.scaling.factor").unwrap().as_f32(), Some(4.0));
    let file = f32_file(&config(json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    })));
    let factors = tensor(&Gguf::parse(&file).unwrap(), "rope_freqs.weight");
    // Wavelengths 2 pi * 10^i against bands of 16 and 64: kept, between, divided, divided.
    let smooth = (64.0 / (2.0 * std::f32::consts::PI * 10.0) - 1.0) / 3.0;
    let wanted = [1.0, 1.0 / ((1.0 - smooth) / 8.0 + smooth), 8.0, 8.0];
    for (got, wanted) in factors.iter().zip(wanted) {
        assert!((got - wanted).abs() < 1e-5, "{factors:?}, wanted {wanted:?}");
    }
}

#[test]
fn tensors_that_are_missing_left_over_or_misshapen_stop_by_name() {
    let mut checkpoint = gpt2();
    checkpoint.remove("transformer.h.1.attn.c_attn.bias");
    let error = checkpoint.error();
    assert!(error.contains("`h.1.attn.c_attn.bias` (blk.1.attn_qkv.bias)"), "{error}");

    let mut checkpoint = gpt2();
    checkpoint.remove("transformer.wte.weight");
    assert!(checkpoint.error().contains("wte.weight"));

    let mut checkpoint = gpt2();
    checkpoint.tensors.push(weights("transformer.h.2.ln_1.weight", &[32]));
    checkpoint.tensors.push(weights("score.weight", &[2, 32]));
    let error = checkpoint.error();
    assert!(error.contains("`transformer.h.2.ln_1.weight` [32]"), "{error}");
    assert!(error.contains("`score.weight` [2, 32]"), "{error}");

    let mut checkpoint = gpt2();
    *checkpoint.tensor("transformer.h.0.mlp.c_fc.weight") =
        weights("transformer.h.0.mlp.c_fc.weight", &[64, 32]);
    let error = checkpoint.error();
    assert!(error.contains("[64, 32]") && error.contains("[32, 64]"), "{error}");

    let mut checkpoint = llama();
    checkpoint.tensors.push(weights("model.layers.1.self_attn.v_proj.bias", &[16]));
    assert!(checkpoint.error().contains("layers.0.self_attn.v_proj.bias"));

    let mut checkpoint = gpt2();
    checkpoint.tensors.push(weights("wpe.weight", &[16, 32]));
    assert!(checkpoint.error().contains("`wpe.weight`"));
}

#[test]
fn values_that_are_not_finite_or_do_not_fit_stop_by_name() {
    let mut checkpoint = gpt2();
    checkpoint.tensor("transformer.h.0.mlp.c_fc.weight").values[7] = f32::NAN;
    assert!(checkpoint.error().contains("`transformer.h.0.mlp.c_fc.weight` holds the value NaN"));
    let mut checkpoint = gpt2();
    checkpoint.tensor("transformer.wte.weight").values[7] = 1e5;
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    let error = convert_in(folder.path(), &options("f16")).unwrap_err().to_string();
    assert!(error.contains("bf16") && error.contains("wte"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no half-written file is left");
}

#[test]
fn the_checkpoint_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    gpt2().write(folder.path());
    for name in ["model.safetensors", "config.json", "../x"] {
        let out = folder.path().join(name);
        let wanted = fs::read(&out).ok();
        let result =
            convert(folder.path(), &out, &options("q8_0"), &mut |_| ControlFlow::Continue(()));
        match wanted {
            Some(bytes) => {
                assert!(result.unwrap_err().to_string().contains("part of the checkpoint"));
                assert!(fs::read(&out).unwrap() == bytes);
            }
            None => fs::remove_file(&out).unwrap(),
        }
    }
    let error =
        convert(folder.path(), folder.path(), &options("q8_0"), &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("is a folder"));
}

#[test]
fn a_stopped_conversion_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    gpt2().write(folder.path());
    let before = fs::read_dir(folder.path()).unwrap().count();
    let mut calls = 0;
    let out = folder.path().join("out.gguf");
    let mut stopped_at = |stop: usize| {
        calls = 0;
        let mut verified = false;
        let result = convert(folder.path(), &out, &options("q8_0"), &mut |at| {
            calls += 1;
            verified |= matches!(at, Progress::Verify);
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "after {stop} calls");
        verified
    };
    let last = (0..1000).find(|&stop| stopped_at(stop)).expect("every conversion is verified");
    assert!(last > 10);
    convert_in(folder.path(), &options("q8_0")).unwrap();
}

#[test]
fn indexes_name_plain_files_and_agree_with_them() {
    let broken = |edit: &dyn Fn(&mut serde_json::Value, &Path)| {
        let folder = tempfile::tempdir().unwrap();
        gpt2().write_sharded(folder.path());
        let path = folder.path().join("model.safetensors.index.json");
        let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut index, folder.path());
        fs::write(&path, index.to_string()).unwrap();
        convert_in(folder.path(), &options("q8_0")).expect_err("must be refused").to_string()
    };
    let first = "transformer.wte.weight";
    for name in ["../model.safetensors", "/etc/passwd", "", "..", "a/b", "a\\b", "a\0"] {
        let error = broken(&|index, _| index["weight_map"][first] = json!(name));
        assert!(error.contains("no plain file name"), "{error}");
    }
    let second = "model-00002-of-00003.safetensors";
    type Edit<'a> = &'a dyn Fn(&mut serde_json::Value, &Path);
    let cases: [(&str, Edit<'_>); 7] = [
        ("no plain file name", &|index, _| index["weight_map"][first] = json!(7)),
        ("no object `weight_map`", &|index, _| index["weight_map"] = json!([])),
        ("lies in model-00001", &|index, _| index["weight_map"][first] = json!(second)),
        ("isn't in model-00001", &|index, _| {
            index["weight_map"]["more"] = json!("model-00001-of-00003.safetensors");
        }),
        ("isn't listed", &|index, _| {
            index["weight_map"].as_object_mut().unwrap().remove(first);
        }),
        (second, &|_, folder| fs::remove_file(folder.join(second)).unwrap()),
        ("no regular file", &|_, folder| {
            fs::remove_file(folder.join(second)).unwrap();
            fs::create_dir(folder.join(second)).unwrap();
        }),
    ];
    for (wanted, edit) in cases {
        let error = broken(edit);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn targets_have_names() {
    assert_eq!(Target::by_name("Q4_K").unwrap(), Target::Format(Format::Q4_K));
    assert_eq!(Target::by_name("source").unwrap(), Target::Source);
    assert!(Target::by_name("q4_k_m").unwrap_err().to_string().contains("`q4_k`"));
    assert!(Target::by_name("q9").unwrap_err().to_string().contains("iq4_xs"));
}

#[test]
fn a_folder_without_weights_says_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let error = convert_in(folder.path(), &options("q8_0")).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin") && error.contains("model.safetensors"), "{error}");
}
