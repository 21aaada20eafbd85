//! Keys that nest in objects (MPT's `attn_config`), laid out flat.

use pith::Result;
use pith_models::{Family, Means};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The keys with their values; those of a nested object as `object.key`.
pub(super) fn flat<'j>(
    family: &Family,
    json: &'j Map<String, Value>,
) -> Result<Vec<(Cow<'j, str>, &'j Value)>> {
    let mut keys = Vec::with_capacity(json.len());
    for (key, value) in json {
        match (family.means(key), value) {
            (Some(Means::Nested), Value::Object(nested)) => keys.extend(
                nested.iter().map(|(name, value)| (Cow::Owned(format!("{key}.{name}")), value)),
            ),
            (Some(Means::Nested), Value::Null) => {}
            (Some(Means::Nested), _) => return Err(super::wrong(key, "an object", value)),
            _ => keys.push((Cow::Borrowed(key.as_str()), value)),
        }
    }
    Ok(keys)
}

/// Whether the configuration sets a flag.
pub(super) fn is_set(json: &Map<String, Value>, flag: &str) -> bool {
    json.get(flag).and_then(Value::as_bool) == Some(true)
}
