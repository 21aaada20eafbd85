//! The keys of a classification head: labels, what the logits mean, and the padding token that a
//! text's last token is found before. `transformers` reads them in `PreTrainedConfig.__post_init__`.

use super::{token_ids, wrong};
use pith::{Error, Result};
use pith_models::{ClassifierKind, HeadClass, MAX_LABELS, Problem};
use serde_json::{Map, Value};

/// A classification head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// What it labels.
    pub kind: ClassifierKind,
    /// What its logits mean.
    pub problem: Problem,
    /// Names of its rows.
    pub labels: Vec<String>,
    /// `pad_token_id`: texts end before it.
    pub pad: Option<u32>,
}

/// Reads the head of a class.
pub(super) fn read(json: &Map<String, Value>, class: &HeadClass) -> Result<Classifier> {
    let given = |key: &str| json.get(key).filter(|value| !value.is_null());
    let labels = match given("id2label") {
        Some(value) => named(value)?,
        None => numbered(given("num_labels").or(given("_num_labels")))?,
    };
    for key in ["num_labels", "_num_labels"] {
        if let Some(value) = given(key).filter(|value| value.as_u64() != Some(labels.len() as u64))
        {
            return Err(wrong(key, &format!("the number of labels, {}", labels.len()), value));
        }
    }
    if let Some(value) = given("label2id") {
        check_ids(value, &labels)?;
    }
    let problem = match given("problem_type") {
        None => Problem::of_labels(labels.len()),
        Some(value) => {
            let problem = value.as_str().and_then(Problem::by_name);
            // The softmax of one logit is 1 whatever the text: the library refuses it too.
            let problem = problem.filter(|&p| p != Problem::SingleLabel || labels.len() > 1);
            let names = Problem::ALL.map(Problem::name).join(", ");
            let wanted = format!("one of {names}, the second only with several labels");
            problem.ok_or_else(|| wrong("problem_type", &wanted, value))?
        }
    };
    Ok(Classifier { kind: class.kind, problem, labels, pad: pad(json, class)? })
}

/// `id2label`: keys are numbers as text, "10" after "9".
fn named(value: &Value) -> Result<Vec<String>> {
    let fault = |wanted: &str| wrong("id2label", wanted, value);
    let object = value.as_object().ok_or_else(|| fault("an object from ids to labels"))?;
    if object.is_empty() || object.len() > MAX_LABELS {
        return Err(fault(&format!("1 to {MAX_LABELS} labels")));
    }
    let mut labels = vec![None; object.len()];
    for (id, label) in object {
        let label = label.as_str().ok_or_else(|| fault("an object from ids to texts"))?;
        let place = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
        match place {
            Some(place @ None) => *place = Some(label.to_owned()),
            _ => return Err(fault("an object with the ids from 0 on, each once")),
        }
    }
    Ok(labels.into_iter().flatten().collect())
}

/// The labels of a configuration that names none: `num_labels`, 2 where that is absent too.
fn numbered(n: Option<&Value>) -> Result<Vec<String>> {
    let n = match n {
        None => 2,
        Some(value) => {
            let n = value.as_u64().filter(|n| (1..=MAX_LABELS as u64).contains(n));
            n.ok_or_else(|| wrong("num_labels", &format!("from 1 to {MAX_LABELS}"), value))?
        }
    };
    Ok((0..n).map(|id| format!("LABEL_{id}")).collect())
}

/// `label2id` must say what `id2label` says; of equal labels it can name one.
fn check_ids(value: &Value, labels: &[String]) -> Result<()> {
    let fault = || wrong("label2id", "what `id2label` says, the other way round", value);
    let object = value.as_object().ok_or_else(fault)?;
    for (label, id) in object {
        let id = match id {
            Value::String(digits) => digits.parse().ok(),
            id => id.as_u64().and_then(|id| usize::try_from(id).ok()),
        };
        if id.and_then(|id| labels.get(id)) != Some(label) {
            return Err(fault());
        }
    }
    match labels.iter().find(|label| !object.contains_key(*label)) {
        Some(_) => Err(fault()),
        None => Ok(()),
    }
}

/// The configuration's own `pad_token_id`: the tokenizer's has no part in where a text ends.
fn pad(json: &Map<String, Value>, class: &HeadClass) -> Result<Option<u32>> {
    match json.get("pad_token_id") {
        None => Ok(class.pad),
        Some(Value::Null) => Ok(None),
        Some(value) => match token_ids(value).as_deref() {
            Some([]) => Ok(None),
            Some(&[id]) => Ok(Some(id)),
            _ => Err(Error::Unsupported(format!(
                "config.json: `pad_token_id` must be one token id in a classifier, it is {value}"
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_with(class: &str, keys: Value) -> Result<Classifier> {
        read(keys.as_object().unwrap(), &pith_models::by_head_class(class, |_| false).unwrap())
    }

    fn read_gpt2(keys: Value) -> Result<Classifier> {
        read_with("GPT2ForSequenceClassification", keys)
    }

    #[test]
    fn labels_are_in_the_order_of_their_numbers() {
        let names: Map<_, _> =
            (0..12).map(|id| (id.to_string(), json!(format!("l{id}")))).collect();
        let ids: Map<_, _> = (0..12).map(|id| (format!("l{id}"), json!(id))).collect();
        let head = read_gpt2(json!({"id2label": names, "label2id": ids})).unwrap();
        assert_eq!(head.labels, (0..12).map(|id| format!("l{id}")).collect::<Vec<_>>());
        assert_eq!(head.problem, Problem::SingleLabel);
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let head = read_gpt2(json!({})).unwrap();
        assert_eq!(head.labels, ["LABEL_0", "LABEL_1"]);
        assert_eq!((head.problem, head.pad), (Problem::SingleLabel, None));
        let head = read_gpt2(json!({"num_labels": 1, "pad_token_id": 7})).unwrap();
        assert_eq!((head.problem, head.pad), (Problem::Regression, Some(7)));
        let opt = |keys| read_with("OPTForSequenceClassification", keys).unwrap().pad;
        assert_eq!(opt(json!({})), Some(1));
        assert_eq!(opt(json!({"pad_token_id": null})), None);
        assert_eq!(opt(json!({"pad_token_id": -1})), None);
    }

    #[test]
    fn equal_labels_and_ids_as_text_are_fine() {
        let keys = json!({"id2label": {"0": "a", "1": "a"}, "label2id": {"a": "1"}});
        assert_eq!(read_gpt2(keys).unwrap().labels, ["a", "a"]);
    }

    #[test]
    fn labels_that_contradict_each_other_are_refused_by_name() {
        for (keys, named) in [
            (json!({"id2label": {}}), "id2label"),
            (json!({"id2label": ["a", "b"]}), "id2label"),
            (json!({"id2label": {"0": "a", "2": "b"}}), "id2label"),
            (json!({"id2label": {"0": "a", "00": "b"}}), "id2label"),
            (json!({"id2label": {"1": "a", "2": "b"}}), "id2label"),
            (json!({"id2label": {"-1": "a", "0": "b"}}), "id2label"),
            (json!({"id2label": {"x": "a"}}), "id2label"),
            (json!({"id2label": {"0": 5}}), "id2label"),
            (json!({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}), "num_labels"),
            (json!({"num_labels": 0}), "num_labels"),
            (json!({"num_labels": 1e9}), "num_labels"),
            (json!({"num_labels": 1_000_000}), "num_labels"),
            (json!({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}), "label2id"),
            (json!({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0}}), "label2id"),
            (json!({"id2label": {"0": "a"}, "label2id": {"a": 0, "b": 1}}), "label2id"),
            (json!({"label2id": {"a": 0, "b": 1}}), "label2id"),
            (json!({"problem_type": "ranking"}), "problem_type"),
            (
                json!({"num_labels": 1, "problem_type": "single_label_classification"}),
                "problem_type",
            ),
            (json!({"pad_token_id": [1, 2]}), "pad_token_id"),
            (json!({"pad_token_id": "x"}), "pad_token_id"),
        ] {
            let error = read_gpt2(keys.clone()).expect_err(named).to_string();
            assert!(error.contains(&format!("`{named}`")), "{keys}: {error}");
        }
    }
}
