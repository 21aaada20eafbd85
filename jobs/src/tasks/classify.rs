//! Labels by a model that ends in a classification head.

use std::ops::Range;

use pith::{
    Model, Result, batch::Heads, classify::Answer as Said, model::Classifier, session,
    tokenizer::Tokenizer,
};
use pith_models::{ClassifierKind, Problem};
use serde_json::{Value, json};

use super::{Waiting, cell};
use crate::{
    prompt::{From, Reader},
    row::{Cell, Row, RowError},
    task::{Answer, Column, Kind, Pulse, Task},
};

/// What is asked.
#[derive(Clone)]
pub struct Options {
    /// The text.
    pub text: From,
    /// Leave out the first tokens of a text that is longer than the context, which is else an error.
    pub truncate_left: bool,
    /// How many of the likeliest labels are told; 0 is all.
    pub top: usize,
    /// Whether texts of rows may hold control tokens.
    pub parse_special: bool,
}

/// The task.
pub struct Classify<'m> {
    head: &'m Classifier,
    tokenizer: &'m Tokenizer,
    heads: Heads<'m>,
    reader: Reader<'m>,
    options: Options,
    waiting: Waiting<Text>,
}

/// A text that is to be classified.
struct Text {
    at: u64,
    text: String,
    ids: Vec<u32>,
    /// Tokens that were left out before `ids`.
    cut: usize,
}

impl<'m> Classify<'m> {
    /// A task.
    ///
    /// # Errors
    /// As [`Heads::new`].
    pub fn new(
        model: &'m Model,
        options: Options,
        session: &session::Options,
    ) -> Result<Classify<'m>> {
        let heads = Heads::new(model, session)?;
        let tokenizer = model.tokenizer();
        let reader = Reader::new(tokenizer, options.parse_special);
        let head = model.require_classifier()?;
        Ok(Classify { head, tokenizer, heads, reader, options, waiting: Waiting::new() })
    }

    fn answer(&self, text: &Text, answers: &[Said]) -> Vec<Cell> {
        match (self.head.kind(), answers) {
            (ClassifierKind::Sequence, [said, ..]) => {
                let best = said.best();
                let value = cell(&f64::from(said.values[best]));
                let labels = cell(&self.labels(said));
                match self.head.problem() {
                    Problem::Regression => vec![value, labels],
                    _ => vec![Cell::Text(self.head.labels()[best].clone()), value, labels],
                }
            }
            _ => {
                let ids = &text.ids[..];
                let spans = spans(self.tokenizer, &text.text, ids, text.cut);
                let tokens = answers.iter().map(|said| {
                    let span = spans[said.at].as_ref();
                    let piece = self.tokenizer.piece(ids[said.at]);
                    json!({
                        "token": String::from_utf8_lossy(piece),
                        "id": ids[said.at],
                        "start": span.map(|span| span.start),
                        "end": span.map(|span| span.end),
                        "label": self.head.labels()[said.best()],
                        "labels": self.labels(said),
                    })
                });
                vec![cell(&tokens.collect::<Vec<_>>())]
            }
        }
    }

    /// Labels with their numbers, the likeliest first.
    fn labels(&self, said: &Said) -> Value {
        let value = match self.head.problem() {
            Problem::Regression => "value",
            Problem::SingleLabel | Problem::MultiLabel => "probability",
        };
        let top = if self.options.top == 0 { usize::MAX } else { self.options.top };
        let labels = said.ranked().into_iter().take(top).map(|i| {
            json!({"label": self.head.labels()[i], value: said.values[i], "logit": said.logits[i]})
        });
        labels.collect()
    }
}

/// Which bytes of the text each token is, the first `cut` of them being left out. `None` for a token that
/// the text does not hold, and for all that follow a place where the tokenizer has changed the text.
pub fn spans(
    tokenizer: &Tokenizer,
    text: &str,
    ids: &[u32],
    cut: usize,
) -> Vec<Option<Range<usize>>> {
    if cut > 0 {
        return vec![None; ids.len()];
    }
    let text = text.as_bytes();
    let mut at = Some(0);
    let is_added = |i: usize| {
        let first = i == 0 && tokenizer.add_bos() && tokenizer.bos() == Some(ids[i]);
        first || i + 1 == ids.len() && tokenizer.add_eos() && tokenizer.eos() == Some(ids[i])
    };
    let mut next = |(i, &id): (usize, &u32)| {
        let start = at.filter(|_| !is_added(i))?;
        let piece = tokenizer.piece(id);
        // Some vocabularies put a space before a text.
        let held = match piece.strip_prefix(b" ") {
            Some(rest) if start == 0 && !text.starts_with(b" ") => rest,
            _ => piece,
        };
        at = text[start..].starts_with(held).then_some(start + held.len());
        at.map(|end| start..end)
    };
    ids.iter().enumerate().map(&mut next).collect()
}

impl Task for Classify<'_> {
    fn columns(&self) -> Vec<Column> {
        let labels = Column::new("labels", Kind::Json);
        match (self.head.kind(), self.head.problem()) {
            (ClassifierKind::Token, _) => vec![Column::new("tokens", Kind::Json)],
            (_, Problem::Regression) => vec![Column::new("value", Kind::Float), labels],
            _ => vec![
                Column::new("label", Kind::Text),
                Column::new("probability", Kind::Float),
                labels,
            ],
        }
    }

    fn options(&self) -> Value {
        let Options { text, truncate_left, top, parse_special } = &self.options;
        json!({
            "text": text.describe(),
            "truncate_left": truncate_left,
            "top": top,
            "parse_special": parse_special,
        })
    }

    fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        let text = self.reader.text(&self.options.text, row)?;
        let mut ids = self.reader.encode_whole(&text);
        if ids.is_empty() {
            return Err(RowError::new("empty", "there is nothing to classify"));
        }
        let n_ctx = self.heads.session().n_ctx();
        let cut = if self.options.truncate_left { ids.len().saturating_sub(n_ctx) } else { 0 };
        ids.drain(..cut);
        self.heads.check(&ids)?;
        let n_tokens = ids.len();
        self.waiting.push(Text { at, text: text.text, ids, cut }, n_tokens);
        Ok(())
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        let Some(rows) = self.waiting.take(last) else { return Ok(()) };
        let texts: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let answers = self.heads.classify(&texts, |n_tokens| pulse(Pulse { n_tokens }))?;
        for (row, answers) in rows.iter().zip(&answers) {
            done(row.at, Ok(self.answer(row, answers)));
        }
        self.waiting.worked();
        Ok(())
    }
}
