//! Damaged and absurd adapters, as PEFT's folder and as a file of its own: an error that names what
//! is wrong, never a panic.
#![allow(missing_docs)]

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::sync::Arc;

use checkpoint::{Checkpoint, Layout};
use pith::{
    Lora, Model, Session,
    bytes::Bytes,
    gguf::{OwnedValue, Writer},
    lora,
    quant::Format,
    session,
};
use pith_convert::{Options, adapter::Adapter, config::Config, source::Source};
use serde_json::{Value, json};
use support::{N_EMBD, N_VOCAB, Weights, convert_in, llama, options, safetensors, weights};

const RANK: usize = 3;

/// An adapter of a module in both layers.
struct Peft {
    config: Value,
    tensors: Vec<Weights>,
}

fn name(il: usize, module: &str, end: &str) -> String {
    format!("base_model.model.model.layers.{il}.self_attn.{module}.{end}")
}

fn peft() -> Peft {
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 6,
        "target_modules": ["q_proj"], "bias": "none", "lora_dropout": 0.0,
    });
    let pair = |il| {
        [
            weights(&name(il, "q_proj", "lora_A.weight"), &[RANK, N_EMBD]),
            weights(&name(il, "q_proj", "lora_B.weight"), &[N_EMBD, RANK]),
        ]
    };
    Peft { config, tensors: [pair(0), pair(1)].concat() }
}

/// What a tiny base becomes with the adapter: all its values; and the adapter alone.
fn use_it(config: &Value, file: Vec<u8>) -> [pith::Result<()>; 2] {
    let base = llama();
    let numbers = Config::read(&base.config, &[]).unwrap();
    let adapter = match Adapter::from_parts(config, file) {
        Ok(adapter) => adapter,
        Err(error) => {
            let again = pith::Error::Invalid(error.to_string());
            return [Err(error), Err(again)];
        }
    };
    let mut source = Source::from_bytes(safetensors(&base.tensors)).unwrap();
    let merged = adapter.merge(&mut source, &numbers).and_then(|_| {
        source.tensors().iter().try_for_each(|tensor| source.values(tensor).map(|_| ()))
    });
    [merged, adapter.tensors(&numbers).map(|_| ())]
}

impl Peft {
    fn with(mut self, config: Value) -> Self {
        self.config.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        self
    }

    fn and(mut self, tensor: &str, shape: &[usize]) -> Self {
        self.tensors.push(weights(tensor, shape));
        self
    }

    fn tensor(mut self, i: usize, change: impl Fn(&mut Weights)) -> Self {
        change(&mut self.tensors[i]);
        self
    }

    fn without(mut self, i: usize) -> Self {
        self.tensors.remove(i);
        self
    }

    /// The errors of both ways.
    fn errors(&self) -> [Option<String>; 2] {
        let both = use_it(&self.config, safetensors(&self.tensors));
        both.map(|result| result.err().map(|error| error.to_string()))
    }

    /// Both ways say these words.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        for error in self.errors() {
            let error = error.expect("must be refused");
            assert!(error.len() < 2000 && words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}

#[test]
fn a_sound_adapter_is_taken() {
    assert_eq!(peft().errors(), [None, None]);
}

#[test]
fn configuration_keys_stop_by_name() {
    for (config, words) in [
        (
            json!({"peft_type": "IA3", "feedforward_modules": []}),
            vec!["\"IA3\"", "merge_and_unload"],
        ),
        (json!({"peft_type": "PREFIX_TUNING"}), vec!["\"PREFIX_TUNING\""]),
        (json!({"peft_type": "LOHA"}), vec!["\"LOHA\""]),
        (json!({"peft_type": "ADALORA"}), vec!["\"ADALORA\""]),
        (json!({"peft_type": null}), vec!["`peft_type`"]),
        (json!({"use_everything": true}), vec!["`use_everything`: true", "--allow-unknown"]),
        (json!({"layer_replication": [[0, 1], [0, 1]]}), vec!["`layer_replication`"]),
        (json!({"use_qalora": true}), vec!["`use_qalora`"]),
        (json!({"alora_invocation_tokens": [1]}), vec!["`alora_invocation_tokens`"]),
        (json!({"trainable_token_indices": [1]}), vec!["`trainable_token_indices`"]),
        (json!({"target_parameters": ["x"]}), vec!["`target_parameters`"]),
        (json!({"kasa_config": {"beta": 1}}), vec!["`kasa_config`"]),
        (json!({"use_bdlora": {"nblocks": 1}}), vec!["`use_bdlora`"]),
        (json!({"megatron_config": {"a": 1}}), vec!["`megatron_config`"]),
        (json!({"init_lora_weights": "pissa"}), vec!["`init_lora_weights`", "pissa"]),
        (json!({"init_lora_weights": "olora"}), vec!["`init_lora_weights`"]),
        (json!({"init_lora_weights": "loftq"}), vec!["`init_lora_weights`"]),
        (json!({"init_lora_weights": 1}), vec!["`init_lora_weights`"]),
        (json!({"task_type": "SEQ_2_SEQ_LM"}), vec!["`task_type`"]),
        (json!({"r": 0}), vec!["`r`"]),
        (json!({"r": -1}), vec!["`r`"]),
        (json!({"r": 1u64 << 40}), vec!["`r`"]),
        (json!({"r": null}), vec!["`r`"]),
        (json!({"lora_alpha": "4"}), vec!["`lora_alpha`"]),
        (json!({"lora_alpha": 1e300}), vec!["`lora_alpha`"]),
        (json!({"use_rslora": 1}), vec!["`use_rslora`"]),
        (json!({"bias": "some"}), vec!["`bias`"]),
        (json!({"target_modules": [1]}), vec!["`target_modules`"]),
        (json!({"modules_to_save": {"a": 1}}), vec!["`modules_to_save`"]),
        (json!({"rank_pattern": {"q_proj": 0}}), vec!["`rank_pattern`"]),
        (json!({"rank_pattern": {"(q|k)_proj": 2}}), vec!["`rank_pattern`", "(q|k)_proj"]),
        (json!({"alpha_pattern": {"q_proj": null}}), vec!["`alpha_pattern`"]),
        (json!({"alpha_pattern": [1]}), vec!["`alpha_pattern`"]),
        // Consistent with itself, but not with the tensors.
        (json!({"r": RANK + 1}), vec!["lora_A.weight", "[3, 32]", "[4, 32]"]),
        (json!({"rank_pattern": {"layers.1.self_attn.q_proj": 2}}), vec!["layers.1", "[2, 32]"]),
        (json!({"use_dora": true}), vec!["lora_magnitude_vector", "q_proj"]),
        (json!({"lora_bias": true}), vec!["lora_B.bias", "q_proj"]),
        (json!({"target_modules": ["k_proj"]}), vec!["q_proj", "`target_modules`"]),
    ] {
        peft().with(config).refused(&words);
    }
    let huge = peft().with(json!({"lora_alpha": 3e38, "use_rslora": true})).errors();
    assert!(huge[1].as_deref().is_some_and(|error| error.contains("alpha")), "{huge:?}");
    for list in [json!([]), json!("x"), json!(null)] {
        assert!(use_it(&list, safetensors(&peft().tensors)).iter().all(Result::is_err));
    }
}

/// What changes nothing is taken: PEFT writes all its keys.
#[test]
fn harmless_keys_pass() {
    let harmless = json!({
        "inference_mode": true, "base_model_name_or_path": "x", "revision": "main",
        "auto_mapping": null, "peft_version": "0.21.2", "lora_dropout": 0.5,
        "fan_in_fan_out": false, "layers_pattern": null, "megatron_core": "megatron.core",
        "loftq_config": {}, "eva_config": null, "runtime_config": {"ephemeral_gpu_offload": true},
        "qalora_group_size": 16, "use_qalora": false, "layer_replication": null,
        "init_lora_weights": "gaussian", "rank_pattern": {}, "alpha_pattern": {"v_proj": 2},
        "ensure_weight_tying": false, "unknown_but_null": null,
    });
    assert_eq!(peft().with(harmless).errors(), [None, None]);
}

#[test]
fn tensors_stop_by_name() {
    let a = name(0, "q_proj", "lora_A.weight");
    let fill = |shape: Vec<usize>| {
        move |tensor: &mut Weights| {
            tensor.values = vec![0.5; shape.iter().product()];
            tensor.shape = shape.clone();
        }
    };
    peft().tensor(0, fill(vec![0, N_EMBD])).refused(&[&a, "[0, 32]"]);
    peft().tensor(0, fill(vec![N_EMBD, RANK])).refused(&[&a]);
    peft().tensor(0, fill(vec![RANK * N_EMBD])).refused(&[&a]);
    peft().tensor(1, fill(vec![N_EMBD, RANK, 1])).refused(&["lora_B.weight"]);
    peft().tensor(1, fill(vec![N_EMBD - 1, RANK])).refused(&["lora_B.weight", "[31, 3]"]);
    for value in [f32::NAN, f32::INFINITY] {
        peft().tensor(0, move |tensor| tensor.values[7] = value).refused(&[&a, "damaged"]);
    }
    peft().without(0).refused(&["lora_A", "layers.0.self_attn.q_proj"]);
    peft().without(1).refused(&["lora_B", "layers.0.self_attn.q_proj"]);
    let end = |end: &str| name(0, "q_proj", end);
    for (tensor, shape) in [
        (end("lora_C.weight"), vec![1]),
        (end("lora_A.default.weight"), vec![RANK, N_EMBD]),
        (end("lora_A.bias"), vec![RANK]),
        (end("modules_to_save.weight"), vec![N_EMBD, N_EMBD]),
        (end("lora_magnitude_vector"), vec![N_EMBD]),
        (end("lora_B.bias"), vec![N_EMBD]),
        (end("bias"), vec![N_EMBD]),
        (end("base_layer.bias"), vec![N_EMBD]),
        (end("hada_w1_a"), vec![N_EMBD]),
        ("model.layers.0.self_attn.q_proj.lora_A.weight".into(), vec![RANK, N_EMBD]),
        ("base_model.model.weight".into(), vec![1]),
        (
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta".into(),
            vec![1],
        ),
    ] {
        peft().and(&tensor, &shape).refused(&[&tensor]);
    }
    // Both kinds of factors of one module.
    peft().and(&end("lora_embedding_A"), &[RANK, N_EMBD]).refused(&["lora_embedding_A"]);
    // Modules that the base doesn't have, or has as something else.
    let all = json!({"target_modules": "all-linear"});
    for (module, n_out, n_in) in [
        ("layers.2.self_attn.q_proj", N_EMBD, N_EMBD),
        ("layers.0.self_attn.r_proj", N_EMBD, N_EMBD),
        ("layers.0.mlp.experts.0.up_proj", 64, N_EMBD),
        ("embed_tokens", N_EMBD, N_VOCAB),
        ("norm", N_EMBD, N_EMBD),
    ] {
        let (a, b) = ("lora_A.weight", "lora_B.weight");
        let full = |end: &str| format!("base_model.model.model.{module}.{end}");
        let adapter = peft().with(all.clone());
        adapter.and(&full(a), &[RANK, n_in]).and(&full(b), &[n_out, RANK]).refused(&[module]);
    }
    // One matrix under two names.
    let bare = |end: &str| format!("base_model.model.layers.0.self_attn.q_proj.{end}");
    let twice = peft().and(&bare("lora_A.weight"), &[RANK, N_EMBD]);
    twice.and(&bare("lora_B.weight"), &[N_EMBD, RANK]).refused(&["layers.0.self_attn.q_proj"]);
    // Factors of an embedding for a matrix, and with the wrong number of tokens.
    let embedding = |module: &str, n_rows, n_out| {
        let full = |end: &str| format!("base_model.model.model.{module}.lora_embedding_{end}");
        peft().with(all.clone()).and(&full("A"), &[RANK, n_rows]).and(&full("B"), &[n_out, RANK])
    };
    embedding("layers.0.self_attn.o_proj", N_EMBD, N_EMBD).refused(&["o_proj"]);
    embedding("embed_tokens", N_VOCAB + 1, N_EMBD).refused(&["lora_embedding_A", "[3, 41]"]);
    assert_eq!(embedding("embed_tokens", N_VOCAB, N_EMBD).errors(), [None, None]);
    // One layer of two: an adapter that was cut off.
    let half = Peft { tensors: peft().tensors[..2].to_vec(), ..peft() };
    half.refused(&["layers.1.self_attn.q_proj"]);
    let one = Peft { tensors: peft().tensors[..2].to_vec(), ..peft() };
    assert_eq!(one.with(json!({"layers_to_transform": [0]})).errors(), [None, None]);
    Peft { tensors: Vec::new(), ..peft() }.refused(&["no tensors"]);
}

/// The names stay inside bounds that the file's bytes explain, whatever byte is another.
#[test]
fn damaged_folders_never_panic() {
    let adapter = peft();
    let file = safetensors(&adapter.tensors);
    for n in 0..file.len() {
        assert!(use_it(&adapter.config, file[..n].to_vec()).iter().all(Result::is_err));
    }
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    // Every bit of the header and of the first values; the others are values too.
    let mut sound = 0;
    for bit in 0..8 * (header + 64) {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        sound += usize::from(use_it(&adapter.config, damaged)[0].is_ok());
    }
    assert!(sound > 100, "values may differ: {sound}");
    let text = adapter.config.to_string().into_bytes();
    for bit in 0..8 * text.len() {
        let mut damaged = text.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(config) = serde_json::from_slice(&damaged) {
            let _ = use_it(&config, file.clone());
        }
    }
}

/// A tensor of an adapter's file: name, format, sizes fastest first.
type Half<'a> = (&'a str, Format, &'a [u64]);

/// Of the GPT-2 of the goldens.
const WIDTH: u64 = 64;

const SOUND: [Half<'static>; 2] = [
    ("blk.0.attn_qkv.weight.lora_a", Format::F32, &[WIDTH, 2]),
    ("blk.0.attn_qkv.weight.lora_b", Format::F32, &[2, 3 * WIDTH]),
];

/// An adapter's file for GPT-2, with these keys set after or instead of the usual ones.
fn gguf(keys: &[(&str, Option<OwnedValue>)], tensors: &[Half<'_>], value: f32) -> Vec<u8> {
    let text = |text: &str| OwnedValue::String(text.into());
    let mut all = vec![
        ("general.architecture", Some(text("gpt2"))),
        ("general.type", Some(text("adapter"))),
        ("adapter.type", Some(text("lora"))),
        ("adapter.lora.alpha", Some(OwnedValue::F32(4.0))),
    ];
    all.retain(|(key, _)| !keys.iter().any(|(other, _)| other == key));
    all.extend(keys.iter().cloned());
    let mut writer = Writer::default();
    for (key, value) in all {
        if let Some(value) = value {
            writer.set(key, value).unwrap();
        }
    }
    for (name, format, dims) in tensors {
        writer.declare(name, *format, dims).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let mut file = writer.create(&path).unwrap();
    for (name, format, dims) in tensors {
        let values = vec![value; dims.iter().product::<u64>() as usize];
        let mut data = vec![0; values.len() / format.block_len() * format.block_bytes()];
        format.encode(&values, &mut data);
        file.write(name, &data).unwrap();
    }
    file.finish().unwrap();
    std::fs::read(&path).unwrap()
}

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    Checkpoint::open("gpt2").write(folder.path(), Layout::PLAIN);
    let options = Options { no_tokenizer: false, ..options("f32") };
    convert_in(folder.path(), &options).unwrap();
    let bytes = std::fs::read(folder.path().join("out.gguf")).unwrap();
    Model::from_bytes(Bytes::from_vec(bytes)).unwrap()
}

/// Runs a token with the adapter.
fn run(model: &Model, file: Vec<u8>, scale: f32) -> pith::Result<Vec<f32>> {
    let lora = Arc::new(Lora::from_bytes(Bytes::from_vec(file))?);
    let adapters = vec![lora::Adapter { lora, scale }];
    let options = session::Options { adapters, n_threads: 1, ..session::Options::default() };
    Ok(Session::new(model, &options)?.eval(0, &[1])?.to_vec())
}

#[test]
fn files_of_adapters_stop_by_name() {
    let model = model();
    let refused = |file: Vec<u8>, scale: f32, words: &[&str]| {
        let error = run(&model, file, scale).expect_err("must be refused").to_string();
        assert!(error.len() < 2000 && words.iter().all(|word| error.contains(word)), "{error}");
    };
    assert!(run(&model, gguf(&[], &SOUND, 0.1), 1.0).unwrap().iter().all(|x| x.is_finite()));
    let text = |text: &str| Some(OwnedValue::String(text.into()));
    for (key, value, words) in [
        ("general.type", None, vec!["general.type"]),
        ("general.type", text("model"), vec!["general.type", "\"model\""]),
        ("general.type", Some(OwnedValue::U32(1)), vec!["general.type"]),
        ("adapter.type", None, vec!["adapter.type"]),
        ("adapter.type", text("control"), vec!["adapter.type"]),
        ("general.architecture", None, vec!["general.architecture"]),
        ("general.architecture", text("llama"), vec!["llama", "gpt2"]),
        ("adapter.lora.alpha", Some(OwnedValue::F32(f32::NAN)), vec!["adapter.lora.alpha"]),
        ("adapter.lora.alpha", text("4"), vec!["adapter.lora.alpha"]),
        (
            "adapter.alora.invocation_tokens",
            Some(OwnedValue::U32s(vec![1])),
            vec!["adapter.alora.invocation_tokens"],
        ),
    ] {
        refused(gguf(&[(key, value)], &SOUND, 0.1), 1.0, &words);
    }
    let [a, b] = SOUND;
    let (name_a, name_b) = (a.0, b.0);
    let wide = WIDTH;
    let tables: &[(&[Half<'_>], f32, &[&str])] = &[
        (&[], 0.1, &["no tensors"]),
        (&[a], 0.1, &["lora_b is missing"]),
        (&[b], 0.1, &["lora_a is missing"]),
        (&[a, b, ("blk.0.attn_norm.weight", Format::F32, &[wide])], 0.1, &["attn_norm"]),
        (&[a, b], f32::NAN, &[name_a, "NaN"]),
        (&[a, b], f32::INFINITY, &[name_a, "inf"]),
        (&[a, (name_b, Format::F32, &[3, 3 * wide])], 0.1, &[name_b, "rank 2"]),
        (&[a, (name_b, Format::F32, &[2, 3 * wide, 1, 2])], 0.1, &[name_b]),
        (&[a, (name_b, Format::F32, &[2, wide])], 0.1, &["blk.0.attn_qkv.weight", "64x64"]),
        (&[(name_a, Format::F32, &[32, 2]), b], 0.1, &["blk.0.attn_qkv.weight", "192x32"]),
        (&[(name_a, Format::Q8_0, &[wide, 2]), b], 0.1, &[name_a, "Q8_0"]),
    ];
    for (tensors, value, words) in tables {
        refused(gguf(&[], tensors, *value), 1.0, words);
    }
    // Sound pairs of what isn't multiplied with.
    for name in ["blk.2.attn_qkv.weight", "position_embd.weight", "blk.0.attn_norm.weight", "x"] {
        let (a, b) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
        let pair: [Half<'_>; 2] =
            [(&a, Format::F32, &[wide, 2]), (&b, Format::F32, &[2, 3 * wide])];
        refused(gguf(&[], &pair, 0.1), 1.0, &[name]);
    }
    for scale in [f32::NAN, f32::INFINITY] {
        refused(gguf(&[], &SOUND, 0.1), scale, &["scale"]);
    }
    let huge = gguf(&[("adapter.lora.alpha", Some(OwnedValue::F32(3e38)))], &SOUND, 0.1);
    refused(huge, 10.0, &["scale", "blk.0.attn_qkv.weight"]);
}

/// Other types and ranks of a sound pair, the least and one wider than the matrix.
#[test]
fn types_and_ranks_of_factors() {
    let model = model();
    let plain = run(&model, gguf(&[], &SOUND, 0.0), 1.0).unwrap();
    for format in [Format::F32, Format::F16, Format::BF16] {
        for rank in [1, 7, 100] {
            let (in_a, in_b) = ([WIDTH, rank], [rank, 3 * WIDTH]);
            let pair = [(SOUND[0].0, format, &in_a[..]), (SOUND[1].0, format, &in_b[..])];
            assert_ne!(run(&model, gguf(&[], &pair, 0.125), 1.0).unwrap(), plain);
            assert_eq!(run(&model, gguf(&[], &pair, 0.125), 0.0).unwrap(), plain);
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let model = model();
    let file = gguf(&[], &SOUND, 0.1);
    for n in 0..file.len() {
        assert!(run(&model, file[..n].to_vec(), 1.0).is_err(), "{n} bytes");
    }
    let header = file.len() - 8 * WIDTH as usize * 4;
    let mut sound = 0;
    for bit in 0..8 * (header + 16) {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        sound += usize::from(run(&model, damaged, 1.0).is_ok());
    }
    assert!(sound > 20, "values may differ: {sound}");
}
