//! What a job was told to read: files, patterns of files' names, or standard input.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use glob::MatchOptions;
use pith::{Error, Result};

use super::{
    FileId, Format, Position, Rows,
    files::{self, Files},
    format::extension,
    lines,
};

/// As a shell does: `*` leaves out names that begin with a dot.
const LIKE_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};
/// Extensions of files whose contents must be unpacked first.
const COMPRESSED: &[&str] = &["gz", "bz2", "xz", "zst", "lz4", "zip"];

/// A job's inputs, all of one format.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// None is standard input.
    paths: Vec<PathBuf>,
    format: Format,
    is_resumable: bool,
}

impl Inputs {
    /// The files that these arguments name: paths; patterns with `*`, `?`, `[...]` and `**` where there is no file of that
    /// very name, the matches sorted; or `-` alone, standard input. The extensions tell the format if none is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for arguments that name no rows: none, folders, patterns without a match, files of several formats, a
    /// JSON file that is one array; the system's.
    pub fn new(args: &[String], format: Option<Format>) -> Result<Inputs> {
        if args.is_empty() {
            return invalid("no input; name files, or give `-` for standard input");
        }
        if args.iter().any(|arg| arg == "-") {
            return Inputs::stdin(args, format);
        }
        let mut paths = Vec::new();
        for arg in args {
            expand(arg, &mut paths)?;
        }
        let format = match format {
            Some(format) => format,
            None => common_format(&paths)?,
        };
        let mut is_resumable = true;
        for path in &paths {
            let kind = fs::metadata(path).map_err(Error::io("open", path))?.file_type();
            let shown = path.display();
            if kind.is_dir() {
                return invalid(format!(
                    "{shown} is a folder; name its files, or give a pattern such as '{shown}/*.jsonl'"
                ));
            }
            if kind.is_file() && format == Format::Jsonl && is_json_array(path)? {
                return invalid(format!(
                    "{shown} is one JSON array; a job reads an object a line (jq -c '.[]' {shown} writes them)"
                ));
            }
            if !kind.is_file() && format == Format::Parquet {
                return invalid(format!("{shown} can't be Parquet, which is read from its end"));
            }
            is_resumable &= kind.is_file();
        }
        Ok(Inputs { paths, format, is_resumable })
    }

    fn stdin(args: &[String], format: Option<Format>) -> Result<Inputs> {
        if args.len() > 1 {
            return invalid("`-` is standard input, and goes without other inputs");
        }
        let Some(format) = format else {
            let names = Format::ALL.map(Format::name).join(", ");
            return invalid(format!("standard input has no extension; give --format ({names})"));
        };
        if format == Format::Parquet {
            return invalid(
                "standard input can't be Parquet, which is read from its end; save it as a file",
            );
        }
        Ok(Inputs { paths: Vec::new(), format, is_resumable: false })
    }

    /// The files, in order; none if it is standard input.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Their format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is standard input.
    pub fn is_stdin(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether a job can go on in the middle of them. Standard input, pipes and devices can't be read twice.
    pub fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    /// What the files are. `progress` gets the number of bytes done since its last call, and says `false` to stop.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `progress` said so; [`Error::Invalid`] for what can't be read twice; the system's.
    pub fn fingerprint(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<FileId>> {
        self.check_resumable()?;
        self.paths.iter().map(|path| FileId::of(path, progress)).collect()
    }

    /// How far the offsets of each file go, for a progress bar; empty where that isn't known.
    ///
    /// # Errors
    /// The system's; those of a Parquet file.
    pub fn sizes(&self) -> Result<Vec<u64>> {
        let size = |path: &PathBuf| match self.format {
            Format::Parquet => n_parquet_rows(path),
            _ => fs::metadata(path).map(|file| file.len()).map_err(Error::io("open", path)),
        };
        let paths = if self.is_resumable { &self.paths[..] } else { &[] };
        paths.iter().map(size).collect()
    }

    /// The columns that the files name before their rows; `None` where they don't, or not the same.
    ///
    /// # Errors
    /// What is wrong with the names; the system's.
    pub fn columns(&self) -> Result<Option<Vec<String>>> {
        match self.format {
            _ if !self.is_resumable => Ok(None),
            Format::Jsonl => Ok(None),
            Format::Lines => Ok(Some(vec![lines::COLUMN.to_owned()])),
            Format::Csv | Format::Tsv => {
                let names = |path: &PathBuf| files::csv_names(path, self.format);
                let mut all = self.paths.iter().map(names).collect::<Result<Vec<_>>>()?;
                all.dedup();
                Ok(if all.len() == 1 { all.pop() } else { None })
            }
            Format::Parquet => parquet_columns(&self.paths),
        }
    }

    /// The rows from a place on that an earlier reader of the same files came to; all of them from
    /// [`Position::default`]. Standard input is read by one of them only.
    ///
    /// # Errors
    /// What is wrong with a CSV file's names; [`Error::Invalid`] for places that aren't in the files;
    /// [`Error::Unsupported`] for UTF-16; the system's.
    pub fn open(&self, from: Position) -> Result<Box<dyn Rows>> {
        if from != Position::default() {
            self.check_resumable()?;
        }
        if self.format == Format::Parquet {
            return parquet_rows(self.paths.clone(), from);
        }
        if self.is_stdin() {
            return files::stdin(self.format);
        }
        Ok(Box::new(Files::new(self.paths.clone(), self.format, from)?))
    }

    fn check_resumable(&self) -> Result<()> {
        if self.is_resumable {
            return Ok(());
        }
        invalid("standard input, pipes and devices can't be read twice; save them as a file first")
    }
}

#[cfg(feature = "parquet")]
fn parquet_rows(paths: Vec<PathBuf>, from: Position) -> Result<Box<dyn Rows>> {
    Ok(Box::new(super::parquet::ParquetRows::new(paths, from)?))
}

#[cfg(feature = "parquet")]
fn n_parquet_rows(path: &Path) -> Result<u64> {
    Ok(super::parquet::ParquetFile::open(path, 0)?.n_rows())
}

#[cfg(feature = "parquet")]
fn parquet_columns(paths: &[PathBuf]) -> Result<Option<Vec<String>>> {
    let columns = super::parquet::columns(paths)?;
    Ok(columns.map(|fields| fields.iter().map(|field| field.name().clone()).collect()))
}

#[cfg(not(feature = "parquet"))]
use without_parquet::{n_parquet_rows, parquet_columns, parquet_rows};

#[cfg(not(feature = "parquet"))]
mod without_parquet {
    use super::{Error, Path, PathBuf, Position, Result, Rows};

    fn refused<T>() -> Result<T> {
        let what = "Parquet: this pith was built without it (feature `parquet`)";
        Err(Error::Unsupported(what.to_owned()))
    }

    pub(super) fn parquet_rows(_: Vec<PathBuf>, _: Position) -> Result<Box<dyn Rows>> {
        refused()
    }

    pub(super) fn n_parquet_rows(_: &Path) -> Result<u64> {
        refused()
    }

    pub(super) fn parquet_columns(_: &[PathBuf]) -> Result<Option<Vec<String>>> {
        refused()
    }
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(what.into()))
}

/// Appends the files that an argument names.
fn expand(arg: &str, paths: &mut Vec<PathBuf>) -> Result<()> {
    let path = Path::new(arg);
    if !arg.contains(['*', '?', '[']) || path.exists() {
        paths.push(path.to_owned());
        return Ok(());
    }
    let matches = glob::glob_with(arg, LIKE_A_SHELL)
        .map_err(|error| Error::Invalid(format!("the pattern `{arg}`: {error}")))?;
    let n_before = paths.len();
    for found in matches {
        paths.push(found.map_err(|error| Error::Io {
            action: "list",
            path: error.path().to_owned(),
            source: error.into(),
        })?);
    }
    if paths.len() == n_before {
        return invalid(format!("no file is called `{arg}`, and none matches it as a pattern"));
    }
    paths[n_before..].sort();
    Ok(())
}

/// The format that all these files' extensions tell.
fn common_format(paths: &[PathBuf]) -> Result<Format> {
    let first = &paths[0];
    let format = Format::of(first);
    for path in paths {
        if COMPRESSED.contains(&extension(path).as_str()) {
            let path = path.display();
            return invalid(format!("{path} is compressed; unpack it first"));
        }
        let other = Format::of(path);
        if other != format {
            return invalid(format!(
                "{} is {}, but {} is {}; a job reads one format, which --format can give",
                first.display(),
                format.name(),
                path.display(),
                other.name()
            ));
        }
    }
    Ok(format)
}

/// Whether a file that is called `.json` begins with `[`.
fn is_json_array(path: &Path) -> Result<bool> {
    if extension(path) != "json" {
        return Ok(false);
    }
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut head = Vec::new();
    file.take(4096).read_to_end(&mut head).map_err(Error::io("read", path))?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    Ok(head.trim_ascii_start().first() == Some(&b'['))
}
