//! ggml and llama.cpp beside pith, in one process: tests of equality and side-by-side measurements.
//! The product never links this.
//!
//! Building needs cmake, a C++17 compiler and libclang (Debian: `apt-get install cmake g++
//! libclang-dev`), and takes minutes. Run cargo inside this folder, so that its
//! `.cargo/config.toml` counts: without its flags ggml is compiled for SSE2 and is no yardstick.
//!
//! ```text
//! cd yardstick
//! cargo test --release                                   # formats equal ggml's
//! cargo run --release --bin golden > ../tests/golden/quant.txt
//! cargo run --release --bin perplexity -- MODEL.gguf TEXT --tokens 2000 --threads 2
//! cargo run --release --bin speed -- MODEL.gguf --threads 2
//! ```
//!
//! | file | job |
//! |---|---|
//! | [`ggml`] | ggml's encoders and decoders, safe |
//! | [`llama`] | models and contexts of llama.cpp, safe |
//! | [`score`] | logits to log-probabilities, top-1 ids and perplexity, whoever made them |
//! | [`speed`] | tokens per second of llama.cpp |
//! | [`args`] | the programs' command lines |

pub mod args;
pub mod cycles;
pub mod ggml;
pub mod limits;
pub mod llama;
pub mod machine;
pub mod mul_mat;
pub mod ours;
pub mod pool;
pub mod products;
pub mod results;
pub mod score;
pub mod speed;
pub mod stats;
pub mod untiled;
