//! The Python package `pith`: models, and what they say of texts. A file uses only files above it in
//! this list:
//!
//! | file | job |
//! |---|---|
//! | `error` | what can go wrong, as Python has it |
//! | `signals` | long work without the GIL that Ctrl-C ends |
//! | `arrays` | memory for numpy |
//! | `sessions` | sessions that are made when they are first needed, and kept |
//! | `generate` | a text that is being written: an iterator |
//! | `score` | how probable texts are, and labels behind them |
//! | `classify` | texts to labels |
//! | `vectors` | texts to embeddings, ids to logits |
//! | `model` | the class `Model`: what Python calls |
#![forbid(unsafe_code)]

mod arrays;
mod classify;
mod error;
mod generate;
mod model;
mod score;
mod sessions;
mod signals;
mod vectors;

use pyo3::prelude::*;

/// On-device GPT runtime: one quantized GGUF file, memory-mapped, the same bits everywhere.
#[pymodule]
fn pith(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_class::<model::Info>()?;
    module.add_class::<model::Memory>()?;
    module.add_class::<generate::Generation>()?;
    module.add_class::<score::Score>()?;
    module.add_class::<classify::Classification>()?;
    error::add_to(module)
}
