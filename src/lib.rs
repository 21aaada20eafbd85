//! pith: an on-device GPT runtime. One quantized GGUF file is memory-mapped and run with int8
//! activations; what a sequence gets is the same, bit for bit, for every batch, chunking, thread
//! count and instruction set.
//!
//! A file uses only files above it in this list:
//!
//! | file | job |
//! |---|---|
//! | [`error`] | what can go wrong |
//! | [`memory`] | word from an allocator that memory has run out |
//! | `zeros` | memory that can be refused |
//! | [`bytes`] | a file's bytes, mapped or owned |
//! | [`quant`] | the table of tensor formats: block length, bytes, encode, decode |
//! | [`gguf`] | the container: read as borrowed views, write atomically |
//! | [`team`] | worker threads and disjoint tiles of a matrix |
//! | [`kernel`] | arithmetic: the scalar reference and one table per instruction set |
//! | [`model`] | a mapped file bound to its family row: numbers and weights |
//! | [`lora`] | an adapter's file: low-rank changes of a model's matrices |
//! | [`plan`] | the model as a flat list of ops over numbered buffers |
//! | [`cache`] | the KV cache |
//! | [`cpu`] | runs a plan on the CPU |
//! | [`tokenizer`] | text to ids and back, from the GGUF alone |
//! | [`stops`] | stop strings in streamed text |
//! | [`sampler`] | logits to the next id |
//! | [`session`] | sequences that grow: the face that most callers use |
//! | [`classify`] | texts to labels |
//! | [`batch`] | many sequences at once: scored, classified, continued |
//!
//! ```no_run
//! use pith::{Model, Session, sampler::argmax, session::Options, tokenizer::Encode};
//!
//! let model = Model::open("my-gpt.gguf".as_ref())?;
//! let mut session = Session::new(&model, &Options::default())?;
//! let prompt = Encode { add_special: true, parse_special: false };
//! let ids = model.tokenizer().encode("Once upon", prompt);
//! let next = argmax(session.eval(0, &ids)?);
//! println!("{}", model.tokenizer().decode(&[next]));
//! # Ok::<(), pith::Error>(())
//! ```
#![deny(unsafe_code)]

pub mod batch;
pub mod bytes;
pub mod cache;
pub mod classify;
pub mod cpu;
pub mod error;
pub mod gguf;
pub mod kernel;
pub mod lora;
pub mod memory;
pub mod model;
pub mod plan;
pub mod quant;
pub mod sampler;
pub mod session;
pub mod stops;
pub mod team;
pub mod tokenizer;
mod zeros;

pub use error::{Error, Result};
pub use lora::Lora;
pub use model::{Held, Model};
pub use session::Session;
