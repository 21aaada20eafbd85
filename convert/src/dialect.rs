//! Names, orientations and configurations of other programs, made those of Hugging Face's PyTorch
//! code, which the families' rows describe. A dialect is told by the names of the tensors, never by
//! the file's; it renames entries and changes their strides, and reads no value.

mod tf_gpt2;

use crate::source::Source;
use pith::Result;

/// Translates what `source` holds; a source that speaks no other dialect stays as it is.
///
/// # Errors
/// A checkpoint that speaks a dialect, but not as its program writes it.
pub(crate) fn translate(source: &mut Source) -> Result<()> {
    tf_gpt2::translate(source)
}
