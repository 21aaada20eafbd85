//! Texts to labels: by a model's classification head, or by how probable labels are behind texts.

use std::{ops::Range, sync::Arc};

use pith_jobs::{prompt::Reader, tasks::classify::spans};
use pith_models::{ClassifierKind, Problem};
use pyo3::{prelude::*, types::PyList};
use runtime::{Model, batch::Scored, classify::Answer, kernel::math::exp64};

use crate::{
    arrays,
    error::{OrRaise, invalid},
    score::Texts,
    sessions::Sessions,
    signals::pending,
};

/// What a model makes of a text, or of one token where tokens are labelled, by `Model.classify`.
#[pyclass(frozen, module = "pith", get_all)]
pub struct Classification {
    /// The likeliest label; None in a regression.
    label: Option<String>,
    /// Its probability; in a regression the first value.
    value: f64,
    /// Probabilities of all labels, in a regression values: a numpy array [n_labels], float32 by a head
    /// and float64 for labels that were given.
    values: Py<PyAny>,
    /// What the values are made of, in the same form: a head's logits; for labels that were given, natural
    /// logarithms of their probabilities behind the text.
    logits: Py<PyAny>,
    /// Where tokens are labelled, the token's text.
    token: Option<String>,
    /// Where tokens are labelled, the characters text[start:end] that the token is; None for one that the
    /// text doesn't hold.
    span: Option<(usize, usize)>,
}

#[pymethods]
impl Classification {
    fn __repr__(&self) -> String {
        let label = self.label.as_ref().map_or("None".into(), |label| format!("{label:?}"));
        format!("Classification(label={label}, value={})", self.value)
    }
}

/// Classifies by the model's head: one answer for each text, or a list of one for each token.
pub fn by_head<'py>(
    py: Python<'py>,
    model: &Arc<Model>,
    sessions: &Sessions,
    texts: &[String],
    parse_special: bool,
) -> PyResult<Bound<'py, PyList>> {
    let head = model.require_classifier().or_raise(py)?;
    let mut heads = sessions.take(py, &sessions.heads, &[])?;
    let ids = py.detach(|| {
        let reader = Reader::new(model.tokenizer(), parse_special);
        let encode = |text: &String| reader.encode_whole(&reader.plain(text.as_str()));
        texts.iter().map(encode).collect::<Vec<_>>()
    });
    for (text, ids) in ids.iter().enumerate() {
        heads.check(ids).or_raise_of(py, text)?;
    }
    py.check_signals()?;
    let mut signal = Ok(());
    let answers = py.detach(|| {
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        heads.classify(&ids, |_| {
            signal = pending();
            signal.is_ok()
        })
    });
    signal?;
    let answers = answers.or_raise(py)?;
    let list = PyList::empty(py);
    for ((text, ids), answers) in texts.iter().zip(&ids).zip(&answers) {
        match head.kind() {
            ClassifierKind::Sequence => {
                for answer in answers {
                    list.append(of_head(py, model, answer, None)?)?;
                }
            }
            ClassifierKind::Token => {
                let spans = spans(model.tokenizer(), text, ids, 0);
                let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
                let tokens = PyList::empty(py);
                for answer in answers {
                    let span = spans[answer.at].clone();
                    let span = span.map(|span| characters(text, &starts, span));
                    tokens.append(of_head(py, model, answer, Some((ids[answer.at], span)))?)?;
                }
                list.append(tokens)?;
            }
        }
    }
    Ok(list)
}

/// Which characters bytes of a text are, given where its characters begin: all that they are part of.
fn characters(text: &str, starts: &[usize], bytes: Range<usize>) -> (usize, usize) {
    let before = |at: usize| starts.partition_point(|&start| start < at);
    let start = before(bytes.start) - usize::from(!text.is_char_boundary(bytes.start));
    (start, before(bytes.end))
}

fn of_head(
    py: Python<'_>,
    model: &Model,
    answer: &Answer,
    token: Option<(u32, Option<(usize, usize)>)>,
) -> PyResult<Classification> {
    let head = model.require_classifier().or_raise(py)?;
    let array = |numbers: &[f32]| {
        arrays::f32s(py, &[numbers.len()], |cells| {
            arrays::write(cells, numbers);
            Ok(())
        })
    };
    let (label, value) = match head.problem() {
        Problem::Regression => (None, answer.values.first()),
        Problem::SingleLabel | Problem::MultiLabel => {
            let best = answer.best();
            (head.labels().get(best).cloned(), answer.values.get(best))
        }
    };
    Ok(Classification {
        label,
        value: value.copied().map_or(f64::NAN, f64::from),
        values: array(&answer.values)?.unbind(),
        logits: array(&answer.logits)?.unbind(),
        token: token
            .map(|(id, _)| String::from_utf8_lossy(model.tokenizer().piece(id)).into_owned()),
        span: token.and_then(|(_, span)| span),
    })
}

/// Classifies by how probable each label is behind a text and a delimiter.
pub fn by_labels<'py>(
    py: Python<'py>,
    model: &Arc<Model>,
    sessions: &Sessions,
    texts: &[String],
    labels: &[String],
    delimiter: &str,
    parse_special: bool,
) -> PyResult<Bound<'py, PyList>> {
    let is_twice = |at: usize| labels[..at].contains(&labels[at]);
    if labels.iter().any(String::is_empty) || (0..labels.len()).any(is_twice) {
        return Err(invalid(py, "wanted labels that are not empty, each of them once"));
    }
    let behind: Vec<String> = labels.iter().map(|label| format!("{delimiter}{label}")).collect();
    let pairs: Vec<(Option<&str>, &str)> = (texts.iter())
        .flat_map(|text| behind.iter().map(|label| (Some(text.as_str()), label.as_str())))
        .collect();
    let mut scorer = Texts::new(py, model, sessions, parse_special)?;
    let sequences = scorer.read(py, &pairs, labels.len())?;
    let sums: Vec<f64> = scorer.score(py, &sequences)?.iter().map(Scored::sum).collect();
    let list = PyList::empty(py);
    for sums in sums.chunks_exact(labels.len()) {
        let max = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights = || sums.iter().map(|sum| exp64(sum - max));
        let total: f64 = weights().sum();
        let values: Vec<f64> = weights().map(|weight| weight / total).collect();
        let best = sums.iter().position(|sum| *sum == max).unwrap_or(0);
        list.append(Classification {
            label: Some(labels[best].clone()),
            value: values[best],
            values: arrays::f64s(py, &values)?.unbind(),
            logits: arrays::f64s(py, sums)?.unbind(),
            token: None,
            span: None,
        })?;
    }
    Ok(list)
}
