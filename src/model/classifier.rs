//! A classification head: what its logits are of and what they mean.

use std::{collections::HashMap, ops::Range};

use pith_models::{
    ClassifierKind, HEAD_TENSOR, KIND_KEY, LABELS_KEY, MAX_LABELS, PAD_KEY, POOLING_KEY,
    PROBLEM_KEY, Problem,
};

use super::Weight;
use crate::{Error, Result, gguf::Gguf, kernel::math, memory::enough, zeros::push};

/// The head of a model that classifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    kind: ClassifierKind,
    problem: Problem,
    labels: Vec<String>,
    pad: Option<u32>,
}

impl Classifier {
    /// The head of a file, if it has one. llama.cpp's files say by their pooling what pith's say by
    /// name.
    pub(super) fn read(
        gguf: &Gguf,
        arch: &str,
        weights: &HashMap<String, Weight>,
    ) -> Result<Option<Classifier>> {
        let name = format!("{HEAD_TENSOR}.weight");
        let weight = match weights.get(&name) {
            Some(weight) => weight,
            None if gguf.get(KIND_KEY).is_some() => return Err(super::missing(&name)),
            None => return Ok(None),
        };
        if let Some(name) =
            ["cls.weight", "cls.norm.weight"].into_iter().find(|name| gguf.tensor(name).is_some())
        {
            return Err(Error::Unsupported(format!(
                "tensor {name}: a classification head of more than one product"
            )));
        }
        let labels = read_labels(gguf, arch, weight.n_out)?;
        let kind = match gguf.get(KIND_KEY) {
            Some(value) => value.as_str().and_then(ClassifierKind::by_name),
            None => {
                let pooling = gguf.get(&format!("{arch}.{POOLING_KEY}")).and_then(|v| v.as_u64());
                let is = |kind: &ClassifierKind| pooling == Some(kind.pooling().into());
                ClassifierKind::ALL.into_iter().find(is)
            }
        };
        let kind = kind.ok_or_else(|| {
            wrong(gguf, KIND_KEY, &format!("sequence or token, or a known {arch}.{POOLING_KEY}"))
        })?;
        let problem = match gguf.get(PROBLEM_KEY) {
            Some(value) => value.as_str().and_then(Problem::by_name),
            None => Some(Problem::of_labels(labels.len())),
        };
        let names = || Problem::ALL.map(Problem::name).join(", ");
        let problem = problem.ok_or_else(|| wrong(gguf, PROBLEM_KEY, &names()))?;
        let pad = gguf.get(PAD_KEY).map(|value| value.as_u64().and_then(|v| u32::try_from(v).ok()));
        if pad == Some(None) {
            return Err(wrong(gguf, PAD_KEY, "a token id"));
        }
        Ok(Some(Classifier { kind, problem, labels, pad: pad.flatten() }))
    }

    /// What is labelled.
    pub fn kind(&self) -> ClassifierKind {
        self.kind
    }

    /// What the logits mean.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// Names of the logits.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Indices of the tokens after which the logits are wanted: of all for a head that labels tokens,
    /// else of the last. As in `transformers`, the last is the last one that isn't the padding token,
    /// and the first of a text of padding alone.
    pub fn rows(&self, ids: &[u32]) -> Range<usize> {
        match self.kind {
            ClassifierKind::Token => 0..ids.len(),
            ClassifierKind::Sequence => {
                let last = ids.iter().rposition(|&id| Some(id) != self.pad).unwrap_or(0);
                last..ids.len().min(last + 1)
            }
        }
    }

    /// Turns logits into what they mean, in place: probabilities, or in a regression values, which
    /// are the logits. The softmax is of one row alone, its sum ascending.
    pub fn finish(&self, logits: &mut [f32]) {
        match self.problem {
            Problem::Regression => {}
            Problem::MultiLabel => logits.iter_mut().for_each(|x| *x = math::sigmoid(*x)),
            Problem::SingleLabel => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                logits.iter_mut().for_each(|x| *x = math::exp(*x - max));
                let sum = logits.iter().fold(0.0, |sum, x| sum + x);
                logits.iter_mut().for_each(|x| *x /= sum);
            }
        }
    }
}

/// The labels of `n` rows, numbered where the file names none.
fn read_labels(gguf: &Gguf, arch: &str, n: usize) -> Result<Vec<String>> {
    let key = format!("{arch}.{LABELS_KEY}");
    if n > MAX_LABELS {
        return Err(Error::malformed(
            "GGUF",
            format!("{n} labels; at most {MAX_LABELS} are sound"),
        ));
    }
    let Some(value) = gguf.get(&key) else {
        return label_list((0..n).map(|id| format!("LABEL_{id}")));
    };
    let strings = value.as_array().filter(|array| array.len() == n).and_then(|a| a.strings());
    let strings = strings.ok_or_else(|| wrong(gguf, &key, &format!("{n} strings")))?;
    label_list(strings.map(str::to_owned))
}

fn label_list(labels: impl Iterator<Item = String>) -> Result<Vec<String>> {
    let mut list = Vec::new();
    for label in labels {
        enough()?;
        push(&mut list, label)?;
    }
    Ok(list)
}

fn wrong(gguf: &Gguf, key: &str, wanted: &str) -> Error {
    let got = gguf.get(key).map_or_else(|| "absent".into(), |value| format!("{value:?}"));
    Error::malformed("GGUF", format!("{key}: wanted {wanted}, got {got}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(kind: ClassifierKind, problem: Problem, pad: Option<u32>) -> Classifier {
        Classifier { kind, problem, labels: vec!["a".into(), "b".into(), "c".into()], pad }
    }

    #[test]
    fn a_texts_last_token_comes_before_its_padding() {
        let rows = |pad, ids: &[u32]| {
            classifier(ClassifierKind::Sequence, Problem::SingleLabel, pad).rows(ids)
        };
        assert_eq!(rows(None, &[5, 6, 7]), 2..3);
        assert_eq!(rows(Some(7), &[5, 6, 7]), 1..2);
        assert_eq!(rows(Some(7), &[7, 5, 7, 6, 7, 7]), 3..4);
        assert_eq!(rows(Some(7), &[7, 7]), 0..1);
        assert_eq!(rows(Some(7), &[]), 0..0);
        let tokens = classifier(ClassifierKind::Token, Problem::SingleLabel, Some(7));
        assert_eq!(tokens.rows(&[5, 7, 7]), 0..3);
    }

    #[test]
    fn probabilities_are_those_of_the_problem() {
        let finish = |problem, mut x: [f32; 3]| {
            classifier(ClassifierKind::Sequence, problem, None).finish(&mut x);
            x
        };
        let logits = [1.0, -2.0, 3.0];
        assert_eq!(finish(Problem::Regression, logits), logits);
        let near = |got: [f32; 3], wanted: [f32; 3]| {
            assert!(got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
        };
        near(finish(Problem::SingleLabel, logits), [0.118_499_66, 0.005_899_75, 0.875_600_6]);
        near(finish(Problem::MultiLabel, logits), [0.731_058_6, 0.119_202_92, 0.952_574_13]);
        near(finish(Problem::SingleLabel, [1000.0, -1000.0, 1000.0]), [0.5, 0.0, 0.5]);
        near(finish(Problem::MultiLabel, [1000.0, -1000.0, 0.0]), [1.0, 0.0, 0.5]);
        let nan = finish(Problem::SingleLabel, [f32::NAN, 0.0, 1.0]);
        assert!(nan.iter().all(|p| p.is_nan()));
    }
}
