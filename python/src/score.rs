//! How probable texts are: whole ones, or behind contexts.

use std::sync::Arc;

use pith_jobs::{continuation::Continuation, prompt::Reader, row::RowError};
use pyo3::prelude::*;
use runtime::{
    Model,
    batch::{Request, Scored, Scorer},
};

use crate::{
    arrays,
    error::{OrRaise, invalid},
    sessions::{Lease, Sessions},
    signals::pending,
};

/// Tokens that are scored together: what they begin with in common is run once, and their answers are
/// held.
const TOGETHER: usize = 1 << 18;

/// How probable a text is, by `Model.score`.
#[pyclass(frozen, module = "pith", get_all)]
pub struct Score {
    /// Natural logarithm of the text's probability: the sum over its tokens.
    log_prob: f64,
    /// Scored tokens.
    n_tokens: usize,
    /// Natural logarithm of each scored token's probability: a numpy array of float64 [n_tokens].
    log_probs: Py<PyAny>,
    /// The scored tokens.
    ids: Vec<u32>,
    /// Whether greedy decoding would have written this text.
    is_greedy: bool,
}

#[pymethods]
impl Score {
    fn __repr__(&self) -> String {
        format!("Score(log_prob={}, n_tokens={})", self.log_prob, self.n_tokens)
    }
}

impl Score {
    /// For Python.
    pub fn new(py: Python<'_>, sequence: &Continuation, scored: &Scored) -> PyResult<Score> {
        Ok(Score {
            log_prob: scored.sum(),
            n_tokens: scored.log_probs.len(),
            log_probs: arrays::f64s(py, &scored.log_probs)?.unbind(),
            ids: sequence.ids[sequence.from..].to_vec(),
            is_greedy: scored.is_greedy(),
        })
    }
}

/// Scores texts, each behind its context.
pub struct Texts {
    model: Arc<Model>,
    scorer: Lease<Scorer<'static>>,
    parse_special: bool,
}

impl Texts {
    /// Takes the model's scorer.
    pub fn new(
        py: Python<'_>,
        model: &Arc<Model>,
        sessions: &Sessions,
        parse_special: bool,
    ) -> PyResult<Texts> {
        let scorer = sessions.take(py, &sessions.score, &[])?;
        Ok(Texts { model: model.clone(), scorer, parse_special })
    }

    /// Texts as tokens, each with its context where there is one. What can't be scored is an error that
    /// says which text it is: those of one `group` have one number.
    pub fn read(
        &mut self,
        py: Python<'_>,
        pairs: &[(Option<&str>, &str)],
        group: usize,
    ) -> PyResult<Vec<Continuation>> {
        let Texts { model, scorer, parse_special } = self;
        let read = py.detach(|| {
            let reader = Reader::new(model.tokenizer(), *parse_special);
            let read = |(at, (context, text)): (usize, &(Option<&str>, &str))| {
                let context = context.map(|context| reader.plain(context));
                let sequence = reader.pair(context.as_ref(), &reader.plain(*text));
                let sequence = sequence.map_err(|fault| (at / group, Fault::Text(fault)))?;
                let request = Request { ids: &sequence.ids, from: sequence.from };
                let check = scorer.check(&request);
                check.map_err(|fault| (at / group, Fault::Model(fault)))?;
                Ok(sequence)
            };
            pairs.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()
        });
        read.map_err(|(text, fault)| match fault {
            Fault::Text(fault) => invalid(py, format!("text {text}: {}", fault.message)),
            Fault::Model(fault) => match Err::<(), _>(fault).or_raise_of(py, text) {
                Err(error) => error,
                Ok(()) => invalid(py, format!("text {text}")),
            },
        })
    }

    /// Scores sequences.
    pub fn score(&mut self, py: Python<'_>, sequences: &[Continuation]) -> PyResult<Vec<Scored>> {
        let mut all = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            let mut n_tokens = 0;
            let fits = |sequence: &&Continuation| {
                n_tokens += sequence.ids.len();
                n_tokens <= TOGETHER
            };
            let n = rest.iter().take_while(fits).count().max(1);
            let (these, others) = rest.split_at(n);
            all.extend(self.together(py, these)?);
            rest = others;
        }
        Ok(all)
    }

    fn together(&mut self, py: Python<'_>, sequences: &[Continuation]) -> PyResult<Vec<Scored>> {
        let requests: Vec<Request<'_>> =
            sequences.iter().map(|s| Request { ids: &s.ids, from: s.from }).collect();
        py.check_signals()?;
        let mut signal = Ok(());
        let scorer = &mut self.scorer;
        let scored = py.detach(|| {
            scorer.score(&requests, |_| {
                signal = pending();
                signal.is_ok()
            })
        });
        signal?;
        scored.or_raise(py)
    }
}

enum Fault {
    Text(RowError),
    Model(runtime::Error),
}
