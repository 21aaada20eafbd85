//! Rows between reading and writing, in their order.

use std::collections::VecDeque;

use super::Limits;
use crate::{row::RowError, source::Position};

/// A row that was read and not yet written.
#[derive(Debug)]
pub(super) struct Slot {
    /// Where the next row begins.
    pub next: Position,
    /// Its place for people.
    pub place: String,
    /// How much of the input it is.
    pub span: u64,
    /// Its record, as far as it is known.
    pub record: Vec<u8>,
    /// How far it is.
    pub state: State,
    /// Bytes that count for it while it waits.
    pub size: usize,
}

/// How far a row is.
#[derive(Debug)]
pub(super) enum State {
    /// The task has it.
    Waiting,
    /// It failed, and its record can't be made before the table's columns are known.
    Held(RowError),
    /// It has its record, and failed or not.
    Ready(Option<RowError>),
}

/// The rows, and what they amount to.
#[derive(Debug)]
pub(super) struct Window {
    /// The number of the first.
    first: u64,
    slots: VecDeque<Slot>,
    limits: Limits,
    n_bytes: usize,
    /// How many the task has.
    pub n_waiting: usize,
}

impl Window {
    /// An empty window, before row number `first`.
    pub(super) fn new(first: u64, limits: Limits) -> Window {
        Window { first, slots: VecDeque::new(), limits, n_bytes: 0, n_waiting: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.is_empty() || self.slots.len() < self.limits.rows && self.n_bytes < self.limits.bytes
    }

    /// The number of the row that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Appends a row.
    pub(super) fn push(&mut self, slot: Slot) {
        self.n_bytes += slot.size;
        self.n_waiting += usize::from(matches!(slot.state, State::Waiting));
        self.slots.push_back(slot);
    }

    /// Lets `answer` make the record of row number `at`, and returns it. `None`, and nothing is done, if
    /// the task doesn't have that row.
    pub(super) fn answer(
        &mut self,
        at: u64,
        answer: impl FnOnce(&mut Vec<u8>) -> Option<RowError>,
    ) -> Option<&Slot> {
        let at = usize::try_from(at.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(at)?;
        if !matches!(slot.state, State::Waiting) {
            return None;
        }
        slot.state = State::Ready(answer(&mut slot.record));
        self.n_bytes = self.n_bytes - slot.size + slot.record.len();
        self.n_waiting -= 1;
        slot.size = slot.record.len();
        Some(slot)
    }

    /// Makes the records of the rows that were held.
    pub(super) fn release(&mut self, mut record: impl FnMut(&str, &RowError, &mut Vec<u8>)) {
        for slot in &mut self.slots {
            if let State::Held(error) = &slot.state {
                record(&slot.place, error, &mut slot.record);
                slot.state = State::Ready(Some(error.clone()));
            }
        }
    }

    /// The first row.
    pub(super) fn first(&self) -> Option<&Slot> {
        self.slots.front()
    }

    /// Removes the first row.
    pub(super) fn pop(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.n_bytes -= slot.size;
            self.first += 1;
        }
    }
}
