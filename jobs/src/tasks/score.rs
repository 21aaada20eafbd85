//! How probable texts are: whole ones, or behind a context.

use pith::{
    Model, Result,
    batch::{Request, Scored, Scorer},
    kernel::math::exp64,
    session,
};
use serde_json::{Value, json};

use super::{Waiting, cell};
use crate::{
    continuation::Continuation,
    prompt::{From, Reader},
    row::{Cell, Row, RowError},
    task::{Answer, Column, Kind, Pulse, Task},
    windows::{Long, Window, windows},
};

/// What is scored, and how.
#[derive(Clone)]
pub struct Options {
    /// What stands before the scored text. Without it the whole text is scored.
    pub context: Option<From>,
    /// The scored text.
    pub text: From,
    /// What becomes of long texts.
    pub long: Long,
    /// Whether each token's numbers are wanted.
    pub tokens: bool,
    /// Where texts may hold control tokens.
    pub parse_special: bool,
}

/// The task.
pub struct Score<'m> {
    model: &'m Model,
    scorer: Scorer<'m>,
    reader: Reader<'m>,
    options: Options,
    n_top: usize,
    waiting: Waiting<Text>,
}

/// A row that is to be scored.
struct Text {
    at: u64,
    sequence: Continuation,
    windows: Vec<Window>,
    n_bytes: usize,
}

impl<'m> Score<'m> {
    /// A task; [`session::Options::n_top`] of the likeliest tokens are told beside each.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn new(
        model: &'m Model,
        options: Options,
        session: &session::Options,
    ) -> Result<Score<'m>> {
        let scorer = Scorer::new(model, session)?;
        let reader = Reader::new(model.tokenizer(), options.parse_special);
        let n_top = session.n_top;
        Ok(Score { model, scorer, reader, options, n_top, waiting: Waiting::new() })
    }

    fn read(&self, at: u64, row: &Row) -> std::result::Result<Text, RowError> {
        let Options { context, text, long, .. } = &self.options;
        let text = self.reader.text(text, row)?;
        let n_bytes = text.text.len();
        let context = context.as_ref().map(|context| self.reader.text(context, row)).transpose()?;
        let sequence = self.reader.pair(context.as_ref(), &text)?;
        let n_ctx = self.scorer.session().n_ctx();
        let windows = windows(sequence.ids.len(), sequence.from, n_ctx, *long)?;
        Ok(Text { at, sequence, windows, n_bytes })
    }

    fn answer(&self, text: &Text, scored: &[Scored]) -> Vec<Cell> {
        let log_probs = || scored.iter().flat_map(|window| &window.log_probs);
        let n = text.sequence.ids.len() - text.sequence.from;
        let sum: f64 = log_probs().sum();
        let mean = sum / n as f64;
        let per_byte = sum / text.n_bytes as f64;
        let is_greedy = scored.iter().all(Scored::is_greedy);
        let mut cells = vec![
            cell(&sum),
            cell(&n),
            cell(&mean),
            cell(&per_byte),
            cell(&exp64(-mean)),
            cell(&is_greedy),
        ];
        if self.options.tokens {
            let ids = &text.sequence.ids[text.sequence.from..];
            let is_best = scored.iter().flat_map(|window| &window.is_best);
            let mut top = scored.iter().flat_map(|window| &window.top);
            let tokens = ids.iter().zip(log_probs()).zip(is_best).map(|((&id, log_prob), best)| {
                let mut token = json!({
                    "token": self.token(id), "id": id, "log_prob": log_prob, "is_greedy": best
                });
                if let Some(top) = top.next() {
                    let named = top.iter().map(|&(id, log_prob)| {
                        json!({"token": self.token(id), "id": id, "log_prob": log_prob})
                    });
                    token["top"] = named.collect();
                }
                token
            });
            cells.push(cell(&tokens.collect::<Vec<Value>>()));
        }
        cells
    }

    fn token(&self, id: u32) -> String {
        String::from_utf8_lossy(self.model.tokenizer().piece(id)).into_owned()
    }
}

impl Task for Score<'_> {
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column::new("log_prob", Kind::Float),
            Column::new("n_tokens", Kind::Int),
            Column::new("log_prob_per_token", Kind::Float),
            Column::new("log_prob_per_byte", Kind::Float),
            Column::new("perplexity", Kind::Float),
            Column::new("is_greedy", Kind::Bool),
        ];
        if self.options.tokens {
            columns.push(Column::new("tokens", Kind::Json));
        }
        columns
    }

    fn options(&self) -> Value {
        let Options { context, text, long, tokens, parse_special } = &self.options;
        json!({
            "context": context.as_ref().map(From::describe),
            "text": text.describe(),
            "long": long.describe(),
            "tokens": tokens,
            "n_top": self.n_top,
            "parse_special": parse_special,
        })
    }

    fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        let text = self.read(at, row)?;
        let n_tokens = text.sequence.ids.len();
        self.waiting.push(text, n_tokens);
        Ok(())
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        let Some(rows) = self.waiting.take(last) else { return Ok(()) };
        let requests: Vec<Request<'_>> = (rows.iter())
            .flat_map(|Text { sequence, windows, .. }| {
                windows.iter().map(|window| Request {
                    ids: &sequence.ids[window.begin..window.end],
                    from: window.from - window.begin,
                })
            })
            .collect();
        let scored = self.scorer.score(&requests, |n_tokens| pulse(Pulse { n_tokens }))?;
        let mut scored = scored.as_slice();
        for text in &rows {
            let (own, rest) = scored.split_at(text.windows.len());
            done(text.at, Ok(self.answer(text, own)));
            scored = rest;
        }
        self.waiting.worked();
        Ok(())
    }
}
