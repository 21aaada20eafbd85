//! The manifest: one JSON object a line, which ends with the CRC-32 of what stands before it in the line.
//! A line that doesn't, and all behind it, was never written as far as a job is concerned.
//!
//! ```text
//! {"job":{...},"check":1}
//! {"table":["id","text"],"check":1}
//! {"commit":{"bytes":9,"crc32":1,"end":false,"failed":0,"next":{"file":0,"offset":5,"line":1,"row":1},"rows":1},"check":1}
//! {"done":{"bytes":9,"crc32":1},"check":1}
//! ```

use std::{
    fs::{File, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use pith::{Error, Result};
use serde_json::{Map, Value, json};

use super::{Commit, files::Content};
use crate::source::Position;

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// What stands before a line's checksum.
const CHECK: &str = ",\"check\":";
/// No line is longer: a list of some hundred thousand inputs.
const MAX_LINE: u64 = 64 << 20;

/// A line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// What the job computes.
    Job(Map<String, Value>),
    /// The kept columns of the table.
    Table(Vec<String>),
    /// What lasts, and all of the part's bytes that belong to it.
    Commit(Commit, Content),
    /// What the output holds.
    Done(Content),
}

impl Line {
    /// The line with its end.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let content = |content: &Content| json!({"bytes": content.n_bytes, "crc32": content.crc32});
        let object = match self {
            Line::Job(fingerprint) => json!({"job": fingerprint}),
            Line::Table(columns) => json!({"table": columns}),
            Line::Commit(commit, Content { n_bytes, crc32 }) => {
                let Position { file, offset, line, row } = commit.next;
                json!({"commit": {
                    "rows": commit.rows,
                    "failed": commit.failed,
                    "bytes": n_bytes,
                    "crc32": crc32,
                    "next": {"file": file, "offset": offset, "line": line, "row": row},
                    "end": commit.is_end,
                }})
            }
            Line::Done(of) => json!({"done": content(of)}),
        };
        let mut text = object.to_string();
        text.pop(); // the object's end
        let check = crc32fast::hash(text.as_bytes());
        format!("{text}{CHECK}{check}}}\n").into_bytes()
    }

    /// The line of these bytes, if it is whole.
    fn parse(bytes: &[u8]) -> Option<Line> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix("}\n")?;
        let (before, check) = text.rsplit_once(CHECK)?;
        if check.parse() != Ok(crc32fast::hash(before.as_bytes())) {
            return None;
        }
        let mut object: Map<String, Value> = serde_json::from_str(&format!("{before}}}")).ok()?;
        let content = |of: &Value| {
            let crc32 = u32::try_from(of["crc32"].as_u64()?).ok()?;
            Some(Content { n_bytes: of["bytes"].as_u64()?, crc32 })
        };
        if let Some(Value::Object(fingerprint)) = object.remove("job") {
            return Some(Line::Job(fingerprint));
        }
        if let Some(table) = object.remove("table") {
            return serde_json::from_value(table).ok().map(Line::Table);
        }
        if let Some(of) = object.remove("commit") {
            let next = &of["next"];
            let commit = Commit {
                rows: of["rows"].as_u64()?,
                failed: of["failed"].as_u64()?,
                next: Position {
                    file: usize::try_from(next["file"].as_u64()?).ok()?,
                    offset: next["offset"].as_u64()?,
                    line: next["line"].as_u64()?,
                    row: next["row"].as_u64()?,
                },
                is_end: of["end"].as_bool()?,
            };
            return Some(Line::Commit(commit, content(&of)?));
        }
        content(object.get("done")?).map(Line::Done)
    }
}

/// A commit that was found.
#[derive(Debug)]
pub(super) struct Saved {
    pub commit: Commit,
    pub content: Content,
    /// Whether the table's columns stand before it.
    pub has_table: bool,
    /// Where its line ends in the manifest.
    pub end: u64,
}

/// What a manifest says, as far as it is whole.
#[derive(Debug)]
pub(super) struct Manifest {
    pub fingerprint: Map<String, Value>,
    /// Where its first line ends.
    pub begin: u64,
    pub table: Option<Vec<String>>,
    pub commits: Vec<Saved>,
    /// The last commit, and what the output holds, if the job was done.
    pub done: Option<(Commit, Content)>,
}

impl Manifest {
    /// Reads lines as long as they are whole. `None` if not even the first is.
    fn read(mut lines: impl BufRead) -> io::Result<Option<Manifest>> {
        let (mut found, mut end): (Option<Manifest>, u64) = (None, 0);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            end += (&mut lines).take(MAX_LINE).read_until(b'\n', &mut bytes)? as u64;
            match (Line::parse(&bytes), &mut found) {
                (Some(Line::Job(fingerprint)), None) => {
                    let (table, commits, done) = (None, Vec::new(), None);
                    found = Some(Manifest { fingerprint, begin: end, table, commits, done });
                }
                (Some(line), Some(manifest)) => {
                    if manifest.take(line, end).is_none() {
                        return Ok(found);
                    }
                }
                _ => return Ok(found),
            }
        }
    }

    /// Takes one more line, if it makes sense behind the others.
    fn take(&mut self, line: Line, end: u64) -> Option<()> {
        let last = self.commits.last();
        let is_end = last.is_some_and(|last| last.commit.is_end);
        match line {
            Line::Table(table) if self.table.is_none() && !is_end => self.table = Some(table),
            Line::Commit(commit, content) if !is_end => {
                let grows = last.is_none_or(|last| last.content.n_bytes <= content.n_bytes);
                let has_table = self.table.is_some();
                grows.then(|| self.commits.push(Saved { commit, content, has_table, end }))?;
            }
            Line::Done(content) if is_end && self.done.is_none() => {
                self.done = Some((last?.commit, content));
            }
            _ => return None,
        }
        Some(())
    }
}

/// The manifest's open file, locked.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens or makes the manifest of `out`.
    ///
    /// # Errors
    /// Another process has it.
    pub(super) fn open(path: PathBuf, out: &Path) -> Result<Log> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Log { path, file }),
                // A killed process, or a child that this one is starting, has it for a moment more.
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                    thread::sleep(PATIENCE / 20);
                }
                Err(TryLockError::WouldBlock) => {
                    let fault = format!("another process is writing {}", out.display());
                    return Err(Error::Invalid(fault));
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path)(e)),
            }
        }
    }

    /// What it says.
    pub(super) fn read(&mut self) -> Result<Option<Manifest>> {
        Manifest::read(BufReader::new(&self.file)).map_err(Error::io("read", &self.path))
    }

    /// Cuts off what lies behind this byte.
    pub(super) fn cut(&mut self, end: u64) -> Result<()> {
        let cut = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)));
        cut.map(|_| ()).map_err(Error::io("write", &self.path))
    }

    /// Appends lines, which then last.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<()> {
        self.file.write_all(lines).map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let content = |n_bytes| Content { n_bytes, crc32: 0xffff_ffff };
        let next = Position { file: 1, offset: u64::MAX, line: 2, row: 3 };
        let commit = Commit { rows: 3, failed: 1, next, is_end: false };
        vec![
            Line::Job(Map::from_iter([("a\n,\"check\":1}".to_owned(), json!([1.5, null]))])),
            Line::Table(vec!["id".to_owned(), "x\"y".to_owned()]),
            Line::Commit(commit, content(7)),
            Line::Commit(Commit { is_end: true, ..commit }, content(7)),
            Line::Done(content(9)),
        ]
    }

    fn read(bytes: &[u8]) -> (usize, bool) {
        let found = Manifest::read(bytes).unwrap();
        let n = |m: &Manifest| 1 + usize::from(m.table.is_some()) + m.commits.len();
        (found.as_ref().map_or(0, n), found.is_some_and(|found| found.done.is_some()))
    }

    #[test]
    fn lines_read_back() {
        for line in lines() {
            assert_eq!(Line::parse(&line.bytes()), Some(line));
        }
    }

    #[test]
    fn what_is_torn_or_flipped_was_never_written() {
        let each: Vec<Vec<u8>> = lines().iter().map(Line::bytes).collect();
        let all = each.concat();
        assert_eq!(read(&all), (4, true));
        let ends: Vec<usize> = (1..=each.len()).map(|n| each[..n].concat().len()).collect();
        let whole = |at: usize| ends.iter().filter(|end| **end <= at).count();
        for at in 0..all.len() {
            let wanted = (whole(at), false);
            assert_eq!(read(&all[..at]), wanted, "cut at {at}");
            for bit in 0..8 {
                let mut flipped = all.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(read(&flipped), wanted, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn lines_out_of_place_end_a_manifest() {
        let bytes =
            |order: &[usize]| order.iter().flat_map(|i| lines()[*i].bytes()).collect::<Vec<u8>>();
        assert_eq!(read(&bytes(&[2, 0])), (0, false), "no job");
        assert_eq!(read(&bytes(&[0, 0, 2])), (1, false), "two jobs");
        assert_eq!(read(&bytes(&[0, 2, 4])), (2, false), "done before the end");
        assert_eq!(read(&bytes(&[0, 3, 2])), (2, false), "a commit behind the end");
        assert_eq!(read(b"{\"job\":[[[["), (0, false));
    }
}
