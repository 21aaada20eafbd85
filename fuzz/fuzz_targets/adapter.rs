//! Any bytes as a PEFT adapter: the length of its configuration, the configuration, and its weight
//! file. Read, merged into a tiny Llama whose tensors are then read, and named as a file of its own.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pith_convert::{adapter::Adapter, config::Config, source::Source};
use serde_json::{Map, Value, json};

/// Numbers of the base, and its weight file.
static BASE: LazyLock<(Value, Vec<u8>)> = LazyLock::new(base);

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(length);
    let Ok(config) = serde_json::from_slice(config) else { return };
    let Ok(adapter) = Adapter::from_parts(&config, weights.to_vec()) else { return };
    let (numbers, file) = &*BASE;
    let numbers = Config::read(numbers, &[]).expect("sound");
    let mut source = Source::from_bytes(file.clone()).expect("sound");
    let n_tensors = source.tensors().len();
    if let Ok(changed) = adapter.merge(&mut source, &numbers) {
        assert!(changed <= source.tensors().len() && n_tensors <= source.tensors().len());
        for tensor in source.tensors() {
            let _ = source.values(tensor);
        }
    }
    if let Ok(names) = adapter.tensors(&numbers) {
        assert!(!names.is_empty() && names.len().is_multiple_of(2));
    }
});

fn base() -> (Value, Vec<u8>) {
    let numbers = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16, "hidden_size": 8, "num_hidden_layers": 1,
        "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 4,
    });
    let (mut header, mut end) = (Map::new(), 0);
    let mut add = |name: &str, shape: &[usize]| {
        let bytes = 4 * shape.iter().product::<usize>();
        let name = format!("model.{name}.weight");
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes]});
        header.insert(name, entry);
        end += bytes;
    };
    add("embed_tokens", &[4, 8]);
    for matrix in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"] {
        add(&format!("layers.0.{matrix}"), &[8, 8]);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    (numbers, file)
}
