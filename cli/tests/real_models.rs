//! Real models, fetched by scripts/fetch-models.sh into `fetched/`: they are no part of the tree, so
//! these tests are run by name (`cargo test --release -p pith-cli --test real_models -- --ignored`).
//! The figures of llama.cpp come from `yardstick/` (llama-cpp-sys-2 0.1.161, ggml 0.26.0): in
//! `yardstick/`, `cargo run --release --bin perplexity -- MODEL ../models/demo/heldout.txt`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pith::{Model, Session, cache, session::Options, tokenizer::Encode};

/// Tokens that are scored, and in windows of how many.
const N_TOKENS: usize = 2000;
const N_WINDOW: usize = 512;

fn fetched(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fetched").join(name);
    assert!(path.exists(), "{} is not there: run scripts/fetch-models.sh first", path.display());
    path
}

/// The held-out text in windows of ids, each beginning with BOS where the model wants one.
fn windows(model: &Model) -> Vec<Vec<u32>> {
    let text = include_str!("../../models/demo/heldout.txt");
    let tokenizer = model.tokenizer();
    let mut ids = tokenizer.encode(text, Encode { add_special: false, parse_special: false });
    ids.truncate(N_TOKENS);
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let n_text = N_WINDOW - usize::from(bos.is_some());
    ids.chunks(n_text).map(|ids| bos.into_iter().chain(ids.iter().copied()).collect()).collect()
}

fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

fn perplexity(model: &Model, windows: &[Vec<u32>], cache: cache::Type) -> f64 {
    let options = Options { n_ctx: N_WINDOW, score: true, cache, ..Options::default() };
    let mut session = Session::new(model, &options).unwrap();
    let (mut sum, mut n) = (0.0, 0);
    for ids in windows {
        session.truncate(0, 0);
        let score = session.score(0, &ids[..ids.len() - 1], &ids[1..], |_, score| {
            sum += score.log_prob();
            n += 1;
        });
        score.unwrap();
    }
    (-sum / f64::from(n)).exp()
}

/// llama.cpp's ids exactly, and its perplexity within `tolerance`.
fn check(file: &str, ids_hash: u64, llama_cpp: f64, tolerance: f64) {
    let model = Model::open(&fetched(file)).unwrap();
    let windows = windows(&model);
    let hash = fnv(windows.iter().flatten().flat_map(|id| id.to_le_bytes()));
    assert_eq!(hash, ids_hash, "{file}: the ids differ from llama.cpp's");
    let got = perplexity(&model, &windows, cache::Type::F16);
    eprintln!("{file}: perplexity {got:.4}, llama.cpp {llama_cpp:.4}");
    assert!((got / llama_cpp - 1.0).abs() < tolerance, "{file}: {got}, llama.cpp {llama_cpp}");
}

fn greedy(file: &str, prompt: &str, more: &[&str]) -> (String, String) {
    let model = fetched(file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.arg("run").arg(model).args(["--prompt", prompt, "--temp", "0"]).args(more);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

#[test]
#[ignore = "needs fetched/SmolLM2-135M-Instruct.Q4_1.gguf (scripts/fetch-models.sh)"]
fn smollm2_scores_as_llama_cpp_does() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf", 0x3609_2d9e_645e_95e3, 51.5996, 0.005);
}

/// Rounding of activations alone moves this model's perplexity by some 0.3 %, llama.cpp's too; with
/// the weights dequantized to F32 the two agree to 0.005 %.
#[test]
#[ignore = "needs fetched/gemma-3-270m-q4_k_m.gguf (scripts/fetch-models.sh)"]
fn gemma_3_scores_as_llama_cpp_does() {
    check("gemma-3-270m-q4_k_m.gguf", 0xc4f3_da46_3861_99a8, 50.6885, 0.005);
}

/// Rounding keys and values to Q8_0 moves the perplexity as little as another order of sums would.
#[test]
#[ignore = "needs fetched/SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-q4_k_m.gguf"]
fn a_q8_0_cache_scores_as_one_of_f32_does() {
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let model = Model::open(&fetched(file)).unwrap();
        let windows = windows(&model);
        let of = |cache| perplexity(&model, &windows, cache);
        let [f16, f32, q8_0] = [cache::Type::F16, cache::Type::F32, cache::Type::Q8_0].map(of);
        eprintln!("{file}: perplexity {f32:.4} with a cache of f32, f16 {f16:.4}, q8_0 {q8_0:.4}");
        assert!((q8_0 / f32 - 1.0).abs() < 0.005, "{file}: {q8_0} and {f32}");
    }
}

#[test]
#[ignore = "needs fetched/SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-q4_k_m.gguf"]
fn greedy_text_reads_as_it_should() {
    let (text, _) =
        greedy("SmolLM2-135M-Instruct.Q4_1.gguf", "The capital of France is", &["-n", "20"]);
    assert!(text.starts_with(" Paris."), "{text:?}");
    let (text, _) = greedy("gemma-3-270m-q4_k_m.gguf", "The capital of France is", &["-n", "20"]);
    assert!(text.contains("France"), "{text:?}");
}

/// Weights stay in the file's pages: what a full context of 2048 tokens takes beside them is the
/// cache and at most 40 MB.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs fetched/SmolLM2-135M-Instruct.Q4_1.gguf (scripts/fetch-models.sh)"]
fn anonymous_memory_is_the_cache_and_little_more() {
    let model = Model::open(&fetched("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let mut session = Session::new(&model, &Options { n_ctx: 2048, ..Options::default() }).unwrap();
    let ids: Vec<u32> = (0..2048).map(|i| i * 7919 % 49152).collect();
    session.eval(0, &ids).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = session.memory().kv + 40_000_000;
    eprintln!("anonymous {} bytes, cache {}", kib * 1024, session.memory().kv);
    assert!(kib * 1024 <= limit, "{kib} KiB anonymous, {limit} bytes allowed");
}
