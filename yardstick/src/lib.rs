//! ggml and llama.cpp beside pith, in one process: tests of equality and side-by-side measurements.
//! The product never links this.
//!
//! `README.md` says how to build it, what the programs do and what makes the comparison fair.
//!
//! | file | job |
//! |---|---|
//! | [`args`] | the programs' command lines |
//! | [`machine`], [`results`], [`stats`] | the machine's name; CSV files; medians |
//! | [`cycles`], [`limits`] | time in cycles; the machine's best rates |
//! | [`checkpoint`], [`process`] | checkpoints of random weights; processes seen from outside |
//! | [`ggml`] | ggml's encoders and decoders |
//! | [`pool`] | ggml's threads |
//! | [`products`] | the products that `ops` times |
//! | [`ours`], [`mul_mat`], [`untiled`] | pith's side of a product, and ggml's, with and without tiles |
//! | [`llama`] | models and contexts of llama.cpp |
//! | [`rows`], [`packed`] | texts as rows of ids; many sequences at once in llama.cpp |
//! | [`score`] | logits to log-probabilities, top-1 ids and perplexity, whoever made them |
//! | [`speed`] | tokens per second of whoever runs a model |

pub mod args;
pub mod checkpoint;
pub mod cycles;
pub mod ggml;
pub mod limits;
pub mod llama;
pub mod machine;
pub mod mul_mat;
pub mod ours;
pub mod packed;
pub mod pool;
pub mod process;
pub mod products;
pub mod results;
pub mod rows;
pub mod score;
pub mod speed;
pub mod stats;
pub mod untiled;
