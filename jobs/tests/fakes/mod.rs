//! Rows and tasks that need no model: what a row gets is a function of the row.
#![allow(dead_code)] // each test binary uses a part

use std::{path::Path, thread::sleep, time::Duration};

use pith::{Error, Result};
use pith_jobs::{
    engine::{Every, Job, Limits, Status, Summary, Target, Watch, run},
    journal::Start,
    row::{Cell, Row, RowError},
    sink::{Choice, Output},
    source::{Line, Position, Rows},
    task::{Answer, Column, Kind, Pulse, Task},
};
use serde_json::{Map, Value, json, value::RawValue};

pub type Read = std::result::Result<Row, RowError>;

pub fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

pub fn raw(json: &str) -> Cell {
    Cell::Json(RawValue::from_string(json.to_owned()).expect("JSON"))
}

pub fn row(cells: &[(&str, Cell)]) -> Read {
    let mut row = Row::default();
    cells.iter().for_each(|(name, cell)| assert!(row.push(*name, cell.clone())));
    Ok(row)
}

pub fn unread(code: &'static str) -> Read {
    Err(RowError::new(code, "no row"))
}

/// A made-up row: some can't be read, some the task refuses, some fail later.
pub fn made(i: u64) -> Read {
    match i % 11 {
        3 => unread("json"),
        5 => row(&[("id", raw(&i.to_string())), ("text", text("refused"))]),
        7 => row(&[("id", raw(&i.to_string())), ("text", text("fails, \"later\""))]),
        _ => row(&[("id", raw(&i.to_string())), ("text", text(&format!("row {i}\n,")))]),
    }
}

/// Rows in memory, ten bytes each, in two files.
pub struct Memory {
    pub n: u64,
    pub make: fn(u64) -> Read,
    pub at: u64,
}

impl Memory {
    fn position(&self, row: u64) -> Position {
        let half = self.n / 2;
        match row < half {
            true => Position { file: 0, offset: row * 10, line: row, row },
            false => Position { file: 1, offset: (row - half) * 10, line: row - half, row },
        }
    }
}

impl Rows for Memory {
    fn next(&mut self) -> Result<Option<Line>> {
        if self.at >= self.n {
            return Ok(None);
        }
        let (at, next) = (self.position(self.at), self.position(self.at + 1));
        let line =
            Line { at, next, place: format!("line {}", self.at + 1), row: (self.make)(self.at) };
        self.at += 1;
        Ok(Some(line))
    }
}

/// How a fake task works.
#[derive(Clone, Copy)]
pub struct Fake {
    /// Rows that it takes.
    pub room: usize,
    /// Rows that it answers in one go.
    pub batch: usize,
    /// Whether it answers them in reverse.
    pub backwards: bool,
    /// Whether it answers nothing before it must.
    pub holds: bool,
    /// How long an answer takes.
    pub slow: Duration,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake { room: 8, batch: 3, backwards: true, holds: false, slow: Duration::ZERO }
    }
}

pub struct Worker {
    pub fake: Fake,
    pub rows: Vec<(u64, String)>,
    /// Most rows at once.
    pub most: usize,
}

impl Worker {
    pub fn new(fake: Fake) -> Worker {
        Worker { fake, rows: Vec::new(), most: 0 }
    }
}

impl Task for Worker {
    fn columns(&self) -> Vec<Column> {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        vec![column("label", Kind::Text), column("score", Kind::Float)]
    }

    fn options(&self) -> Value {
        json!({})
    }

    fn has_room(&self) -> bool {
        self.rows.len() < self.fake.room
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        match row.get("text") {
            Some(Cell::Text(text)) if text == "refused" => {
                Err(RowError::new("too_long", "it's refused"))
            }
            Some(Cell::Text(text)) => {
                self.rows.push((at, text.clone()));
                self.most = self.most.max(self.rows.len());
                Ok(())
            }
            _ => Err(RowError::new("missing_column", "no text")),
        }
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        if self.fake.holds && !last {
            return Ok(());
        }
        while !self.rows.is_empty() {
            let n = self.fake.batch.min(self.rows.len());
            let mut batch: Vec<(u64, String)> = self.rows.drain(..n).collect();
            if self.fake.backwards {
                batch.reverse();
            }
            for (at, text) in batch {
                sleep(self.fake.slow);
                done(at, answer(&text));
            }
            if !pulse(Pulse { n_tokens: 5 }) {
                return Err(Error::Stopped);
            }
            if !last {
                break;
            }
        }
        Ok(())
    }
}

fn answer(text: &str) -> Answer {
    match text.starts_with("fails") {
        true => Err(RowError::new("context", "it failed")),
        false => {
            let sum: u64 = text.bytes().map(u64::from).sum();
            Ok(vec![Cell::Text(format!("<{text}>")), raw(&format!("{sum}.50"))])
        }
    }
}

/// A watch that never stops the job.
pub struct Patient;

impl Watch for Patient {
    fn go_on(&mut self, _: &Status) -> bool {
        true
    }
}

pub fn fingerprint() -> Map<String, Value> {
    let value = json!({
        "version": "0.1.0",
        "task": "fake",
        "model": {"name": "m.gguf", "bytes": 3, "sha256": "aa"},
        "inputs": [{"name": "a", "bytes": 30, "sha256": "bb"}],
        "options": {"k": 1},
    });
    value.as_object().expect("an object").clone()
}

/// A job over `n` of these rows.
pub fn job<'a>(n: u64, make: fn(u64) -> Read, output: Output, target: Target<'a>) -> Job<'a> {
    Job {
        open: Box::new(move |from| Ok(Box::new(Memory { n, make, at: from.row }))),
        header: None,
        sizes: vec![n / 2 * 10, (n - n / 2) * 10],
        choice: Choice::default(),
        output,
        target,
        fail_fast: false,
        limits: Limits::default(),
        every: Every { time: Duration::ZERO, bytes: 0 },
    }
}

pub fn file<'a>(path: &Path, start: Start) -> Target<'a> {
    let (path, fingerprint) = (path.to_owned(), fingerprint());
    Target::File { path, start, fingerprint, convert: None }
}

/// Runs a job into memory, as it was changed by `change`.
pub fn streamed(
    n: u64,
    make: fn(u64) -> Read,
    output: Output,
    fake: Fake,
    change: impl FnOnce(&mut Job<'_>),
) -> (String, Result<Summary>) {
    let mut bytes = Vec::new();
    let mut job = job(n, make, output, Target::Stream(Box::new(&mut bytes)));
    change(&mut job);
    let summary = run(&mut job, &mut Worker::new(fake), &mut Patient);
    drop(job);
    (String::from_utf8(bytes).expect("UTF-8"), summary)
}
