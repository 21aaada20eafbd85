//! Where a file may not be written: over what is being read.

use crate::source::Source;
use pith::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Refuses to write over what is being read. A rename would not damage an open map, but the
/// checkpoint would be gone.
pub(crate) fn refuse_overwrite(source: &Source, out: &Path) -> Result<()> {
    let Some(target) = taken(out)? else { return Ok(()) };
    let folder = fs::read_dir(source.folder()).map_err(Error::io("read", source.folder()))?;
    let neighbours: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    let is_input = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let reads = matches!(extension, Some("json" | "model" | "txt" | "bpe" | "jinja"));
        reads && is_same_file(path, &target)
    };
    let is_weights = |path: &Path| is_same_file(path, &target);
    if source.files().any(is_weights) || neighbours.iter().any(|path| is_input(path)) {
        return Err(part_of_source(out));
    }
    Ok(())
}

/// The file at `out`, if there is one.
pub(crate) fn taken(out: &Path) -> Result<Option<PathBuf>> {
    match out.canonicalize() {
        Ok(target) if target.is_dir() => {
            Err(Error::Invalid(format!("{} is a folder: name the file", out.display())))
        }
        target => Ok(target.ok()),
    }
}

pub(crate) fn part_of_source(out: &Path) -> Error {
    Error::Invalid(format!(
        "{} is part of the checkpoint: choose another name for the output",
        out.display()
    ))
}

/// Whether both names lead to one file: by links of either kind.
pub(crate) fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        id(a).is_some() && id(a) == id(b)
    }
    #[cfg(not(unix))]
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}
