//! The records of a spool: a JSON object a line.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use pith::{Error, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A spool, read from its beginning.
pub(super) struct Spool {
    path: PathBuf,
    reader: BufReader<File>,
    line: Vec<u8>,
    n_lines: u64,
}

impl Spool {
    pub fn open(path: &Path) -> Result<Spool> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        Ok(Spool { path: path.to_owned(), reader, line: Vec::new(), n_lines: 0 })
    }

    /// The next record; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.line.clear();
        let n =
            self.reader.read_until(b'\n', &mut self.line).map_err(Error::io("read", &self.path))?;
        if n == 0 {
            return Ok(None);
        }
        self.n_lines += 1;
        serde_json::from_slice(&self.line)
            .map(Some)
            .map_err(|error| Error::malformed("spool", format!("line {}: {error}", self.n_lines)))
    }
}

/// A record: names and values, in order.
pub(super) struct Record<'a>(pub Vec<(String, &'a RawValue)>);

impl Record<'_> {
    /// Whether the row failed: its `error` is there.
    pub fn has(&self, error: &str) -> bool {
        self.0.iter().any(|(name, value)| name == error && value.get() != "null")
    }
}

impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Cells;
        impl<'de> Visitor<'de> for Cells {
            type Value = Record<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut cells = Vec::new();
                while let Some(cell) = map.next_entry()? {
                    cells.push(cell);
                }
                Ok(Record(cells))
            }
        }
        from.deserialize_map(Cells)
    }
}
