//! Checkpoints of random halves in the shape of a Llama, as Hugging Face would write them: what a
//! conversion reads.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::products::values;

/// Sizes of a Llama with heads of 64 and one key/value head for each query head.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Rows of the embedding, which is the head.
    pub n_vocab: usize,
}

impl Shape {
    fn n_ff(self) -> usize {
        4 * self.n_embd
    }

    /// Names and shapes, `[n_out, n_in]`.
    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let Shape { n_embd, n_layer, n_vocab } = self;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_string(), vec![n_vocab, n_embd]),
            ("model.norm.weight".to_string(), vec![n_embd]),
        ];
        for il in 0..n_layer {
            let square = || vec![n_embd, n_embd];
            for (name, shape) in [
                ("input_layernorm", vec![n_embd]),
                ("post_attention_layernorm", vec![n_embd]),
                ("self_attn.q_proj", square()),
                ("self_attn.k_proj", square()),
                ("self_attn.v_proj", square()),
                ("self_attn.o_proj", square()),
                ("mlp.gate_proj", vec![self.n_ff(), n_embd]),
                ("mlp.up_proj", vec![self.n_ff(), n_embd]),
                ("mlp.down_proj", vec![n_embd, self.n_ff()]),
            ] {
                tensors.push((format!("model.layers.{il}.{name}.weight"), shape));
            }
        }
        tensors
    }

    /// Bytes of all tensors.
    pub fn n_bytes(self) -> usize {
        self.tensors().iter().map(|(_, shape)| 2 * shape.iter().product::<usize>()).sum()
    }

    /// Bytes of the largest tensor.
    pub fn largest(self) -> usize {
        2 * self.n_embd * self.n_vocab.max(self.n_ff())
    }
}

/// Writes `config.json`, `model.safetensors` and the tokenizer that lies in the folder `tokenizer`.
///
/// # Errors
/// What the system refuses.
pub fn write(folder: &Path, shape: Shape, tokenizer: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.join(name))?;
    }
    let Shape { n_embd, n_layer, n_vocab } = shape;
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {n_embd}, "intermediate_size": {},
"num_hidden_layers": {n_layer}, "num_attention_heads": {}, "vocab_size": {n_vocab},
"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}}"#,
        shape.n_ff(),
        n_embd / 64
    );
    std::fs::write(folder.join("config.json"), config)?;
    let (tensors, mut at) = (shape.tensors(), 0);
    let lines: Vec<String> = tensors
        .iter()
        .map(|(name, shape)| {
            let end = at + 2 * shape.iter().product::<usize>();
            let line = format!(
                r#""{name}": {{"dtype": "F16", "shape": {shape:?}, "data_offsets": [{at}, {end}]}}"#
            );
            at = end;
            line
        })
        .collect();
    let header = format!("{{{}}}", lines.join(", "));
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (i, (_, shape)) in tensors.iter().enumerate() {
        let n_in = shape[shape.len() - 1];
        // The variance of `values` is 1/12; a norm's weights are 1.
        let scale = (12.0 / n_in as f32).sqrt();
        for row in 0..shape.iter().product::<usize>() / n_in {
            let mut values = values(n_in, ((i as u64) << 32) + row as u64);
            match shape.len() {
                1 => values.fill(1.0),
                _ => values.iter_mut().for_each(|value| *value *= scale),
            }
            let halves = values.iter().flat_map(|&v| pith::quant::f32_to_f16(v).to_le_bytes());
            file.write_all(&halves.collect::<Vec<u8>>())?;
        }
    }
    file.flush()
}
