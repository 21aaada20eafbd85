//! Writes a Llama of a billion random weights, shaped as real ones are: as F16 first, then by
//! llama.cpp's quantizer in the formats that are wanted. No text comes out of it, but times and
//! memory are those of such a model.

use std::path::{Path, PathBuf};

use pith::gguf::{OwnedValue, Writer};
use pith::quant::Format;
use yardstick::args::Args;
use yardstick::llama::{self, FileType};
use yardstick::products::values;

const USAGE: &str = "synthetic FOLDER [--types Q8_0,Q4_K_M] [--threads 1]";

const N_EMBD: u64 = 2048;
const N_LAYER: u32 = 16;
const N_HEAD: u32 = 32;
const N_HEAD_KV: u32 = 8;
const HEAD_DIM: u64 = 64;
const N_FF: u64 = 8192;
const N_VOCAB: usize = 32_000;
const N_CTX: u32 = 8192;

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let types: String = args.option("--types")?.unwrap_or_else(|| "Q8_0,Q4_K_M".to_string());
    let n_threads: usize = args.option("--threads")?.unwrap_or(1);
    let [folder] = args.positional(USAGE)?;
    let name = |of: &str| -> PathBuf { Path::new(&folder).join(format!("synthetic-1b.{of}.gguf")) };
    let source = name("F16");
    write(&source).map_err(|e| e.to_string())?;
    for of in types.split(',') {
        let file_type: FileType = of.parse()?;
        llama::quantize(&source, &name(of), file_type, n_threads)?;
    }
    std::fs::remove_file(&source).map_err(|e| format!("{}: {e}", source.display()))
}

fn write(path: &Path) -> pith::Result<()> {
    let mut writer = Writer::new(32)?;
    set_numbers(&mut writer)?;
    set_tokenizer(&mut writer)?;
    let tensors = tensors();
    for (name, format, dims) in &tensors {
        writer.declare(name, *format, dims)?;
    }
    let mut out = writer.create(path)?;
    for (i, (name, format, dims)) in tensors.iter().enumerate() {
        let n_rows = dims.get(1).copied().unwrap_or(1);
        for row in 0..n_rows {
            let values = row_of(*format, dims[0] as usize, ((i as u64) << 32) + row);
            let mut bytes = vec![0; format.row_bytes(values.len()).unwrap_or(0)];
            format.encode(&values, &mut bytes);
            out.append(name, &bytes)?;
        }
    }
    out.finish().map(|_| ())
}

/// Matrices are random and keep the size of what they multiply; norms' weights are 1.
fn row_of(format: Format, n: usize, seed: u64) -> Vec<f32> {
    if format == Format::F32 {
        return vec![1.0; n];
    }
    let mut row = values(n, seed);
    // The variance of `values` is 1/12.
    let scale = (12.0 / n as f32).sqrt();
    row.iter_mut().for_each(|x| *x *= scale);
    row
}

fn set_numbers(writer: &mut Writer) -> pith::Result<()> {
    let text = |text: &str| OwnedValue::String(text.to_string());
    writer.set("general.architecture", text("llama"))?;
    writer.set("general.name", text("Random weights in the shape of a Llama of a billion"))?;
    writer.set("general.file_type", OwnedValue::U32(1))?;
    for (key, value) in [
        ("vocab_size", N_VOCAB as u32),
        ("context_length", N_CTX),
        ("embedding_length", N_EMBD as u32),
        ("block_count", N_LAYER),
        ("feed_forward_length", N_FF as u32),
        ("attention.head_count", N_HEAD),
        ("attention.head_count_kv", N_HEAD_KV),
        ("rope.dimension_count", HEAD_DIM as u32),
    ] {
        writer.set(&format!("llama.{key}"), OwnedValue::U32(value))?;
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", OwnedValue::F32(1e-5))?;
    writer.set("llama.rope.freq_base", OwnedValue::F32(500_000.0))
}

/// A SentencePiece vocabulary: the special tokens, all bytes, and words that no text has.
fn set_tokenizer(writer: &mut Writer) -> pith::Result<()> {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.map(|(word, of)| (word.to_string(), of));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), BYTE));
    let words = (0..).map(|i| (format!("\u{2581}word{i}"), NORMAL));
    let (words, types): (Vec<_>, Vec<_>) =
        special.into_iter().chain(bytes).chain(words).take(N_VOCAB).unzip();
    let scores = (0..N_VOCAB).map(|i| -(i as f32)).collect();
    writer.set("tokenizer.ggml.model", OwnedValue::String("llama".to_string()))?;
    writer.set("tokenizer.ggml.tokens", OwnedValue::Strings(words))?;
    writer.set("tokenizer.ggml.scores", OwnedValue::F32s(scores))?;
    writer.set("tokenizer.ggml.token_type", OwnedValue::I32s(types))?;
    writer.set("tokenizer.ggml.bos_token_id", OwnedValue::U32(1))?;
    writer.set("tokenizer.ggml.eos_token_id", OwnedValue::U32(2))?;
    writer.set("tokenizer.ggml.unknown_token_id", OwnedValue::U32(0))
}

/// Names, formats and sizes, fastest dimension first; the head is the embedding's matrix.
fn tensors() -> Vec<(String, Format, Vec<u64>)> {
    let n_kv = u64::from(N_HEAD_KV) * HEAD_DIM;
    let norm = |name: String| (name, Format::F32, vec![N_EMBD]);
    let matrix = |name: String, n_in, n_out| (name, Format::F16, vec![n_in, n_out]);
    let mut tensors = vec![matrix("token_embd.weight".to_string(), N_EMBD, N_VOCAB as u64)];
    for i in 0..N_LAYER {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        tensors.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), N_EMBD, u64::from(N_HEAD) * HEAD_DIM),
            matrix(name("attn_k"), N_EMBD, n_kv),
            matrix(name("attn_v"), N_EMBD, n_kv),
            matrix(name("attn_output"), u64::from(N_HEAD) * HEAD_DIM, N_EMBD),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), N_EMBD, N_FF),
            matrix(name("ffn_up"), N_EMBD, N_FF),
            matrix(name("ffn_down"), N_FF, N_EMBD),
        ]);
    }
    tensors.push(norm("output_norm.weight".to_string()));
    tensors
}
