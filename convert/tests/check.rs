//! The self-check: passes what was written, in every format, and catches what was written otherwise.
//!
//! A configuration that is wrong for source and result alike can't be seen by comparing the two, so the
//! mutations lie between them: the file is converted, changed, and checked against its source.
#![allow(missing_docs)]

use pith::{
    gguf::{Array, Gguf, OwnedValue, Value, Writer},
    quant::Format,
};
use pith_convert::{Check, Options, Target, check, convert};
use serde_json::{Value as Json, json};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, variants};

fn options(format: Format) -> Options {
    Options { target: Target::Format(format), threads: 1, ..Options::default() }
}

/// A checkpoint of a variant, in a folder of its own.
fn source(folder: &Path, variant: &str) -> PathBuf {
    let source = folder.join(variant);
    fs::create_dir_all(&source).unwrap();
    Checkpoint::open(variant).write(&source, Layout::PLAIN);
    source
}

/// A GGUF file in pieces that can be changed.
struct Parts {
    keys: Vec<(String, OwnedValue)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone)]
struct Tensor {
    name: String,
    format: Format,
    dims: Vec<u64>,
    data: Vec<u8>,
}

impl Parts {
    fn read(path: &Path) -> Parts {
        let bytes = fs::read(path).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let keys = gguf.metadata().iter().map(|(key, value)| (key.to_string(), owned(value)));
        let tensors = gguf.tensors().iter().map(|tensor| Tensor {
            name: tensor.name.to_owned(),
            format: tensor.format,
            dims: tensor.dims[..tensor.n_dims as usize].to_vec(),
            data: tensor.data.to_vec(),
        });
        Parts { keys: keys.collect(), tensors: tensors.collect() }
    }

    fn write(&self, path: &Path) {
        let mut writer = Writer::default();
        for (key, value) in &self.keys {
            writer.set(key, value.clone()).unwrap();
        }
        for tensor in &self.tensors {
            writer.declare(&tensor.name, tensor.format, &tensor.dims).unwrap();
        }
        let mut file = writer.create(path).unwrap();
        for tensor in &self.tensors {
            file.write(&tensor.name, &tensor.data).unwrap();
        }
        file.finish().unwrap();
    }

    fn set(&mut self, key: &str, value: OwnedValue) {
        self.drop(key);
        self.keys.push((key.into(), value));
    }

    fn drop(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    fn float(&mut self, key: &str, value: f32) {
        self.set(key, OwnedValue::F32(value));
    }

    fn size(&mut self, key: &str, value: u32) {
        self.set(key, OwnedValue::U32(value));
    }

    /// Another family that reads the same keys.
    fn architecture(&mut self, from: &str, to: &str) {
        for (key, _) in &mut self.keys {
            if let Some(rest) = key.strip_prefix(&format!("{from}.")) {
                *key = format!("{to}.{rest}");
            }
        }
        self.set("general.architecture", OwnedValue::String(to.into()));
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect(name)
    }

    /// Exchanges the data of two tensors of one shape.
    fn exchange(&mut self, a: &str, b: &str) {
        let (data_a, data_b) = (self.tensor(a).data.clone(), self.tensor(b).data.clone());
        assert!(data_a.len() == data_b.len() && data_a != data_b);
        (self.tensor(a).data, self.tensor(b).data) = (data_b, data_a);
    }

    fn remove(&mut self, name: &str) {
        self.tensor(name);
        self.tensors.retain(|tensor| tensor.name != name);
    }
}

impl Tensor {
    fn n_rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }

    /// New row `i` is old row `order(i)`.
    fn reorder(&mut self, order: impl Fn(usize) -> usize) {
        let row = self.data.len() / self.n_rows();
        let rows = (0..self.n_rows()).flat_map(|i| &self.data[order(i) * row..][..row]);
        self.data = rows.copied().collect();
    }

    /// Changes values of an F32 tensor.
    fn edit(&mut self, edit: impl Fn(usize, f32) -> f32) {
        assert_eq!(self.format, Format::F32);
        for (i, bytes) in self.data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = edit(i, f32::from_le_bytes(*bytes)).to_le_bytes();
        }
    }

    /// A square F32 matrix, rows for columns.
    fn transpose(&mut self) {
        let n = self.dims[0] as usize;
        assert!(self.format == Format::F32 && self.dims == [n as u64; 2]);
        let old = self.data.as_chunks::<4>().0;
        self.data = (0..n * n).flat_map(|i| old[i % n * n + i / n]).collect();
    }
}

fn owned(value: &Value<'_>) -> OwnedValue {
    match value {
        Value::U32(v) => OwnedValue::U32(*v),
        Value::F32(v) => OwnedValue::F32(*v),
        Value::Bool(v) => OwnedValue::Bool(*v),
        Value::String(v) => OwnedValue::String((*v).into()),
        Value::Array(array) => owned_array(array),
        other => panic!("the converter writes no {other:?}"),
    }
}

fn owned_array(array: &Array<'_>) -> OwnedValue {
    use pith::gguf::Type;
    match array.element_type() {
        Type::String => OwnedValue::Strings(array.strings().unwrap().map(str::to_owned).collect()),
        Type::F32 => OwnedValue::F32s(array.f32s().unwrap().collect()),
        Type::I32 => OwnedValue::I32s(array.i64s().unwrap().map(|v| v as i32).collect()),
        Type::U32 => OwnedValue::U32s(array.u64s().unwrap().map(|v| v as u32).collect()),
        Type::Bool => OwnedValue::Bools(array.bools().unwrap().collect()),
        other => panic!("the converter writes no arrays of {other:?}"),
    }
}

/// What finds a mutation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// The logits, even if nothing else were compared.
    Logits,
    /// The numbers or the rows: a sample of 16 tokens doesn't show it, or not enough.
    Comparison,
    /// The file can't be opened, or lacks a tensor.
    Opening,
}

struct Mutation {
    variant: &'static str,
    what: &'static str,
    by: By,
    apply: fn(&mut Parts),
}

const fn mutation(
    variant: &'static str,
    what: &'static str,
    by: By,
    apply: fn(&mut Parts),
) -> Mutation {
    Mutation { variant, what, by, apply }
}

const Q: &str = "blk.0.attn_q.weight";
const K: &str = "blk.0.attn_k.weight";
const V: &str = "blk.0.attn_v.weight";
const O: &str = "blk.1.attn_output.weight";
const UP: &str = "blk.0.ffn_up.weight";
const GATE: &str = "blk.0.ffn_gate.weight";

/// Rows of heads of 16: half-split pairs for adjacent ones.
fn half_split(i: usize) -> usize {
    let (head, i) = (i / 16, i % 16);
    head * 16 + if i < 8 { 2 * i } else { 2 * (i - 8) + 1 }
}

#[rustfmt::skip]
const MUTATIONS: &[Mutation] = &[
    // Numbers and switches.
    mutation("gpt2", "erf for tanh", By::Logits, |p| p.set("pith.activation", OwnedValue::String("gelu_erf".into()))),
    mutation("gpt2", "relu for gelu", By::Logits, |p| p.set("pith.activation", OwnedValue::String("relu".into()))),
    mutation("gpt2-erf-untied", "tanh for erf", By::Logits, |p| p.drop("pith.activation")),
    mutation("gpt2", "eps", By::Logits, |p| p.float("gpt2.attention.layer_norm_epsilon", 1e-6)),
    mutation("gpt2", "half the heads", By::Logits, |p| { p.size("gpt2.attention.head_count", 2); p.size("gpt2.attention.head_count_kv", 2) }),
    mutation("gpt2", "a shorter context", By::Opening, |p| p.size("gpt2.context_length", 32)),
    mutation("llama", "a shorter context", By::Comparison, |p| p.size("llama.context_length", 32)),
    mutation("llama", "eps 1e-5 for 1e-6", By::Logits, |p| p.float("llama.attention.layer_norm_rms_epsilon", 1e-5)),
    mutation("llama", "rope base", By::Logits, |p| p.float("llama.rope.freq_base", 500_000.0)),
    mutation("llama", "half the rope", By::Logits, |p| p.size("llama.rope.dimension_count", 8)),
    mutation("llama", "silu for gelu", By::Logits, |p| p.set("pith.activation", OwnedValue::String("gelu_tanh".into()))),
    mutation("llama", "a layer less", By::Logits, |p| p.size("llama.block_count", 1)),
    mutation("llama", "the other rope pairing", By::Logits, |p| p.architecture("llama", "qwen2")),
    mutation("llama", "positions divided", By::Logits, |p| { p.set("llama.rope.scaling.type", OwnedValue::String("linear".into())); p.float("llama.rope.scaling.factor", 2.0) }),
    mutation("llama", "a window", By::Logits, |p| p.size("llama.attention.sliding_window", 12)),
    mutation("llama", "a window beyond the sample", By::Comparison, |p| p.size("llama.attention.sliding_window", 48)),
    mutation("llama", "a score scale", By::Logits, |p| p.float("llama.attention.scale", 0.2)),
    mutation("llama", "a bound on q, k and v", By::Logits, |p| p.float("llama.attention.clamp_kqv", 1.0)),
    mutation("llama-bias", "the width of heads", By::Opening, |p| p.size("llama.attention.key_length", 16)),
    mutation("llama-llama3-rope", "no rope factors", By::Opening, |p| p.remove("rope_freqs.weight")),
    mutation("llama-llama3-rope", "rope factors of 1", By::Logits, |p| p.tensor("rope_freqs.weight").edit(|_, _| 1.0)),
    mutation("mistral-window", "no window", By::Logits, |p| p.drop("llama.attention.sliding_window")),
    mutation("mistral-window", "a window by one", By::Logits, |p| p.size("llama.attention.sliding_window", 11)),
    mutation("gptneox", "norms in sequence", By::Logits, |p| p.set("gptneox.use_parallel_residual", OwnedValue::Bool(false))),
    mutation("gptneox-sequential", "side by side", By::Logits, |p| p.drop("gptneox.use_parallel_residual")),
    mutation("gptneox", "all of the rope", By::Logits, |p| p.size("gptneox.rope.dimension_count", 16)),
    mutation("opt", "norms after joins", By::Logits, |p| p.set("pith.post_norm", OwnedValue::Bool(true))),
    mutation("opt-post-norm", "norms before joins", By::Logits, |p| p.set("pith.post_norm", OwnedValue::Bool(false))),
    mutation("gemma2", "no cap of scores", By::Logits, |p| p.drop("gemma2.attn_logit_softcapping")),
    mutation("gemma2", "no cap of logits", By::Logits, |p| p.float("gemma2.final_logit_softcapping", 0.0)),
    mutation("gemma2", "the usual score scale", By::Logits, |p| p.drop("gemma2.attention.scale")),
    mutation("gemma3", "one rope base", By::Logits, |p| p.float("gemma3.rope.freq_base_swa", 1e6)),
    mutation("gemma3", "no rope scaling", By::Logits, |p| p.set("gemma3.rope.scaling.type", OwnedValue::String("none".into()))),
    mutation("bloom", "a larger ALiBi bias", By::Logits, |p| p.float("bloom.attention.max_alibi_bias", 4.0)),
    // Tensors.
    mutation("llama", "a transposed matrix", By::Logits, |p| p.tensor(O).transpose()),
    mutation("gpt2", "a transposed matrix", By::Logits, |p| p.tensor(O).transpose()),
    mutation("llama", "k for v", By::Logits, |p| p.exchange(K, V)),
    mutation("llama", "gate for up", By::Logits, |p| p.exchange(GATE, UP)),
    mutation("llama", "one layer's matrix in another", By::Logits, |p| p.exchange("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")),
    mutation("llama", "norms exchanged", By::Logits, |p| p.exchange("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")),
    mutation("llama", "rope rows as in the source", By::Logits, |p| p.tensor(Q).reorder(half_split)),
    mutation("llama", "two rows exchanged", By::Logits, |p| p.tensor(UP).reorder(|i| match i { 3 => 4, 4 => 3, i => i })),
    mutation("llama", "the vocabulary by one", By::Logits, |p| { let n = p.tensor("token_embd.weight").n_rows(); p.tensor("token_embd.weight").reorder(|i| (i + 1) % n) }),
    mutation("qwen2", "no bias", By::Logits, |p| p.tensor("blk.1.attn_k.bias").edit(|_, _| 0.0)),
    mutation("gemma", "norms without their 1", By::Logits, |p| p.tensor("blk.1.ffn_norm.weight").edit(|_, v| v - 1.0)),
    mutation("gptneox", "fused heads as in the source", By::Logits, |p| p.tensor("blk.0.attn_qkv.weight").reorder(|i| i / 48 * 16 + i % 48 / 16 * 64 + i % 16)),
    mutation("opt", "positions by two", By::Logits, |p| p.tensor("position_embd.weight").reorder(|i| (i + 2) % 64)),
    mutation("gpt2-erf-untied", "the head is the embedding", By::Opening, |p| p.remove("output.weight")),
    mutation("gptj", "no bias of the head", By::Logits, |p| p.tensor("output.bias").edit(|_, _| 0.0)),
    mutation("llama", "one value", By::Logits, |p| p.tensor(Q).edit(|i, v| if i == 7 { -v } else { v })),
    mutation("gpt2", "a position beyond the sample", By::Comparison, |p| p.tensor("position_embd.weight").edit(|i, v| if i == 40 * 64 { v + 1e-5 } else { v })),
];

/// Converts a variant, changes the file, and checks it against its source.
fn checked(folder: &Path, format: Format, mutation: &Mutation) -> pith::Result<Check> {
    let source = source(folder, mutation.variant);
    let out = folder.join("out.gguf");
    convert(&source, &out, &options(format), &mut |_| ControlFlow::Continue(())).unwrap();
    let mut parts = Parts::read(&out);
    (mutation.apply)(&mut parts);
    parts.write(&out);
    check(&source, &out, &options(format))
}

#[test]
fn every_mutation_of_a_written_file_is_caught() {
    const { assert!(MUTATIONS.len() >= 40) };
    let folder = tempfile::tempdir().unwrap();
    let mut surprises = Vec::new();
    for mutation in MUTATIONS {
        let Mutation { variant, what, by, .. } = mutation;
        let result = checked(folder.path(), Format::F32, mutation);
        let found = match &result {
            Err(_) => Some(By::Opening),
            Ok(check) if check.kl.is_nan() || check.kl > check.kl_limit => Some(By::Logits),
            Ok(check) => (!check.faults.is_empty()).then_some(By::Comparison),
        };
        if found != Some(*by) {
            surprises.push(format!("{variant}, {what}: caught by {found:?}: {result:?}"));
        }
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

/// Where rounding hides a mutation from the logits, numbers and rows still show it.
#[test]
fn coarse_formats_hide_no_mutation() {
    let folder = tempfile::tempdir().unwrap();
    let fits = |mutation: &&Mutation| {
        !matches!(mutation.what, "a transposed matrix" | "one value") && mutation.variant != "gemma"
    };
    for format in [Format::Q8_0, Format::Q4_0] {
        let missed = MUTATIONS.iter().filter(fits).filter(|mutation| {
            checked(folder.path(), format, mutation).is_ok_and(|check| check.faults.is_empty())
        });
        let missed: Vec<_> = missed.map(|mutation| (mutation.variant, mutation.what)).collect();
        assert!(missed.is_empty(), "{format}: {missed:?}");
    }
}

/// The limits leave room for what rounding does to random weights, the worst case, and not much more
/// than that where it is small.
#[test]
fn every_format_of_every_family_passes() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        let source = source(folder.path(), &variant);
        for &format in Format::ALL {
            let out = folder.path().join("out.gguf");
            let report =
                convert(&source, &out, &options(format), &mut |_| ControlFlow::Continue(()));
            let check = report.unwrap_or_else(|e| panic!("{variant} {format}: {e}")).check.unwrap();
            assert!(check.kl < 0.7 * check.kl_limit, "{variant} {format}: {:e}", check.kl);
            assert!(format != Format::F32 || (check.top1 == 1.0 && check.worst_row.0 == 0.0));
        }
    }
}

#[test]
fn a_failed_check_leaves_no_file_and_an_older_one_as_it_was() {
    // Weights that overflow half the scales of a block: no format of 4 bits can hold them.
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), "llama-256");
    let weights = source.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + header..].as_chunks_mut::<4>().0 {
        *value = (f32::from_le_bytes(*value) * 1e20).to_le_bytes();
    }
    fs::write(&weights, bytes).unwrap();
    let out = folder.path().join("out.gguf");
    let run = |check| {
        let options = Options { check, ..options(Format::Q4_0) };
        convert(&source, &out, &options, &mut |_| ControlFlow::Continue(()))
    };
    let error = run(true).unwrap_err().to_string();
    assert!(error.contains("self-check failed") && error.contains("--no-check"), "{error}");
    assert!(!out.exists());
    fs::write(&out, "older").unwrap();
    run(true).unwrap_err();
    assert_eq!(fs::read(&out).unwrap(), b"older");
    assert!(run(false).unwrap().check.is_none());
    assert!(fs::metadata(&out).unwrap().len() > 5);
}

/// Changes of a configuration that a comparison can't see, but shapes and strictness do.
#[test]
fn mutated_configurations_stop_the_conversion() {
    let cases: &[(&str, &str, Json)] = &[
        ("gpt2", "n_layer", json!(1)),
        ("gpt2", "n_layer", json!(3)),
        ("gpt2", "n_embd", json!(32)),
        ("gpt2", "n_inner", json!(128)),
        ("gpt2", "n_positions", json!(128)),
        ("gpt2", "vocab_size", json!(300)),
        ("gpt2", "activation_function", json!("mish")),
        ("gpt2", "add_cross_attention", json!(true)),
        ("gpt2", "architectures", json!(["LlamaForCausalLM"])),
        ("gpt2", "mup_width", json!(4)),
        ("gpt2", "layer_norm_epsilon", json!("1e-5")),
        ("llama", "num_attention_heads", json!(2)),
        ("llama", "num_key_value_heads", json!(4)),
        ("llama", "head_dim", json!(32)),
        ("llama", "intermediate_size", json!(64)),
        ("llama", "tie_word_embeddings", json!(false)),
        ("llama", "rope_parameters", json!({"rope_type": "dynamic", "rope_theta": 1e4})),
        ("mistral-window", "architectures", json!(["LlamaForCausalLM"])),
        ("qwen2", "use_sliding_window", json!(true)),
        ("gemma3", "layer_types", json!(["full_attention"])),
        ("opt-post-norm", "hidden_size", json!(32)),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (variant, key, value) in cases {
        let source = source(folder.path(), variant);
        let mut config = Checkpoint::open(variant).config();
        assert_ne!(config[key], *value);
        config[key] = value.clone();
        fs::write(source.join("config.json"), config.to_string()).unwrap();
        let out = folder.path().join("out.gguf");
        let result =
            convert(&source, &out, &options(Format::F32), &mut |_| ControlFlow::Continue(()));
        assert!(result.is_err(), "{variant}: {key} = {value} went through");
        assert!(!out.exists());
    }
}
