//! Texts that models write, many at once: stop strings, characters that come in parts, log-probabilities.

use std::collections::HashMap;

use pith::{
    Error, Model, Result,
    batch::{Chosen, End, Generator, Next, Prompt},
    sampler, session,
    stops::Stops,
    tokenizer::Stream,
};
use serde_json::{Value, json};

use crate::{
    generated::{Candidate, Finish, Generated, GeneratedToken},
    row::RowError,
    task::Pulse,
};

/// The most of the likeliest tokens that a sampler may ask for and still be served without writing
/// logits.
const MOST_TOP: usize = 64;

/// How a text is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Most tokens.
    pub n_predict: usize,
    /// How they are chosen.
    pub sampler: sampler::Options,
    /// End before any of these.
    pub stop: Vec<String>,
}

impl Settings {
    /// For a manifest.
    pub fn describe(&self) -> Value {
        let Settings { n_predict, stop, .. } = self;
        let sampler::Options { repeat_penalty, repeat_last_n, top_k, top_p, min_p, temp, seed } =
            self.sampler;
        json!({
            "tokens": n_predict, "temp": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "repeat_penalty": repeat_penalty, "repeat_last_n": repeat_last_n, "seed": seed, "stop": stop,
        })
    }
}

/// Writes texts.
pub struct Writer<'m> {
    model: &'m Model,
    generator: Generator<'m>,
    texts: HashMap<u64, Text<'m>>,
}

/// A text that is being written.
struct Text<'m> {
    stream: Stream<'m>,
    stops: Stops,
    /// Whether a stop string ended it.
    stopped: bool,
    /// How many of the likeliest tokens are told.
    n_top: usize,
    generated: Generated,
}

impl<'m> Writer<'m> {
    /// A writer that can tell `n_top` of the likeliest tokens, whose samplers mostly draw from `top_k`.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(
        model: &'m Model,
        n_top: usize,
        top_k: usize,
        session: &session::Options,
    ) -> Result<Writer<'m>> {
        let enough = n_top.max(if top_k <= MOST_TOP { top_k } else { 0 });
        let options = session::Options { n_top: enough, ..session.clone() };
        Ok(Writer { model, generator: Generator::new(model, &options)?, texts: HashMap::new() })
    }

    /// Tokens that a text and its prompt may have.
    pub fn n_ctx(&self) -> usize {
        self.generator.session().n_ctx()
    }

    /// Whether it is worth while to give it another text.
    pub fn has_room(&self) -> bool {
        self.generator.has_room()
    }

    /// Begins text number `tag` behind these tokens. `log_probs` asks for each token's, and for as many of
    /// the likeliest tokens, of those that the writer can tell.
    ///
    /// # Errors
    /// There are none, or more than fit.
    pub fn push(
        &mut self,
        tag: u64,
        ids: Vec<u32>,
        settings: Settings,
        log_probs: Option<usize>,
    ) -> std::result::Result<(), RowError> {
        let Settings { n_predict, sampler, stop } = settings;
        let stream = self.model.tokenizer().stream().after(&ids);
        let generated = Generated {
            text: String::new(),
            finish: Finish::Length,
            n_prompt: ids.len(),
            tokens: Vec::new(),
        };
        let prompt = Prompt { ids, n_predict, sampler, log_probs: log_probs.is_some() };
        self.generator.push(tag, prompt)?;
        self.texts.insert(
            tag,
            Text {
                stream,
                stops: Stops::new(&stop),
                stopped: false,
                n_top: log_probs.unwrap_or(0),
                generated,
            },
        );
        Ok(())
    }

    /// Writes until there is room for another text, or with `last` all to their ends, and hands out texts
    /// as they end. As [`crate::task::Task::work`].
    ///
    /// # Errors
    /// [`Error::Stopped`] if `pulse` said so.
    pub fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        mut done: impl FnMut(u64, Generated),
    ) -> Result<()> {
        while last || !self.has_room() {
            let n_tokens = self.step(&mut done);
            if n_tokens == 0 {
                break;
            }
            if !pulse(Pulse { n_tokens }) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Runs a step. Returns how many tokens it had: none when all texts have ended.
    fn step(&mut self, done: &mut impl FnMut(u64, Generated)) -> usize {
        let Writer { model, generator, texts } = self;
        let mut ended = Vec::new();
        let n_tokens = generator.step(|chosen| {
            let Some(text) = texts.get_mut(&chosen.tag) else { return Next::Enough };
            let next = text.take(model, &chosen);
            if next == Next::Enough || chosen.end.is_some() {
                ended.push(chosen.tag);
            }
            next
        });
        for tag in ended {
            if let Some(text) = texts.remove(&tag) {
                done(tag, text.finish());
            }
        }
        n_tokens
    }
}

impl Text<'_> {
    fn take(&mut self, model: &Model, chosen: &Chosen<'_>) -> Next {
        if chosen.end == Some(End::Token) {
            self.generated.finish = Finish::Stop;
            return Next::Enough;
        }
        let candidate = |id: u32, log_prob: f64| {
            let bytes = model.tokenizer().piece(id).to_vec();
            Candidate { id, bytes, log_prob }
        };
        let top = chosen.top.iter().take(self.n_top);
        self.generated.tokens.push(GeneratedToken {
            token: candidate(chosen.id, chosen.log_prob.unwrap_or(f64::NAN)),
            top: top.map(|&(id, log_prob)| candidate(id, log_prob)).collect(),
        });
        let (piece, stopped) = self.stops.push(self.stream.push(chosen.id));
        self.generated.text.push_str(&piece);
        self.stopped = stopped;
        if stopped { Next::Enough } else { Next::GoOn }
    }

    /// The whole text.
    fn finish(mut self) -> Generated {
        if !self.stopped {
            let (piece, stopped) = self.stops.push(self.stream.finish());
            self.generated.text.push_str(&piece);
            self.stopped = stopped;
        }
        match self.stopped {
            true => self.generated.finish = Finish::Stop,
            false => self.generated.text.push_str(&self.stops.finish()),
        }
        self.generated
    }
}
