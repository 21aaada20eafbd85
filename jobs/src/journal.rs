//! The files of a job's output, so that a job which ended at any instant goes on where it was:
//!
//! * `OUT.part`: the records so far;
//! * `OUT.manifest.json`: a log that only grows (`manifest`): what the job computes, then a line for each
//!   commit, then that it is done. It stays, and tells where the output came from.
//!
//! A commit writes records, syncs them, and only then writes its line, with the records' length, checksum
//! and the place of the next row. So whatever was torn, the last line whose records are all there is
//! where to go on, and what lies behind it, in both files, is cut off.
//!
//! A job's end is such a line too. Then the part takes the output's name, or is converted to the output;
//! then comes the line that says so. Each of these steps may be done again.
//!
//! The manifest is locked while a job runs.

mod files;
mod fingerprint;
mod manifest;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crc32fast::Hasher;
use pith::{Error, Result};
use serde_json::{Map, Value};

use crate::source::Position;
use files::{
    CHUNK, Content, beside, content_of, open_part, refuse_others, remove, rename, sync_folder,
};
use manifest::{Line, Log, Manifest, Saved};

/// What happens to files that an earlier job left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// They are in the way.
    Fresh,
    /// They are continued.
    Resume,
    /// They are replaced.
    Restart,
}

/// Turns the part, a complete file of records, into the output: writes it under another name and renames
/// it. It may be called again after it was killed.
pub type Convert<'c> = dyn FnMut(&Path, &Path) -> Result<()> + 'c;

/// A state of the output that lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Records.
    pub rows: u64,
    /// Those of rows that failed.
    pub failed: u64,
    /// Where the next row begins.
    pub next: Position,
    /// Whether there is no next row.
    pub is_end: bool,
}

/// The open files of a job.
#[derive(Debug)]
pub struct Journal {
    out: PathBuf,
    part_path: PathBuf,
    part: File,
    log: Log,
    at: Commit,
    table: Option<Vec<String>>,
    /// Of all of the part.
    content: Hasher,
    n_bytes: u64,
}

/// What a job's files were.
#[derive(Debug)]
pub enum Opened {
    /// There is something to do, from [`Journal::at`].
    Going(Journal),
    /// The job was done, and the output is as it was left.
    Done(Commit),
}

impl Journal {
    /// Opens the files of the output `out`. `fingerprint` is all that decides its bytes; an object in it
    /// with a `sha256` stands for a file, whose name doesn't matter.
    ///
    /// # Errors
    /// Files are in the way; what was begun has another fingerprint; another process has the files; the
    /// output of a job that is done was changed.
    pub fn open(out: &Path, start: Start, fingerprint: &Map<String, Value>) -> Result<Opened> {
        let (part, log) = (beside(out, "part")?, beside(out, "manifest.json")?);
        refuse_others(out, &part, &log, start)?;
        let mut log = Log::open(log, out)?;
        let found = match start {
            Start::Fresh | Start::Restart => None,
            Start::Resume => log.read()?,
        };
        let Some(found) = found else {
            return Journal::begin(out, part, log, fingerprint).map(Opened::Going);
        };
        fingerprint::compare(&found.fingerprint, fingerprint, out)?;
        if let Some((commit, content)) = found.done {
            verify_done(out, content)?;
            remove(&part)?; // a conversion's, if the job was killed just before this
            return Ok(Opened::Done(commit));
        }
        if let Some(last) = found.commits.last().filter(|last| last.commit.is_end)
            && !part.exists()
            && content_of(out).is_ok_and(|content| content == last.content)
        {
            log.cut(last.end)?; // killed after the part was renamed
            sync_folder(out)?;
            log.append(&Line::Done(last.content).bytes())?;
            return Ok(Opened::Done(last.commit));
        }
        Journal::recover(out, part, log, found).map(Opened::Going)
    }

    /// A job from its beginning.
    fn begin(
        out: &Path,
        part_path: PathBuf,
        mut log: Log,
        fingerprint: &Map<String, Value>,
    ) -> Result<Journal> {
        log.cut(0)?;
        log.append(&Line::Job(fingerprint.clone()).bytes())?;
        sync_folder(out)?;
        // Only now, so that no part is ever without a manifest.
        let part = open_part(&part_path)?;
        part.set_len(0).map_err(Error::io("write", &part_path))?;
        sync_folder(out)?;
        Ok(Journal {
            out: out.to_owned(),
            part_path,
            part,
            log,
            at: Commit::default(),
            table: None,
            content: Hasher::new(),
            n_bytes: 0,
        })
    }

    /// The job that was left: what follows its last sound commit is cut off.
    fn recover(out: &Path, part_path: PathBuf, mut log: Log, found: Manifest) -> Result<Journal> {
        let mut part = open_part(&part_path)?;
        let (n_sound, content) =
            sound_commits(&mut part, &found.commits).map_err(Error::io("read", &part_path))?;
        let last = n_sound.checked_sub(1).map(|last| &found.commits[last]);
        let n_bytes = last.map_or(0, |last| last.content.n_bytes);
        log.cut(last.map_or(found.begin, |last| last.end))?;
        let cut = part.set_len(n_bytes).and_then(|()| part.seek(SeekFrom::Start(n_bytes)));
        cut.map_err(Error::io("write", &part_path))?;
        sync_folder(out)?;
        Ok(Journal {
            out: out.to_owned(),
            part_path,
            part,
            log,
            at: last.map_or_else(Commit::default, |last| last.commit),
            table: found.table.filter(|_| last.is_some_and(|last| last.has_table)),
            content,
            n_bytes,
        })
    }

    /// What lasts.
    pub fn at(&self) -> &Commit {
        &self.at
    }

    /// The columns of the table that was begun.
    pub fn table(&self) -> Option<&[String]> {
        self.table.as_deref()
    }

    /// Appends records and makes them last. `table` are the columns of the table they belong to.
    ///
    /// # Errors
    /// They can't be written. Then the journal can't be used any more, but be opened again.
    pub fn commit(&mut self, records: &[u8], at: Commit, table: Option<&[String]>) -> Result<()> {
        self.part.write_all(records).map_err(Error::io("write", &self.part_path))?;
        self.part.sync_data().map_err(Error::io("sync", &self.part_path))?;
        self.content.update(records);
        self.n_bytes += records.len() as u64;
        let mut lines = Vec::new();
        if let (None, Some(table)) = (&self.table, table) {
            lines = Line::Table(table.to_vec()).bytes();
            self.table = Some(table.to_vec());
        }
        lines.extend(Line::Commit(at, self.content()).bytes());
        self.log.append(&lines)?;
        self.at = at;
        Ok(())
    }

    /// Makes the part, whose last commit was the end, the output.
    ///
    /// # Errors
    /// It can't be converted or renamed. The journal can be opened again.
    pub fn finish(mut self, convert: Option<&mut Convert<'_>>) -> Result<()> {
        let Some(convert) = convert else {
            rename(&self.part_path, &self.out)?;
            sync_folder(&self.out)?;
            return self.log.append(&Line::Done(self.content()).bytes());
        };
        convert(&self.part_path, &self.out)?;
        sync_folder(&self.out)?;
        let content = content_of(&self.out).map_err(Error::io("read", &self.out))?;
        self.log.append(&Line::Done(content).bytes())?;
        remove(&self.part_path)?;
        sync_folder(&self.out)
    }

    fn content(&self) -> Content {
        Content { n_bytes: self.n_bytes, crc32: self.content.clone().finalize() }
    }
}

/// How many of the commits have their bytes in the part, and the checksum of those.
fn sound_commits(part: &mut File, commits: &[Saved]) -> std::io::Result<(usize, Hasher)> {
    let mut buffer = vec![0; CHUNK];
    let (mut hasher, mut sound, mut n_sound, mut at) = (Hasher::new(), Hasher::new(), 0, 0);
    for saved in commits {
        while at < saved.content.n_bytes {
            let wanted = (saved.content.n_bytes - at).min(CHUNK as u64) as usize;
            match part.read(&mut buffer[..wanted])? {
                0 => return Ok((n_sound, sound)),
                n => {
                    hasher.update(&buffer[..n]);
                    at += n as u64;
                }
            }
        }
        if hasher.clone().finalize() != saved.content.crc32 {
            break;
        }
        sound = hasher.clone();
        n_sound += 1;
    }
    Ok((n_sound, sound))
}

fn verify_done(out: &Path, wanted: Content) -> Result<()> {
    let got = content_of(out).map_err(Error::io("read", out))?;
    if got == wanted {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the job of {} was done, but the file was changed: {} bytes with CRC-32 {:08x}, and it was left \
         with {} and {:08x}; --restart makes it again",
        out.display(),
        got.n_bytes,
        got.crc32,
        wanted.n_bytes,
        wanted.crc32
    )))
}
