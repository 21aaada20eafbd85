//! One run of a job, from where it was begun or resumed.

use std::{cell::RefCell, time::Instant};

use pith::{Error, Result};

use super::{
    Every, Limits, Status, Store, Summary, Watch,
    window::{Slot, State, Window},
};
use crate::{
    journal::Commit,
    row::{Row, RowError},
    sink::{Encoder, size},
    source::{Line, Position, Rows},
    task::{Answer, Pulse, Task},
};

/// Rows that are read at most before the watch is asked again.
const ROWS_PER_LOOK: u64 = 256;
/// What a row costs beside its cells, about.
const ROW_BYTES: usize = 128;

/// The state of a run.
pub(super) struct Run<'r, 's> {
    pub fail_fast: bool,
    pub every: Every,
    pub sizes: &'r [u64],
    encoder: Encoder,
    store: &'r mut Store<'s>,
    /// Whether writing failed: then nothing more is written.
    is_broken: bool,
    window: Window,
    /// Records that have left the window and aren't in the store.
    pending: Vec<u8>,
    /// What has left the window.
    at: Commit,
    committed: Instant,
    /// What the watch sees.
    status: Status,
    watch: &'r mut dyn Watch,
    /// What went wrong while the task was at work.
    fault: Option<Error>,
    /// Whether a row failed that is to end the job.
    is_ending: bool,
    bad_row: Option<String>,
}

impl<'r, 's> Run<'r, 's> {
    pub(super) fn new(
        encoder: Encoder,
        store: &'r mut Store<'s>,
        at: Commit,
        limits: Limits,
        watch: &'r mut dyn Watch,
    ) -> Run<'r, 's> {
        Run {
            fail_fast: false,
            every: Every::default(),
            sizes: &[],
            encoder,
            store,
            is_broken: false,
            window: Window::new(at.rows, limits),
            pending: Vec::new(),
            at,
            committed: Instant::now(),
            status: Status { rows: at.rows, failed: at.failed, ..Status::default() },
            watch,
            fault: None,
            is_ending: false,
            bad_row: None,
        }
    }

    /// Runs to the end. Whatever ends it, what is ready is committed.
    pub(super) fn run(
        mut self,
        mut rows: Box<dyn Rows + '_>,
        header: Option<&[String]>,
        task: &mut dyn Task,
    ) -> Result<Summary> {
        if !self.sizes.is_empty() {
            self.status.total = Some(self.sizes.iter().sum());
        }
        self.status.done = self.done_before(self.at.next);
        let result = self.all(&mut *rows, header, task);
        self.drain();
        match result {
            Ok(()) => {
                self.at.is_end = self.bad_row.is_none();
                self.commit()?;
            }
            Err(error) => {
                let _ = self.commit(); // the first error is the one to tell
                return Err(error);
            }
        }
        let (rows, failed, tokens) = (self.at.rows, self.at.failed, self.status.tokens);
        Ok(Summary { rows, failed, tokens, bad_row: self.bad_row, ..Summary::default() })
    }

    fn all(
        &mut self,
        rows: &mut dyn Rows,
        header: Option<&[String]>,
        task: &mut dyn Task,
    ) -> Result<()> {
        if self.encoder.needs_table() && (header.is_some() || self.encoder.is_chosen()) {
            self.begin_table(header.unwrap_or_default().iter().map(String::as_str))?;
        }
        let (mut at_end, mut is_stuck) = (false, false);
        loop {
            let before = self.window.next();
            while !at_end && !self.is_ending && self.window.has_room() && task.has_room() {
                match rows.next()? {
                    Some(line) => self.read(line, task)?,
                    None => at_end = true,
                }
                if self.window.next().is_multiple_of(ROWS_PER_LOOK) {
                    self.look()?;
                }
            }
            if at_end && self.encoder.needs_table() {
                self.begin_table(std::iter::empty())?; // not one row could be read
            }
            is_stuck &= self.window.next() == before;
            self.look()?;
            if self.bad_row.is_some() || at_end && self.window.is_empty() {
                return Ok(());
            }
            if self.window.n_waiting > 0 {
                is_stuck = !self.work(task, at_end || self.is_ending || is_stuck)?;
            } else if self.encoder.needs_table() && !self.window.has_room() {
                return Err(Error::Invalid(format!(
                    "none of the first {} rows can be read, so that the columns of the table aren't \
                     known: name them with --keep",
                    self.window.next()
                )));
            } else if !task.has_room() {
                return Err(broken("takes no row, though it has none"));
            }
        }
    }

    /// Takes a row that was read.
    fn read(&mut self, line: Line, task: &mut dyn Task) -> Result<()> {
        let number = self.window.next();
        let mut slot = Slot {
            next: line.next,
            place: line.place,
            span: match line.at.file == line.next.file {
                true => line.next.offset.saturating_sub(line.at.offset),
                false => 0,
            },
            record: Vec::new(),
            state: State::Waiting,
            size: ROW_BYTES,
        };
        let fault = match line.row {
            Ok(row) => {
                if self.encoder.needs_table() {
                    self.begin_table(row.iter().map(|(name, _)| name))?;
                }
                slot.size += row.iter().map(|(name, cell)| name.len() + size(cell)).sum::<usize>();
                self.begin(number, &row, &mut slot, task)
            }
            Err(error) if self.encoder.needs_table() => {
                slot.state = State::Held(error.clone());
                Some(error)
            }
            Err(error) => {
                self.encoder.failed(None, &slot.place, &error, &mut slot.record);
                slot.state = State::Ready(Some(error.clone()));
                Some(error)
            }
        };
        if !matches!(slot.state, State::Waiting) {
            slot.size = ROW_BYTES + slot.record.len();
            self.answered(slot.span, fault.is_some());
        }
        self.window.push(slot);
        Ok(())
    }

    /// Begins a row's record and gives the row to the task. What is wrong with it finishes the record.
    fn begin(
        &self,
        number: u64,
        row: &Row,
        slot: &mut Slot,
        task: &mut dyn Task,
    ) -> Option<RowError> {
        let fault = match self.encoder.begin(row, &mut slot.record) {
            Err(error) => {
                self.encoder.failed(Some(row), &slot.place, &error, &mut slot.record);
                error
            }
            Ok(()) => {
                let error = task.push(number, row).err()?;
                self.encoder.end(&Err(error.clone()), &mut slot.record);
                error
            }
        };
        slot.state = State::Ready(Some(fault.clone()));
        Some(fault)
    }

    /// Fixes a table's columns, and makes the records that waited for them.
    fn begin_table<'n>(&mut self, input: impl Iterator<Item = &'n str>) -> Result<()> {
        self.encoder.begin_table(input, &mut self.pending)?;
        let encoder = &self.encoder;
        self.window.release(|place, error, record| encoder.failed(None, place, error, record));
        Ok(())
    }

    /// Lets the task work. Says whether anything came of it.
    fn work(&mut self, task: &mut dyn Task, last: bool) -> Result<bool> {
        let before = (self.window.n_waiting, self.status.tokens);
        let run = RefCell::new(&mut *self);
        let result =
            task.work(last, &mut |pulse| run.borrow_mut().pulse(pulse), &mut |at, answer| {
                run.borrow_mut().answer(at, &answer)
            });
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        result?;
        if last && self.window.n_waiting > 0 {
            return Err(broken("left rows without an answer"));
        }
        Ok(before != (self.window.n_waiting, self.status.tokens))
    }

    /// A step of the model is done. `false` stops the task.
    fn pulse(&mut self, pulse: Pulse) -> bool {
        self.status.tokens += pulse.n_tokens as u64;
        if self.fault.is_none() {
            self.fault = self.look().err();
        }
        self.fault.is_none()
    }

    /// The task answers row number `at`.
    fn answer(&mut self, at: u64, answer: &Answer) {
        let encoder = &self.encoder;
        let slot = match answer {
            Ok(cells) if cells.len() != encoder.n_added() => None,
            _ => self.window.answer(at, |record| {
                encoder.end(answer, record);
                answer.as_ref().err().cloned()
            }),
        };
        match slot.map(|slot| slot.span) {
            Some(span) => self.answered(span, answer.is_err()),
            None => {
                let fault = format!("answered row {at}, which it doesn't have, or not each column");
                self.fault.get_or_insert(broken(&fault));
            }
        }
    }

    /// A row, so much of the input, has its answer.
    fn answered(&mut self, span: u64, failed: bool) {
        self.status.rows += 1;
        self.status.failed += u64::from(failed);
        self.status.done += span;
        self.is_ending |= failed && self.fail_fast;
    }

    /// Writes what is ready, if it is time, and asks the watch.
    fn look(&mut self) -> Result<()> {
        self.drain();
        if self.store.is_due(self.pending.len(), self.committed, self.every) {
            self.commit()?;
        }
        match self.watch.go_on(&self.status) {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }

    /// Moves the records that are next out of the window.
    fn drain(&mut self) {
        while self.bad_row.is_none()
            && let Some(slot) = self.window.first()
        {
            let error = match &slot.state {
                State::Held(error) | State::Ready(Some(error)) if self.fail_fast => {
                    self.bad_row = Some(format!("{}: {error}", slot.place));
                    return;
                }
                State::Waiting | State::Held(_) => return,
                State::Ready(error) => error,
            };
            self.pending.extend_from_slice(&slot.record);
            self.at.rows += 1;
            self.at.failed += u64::from(error.is_some());
            self.at.next = slot.next;
            self.window.pop();
        }
    }

    /// Writes what has left the window.
    fn commit(&mut self) -> Result<()> {
        if self.is_broken || self.pending.is_empty() && !self.at.is_end {
            return Ok(());
        }
        self.is_broken = true;
        self.store.put(&self.pending, self.at, self.encoder.table())?;
        self.is_broken = false;
        self.pending.clear();
        self.committed = Instant::now();
        Ok(())
    }

    /// How much of the input lies before a row.
    fn done_before(&self, at: Position) -> u64 {
        self.sizes.iter().take(at.file).sum::<u64>() + at.offset
    }
}

/// A task that doesn't keep its promises.
fn broken(fault: &str) -> Error {
    Error::Invalid(format!("the task {fault}: this is a fault of pith, please report it"))
}
