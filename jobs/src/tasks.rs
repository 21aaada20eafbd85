//! What jobs compute. A task takes rows until it has as much as fills the model's steps, works on that,
//! and gives the answers.

pub mod classify;
pub mod generate;
pub mod labels;
pub mod openai;
pub mod score;

use std::time::Instant;

use serde_json::value::{RawValue, to_raw_value};

use crate::row::Cell;

/// Most rows that are worked on together.
const ROWS: usize = 512;

/// Rows that wait to be worked on together: as many as take a few seconds, so that what they have in
/// common is found, and an interruption loses little. No answer depends on it.
struct Waiting<R> {
    rows: Vec<R>,
    /// Tokens that they have, and the most that are taken.
    n_tokens: usize,
    most: usize,
    /// When the rows worked on last were taken.
    began: Instant,
}

impl<R> Waiting<R> {
    /// For machines that nothing is known of yet.
    fn new() -> Waiting<R> {
        Waiting { rows: Vec::new(), n_tokens: 0, most: 8 << 10, began: Instant::now() }
    }

    fn has_room(&self) -> bool {
        self.rows.len() < ROWS && self.n_tokens < self.most
    }

    fn push(&mut self, row: R, n_tokens: usize) {
        self.rows.push(row);
        self.n_tokens += n_tokens;
    }

    /// The rows to work on now: none while there is room and more may come.
    fn take(&mut self, last: bool) -> Option<Vec<R>> {
        self.began = Instant::now();
        let is_time = !self.rows.is_empty() && (last || !self.has_room());
        is_time.then(|| std::mem::take(&mut self.rows))
    }

    /// The rows that were taken have their answers.
    fn worked(&mut self) {
        const SECONDS: f64 = 4.0;
        let rate = self.n_tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        self.most = ((rate * SECONDS) as usize).clamp(1 << 10, 64 << 10);
        self.n_tokens = 0;
    }
}

/// A cell of any JSON.
fn cell(value: &impl serde::Serialize) -> Cell {
    // Numbers, strings, and lists of them can be written as JSON; NaN becomes null.
    Cell::Json(to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}
