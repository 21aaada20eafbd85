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

/// How many tokens are worked on together: as many as take a few seconds, so that what rows have in common
/// is found, and an interruption loses little. No answer depends on it.
struct Budget {
    most: usize,
    taken: usize,
    n_rows: usize,
}

impl Budget {
    /// For machines that nothing is known of yet.
    fn new() -> Budget {
        Budget { most: 8 << 10, taken: 0, n_rows: 0 }
    }

    fn has_room(&self) -> bool {
        self.n_rows < ROWS && self.taken < self.most
    }

    fn take(&mut self, n_tokens: usize) {
        self.taken += n_tokens;
        self.n_rows += 1;
    }

    /// What was taken has been worked on since `began`.
    fn done(&mut self, began: Instant) {
        const SECONDS: f64 = 4.0;
        let rate = self.taken as f64 / began.elapsed().as_secs_f64().max(1e-3);
        if self.taken > 0 {
            self.most = ((rate * SECONDS) as usize).clamp(1 << 10, 64 << 10);
        }
        (self.taken, self.n_rows) = (0, 0);
    }
}

/// A cell of any JSON.
fn cell(value: &impl serde::Serialize) -> Cell {
    // Numbers, strings, and lists of them can be written as JSON; NaN becomes null.
    Cell::Json(to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}
