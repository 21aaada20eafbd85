//! OpenAI's batch files: a request for `/v1/completions` or `/v1/chat/completions` on each line, and
//! a line of the answer for each. As in OpenAI's API reference (batch, completions, chat) and its
//! openapi.yaml; what pith can't do as asked is refused by the name of its key, never left out.
//!
//! Answers depend on the model and the request alone. So `created` is 0 instead of a time, and ids
//! are hashes: of `custom_id`, which also survives another order of the lines, or of the line's
//! number where there is none or where it isn't the first of its name.

mod answer;
mod body;
mod request;
mod seen;

use std::fmt;

pub use answer::{Line, answer, refuse};
pub use request::{Input, Request};
pub use seen::Seen;

use crate::row::{Cell, Row, RowError};

/// Characters of a fault's message: what it names may be as long as the line.
const MAX_FAULT: usize = 300;

/// A prompt of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text. It has no control tokens, whatever it looks like.
    Text(String),
    /// The ids themselves; whether the model has them is for the caller to see.
    Ids(Vec<u32>),
}

/// Why a request has no answer, in OpenAI's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A word for programs.
    pub code: &'static str,
    /// The key at fault, where it is one.
    pub param: Option<String>,
    /// What was wrong, for people.
    pub message: String,
}

impl Fault {
    /// A value that can't be taken, with its key.
    fn value(param: &str, message: impl fmt::Display) -> Fault {
        let clip = |text: String| match text.char_indices().nth(MAX_FAULT) {
            Some((at, _)) => format!("{}...", &text[..at]),
            None => text,
        };
        Fault {
            code: "invalid_value",
            param: Some(clip(param.to_owned())),
            message: clip(format!("{param}: {message}")),
        }
    }

    /// A key that pith doesn't know or can't do.
    fn unsupported(param: &str, message: impl fmt::Display) -> Fault {
        Fault { code: "unsupported_parameter", ..Fault::value(param, message) }
    }
}

impl From<RowError> for Fault {
    fn from(error: RowError) -> Fault {
        Fault { code: error.code, param: None, message: error.message }
    }
}

impl From<Fault> for RowError {
    fn from(fault: Fault) -> RowError {
        RowError::new(fault.code, fault.message)
    }
}

/// The request's own name, where the line has one that is a text.
pub fn custom_id(row: &Row) -> Option<&str> {
    match row.get("custom_id") {
        Some(Cell::Text(id)) => Some(id),
        _ => None,
    }
}

/// FNV-1a of 128 bits: the same everywhere and in all versions.
fn hash(parts: &[&[u8]]) -> u128 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
