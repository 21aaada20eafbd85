//! A text that is being written: an iterator over its pieces.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, TryLockError},
};

use pith_jobs::{guard, prompt::Reader};
use pyo3::{exceptions::PyRuntimeError, prelude::*};
use runtime::{
    Error, Model, Session,
    sampler::{self, Sampler},
    stops::Stops,
    tokenizer::Paused,
};

use crate::{
    error::OrRaise,
    sessions::{Lease, Sessions},
};

/// What a text goes on from.
#[derive(FromPyObject)]
pub enum Prompt {
    /// A text.
    #[pyo3(annotation = "str")]
    Text(String),
    /// Tokens.
    #[pyo3(annotation = "Sequence[int]")]
    Ids(Vec<u32>),
}

/// How a text is written.
pub struct Settings {
    /// Most tokens.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampler: sampler::Options,
    /// Texts before which it ends.
    pub stop: Vec<String>,
}

/// A small seed that can be typed again, of the randomness that std gives each hash map.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

impl Prompt {
    /// Tokens that others may follow.
    pub fn ids(self, model: &Model, parse_special: bool) -> Vec<u32> {
        match self {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => {
                let reader = Reader::new(model.tokenizer(), parse_special);
                let text = match parse_special {
                    true => guard::Prompt::trusted(text),
                    false => guard::Prompt::plain(text),
                };
                reader.encode(&text)
            }
        }
    }
}

/// A text that is being written: an iterator over its pieces, each of one or more tokens.
///
/// Made by `Model.generate`. It ends after an exception, as generators do; the model stays usable.
#[pyclass(frozen, module = "pith")]
pub struct Generation {
    prompt: Vec<u32>,
    seed: u64,
    /// Locked by the thread that runs it.
    writer: Mutex<Writer>,
}

struct Writer {
    model: Arc<Model>,
    sessions: Arc<Sessions>,
    state: State,
    sampler: Sampler,
    stops: Stops,
    logits: Vec<f32>,
    max_tokens: usize,
    ids: Vec<u32>,
}

/// Where it is.
enum State {
    /// Nothing has run.
    New,
    /// The last token hasn't run.
    Chosen(Box<Lease<Session<'static>>>, Paused),
    /// The reason; `None` where an exception was it.
    Ended(Option<&'static str>),
}

impl Generation {
    /// Nothing runs before the first piece is asked for.
    pub fn new(
        model: Arc<Model>,
        sessions: Arc<Sessions>,
        prompt: Vec<u32>,
        settings: Settings,
    ) -> Generation {
        let Settings { max_tokens, sampler, stop } = settings;
        Generation {
            prompt,
            seed: sampler.seed,
            writer: Mutex::new(Writer {
                model,
                sessions,
                state: State::New,
                sampler: Sampler::new(sampler),
                stops: Stops::new(&stop),
                logits: Vec::new(),
                max_tokens,
                ids: Vec::new(),
            }),
        }
    }

    /// The next piece that isn't empty.
    pub fn next(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let mut writer = self.lock()?;
        let piece = writer.next(py, &self.prompt);
        if piece.is_err() {
            writer.state = State::Ended(None);
        }
        piece
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Ok(writer),
            // A panic has ended it: its state says so.
            Err(TryLockError::Poisoned(writer)) => Ok(writer.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(PyRuntimeError::new_err("another thread is running this Generation"))
            }
        }
    }
}

#[pymethods]
impl Generation {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.next(py)
    }

    /// Token ids of the prompt.
    #[getter]
    fn prompt_ids(&self) -> Vec<u32> {
        self.prompt.clone()
    }

    /// Token ids generated so far, one that ends the text included.
    #[getter]
    fn ids(&self) -> PyResult<Vec<u32>> {
        Ok(self.lock()?.ids.clone())
    }

    /// Why the text ended: "end" (the model ended it), "limit" (max_tokens), "stop" (a stop string),
    /// "full" (the context); None before that, and after an exception.
    #[getter]
    fn finish_reason(&self) -> PyResult<Option<&'static str>> {
        match self.lock()?.state {
            State::Ended(why) => Ok(why),
            _ => Ok(None),
        }
    }

    /// The seed that it draws by.
    #[getter]
    fn seed(&self) -> u64 {
        self.seed
    }
}

impl Writer {
    fn next(&mut self, py: Python<'_>, prompt: &[u32]) -> PyResult<Option<String>> {
        loop {
            // What an error or a panic leaves behind.
            let state = std::mem::replace(&mut self.state, State::Ended(None));
            let (lease, text) = match state {
                State::Ended(why) => {
                    self.state = State::Ended(why);
                    return Ok(None);
                }
                State::New => self.read(py, prompt)?,
                State::Chosen(mut lease, text) => {
                    py.check_signals()?;
                    if lease.ids(0).len() == lease.n_ctx() {
                        let piece = self.end("full", text);
                        return Ok(Some(piece).filter(|piece| !piece.is_empty()));
                    }
                    let Writer { ids, logits, .. } = self;
                    let last = &ids[ids.len() - 1..];
                    py.detach(|| lease.eval(0, last).map(|new| logits.copy_from_slice(new)))
                        .or_raise(py)?;
                    (lease, text)
                }
            };
            let piece = py.detach(|| self.choose(lease, text));
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Makes a session hold the prompt.
    fn read(
        &mut self,
        py: Python<'_>,
        prompt: &[u32],
    ) -> PyResult<(Box<Lease<Session<'static>>>, Paused)> {
        let mut lease = Box::new(self.sessions.take(py, &self.sessions.write, prompt)?);
        let n_ctx = lease.n_ctx();
        if prompt.len() > n_ctx {
            return Err(Error::ContextFull { n_ctx, wanted: prompt.len() }).or_raise(py);
        }
        let logits = &mut self.logits;
        lease.work(py, |session| {
            let new = session.sync(0, prompt)?;
            logits.clear();
            logits.extend_from_slice(new);
            Ok(())
        })?;
        Ok((lease, self.model.tokenizer().stream().after(prompt).pause()))
    }

    /// Chooses a token; gives the text that has become certain by it.
    fn choose(&mut self, lease: Box<Lease<Session<'static>>>, text: Paused) -> String {
        if self.ids.len() >= self.max_tokens {
            return self.end("limit", text);
        }
        let id = self.sampler.sample(&mut self.logits, lease.ids(0));
        self.ids.push(id);
        if self.model.tokenizer().is_eog(id) {
            return self.end("end", text);
        }
        let mut text = self.model.tokenizer().resume(text);
        let (piece, stopped) = self.stops.push(text.push(id));
        if stopped {
            self.state = State::Ended(Some("stop"));
            return piece;
        }
        let text = text.pause();
        if self.ids.len() < self.max_tokens {
            self.state = State::Chosen(lease, text);
            return piece;
        }
        piece + &self.end("limit", text)
    }

    /// Ends the text; gives what was held back of it.
    fn end(&mut self, why: &'static str, text: Paused) -> String {
        let text = self.model.tokenizer().resume(text).finish();
        let (mut piece, stopped) = self.stops.push(text);
        if !stopped {
            piece.push_str(&self.stops.finish());
        }
        self.state = State::Ended(Some(if stopped { "stop" } else { why }));
        piece
    }
}
