//! OpenAI's batch files: a request on each line, and a line of the answer for each.

use std::collections::HashMap;

use pith::{Error, Model, Result, sampler, session};
use serde_json::{Value, json, value::RawValue};

use super::generate::mix;
use crate::{
    chat::ChatTemplate,
    generated::Generated,
    guard::Guard,
    openai::{self, Fault, Input, Prompt, Request, Seen},
    prompt::Reader,
    row::{Cell, Row, RowError},
    source,
    task::{Answer, Column, Kind, Pulse, Task},
    writer::{Settings, Writer},
};

/// The most of the likeliest tokens that a request may ask for.
const N_TOP: usize = 20;

/// Opens the job's rows from the first on.
pub type Rows<'a> = Box<dyn Fn() -> Result<Box<dyn source::Rows>> + 'a>;

/// The task.
pub struct OpenAi<'m> {
    model: &'m Model,
    /// What answers name where a request names no model.
    name: String,
    chat: Option<ChatTemplate>,
    reader: Reader<'m>,
    writer: Writer<'m>,
    /// How texts are written, where a request doesn't say.
    settings: Settings,
    parse_special: bool,
    seen: Seen,
    /// For rows before the first of a resumed job; `None` once they have been looked at.
    rows: Option<Rows<'m>>,
    /// What went wrong where it is no row's fault.
    failed: Option<Error>,
    open: Open,
    /// The next text's number.
    next: u64,
}

/// Requests that are being answered.
#[derive(Default)]
struct Open {
    /// By their rows: the request, and its choices as they come.
    requests: HashMap<u64, (Request, Vec<Option<Generated>>)>,
    /// Of each text that is being written: the row, and which of its choices it is.
    texts: HashMap<u64, (u64, usize)>,
}

impl Open {
    /// Takes a text. If it is the last of a request's: the row, the request, its choices.
    fn take(&mut self, text: u64, generated: Generated) -> Option<(u64, Request, Vec<Generated>)> {
        let (at, index) = self.texts.remove(&text)?;
        let (_, choices) = self.requests.get_mut(&at)?;
        choices[index] = Some(generated);
        if choices.iter().any(Option::is_none) {
            return None;
        }
        let (request, choices) = self.requests.remove(&at)?;
        Some((at, request, choices.into_iter().flatten().collect()))
    }
}

impl<'m> OpenAi<'m> {
    /// A task. `rows` opens the rows, which are read up to where a job is resumed: `custom_id`s are unique
    /// in the file.
    ///
    /// # Errors
    /// As [`Writer::new`] and [`ChatTemplate::of`].
    pub fn new(
        model: &'m Model,
        name: String,
        settings: Settings,
        parse_special: bool,
        session: &session::Options,
        rows: Rows<'m>,
    ) -> Result<OpenAi<'m>> {
        let guard = (!parse_special).then(|| Guard::new(model.tokenizer()));
        Ok(OpenAi {
            model,
            name,
            chat: ChatTemplate::of(model, guard.as_ref())?,
            reader: Reader::new(model.tokenizer(), parse_special),
            writer: Writer::new(model, N_TOP, settings.sampler.top_k, session)?,
            settings,
            parse_special,
            seen: Seen::default(),
            rows: Some(rows),
            failed: None,
            open: Open::default(),
            next: 0,
        })
    }

    /// Whether a row is the first with its `custom_id`.
    fn is_first(&mut self, at: u64, row: &Row) -> Result<bool> {
        if let Some(rows) = self.rows.take()
            && at > 0
        {
            self.seen.catch_up(&mut *rows()?, at)?;
        }
        self.seen.is_first(row)
    }

    /// The tokens of each of a request's prompts.
    fn prompts(&self, request: &Request) -> std::result::Result<Vec<Vec<u32>>, Fault> {
        match &request.input {
            Input::Messages(messages) => {
                let chat = self.chat.as_ref().ok_or_else(|| {
                    RowError::new(
                        "chat",
                        "the model's file has no chat template; use /v1/completions",
                    )
                })?;
                Ok(vec![self.reader.encode(&chat.prompt(messages)?)])
            }
            Input::Prompts(prompts) => Ok((prompts.iter())
                .map(|prompt| match prompt {
                    Prompt::Text(text) => self.reader.encode(&self.reader.plain(text.as_str())),
                    Prompt::Ids(ids) => ids.clone(),
                })
                .collect()),
        }
    }

    fn settings(&self, request: &Request, n_prompt: usize, index: usize) -> Settings {
        let seed = match request.seed {
            Some(seed) => seed as u64,
            None => mix(self.settings.sampler.seed, request.custom_id.as_bytes()),
        };
        let room = (self.writer.n_ctx() + 1).saturating_sub(n_prompt).max(1);
        Settings {
            n_predict: request.max_tokens.unwrap_or(room),
            sampler: sampler::Options {
                temp: request.temperature as f32,
                top_p: request.top_p as f32,
                top_k: 0,
                min_p: 0.0,
                repeat_penalty: 1.0,
                seed: mix(seed, &index.to_le_bytes()),
                ..self.settings.sampler
            },
            stop: request.stop.clone(),
        }
    }

    fn take(&mut self, at: u64, row: &Row) -> std::result::Result<(), Fault> {
        let request = Request::parse(row)?;
        let prompts = self.prompts(&request)?;
        let first = self.next;
        let n = request.n;
        for (index, ids) in prompts.iter().flat_map(|ids| vec![ids; n]).enumerate() {
            let settings = self.settings(&request, ids.len(), index);
            let pushed = self.writer.push(self.next, ids.clone(), settings, request.logprobs);
            if let Err(fault) = pushed {
                // What was begun of the request ends with nobody to hear of it.
                (first..self.next).for_each(|text| {
                    self.open.texts.remove(&text);
                });
                return Err(fault.into());
            }
            self.open.texts.insert(self.next, (at, index));
            self.next += 1;
        }
        let choices = vec![None; prompts.len() * n];
        self.open.requests.insert(at, (request, choices));
        Ok(())
    }
}

/// The cells of a line of the answer.
fn cells(line: &openai::Line<'_>, custom_id: Option<&str>) -> Vec<Cell> {
    let json = |text: String| {
        Cell::Json(RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    };
    let null = || Cell::Json(RawValue::NULL.to_owned());
    let [id, response] = line.cells().map(json);
    let custom_id = custom_id.map_or_else(null, |id| Cell::Text(id.into()));
    vec![id, custom_id, response, null()]
}

impl Task for OpenAi<'_> {
    fn columns(&self) -> Vec<Column> {
        vec![
            Column::new("id", Kind::Text),
            Column::new("custom_id", Kind::Text),
            Column::new("response", Kind::Json),
            Column::new("error", Kind::Json),
        ]
    }

    fn options(&self) -> Value {
        json!({
            "openai": true,
            "seed": self.settings.sampler.seed,
            "name": self.name,
            "parse_special": self.parse_special,
        })
    }

    fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        let is_first = match self.is_first(at, row) {
            Ok(is_first) => is_first,
            // Taken, so that the engine lets the task work, which ends with the error.
            Err(error) => {
                self.failed = Some(error);
                return Ok(());
            }
        };
        let taken = if is_first { self.take(at, row) } else { Err(Seen::fault(row)) };
        taken.map_err(|fault| {
            let custom_id = openai::custom_id(row);
            let line = openai::refuse(custom_id, is_first, at, &fault);
            let record = cells(&line, custom_id);
            RowError { record: Some(record), ..fault.into() }
        })
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let OpenAi { model, name, writer, open, .. } = self;
        writer.work(last, pulse, |text, generated| {
            if let Some((at, request, choices)) = open.take(text, generated) {
                let line = openai::answer(&request, name, &choices, model.tokenizer());
                done(at, Ok(cells(&line, Some(&request.custom_id))));
            }
        })
    }
}
