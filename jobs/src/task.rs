//! What a job computes. The engine hands rows to a task and gets answers back, in any order; reading,
//! order, errors, output and resumption are the engine's.

use pith::Result;
use serde_json::Value;

use crate::row::{Cell, Row, RowError};

/// What a column that a task adds holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// True or false.
    Bool,
    /// JSON of a shape of its own: text in files that have no such thing.
    Json,
}

/// A column that a task adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    /// A column.
    pub fn new(name: &str, kind: Kind) -> Column {
        Column { name: name.into(), kind }
    }
}

/// An answer: one cell for each of [`Task::columns`].
pub type Answer = std::result::Result<Vec<Cell>, RowError>;

/// How far a task is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    /// Tokens that the model has run since the last pulse.
    pub n_tokens: usize,
}

/// What a job computes of rows.
pub trait Task {
    /// The columns that it adds.
    fn columns(&self) -> Vec<Column>;

    /// Everything that decides the answers beside model, rows and version, for the manifest: an object.
    /// Threads, batches and memory are not in it, for they change no bit.
    fn options(&self) -> Value;

    /// Whether it takes another row now. A task without rows always does.
    fn has_room(&self) -> bool;

    /// Takes row number `at`.
    ///
    /// # Errors
    /// What is wrong with the row: that is its answer.
    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError>;

    /// Works for a while, and hands answers to `done` with the numbers of their rows, in any order. `last`
    /// says that no more rows will come before all are answered, the input's end being one reason, full
    /// memory another: then it ends with all answers given. After each step of the model it calls
    /// `pulse`, which says `false` to stop.
    ///
    /// # Errors
    /// [`pith::Error::Stopped`] if `pulse` said so; what is no row's fault.
    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()>;
}
