//! Tiny checkpoints, made by hand.
#![allow(dead_code, missing_docs)]

pub mod stream;
pub mod table;
pub mod texts;
pub mod twin;
pub mod zip;

use pith_convert::{Options, Report, Target, convert};
use serde_json::{Value, json};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// A tensor to write: name, shape, values.
#[derive(Clone, Debug)]
pub struct Weights {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Values in -0.5..0.5 that depend on nothing but the name (an LCG seeded with it).
pub fn weights(name: &str, shape: &[usize]) -> Weights {
    let mut state =
        name.bytes().fold(0x9e37_79b9_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let n = shape.iter().product::<usize>();
    Weights { name: name.into(), shape: shape.into(), values: (0..n).map(next).collect() }
}

/// A checkpoint before it is written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub config: Value,
    pub tensors: Vec<Weights>,
}

pub const N_VOCAB: usize = 40;
pub const N_EMBD: usize = 32;

/// GPT-2 with two layers; `n_embd` 32, four heads.
pub fn gpt2() -> Checkpoint {
    let mut tensors = vec![
        weights("transformer.wte.weight", &[N_VOCAB, N_EMBD]),
        weights("transformer.wpe.weight", &[16, N_EMBD]),
        weights("transformer.ln_f.weight", &[N_EMBD]),
        weights("transformer.ln_f.bias", &[N_EMBD]),
    ];
    for il in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push(weights(&format!("transformer.h.{il}.{name}"), shape));
        };
        for norm in ["ln_1", "ln_2"] {
            add(&format!("{norm}.weight"), &[N_EMBD]);
            add(&format!("{norm}.bias"), &[N_EMBD]);
        }
        for (name, n_in, n_out) in [
            ("attn.c_attn", N_EMBD, 3 * N_EMBD),
            ("attn.c_proj", N_EMBD, N_EMBD),
            ("mlp.c_fc", N_EMBD, 64),
            ("mlp.c_proj", 64, N_EMBD),
        ] {
            add(&format!("{name}.weight"), &[n_in, n_out]);
            add(&format!("{name}.bias"), &[n_out]);
        }
    }
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 16,
        "n_embd": N_EMBD, "n_layer": 2, "n_head": 4, "n_inner": 64, "vocab_size": N_VOCAB,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    });
    Checkpoint { config, tensors }
}

/// Llama with two layers, four heads of 8 and two key/value heads.
pub fn llama() -> Checkpoint {
    let mut tensors = vec![
        weights("model.embed_tokens.weight", &[N_VOCAB, N_EMBD]),
        weights("model.norm.weight", &[N_EMBD]),
    ];
    for il in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![N_EMBD]),
            ("post_attention_layernorm", vec![N_EMBD]),
            ("self_attn.q_proj", vec![N_EMBD, N_EMBD]),
            ("self_attn.k_proj", vec![16, N_EMBD]),
            ("self_attn.v_proj", vec![16, N_EMBD]),
            ("self_attn.o_proj", vec![N_EMBD, N_EMBD]),
            ("mlp.gate_proj", vec![64, N_EMBD]),
            ("mlp.up_proj", vec![64, N_EMBD]),
            ("mlp.down_proj", vec![N_EMBD, 64]),
        ] {
            tensors.push(weights(&format!("model.layers.{il}.{name}.weight"), &shape));
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "max_position_embeddings": 16, "hidden_size": N_EMBD, "num_hidden_layers": 2,
        "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": N_VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    Checkpoint { config, tensors }
}

impl Checkpoint {
    pub fn tensor(&mut self, name: &str) -> &mut Weights {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect(name)
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// An output matrix of its own.
    pub fn untied(mut self) -> Self {
        self.tensors.push(weights("lm_head.weight", &[N_VOCAB, N_EMBD]));
        self.config["tie_word_embeddings"] = json!(false);
        self
    }

    /// Writes `config.json` and one `model.safetensors`.
    pub fn write(&self, folder: &Path) {
        self.write_config(folder);
        fs::write(folder.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }

    pub fn write_config(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
    }

    /// Writes `config.json` and three shards with their index.
    pub fn write_sharded(&self, folder: &Path) {
        self.write_config(folder);
        let mut map = serde_json::Map::new();
        for shard in 0..3 {
            let name = format!("model-{:05}-of-00003.safetensors", shard + 1);
            let part = self.tensors.iter().skip(shard).step_by(3).cloned().collect::<Vec<_>>();
            for tensor in &part {
                map.insert(tensor.name.clone(), json!(name));
            }
            fs::write(folder.join(name), safetensors(&part)).unwrap();
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// Writes it to a fresh folder, converts it, and gives the error's text.
    pub fn error(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let error = convert_in(folder.path(), &options("q8_0")).expect_err("must be refused");
        assert!(!folder.path().join("out.gguf").exists());
        error.to_string()
    }
}

/// The bytes of a safetensors file with F32 tensors.
pub fn safetensors(tensors: &[Weights]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in tensors {
        let start = data.len();
        tensor.values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        let line =
            json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), line);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// Options without a tokenizer.
pub fn options(target: &str) -> Options {
    Options {
        target: Target::by_name(target).unwrap(),
        name: Some("test".into()),
        no_tokenizer: true,
        threads: 1,
        ..Options::default()
    }
}

/// Converts a folder to `out.gguf` in it.
pub fn convert_in(folder: &Path, options: &Options) -> pith::Result<Report> {
    convert(folder, &folder.join("out.gguf"), options, &mut |_| ControlFlow::Continue(()))
}

/// The converted bytes of a folder.
pub fn converted(folder: &Path, target: &str) -> Vec<u8> {
    convert_in(folder, &options(target)).unwrap();
    fs::read(folder.join("out.gguf")).unwrap()
}

/// Files beside the tests.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}
