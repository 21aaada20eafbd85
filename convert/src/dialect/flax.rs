//! transformers' Flax classes: `transformer/h/0/ln_1/scale` is `transformer.h.0.ln_1.weight`.
//!
//! The rules are those of `load_flax_weights_in_pytorch_model` (transformers 4,
//! `modeling_flax_pytorch_utils.py`): every kernel is transposed, those of FlaxGPT2's own Conv1D too,
//! which is `[n_out, n_in]` where PyTorch's is `[n_in, n_out]`.

use super::transpose;
use crate::source::Source;
use pith::Result;

/// Translates a checkpoint of Flax parameters, told by its kernels; another stays as it is.
pub(super) fn translate(source: &mut Source) -> Result<()> {
    let names = || source.tensors().iter().map(|tensor| tensor.entry.name.as_str());
    // Saved as safetensors, names have dots in place of slashes.
    if !names().any(|name| name.ends_with("/kernel") || name.ends_with(".kernel")) {
        return Ok(());
    }
    // What Flax's own `init` gives has one more dict around it.
    let wrapped = names().all(|name| name.starts_with("params/"));
    source.change(|entry| {
        let name = entry.name.replace('/', ".");
        let name = if wrapped { &name["params/".len()..] } else { name.as_str() };
        let (stem, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        let leaf = match leaf {
            "kernel" => {
                transpose(entry)?;
                "weight"
            }
            "scale" | "embedding" => "weight",
            other => other,
        };
        entry.name = format!("{stem}.{leaf}");
        Ok(())
    })
}
