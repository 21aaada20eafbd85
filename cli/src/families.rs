//! `pith convert --list-families`: the models that can be converted, from the families' rows.

use pith_models::{FAMILIES, Family};

/// The table.
pub fn table() -> String {
    let width = |text: fn(&Family) -> &str| FAMILIES.iter().map(|f| text(f).len()).max();
    let (title, arch) = (width(|f| f.title).unwrap_or(0), width(|f| f.arch).unwrap_or(0));
    let head =
        format!("{:<title$}  {:<arch$}  LLAMA.CPP  HUGGING FACE CLASSES\n", "FAMILY", "GGUF");
    let row = |family: &&Family| {
        let stock = if family.stock { "yes" } else { "no" };
        let classes = family.classes.join(", ");
        format!("{:<title$}  {:<arch$}  {stock:<9}  {classes}\n", family.title, family.arch)
    };
    head + &FAMILIES.iter().map(row).collect::<String>()
}
