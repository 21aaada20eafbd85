//! What a conversion did, for people and for JSON.

use crate::{Check, config::Classifier};
use pith::quant::Format;
use serde_json::{Value, json};
use std::time::Duration;

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The family's title.
    pub family: &'static str,
    /// GGUF `general.architecture`.
    pub arch: &'static str,
    /// Whether llama.cpp runs this file: it knows the architecture and the rope, and there is no head
    /// on it.
    pub stock: bool,
    /// The head, if the model classifies.
    pub classifier: Option<Classifier>,
    /// Tensors and bytes per format, in GGUF's order of formats.
    pub formats: Vec<FormatCount>,
    /// Values of all tensors.
    pub n_params: u64,
    /// Bytes of the checkpoint's weight files.
    pub bytes_in: u64,
    /// Bytes of the GGUF file.
    pub bytes_out: u64,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Tensors that couldn't have the format that was asked for.
    pub fallbacks: Vec<Fallback>,
    /// Source tensors and entries that nothing consumed, with the reason.
    pub ignored: Vec<(String, String)>,
    /// Adapters that were merged, with the number of tensors that each changed.
    pub adapters: Vec<(String, usize)>,
    /// Source tensors that were rearranged or changed, with what was done.
    pub folded: Vec<(String, &'static str)>,
    /// Tensors that were quantized in the source already and got another format, with their old one:
    /// what the first rounding lost, the second loses again.
    pub requantized: Vec<(String, Format)>,
    /// Configuration keys that were ignored on the caller's word.
    pub allowed_unknown: Vec<String>,
    /// What the self-check measured; `None` where it was left out.
    pub check: Option<Check>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Tensors of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatCount {
    /// The format.
    pub format: Format,
    /// Tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A tensor that couldn't have the format that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// GGUF name.
    pub tensor: String,
    /// By the rule.
    pub wanted: Format,
    /// Instead.
    pub got: Format,
    /// Values in a row, which `wanted`'s block doesn't divide.
    pub n_in: usize,
}

impl Report {
    /// The report as one JSON object.
    pub fn to_json(&self) -> Value {
        let pairs = |pairs: &[(String, String)]| -> Value {
            pairs.iter().map(|(name, why)| json!({"name": name, "reason": why})).collect()
        };
        let formats: Value = self
            .formats
            .iter()
            .map(|count| {
                json!({
                    "format": count.format.name(),
                    "tensors": count.tensors,
                    "bytes": count.bytes,
                })
            })
            .collect();
        let fallbacks: Value = self
            .fallbacks
            .iter()
            .map(|fallback| {
                json!({
                    "tensor": fallback.tensor,
                    "wanted": fallback.wanted.name(),
                    "got": fallback.got.name(),
                    "n_in": fallback.n_in,
                    "block_len": fallback.wanted.block_len(),
                })
            })
            .collect();
        let folded: Value =
            self.folded.iter().map(|(name, how)| json!({"name": name, "how": how})).collect();
        let adapters: Value = self
            .adapters
            .iter()
            .map(|(folder, tensors)| json!({"folder": folder, "tensors": tensors}))
            .collect();
        let requantized: Value = self
            .requantized
            .iter()
            .map(|(name, from)| json!({"tensor": name, "from": from.name()}))
            .collect();
        let check = self.check.as_ref().map(|check| {
            json!({
                "tokens": check.n_tokens,
                "kl": check.kl,
                "kl_limit": check.kl_limit,
                "top1": check.top1,
                "worst_row": {"tensor": check.worst_row.1, "difference": check.worst_row.0},
            })
        });
        json!({
            "family": self.family,
            "architecture": self.arch,
            "llama_cpp": self.stock,
            "classifier": self.classifier.as_ref().map(|head| json!({
                "kind": head.kind.name(),
                "problem_type": head.problem.name(),
                "labels": head.labels,
            })),
            "formats": formats,
            "n_params": self.n_params,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "tied": self.tied,
            "fallbacks": fallbacks,
            "ignored": pairs(&self.ignored),
            "adapters": adapters,
            "folded": folded,
            "requantized": requantized,
            "allowed_unknown": self.allowed_unknown,
            "check": check,
            "seconds": self.elapsed.as_secs_f64(),
        })
    }
}
