//! Checkpoint to GGUF.
