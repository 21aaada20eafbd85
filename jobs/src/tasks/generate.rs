//! Texts that go on.

use pith::{Model, Result, sampler, session};
use serde_json::{Value, json};

use super::cell;
use crate::{
    generated::{Candidate, Finish, Generated, GeneratedToken},
    prompt::{From, Reader},
    row::{Cell, Row, RowError},
    task::{Answer, Column, Kind, Pulse, Task},
    writer::{Settings, Writer},
};

/// What is asked.
#[derive(Clone)]
pub struct Options {
    /// The prompt.
    pub prompt: From,
    /// How texts are written, where no column says otherwise. The seed is mixed with each row's own.
    pub settings: Settings,
    /// Columns that are settings of their rows, of [`COLUMNS`].
    pub columns: Vec<String>,
    /// The column that a row draws its random numbers by. Without it that is the prompt, so that the same
    /// prompt draws the same.
    pub id: Option<String>,
    /// How many of the likeliest tokens are told beside each token; `None` tells no log-probabilities.
    pub log_probs: Option<usize>,
    /// Leave out the first tokens of a prompt that is longer than the context, which is else an error.
    pub truncate_left: bool,
    /// Whether texts of rows may hold control tokens.
    pub parse_special: bool,
}

/// Settings that may be columns.
pub const COLUMNS: [&str; 8] =
    ["tokens", "temp", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop"];

/// The task.
pub struct Generate<'m> {
    reader: Reader<'m>,
    writer: Writer<'m>,
    options: Options,
}

impl<'m> Generate<'m> {
    /// A task.
    ///
    /// # Errors
    /// As [`Writer::new`]; a column that is no setting.
    pub fn new(
        model: &'m Model,
        options: Options,
        session: &session::Options,
    ) -> Result<Generate<'m>> {
        if let Some(unknown) = options.columns.iter().find(|name| !COLUMNS.contains(&name.as_str()))
        {
            return Err(pith::Error::Invalid(format!(
                "column {unknown:?} is no setting of a row; those are {}",
                COLUMNS.join(", ")
            )));
        }
        let n_top = options.log_probs.unwrap_or(0);
        let writer = Writer::new(model, n_top, options.settings.sampler.top_k, session)?;
        let reader = Reader::new(model.tokenizer(), options.parse_special);
        Ok(Generate { reader, writer, options })
    }

    fn settings(&self, row: &Row, prompt: &str) -> std::result::Result<Settings, RowError> {
        let mut settings = self.options.settings.clone();
        let key = match &self.options.id {
            None => prompt.to_owned(),
            Some(id) => row.text(id)?.to_owned(),
        };
        settings.sampler.seed = mix(settings.sampler.seed, key.as_bytes());
        for name in &self.options.columns {
            match row.get(name) {
                None => {}
                Some(Cell::Text(text)) if text.is_empty() => {}
                Some(Cell::Json(json)) if json.get() == "null" => {}
                Some(value) => set(&mut settings, name, value)?,
            }
        }
        Ok(settings)
    }
}

/// An answer.
fn cells(options: &Options, generated: &Generated) -> Vec<Cell> {
    let mut cells = vec![
        Cell::Text(generated.text.clone()),
        Cell::Text(
            match generated.finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
            }
            .into(),
        ),
        cell(&generated.tokens.len()),
    ];
    if options.log_probs.is_some() {
        let named = |token: &Candidate| {
            let text = String::from_utf8_lossy(&token.bytes);
            json!({"token": text, "id": token.id, "log_prob": token.log_prob})
        };
        let tokens = generated.tokens.iter().map(|GeneratedToken { token, top }| {
            let mut token = named(token);
            token["top"] = top.iter().map(named).collect();
            token
        });
        cells.push(cell(&tokens.collect::<Vec<_>>()));
    }
    cells
}

/// A row's seed: FNV-1a of its key, behind the job's. Rows draw by what they are, not by where they are.
pub(super) fn mix(seed: u64, key: &[u8]) -> u64 {
    let bytes = seed.to_le_bytes();
    let bytes = bytes.iter().chain(key);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Takes a setting from a cell: JSON, or text of the same form.
fn set(settings: &mut Settings, name: &str, cell: &Cell) -> std::result::Result<(), RowError> {
    let (text, value) = match cell {
        Cell::Text(text) => (text.as_str(), None),
        Cell::Json(json) => (json.get(), serde_json::from_str::<Value>(json.get()).ok()),
    };
    let wrong = |wanted: &str| {
        RowError::new("setting", format!("column {name} is {text:?}; wanted {wanted}"))
    };
    let float = |wanted: &str, fits: fn(f32) -> bool| {
        text.parse().ok().filter(|&x: &f32| x.is_finite() && fits(x)).ok_or_else(|| wrong(wanted))
    };
    let whole = |wanted: &str| text.parse::<u64>().map_err(|_| wrong(wanted));
    let sampler::Options { temp, top_k, top_p, min_p, repeat_penalty, seed, .. } =
        &mut settings.sampler;
    match name {
        "tokens" => {
            settings.n_predict = whole("a whole number above 0")? as usize;
            if settings.n_predict == 0 {
                return Err(wrong("a whole number above 0"));
            }
        }
        "temp" => *temp = float("a number from 0 on", |x| x >= 0.0)?,
        "top_k" => *top_k = whole("a whole number")? as usize,
        "top_p" => *top_p = float("a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
        "min_p" => *min_p = float("a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
        "repeat_penalty" => *repeat_penalty = float("a number above 0", |x| x > 0.0)?,
        "seed" => *seed = whole("a whole number")?,
        _ => {
            let texts = match (cell, value) {
                (Cell::Text(text), _) => Some(vec![text.clone()]),
                (_, Some(Value::Array(texts))) => {
                    texts.iter().map(|text| text.as_str().map(str::to_owned)).collect()
                }
                _ => None,
            };
            settings.stop = texts.ok_or_else(|| wrong("a string or strings"))?;
        }
    }
    Ok(())
}

impl Task for Generate<'_> {
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column::new("completion", Kind::Text),
            Column::new("finish_reason", Kind::Text),
            Column::new("n_tokens", Kind::Int),
        ];
        if self.options.log_probs.is_some() {
            columns.push(Column::new("tokens", Kind::Json));
        }
        columns
    }

    fn options(&self) -> Value {
        let Options { prompt, settings, columns, id, log_probs, truncate_left, parse_special } =
            &self.options;
        json!({
            "prompt": prompt.describe(),
            "settings": settings.describe(),
            "columns": columns,
            "id": id,
            "log_probs": log_probs,
            "truncate_left": truncate_left,
            "parse_special": parse_special,
        })
    }

    fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        let prompt = self.reader.text(&self.options.prompt, row)?;
        let settings = self.settings(row, &prompt.text)?;
        let mut ids = self.reader.encode(&prompt);
        if self.options.truncate_left {
            // As many tokens as may follow have room too, or half of the context.
            let n_ctx = self.writer.n_ctx();
            let most = n_ctx - settings.n_predict.min(n_ctx / 2);
            ids.drain(..ids.len().saturating_sub(most));
        }
        self.writer.push(at, ids, settings, self.options.log_probs)
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        let Generate { writer, options, .. } = self;
        writer.work(last, pulse, |at, generated| done(at, Ok(cells(options, &generated))))
    }
}
