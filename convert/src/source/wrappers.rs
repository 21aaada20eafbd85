//! Prefixes that wrappers of a training program put before every name.

use super::Tensor;

/// What wrapping programs put before every name: `torch.compile`; `DataParallel` and DeepSpeed.
const WRAPPERS: &[&str] = &["_orig_mod.", "module."];
/// What every name of a model of Hugging Face begins with, or of a wrapped one: a module that holds
/// the model under an attribute, as in Lightning, puts the attribute before these.
const TOPS: &[&str] = &[
    "model.",
    "transformer.",
    "gpt_neox.",
    "lm_head.",
    "embed_out.",
    "_orig_mod.",
    "module.",
    "base_model.",
];
/// Wrappers inside each other.
const MAX_WRAPPERS: usize = 8;

/// Drops what every name has before the model's own.
pub(super) fn strip(tensors: &mut [Tensor]) {
    for _ in 0..MAX_WRAPPERS {
        let Some(len) = prefix(tensors) else {
            return;
        };
        for tensor in &mut *tensors {
            tensor.entry.name.drain(..len);
        }
    }
}

/// The length of a wrapper's prefix that every name has.
fn prefix(tensors: &[Tensor]) -> Option<usize> {
    let all = |is: &dyn Fn(&str) -> bool| tensors.iter().all(|tensor| is(&tensor.entry.name));
    let first = &tensors.first()?.entry.name;
    if let Some(prefix) = WRAPPERS.iter().find(|&prefix| all(&|name| name.starts_with(prefix))) {
        return Some(prefix.len());
    }
    // PEFT's, with its adapters merged; what still has some isn't the model alone.
    let merged = "base_model.model.";
    if all(&|name| name.starts_with(merged) && !name.contains(".lora_")) {
        return Some(merged.len());
    }
    let attribute = &first[..=first.find('.')?];
    let holds = |name: &str| {
        let inner = name.strip_prefix(attribute);
        inner.is_some_and(|inner| TOPS.iter().any(|top| inner.starts_with(top)))
    };
    (attribute != "base_model." && all(&holds)).then_some(attribute.len())
}
