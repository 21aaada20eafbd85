//! Tokenizers.
use crate::{Result, gguf::Gguf};
/// Stub.
pub struct Tokenizer(usize);
impl Tokenizer {
    /// Stub.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Ok(Tokenizer(gguf.get("tokenizer.ggml.tokens").and_then(|v| v.as_array().map(|a| a.len())).unwrap_or(0)))
    }
    /// Stub.
    pub fn n_vocab(&self) -> usize { self.0 }
}
