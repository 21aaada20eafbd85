//! Checkpoints as other programs save them give the bytes that Hugging Face's form of the same
//! weights gives: see data/programs.py, which also checked that both are the same model.
#![allow(missing_docs)]

mod support;

use pith::{Model, Session, bytes::Bytes, gguf::Gguf, session};
use pith_convert::{Report, convert};
use serde_json::{Value, json};
use std::{fs, ops::ControlFlow, path::Path};
use support::{
    data, options,
    stream::{dict, inner, int, list, stream, tensor, zeros},
};

fn report(source: &Path, target: &str) -> pith::Result<(Vec<u8>, Report)> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let report = convert(source, &out, &options(target), &mut |_| ControlFlow::Continue(()))?;
    Ok((fs::read(out).unwrap(), report))
}

fn file(source: &Path, target: &str) -> Vec<u8> {
    report(source, target).unwrap().0
}

fn error(source: &Path) -> String {
    report(source, "f32").expect_err("must be refused").to_string()
}

/// A copy of a folder beside this file, to be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(data().join(name)).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

#[test]
fn every_program_gives_the_bytes_of_safetensors() {
    for (source, hf) in [
        ("gpt2/legacy.bin", "gpt2"),
        ("gpt2/lightning.ckpt", "gpt2"),
        ("llama/legacy.pth", "llama"),
        ("llama", "llama"),
        ("llama/pytorch_model.bin.index.json", "llama"),
        ("nanogpt", "nanogpt"),
        ("nanogpt/ckpt.pt", "nanogpt"),
        ("nanogpt-bias", "nanogpt-bias"),
        ("meta", "meta"),
        ("meta-ranks", "meta-ranks"),
        ("meta-ranks/ckpt.pt", "meta-ranks"),
    ] {
        for target in ["f32", "f16", "q8_0"] {
            let wanted = file(&data().join(hf).join("hf"), target);
            // The keys of Hugging Face's configurations alone say which tokens are special.
            assert!(file(&data().join(source), target) == wanted, "{source} as {target}");
        }
    }
}

#[test]
fn what_lies_beside_the_weights_is_reported() {
    let (bytes, report) = report(&data().join("nanogpt"), "f32").unwrap();
    assert!(report.tied);
    let ignored: Vec<_> = report.ignored.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["optimizer", "iter_num", "best_val_loss", "config", "model_args"] {
        assert!(ignored.contains(&name), "{ignored:?}");
    }
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.require_str("pith.activation").unwrap(), "gelu_erf");
    let bias = gguf.tensor("blk.0.attn_qkv.bias").unwrap();
    assert!(bias.data.iter().all(|&byte| byte == 0) && bias.data.len() == 12 * 4);
    let (_, report) = self::report(&data().join("meta-ranks"), "f32").unwrap();
    assert!(report.ignored.iter().any(|(name, why)| name == "rope.freqs" && why.contains("rope")));
    let masks = self::report(&data().join("gpt2/legacy.bin"), "f32").unwrap().1.ignored;
    assert!(masks.iter().any(|(name, _)| name == "transformer.h.0.attn.bias"), "{masks:?}");
}

#[test]
fn parameters_of_metas_that_make_no_sense_stop_by_name() {
    let folder = copy("meta");
    let path = folder.path().join("params.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value, wanted) in [
        ("dim", json!(null), "doesn't give `dim`"),
        ("dim", json!(0), "`dim` must be"),
        ("dim", json!(1u64 << 40), "`dim` must be"),
        ("dim", json!("16"), "`dim` must be"),
        ("dim", json!(24), "aren't heads of even width 6"),
        ("dim", json!(32), "has 8 rows in 1 files, params.json wants 16"),
        ("n_heads", json!(3), "don't fit together"),
        ("n_heads", json!(16), "even width 1"),
        ("n_kv_heads", json!(4), "has 8 rows in 1 files, params.json wants 16"),
        ("n_layers", json!(1), "layers.1."),
        ("n_layers", json!(3), "layers.2."),
        ("multiple_of", json!(256), "has 24 rows, params.json gives 256"),
        ("ffn_dim_multiplier", json!(1e300), "has 24 rows"),
        ("ffn_dim_multiplier", json!(-1), "`ffn_dim_multiplier` must be"),
        ("norm_eps", json!("small"), "`norm_eps` must be"),
        ("vocab_size", json!(21), "vocab_size"),
        ("use_scaled_rope", json!(1), "`use_scaled_rope` must be"),
        ("moe", json!({"num_experts": 8}), "`moe`"),
        ("quantization_args", json!({}), "`quantization_args`"),
    ] {
        let mut params = good.clone();
        params[key] = value;
        fs::write(&path, params.to_string()).unwrap();
        let error = error(folder.path());
        assert!(error.contains(wanted), "{key}: {error}");
    }
    let mut params = good.clone();
    (params["use_scaled_rope"], params["rope_theta"]) = (json!(false), json!(7.0));
    fs::write(&path, params.to_string()).unwrap();
    assert!(error(folder.path()).contains("add \"max_seq_len\""));
    params["max_seq_len"] = json!(64);
    fs::write(&path, params.to_string()).unwrap();
    let bytes = file(folder.path(), "f32");
    assert_eq!(Gguf::parse(&bytes).unwrap().require_u64("llama.context_length").unwrap(), 64);
    fs::write(&path, "[1]").unwrap();
    assert!(error(folder.path()).contains("no object"));
    fs::remove_file(&path).unwrap();
    assert!(error(folder.path()).contains("params.json is missing"));
}

/// Context and frequencies are told by what changed with them in Meta's models.
#[test]
fn metas_models_have_the_contexts_of_hugging_faces() {
    let folder = copy("meta");
    let path = folder.path().join("params.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (theta, eps, n_ctx) in [
        (json!(null), 1e-6, 2048),
        (json!(null), 1e-5, 4096),
        (json!(1e6), 1e-5, 16384),
        (json!(500_000.0), 1e-5, 8192),
    ] {
        let mut params = good.clone();
        params["use_scaled_rope"] = json!(false);
        (params["rope_theta"], params["norm_eps"]) = (theta, json!(eps));
        fs::write(&path, params.to_string()).unwrap();
        let bytes = file(folder.path(), "f32");
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.require_u64("llama.context_length").unwrap(), n_ctx);
        assert!(gguf.tensor("rope_freqs.weight").is_none());
    }
}

#[test]
fn ranks_that_are_missing_or_do_not_fit_stop_by_name() {
    let folder = copy("meta-ranks");
    fs::remove_file(folder.path().join("ckpt.pt")).unwrap();
    let (first, second) =
        (folder.path().join("consolidated.00.pth"), folder.path().join("consolidated.01.pth"));
    fs::remove_file(&second).unwrap();
    assert!(error(folder.path()).contains("is a consolidated.NN.pth missing?"));
    fs::create_dir(&second).unwrap();
    assert!(error(folder.path()).contains("no regular file"));
    fs::remove_dir(&second).unwrap();
    fs::copy(data().join("meta/consolidated.00.pth"), &second).unwrap();
    let error = error(folder.path());
    assert!(error.contains("doesn't fit") && error.contains("2 files"), "{error}");
    // Ranks of what isn't Meta's.
    for path in [&first, &second] {
        fs::copy(data().join("gpt2/legacy.bin"), path).unwrap();
    }
    assert!(self::error(folder.path()).contains("several consolidated.NN.pth files"));
}

#[test]
fn without_a_tokenizer_the_error_says_what_to_do() {
    let folder = copy("nanogpt");
    let error = |folder: &Path| {
        let options = pith_convert::Options { no_tokenizer: false, ..options("f32") };
        let out = folder.join("out.gguf");
        let result = convert(folder, &out, &options, &mut |_| ControlFlow::Continue(()));
        result.expect_err("must be refused").to_string()
    };
    assert!(error(folder.path()).contains("--no-tokenizer"));
    fs::write(folder.path().join("meta.pkl"), b"\x80\x04}.").unwrap();
    let text = error(folder.path());
    assert!(text.contains("meta.pkl") && text.contains("--no-tokenizer"), "{text}");
}

/// nanoGPT's own logits, which are those of Hugging Face's form (programs.py), from a file without a
/// tokenizer.
#[test]
fn a_file_without_a_tokenizer_runs_on_ids() {
    let model = Model::from_bytes(Bytes::from_vec(file(&data().join("nanogpt"), "f32"))).unwrap();
    assert!(model.tokenizer().is_none() && model.tokenizer().n_vocab() == 20);
    let options = session::Options { cache: pith::cache::Type::F32, ..session::Options::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let got = session.eval(0, &[3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
    let wanted: Vec<f32> = fs::read_to_string(data().join("nanogpt/logits.json"))
        .map(|text| serde_json::from_str(&text).unwrap())
        .unwrap();
    for (got, wanted) in got.iter().zip(&wanted) {
        assert!((got - wanted).abs() < 1e-4, "{got} {wanted}");
    }
    assert_eq!(got.len(), wanted.len());
    assert!(model.tokenizer().decode(&[3, 1]).is_empty());
}

/// What tells a dialect is there, but of no shape that its program writes.
#[test]
fn tensors_of_odd_shapes_stop_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let params = json!({"dim": 4, "n_layers": 1, "n_heads": 1, "multiple_of": 8});
    fs::write(folder.path().join("params.json"), params.to_string()).unwrap();
    let config = json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 4, "n_layer": 1,
        "n_head": 1, "vocab_size": 4, "n_positions": 4});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let shapes: [&[i64]; 8] =
        [&[], &[0], &[4], &[0, 0], &[4, 0], &[0, 4], &[2, 2, 2], &[i64::MAX, 0]];
    let meta = [
        "layers.0.attention.wq.weight",
        "layers.0.feed_forward.w1.weight",
        "tok_embeddings.weight",
    ];
    let nano = [
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.wte.weight",
    ];
    for shape in shapes {
        for names in [meta, nano] {
            for odd in 0..3 {
                let tensor = |i: usize| {
                    let shape = if i == odd { shape } else { &[12, 4] };
                    tensor("0", 48, b"N", 0, shape)
                };
                let pairs: Vec<_> = (0..3).map(|i| (names[i], tensor(i))).collect();
                let file = stream(&dict(&pairs), &list(&["0"]), &zeros(48));
                let path = folder.path().join("odd.pth");
                fs::write(&path, file).unwrap();
                assert!(error(&path).len() < 2000);
            }
        }
    }
}

/// Forks of nanoGPT keep their switches among the arguments.
#[test]
fn arguments_that_nanogpt_does_not_have_stop_by_name() {
    let qkv = tensor("0", 48, b"N", 0, &[12, 4]);
    let (yes, list_of_none) = (b"\x88".to_vec(), b"]".to_vec());
    let error = |key: &str, value: Vec<u8>| {
        let mut args = vec![
            ("n_layer", int(1)),
            ("n_head", int(1)),
            ("n_embd", int(4)),
            ("block_size", int(4)),
            ("vocab_size", int(4)),
            ("bias", yes.clone()),
            ("dropout", int(0)),
        ];
        args.retain(|(known, _)| *known != key);
        args.push((key, value));
        let model = inner(&[("transformer.h.0.attn.c_attn.weight", qkv.clone())]);
        let pickle = dict(&[("model", model), ("model_args", inner(&args))]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ckpt.pt"), stream(&pickle, &list(&["0"]), &zeros(48)))
            .unwrap();
        self::error(folder.path())
    };
    for (key, value, wanted) in [
        ("use_rmsnorm", yes.clone(), "`use_rmsnorm`: true"),
        (
            "n_layer",
            qkv.clone(),
            "`n_layer` must be a whole number up to 2^24, it is \"(a tensor)\"",
        ),
        ("n_layer", int(-1), "`n_layer`"),
        ("n_layer", int(1 << 20), "layers"),
        ("n_head", int(3), "3 heads"),
        ("block_size", list_of_none.clone(), "`n_positions`"),
        // Sound arguments, but no other tensor.
        ("dropout", int(1), "wte.weight"),
    ] {
        let error = error(key, value);
        assert!(error.contains(wanted), "{key}: {error}");
    }
    let pickle = dict(&[
        ("model", inner(&[("transformer.h.0.attn.c_attn.weight", qkv)])),
        ("model_args", list_of_none),
    ]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ckpt.pt"), stream(&pickle, &list(&["0"]), &zeros(48))).unwrap();
    assert!(self::error(folder.path()).contains("`model_args` is a list"));
}
