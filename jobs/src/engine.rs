//! The loop of a job: rows in, a task's answers, rows out in the order of the input.
//!
//! Rows between reading and writing are in a window, whose length and bytes are bound. A row leaves it
//! when it and all before it have their answers. Now and then what has left is committed.

mod run;
mod window;

use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use pith::{Error, Result};
use serde_json::{Map, Value};

use crate::{
    journal::{Commit, Convert, Journal, Opened, Start},
    sink::{Choice, Columns, Encoder, Output},
    source::{Position, Rows},
    task::Task,
};
use run::Run;

/// Opens a job's input at a row.
pub type Open<'a> = dyn FnMut(Position) -> Result<Box<dyn Rows + 'a>> + 'a;

/// What there is to do.
pub struct Job<'a> {
    /// The rows.
    pub open: Box<Open<'a>>,
    /// The input's columns, where they are known before its rows.
    pub header: Option<Vec<String>>,
    /// How far the offsets of each input file go, for a watch to tell what is left. Empty: unknown.
    pub sizes: Vec<u64>,
    /// The columns of the output.
    pub choice: Choice,
    /// The format of the records.
    pub output: Output,
    /// Where they go.
    pub target: Target<'a>,
    /// Whether the first row that fails ends the job.
    pub fail_fast: bool,
    /// What is held at once.
    pub limits: Limits,
    /// When to commit.
    pub every: Every,
}

/// Where records go.
pub enum Target<'a> {
    /// To a file, with a manifest beside it.
    File {
        /// The file.
        path: PathBuf,
        /// What happens to an earlier job's files.
        start: Start,
        /// All that decides the bytes of the output: version, model, inputs, formats, columns, options.
        fingerprint: Map<String, Value>,
        /// What makes the file of the records, where they aren't what it holds.
        convert: Option<Box<Convert<'a>>>,
    },
    /// To a stream, as soon as they are ready.
    Stream(Box<dyn Write + 'a>),
}

/// Bounds of what is held between reading and writing. One row is always taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: usize,
    /// Bytes of rows without answers, and of records that wait for one before them.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { rows: 1 << 16, bytes: 64 << 20 }
    }
}

/// When what is ready is committed: at the first of both. It changes no byte of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// After this time.
    pub time: Duration,
    /// At so many bytes.
    pub bytes: usize,
}

impl Default for Every {
    fn default() -> Every {
        Every { time: Duration::from_secs(2), bytes: 4 << 20 }
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Rows that have their answers, those before a resumption included.
    pub rows: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Tokens that the model ran since the job was started or resumed.
    pub tokens: u64,
    /// How much of the input has its answers: bytes, or rows where a file is made of columns.
    pub done: u64,
    /// How much there is, where that is known.
    pub total: Option<u64>,
}

/// Who looks on.
pub trait Watch {
    /// Called often, several times a second at least while the model runs. `false` stops the job.
    fn go_on(&mut self, status: &Status) -> bool;
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows of the output.
    pub rows: u64,
    /// Those of rows that failed.
    pub failed: u64,
    /// Tokens that the model ran since the job was started or resumed.
    pub tokens: u64,
    /// Rows that were there already: where the job was resumed.
    pub resumed_at_row: u64,
    /// Whether the job had been done before, so that there was nothing to do.
    pub was_done: bool,
    /// The row that ended the job, and what is wrong with it, if failing fast was asked for. It isn't
    /// in the output, which can be resumed.
    pub bad_row: Option<String>,
}

impl Summary {
    fn of(commit: &Commit) -> Summary {
        Summary { rows: commit.rows, failed: commit.failed, ..Summary::default() }
    }
}

/// Does a job. An output file appears when all of it is there; until then, and after any error, the job
/// can be resumed.
///
/// # Errors
/// [`Error::Stopped`] if the watch said so, with all that was ready committed; what is no row's fault.
pub fn run(job: &mut Job<'_>, task: &mut dyn Task, watch: &mut dyn Watch) -> Result<Summary> {
    let columns = Columns::new(&job.choice, &task.columns())?;
    if let Some(header) = &job.header {
        columns.check_input(header)?;
    }
    let mut encoder = Encoder::new(job.output, columns);
    let (mut store, from) = match &mut job.target {
        Target::Stream(stream) => (Store::Stream(stream), Commit::default()),
        Target::File { path, start, fingerprint, .. } => {
            match Journal::open(path, *start, fingerprint)? {
                Opened::Done(commit) => {
                    let resumed_at_row = commit.rows;
                    return Ok(Summary { resumed_at_row, was_done: true, ..Summary::of(&commit) });
                }
                Opened::Going(journal) => {
                    encoder.resume_table(journal.table().map(<[String]>::to_vec));
                    let from = *journal.at();
                    (Store::Journal(Box::new(journal)), from)
                }
            }
        }
    };
    let mut summary = Summary::of(&from);
    if !from.is_end {
        let mut run = Run::new(encoder, &mut store, from, job.limits, watch);
        (run.fail_fast, run.every, run.sizes) = (job.fail_fast, job.every, &job.sizes);
        let rows = (job.open)(from.next)?;
        summary = run.run(rows, job.header.as_deref(), task)?;
    }
    summary.resumed_at_row = from.rows;
    if let (None, Store::Journal(journal)) = (&summary.bad_row, store) {
        let convert = match &mut job.target {
            Target::File { convert, .. } => convert.as_deref_mut(),
            Target::Stream(_) => None,
        };
        journal.finish(convert)?;
    }
    Ok(summary)
}

/// What takes records.
enum Store<'s> {
    Journal(Box<Journal>),
    Stream(&'s mut dyn Write),
}

impl Store<'_> {
    /// Writes records so that they last, or are on their way.
    fn put(&mut self, records: &[u8], at: Commit, table: Option<&[String]>) -> Result<()> {
        match self {
            Store::Journal(journal) => journal.commit(records, at, table),
            Store::Stream(stream) => stream
                .write_all(records)
                .and_then(|()| stream.flush())
                .map_err(Error::io("write", "standard output")),
        }
    }

    /// Whether it is time to write so many bytes, when it was last done then.
    fn is_due(&self, n_bytes: usize, last: Instant, every: Every) -> bool {
        match self {
            Store::Journal(_) => n_bytes >= every.bytes || last.elapsed() >= every.time,
            Store::Stream(_) => true,
        }
    }
}
