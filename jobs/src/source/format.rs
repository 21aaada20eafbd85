//! Kinds of files that hold rows, and the names that tell them.

use std::path::Path;

/// A kind of file that holds rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// Comma-separated values (RFC 4180) under a line of names.
    Csv,
    /// The same with tabs between the values: quotes mean what they mean in CSV.
    Tsv,
    /// A text a line.
    Lines,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 5] =
        [Format::Jsonl, Format::Csv, Format::Tsv, Format::Lines, Format::Parquet];

    /// Its name, as an option gives it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Lines => "lines",
            Format::Parquet => "parquet",
        }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What a file's extension says that it is: lines of text where it says nothing.
    pub fn of(path: &Path) -> Format {
        match extension(path).as_str() {
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            "parquet" => Format::Parquet,
            _ => Format::Lines,
        }
    }
}

/// The path's extension in lower case; empty where it has none.
pub(crate) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back() {
        for format in Format::ALL {
            assert_eq!(Format::by_name(format.name()), Some(format));
        }
        assert_eq!(Format::by_name("JSONL"), None);
    }

    #[test]
    fn extensions() {
        for (path, format) in [
            ("a.jsonl", Format::Jsonl),
            ("a.NDJSON", Format::Jsonl),
            ("a.json", Format::Jsonl),
            ("dir.csv/a.csv", Format::Csv),
            ("a.tsv", Format::Tsv),
            ("a.parquet", Format::Parquet),
            ("new_word_list.txt", Format::Lines),
            ("words", Format::Lines),
            (".csv", Format::Lines),
            ("a.csv.bak", Format::Lines),
        ] {
            assert_eq!(Format::of(Path::new(path)), format, "{path}");
        }
    }
}
