//! Labels by a model that has no head for them: how probable each label is behind a prompt.
//!
//! All labels of all rows are scored together. The prefix tree in which they are run is a trie of the
//! labels behind each prompt, walked once: of thousands of labels behind one prompt, no beginning that
//! two share is run twice, and the last token of none is run at all.

use pith::{
    Error, Model, Result,
    batch::{Request, Scored, Scorer},
    kernel::math::exp64,
    session,
};
use serde_json::{Value, json};

use super::{Waiting, cell};
use crate::{
    continuation::Continuation,
    guard::Prompt,
    prompt::{From, Reader},
    row::{Cell, Row, RowError},
    source::{Line, Rows},
    task::{Answer, Column, Kind, Pulse, Task},
};

/// By what labels are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The logarithm of a label's probability: the sum over its tokens.
    #[default]
    Sum,
    /// The sum divided by its tokens.
    Token,
    /// The sum divided by the label's bytes.
    Byte,
    /// The sum less that behind a prior prompt, which says nothing: pointwise mutual information
    /// (Holtzman et al. 2021, "Surface Form Competition").
    Pmi,
}

impl By {
    /// All of them.
    pub const ALL: &[By] = &[By::Sum, By::Token, By::Byte, By::Pmi];

    /// "sum", "token", "byte", "pmi".
    pub fn name(self) -> &'static str {
        match self {
            By::Sum => "sum",
            By::Token => "token",
            By::Byte => "byte",
            By::Pmi => "pmi",
        }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<By> {
        By::ALL.iter().copied().find(|by| by.name() == name)
    }
}

/// What is asked.
#[derive(Clone)]
pub struct Options {
    /// What stands before a label.
    pub prompt: From,
    /// What stands before every prompt: examples, by [`examples`]. May be empty.
    pub few_shot: Prompt,
    /// The labels, each once.
    pub labels: Vec<String>,
    /// What stands between a prompt and a label.
    pub delimiter: String,
    /// By what they are compared.
    pub by: By,
    /// The prompt that says nothing, for [`By::Pmi`].
    pub prior: Prompt,
    /// How many of the best labels are told with their numbers; 0 is all.
    pub top: usize,
    /// Whether texts of rows may hold control tokens.
    pub parse_special: bool,
}

/// Examples before each prompt: prompts of rows, each with the label that the row's column `label` has.
///
/// # Errors
/// A row can't be read, or has no such column.
pub fn examples(
    reader: &Reader<'_>,
    prompt: &From,
    delimiter: &str,
    rows: &mut dyn Rows,
) -> Result<Prompt> {
    let mut all = Prompt::plain("");
    while let Some(Line { row, place, .. }) = rows.next()? {
        let example = row.and_then(|row| {
            let answer = format!("{delimiter}{}\n\n", row.text("label")?);
            Ok(reader.text(prompt, &row)?.joined(&reader.plain(answer)))
        });
        let example = example.map_err(|fault| Error::Invalid(format!("{place}: {fault}")))?;
        all = all.joined(&example);
    }
    Ok(all)
}

/// The task.
pub struct Labels<'m> {
    scorer: Scorer<'m>,
    reader: Reader<'m>,
    options: Options,
    /// Sums behind the prior prompt, `[n_labels]`, once they are known.
    prior: Option<Vec<f64>>,
    waiting: Waiting<Asked>,
}

/// A prompt with all labels behind it.
struct Asked {
    at: u64,
    labels: Vec<Continuation>,
}

/// A label's numbers behind one prompt.
struct Label {
    index: usize,
    n_tokens: usize,
    sum: f64,
    score: f64,
    probability: f64,
}

impl<'m> Labels<'m> {
    /// A task.
    ///
    /// # Errors
    /// As [`Scorer::new`]; no labels, an empty one, or one that is there twice.
    pub fn new(
        model: &'m Model,
        options: Options,
        session: &session::Options,
    ) -> Result<Labels<'m>> {
        let labels = &options.labels;
        let mut sorted: Vec<&String> = labels.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Invalid(format!("label {:?} is there twice", twice[0])));
        }
        if labels.is_empty() || labels.iter().any(String::is_empty) {
            return Err(Error::Invalid("wanted labels, none of them empty".into()));
        }
        let scorer = Scorer::new(model, session)?;
        let reader = Reader::new(model.tokenizer(), options.parse_special);
        Ok(Labels { scorer, reader, options, prior: None, waiting: Waiting::new() })
    }

    /// All labels behind a prompt, which fit.
    fn behind(&self, prompt: &Prompt) -> std::result::Result<Vec<Continuation>, RowError> {
        let context = self.options.few_shot.joined(prompt);
        let continuation = |label: &String| {
            let label = self.reader.plain(format!("{}{label}", self.options.delimiter));
            let sequence = self.reader.pair(Some(&context), &label)?;
            let request = Request { ids: &sequence.ids, from: sequence.from };
            self.scorer.check(&request)?;
            Ok(sequence)
        };
        self.options.labels.iter().map(continuation).collect()
    }

    fn sums(
        &mut self,
        all: &[&[Continuation]],
        pulse: &mut dyn FnMut(Pulse) -> bool,
    ) -> Result<Vec<f64>> {
        let requests: Vec<Request<'_>> = (all.iter().copied().flatten())
            .map(|label| Request { ids: &label.ids, from: label.from })
            .collect();
        let scored = self.scorer.score(&requests, |n_tokens| pulse(Pulse { n_tokens }))?;
        Ok(scored.iter().map(Scored::sum).collect())
    }

    fn answer(&self, labels: &[Continuation], sums: &[f64]) -> Vec<Cell> {
        let score = |index: usize| {
            let sum = sums[index];
            let n_tokens = labels[index].ids.len() - labels[index].from;
            let score = match (self.options.by, &self.prior) {
                (By::Sum, _) => sum,
                (By::Token, _) => sum / n_tokens as f64,
                (By::Byte, _) => sum / self.options.labels[index].len() as f64,
                (By::Pmi, prior) => sum - prior.as_ref().map_or(0.0, |prior| prior[index]),
            };
            Label { index, n_tokens, sum, score, probability: 0.0 }
        };
        let mut all: Vec<Label> = (0..labels.len()).map(score).collect();
        softmax(&mut all);
        // NaN is last; adding 0 makes one zero of two.
        let key =
            |label: &Label| if label.score.is_nan() { f64::NEG_INFINITY } else { label.score };
        all.sort_by(|a, b| (key(b) + 0.0).total_cmp(&(key(a) + 0.0)).then(a.index.cmp(&b.index)));
        let second = all.get(1).map_or(0.0, |label| label.probability);
        let top = if self.options.top == 0 { usize::MAX } else { self.options.top };
        let named: Vec<Value> = all.iter().take(top).map(|label| self.json(label)).collect();
        vec![
            Cell::Text(self.options.labels[all[0].index].clone()),
            cell(&all[0].probability),
            cell(&(all[0].probability - second)),
            cell(&named),
        ]
    }

    fn json(&self, label: &Label) -> Value {
        let Label { index, n_tokens, sum, probability, .. } = *label;
        let text = &self.options.labels[index];
        let mut object = json!({
            "label": text,
            "probability": probability,
            "log_prob": sum,
            "log_prob_per_token": sum / n_tokens as f64,
            "log_prob_per_byte": sum / text.len() as f64,
        });
        if let Some(prior) = &self.prior {
            object["pmi"] = (sum - prior[index]).into();
        }
        object
    }
}

/// Probabilities of labels by their scores, as if there were no others.
fn softmax(labels: &mut [Label]) {
    let max = labels.iter().map(|label| label.score).fold(f64::NEG_INFINITY, f64::max);
    let weight = |label: &Label| exp64(label.score - max);
    let total: f64 = labels.iter().map(weight).sum();
    labels.iter_mut().for_each(|label| label.probability = weight(label) / total);
}

impl Task for Labels<'_> {
    fn columns(&self) -> Vec<Column> {
        vec![
            Column::new("label", Kind::Text),
            Column::new("probability", Kind::Float),
            Column::new("margin", Kind::Float),
            Column::new("labels", Kind::Json),
        ]
    }

    fn options(&self) -> Value {
        let Options { prompt, few_shot, labels, delimiter, by, prior, top, parse_special } =
            &self.options;
        json!({
            "prompt": prompt.describe(),
            "few_shot": few_shot.text,
            "labels": labels,
            "delimiter": delimiter,
            "by": by.name(),
            "prior": prior.text,
            "top": top,
            "parse_special": parse_special,
        })
    }

    fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    fn push(&mut self, at: u64, row: &Row) -> std::result::Result<(), RowError> {
        let labels = self.behind(&self.reader.text(&self.options.prompt, row)?)?;
        // What is run at most: the prompt once.
        let prompt = labels.first().map_or(0, |label| label.from);
        let own: usize = labels.iter().map(|label| label.ids.len() - label.from).sum();
        self.waiting.push(Asked { at, labels }, prompt + own);
        Ok(())
    }

    fn work(
        &mut self,
        last: bool,
        pulse: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        let Some(rows) = self.waiting.take(last) else { return Ok(()) };
        if self.options.by == By::Pmi && self.prior.is_none() {
            let prior = self.behind(&self.options.prior.clone());
            let prior =
                prior.map_err(|fault| Error::Invalid(format!("the prior prompt: {fault}")))?;
            self.prior = Some(self.sums(&[&prior], pulse)?);
        }
        let labels: Vec<&[Continuation]> = rows.iter().map(|row| row.labels.as_slice()).collect();
        let sums = self.sums(&labels, pulse)?;
        for (row, sums) in rows.iter().zip(sums.chunks_exact(self.options.labels.len())) {
            done(row.at, Ok(self.answer(&row.labels, sums)));
        }
        self.waiting.worked();
        Ok(())
    }
}
