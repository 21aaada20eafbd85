//! What decides an output's bytes, compared field by field.

use std::path::Path;

use pith::{Error, Result};
use serde_json::{Map, Value};

/// How many differences are listed.
const MAX_LISTED: usize = 8;

/// Refuses a fingerprint that isn't the one that `out` was begun with, naming each difference.
pub(super) fn compare(was: &Map<String, Value>, is: &Map<String, Value>, out: &Path) -> Result<()> {
    let mut list = Vec::new();
    objects("", was, is, &mut list);
    if list.is_empty() {
        return Ok(());
    }
    let more = list.len().saturating_sub(MAX_LISTED);
    list.truncate(MAX_LISTED);
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    Err(Error::Invalid(format!(
        "{} can't be resumed, for it was begun otherwise: {}; resume it as it was begun, or begin again \
         with --restart",
        out.display(),
        list.join("; ")
    )))
}

fn objects(path: &str, was: &Map<String, Value>, is: &Map<String, Value>, list: &mut Vec<String>) {
    let added = is.keys().filter(|key| !was.contains_key(*key));
    for key in was.keys().chain(added) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        values(&path, was.get(key), is.get(key), list);
    }
}

fn values(path: &str, was: Option<&Value>, is: Option<&Value>, list: &mut Vec<String>) {
    match (was, is) {
        (Some(Value::Object(was)), Some(Value::Object(is))) => match is_file(was) && is_file(is) {
            false => objects(path, was, is, list),
            true if was["sha256"] == is["sha256"] => {}
            true => list.push(format!("{path} was {}, is {}", file(was), file(is))),
        },
        (Some(Value::Array(was)), Some(Value::Array(is))) if was.len() == is.len() => {
            for (i, (was, is)) in was.iter().zip(is).enumerate() {
                values(&format!("{path}[{i}]"), Some(was), Some(is), list);
            }
        }
        (was, is) if was != is => list.push(format!("{path} was {}, is {}", show(was), show(is))),
        _ => {}
    }
}

/// A file is its contents: its name may change.
fn is_file(object: &Map<String, Value>) -> bool {
    object.get("sha256").is_some_and(Value::is_string)
}

fn file(object: &Map<String, Value>) -> String {
    let name = object.get("name").and_then(Value::as_str).unwrap_or("a file");
    let hash = object["sha256"].as_str().unwrap_or_default();
    format!("{name} (sha256 {}...)", hash.chars().take(12).collect::<String>())
}

fn show(value: Option<&Value>) -> String {
    match value {
        None => "not set".to_owned(),
        Some(Value::Array(values)) => {
            format!("{} ({} values)", Value::Array(values.clone()), values.len())
        }
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(was: &str, is: &str) -> Option<String> {
        let parse = |text| serde_json::from_str(text).unwrap();
        compare(&parse(was), &parse(is), Path::new("out")).err().map(|e| e.to_string())
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let was = r#"{"version":"0.1.0","model":{"name":"a","bytes":1,"sha256":"00"},"options":{"k":1,"l":2},"inputs":[]}"#;
        let is = r#"{"version":"0.2.0","model":{"name":"a","bytes":1,"sha256":"11"},"options":{"k":3,"m":2},"inputs":[1]}"#;
        let fault = faults(was, is).unwrap();
        for part in [
            r#"version was "0.1.0", is "0.2.0""#,
            "model was a (sha256 00...), is a (sha256 11...)",
            "options.k was 1, is 3",
            "options.l was 2, is not set",
            "options.m was not set, is 2",
            "inputs was [] (0 values), is [1] (1 values)",
            "--restart",
        ] {
            assert!(fault.contains(part), "{part}: {fault}");
        }
    }

    #[test]
    fn a_file_may_move() {
        let was = r#"{"inputs":[{"name":"a/x","bytes":1,"sha256":"00"}]}"#;
        assert_eq!(faults(was, &was.replace("a/x", "b/y")), None);
    }
}
