//! Names, orientations and configurations of other programs, made those of Hugging Face's PyTorch
//! code, which the families' rows describe. A dialect is told by the names of the tensors, never by
//! the file's; it renames entries and changes their strides, and reads no value.

mod flax;
mod keras;
mod meta;
mod nanogpt;
mod tf_gpt2;

use crate::source::{Entry, Source};
use pith::{Error, Result};

/// Translates what `source` holds; a source that speaks no other dialect stays as it is.
///
/// # Errors
/// A checkpoint that speaks a dialect, but not as its program writes it.
pub(crate) fn translate(source: &mut Source) -> Result<()> {
    keras::translate(source)?;
    flax::translate(source)?;
    tf_gpt2::translate(source)?;
    nanogpt::translate(source)?;
    meta::translate(source)
}

/// Turns a kernel `[n_in, n_out]` into a weight `[n_out, n_in]`.
fn transpose(entry: &mut Entry) -> Result<()> {
    if entry.shape.len() != 2 {
        return Err(Error::Unsupported(format!(
            "tensor `{}` has shape {:?}; kernels of linear layers have [n_in, n_out]",
            entry.name, entry.shape
        )));
    }
    entry.shape.reverse();
    entry.strides.reverse();
    Ok(())
}
