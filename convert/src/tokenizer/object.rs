//! JSON objects of which every key must be used: what pith doesn't know, it refuses by name.

use std::path::Path;

use pith::{Error, Result};
use serde_json::{Map, Value};

/// An object with the name of its file and its place there, for messages.
pub(super) struct Object {
    place: String,
    keys: Map<String, Value>,
}

/// Keys that may be unknown on the caller's word.
pub(super) struct Allowed<'a> {
    pub(super) keys: &'a [String],
    /// Those that were there.
    pub(super) used: Vec<String>,
}

impl Object {
    /// Reads a file; `None` if there is none.
    pub(super) fn read(dir: &Path, file: &'static str) -> Result<Option<Object>> {
        read_text(dir, file)?.map(|text| Object::parse(file, &text)).transpose()
    }

    /// Parses a file's text.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Object> {
        let value = serde_json::from_str(text)
            .map_err(|e| Error::malformed("JSON", format!("{file}: {e}")))?;
        Object::new(file.to_string(), value)
    }

    /// An object at `place`.
    pub(super) fn new(place: String, value: Value) -> Result<Object> {
        match value {
            Value::Object(keys) => Ok(Object { place, keys }),
            other => Err(Error::malformed(
                "JSON",
                format!("{place}: wanted an object, got {}", short(&other)),
            )),
        }
    }

    /// Where a key lies: "file: a.b".
    pub(super) fn place(&self, key: &str) -> String {
        let separator = if self.place.contains(": ") { "." } else { ": " };
        format!("{}{separator}{key}", self.place)
    }

    /// Takes a key; null counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key).filter(|v| !v.is_null())
    }

    /// Takes a key that must be there.
    pub(super) fn need(&mut self, key: &str) -> Result<Value> {
        self.take(key).ok_or_else(|| {
            Error::malformed("JSON", format!("{}: the key is missing", self.place(key)))
        })
    }

    /// Takes an object.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Object>> {
        let place = self.place(key);
        self.take(key).map(|v| Object::new(place, v)).transpose()
    }

    /// Takes a flag.
    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |v| v.as_bool())
    }

    /// Takes a string.
    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_string))
    }

    /// Takes an id.
    pub(super) fn id(&mut self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", |v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
    }

    /// Takes a list.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Value>> {
        let place = self.place(key);
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(wrong(&place, "a list", &other)),
        }
    }

    fn typed<T>(
        &mut self,
        key: &str,
        wanted: &str,
        of: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let place = self.place(key);
        let Some(value) = self.take(key) else { return Ok(None) };
        of(&value).map(Some).ok_or_else(|| wrong(&place, wanted, &value))
    }

    /// Takes a string, or the `content` of an added token's object.
    pub(super) fn token(&mut self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a token", |v| {
            v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_string)
        })
    }

    /// The keys and values that are left.
    pub(super) fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.keys)
    }

    /// Drops keys that change nothing in pith.
    pub(super) fn harmless(&mut self, keys: &[&str]) {
        keys.iter().for_each(|&key| drop(self.take(key)));
    }

    /// Nothing but nulls and keys that the caller allows is left.
    pub(super) fn done_but(mut self, allowed: &mut Allowed<'_>) -> Result<()> {
        for key in allowed.keys {
            if self.take(key).is_some() {
                allowed.used.push(key.clone());
            }
        }
        self.done()
    }

    /// Nothing but nulls is left.
    pub(super) fn done(mut self) -> Result<()> {
        let left = self.rest().into_iter().find(|(_, value)| !value.is_null());
        match left {
            None => Ok(()),
            Some((key, value)) => Err(Error::Unsupported(format!(
                "{} = {}: pith doesn't know this key, and ignoring it could change the ids. If it \
                 doesn't, pass --allow-unknown {key}",
                self.place(&key),
                short(&value)
            ))),
        }
    }
}

/// A value of the wrong type.
pub(super) fn wrong(place: &str, wanted: &str, got: &Value) -> Error {
    Error::malformed("JSON", format!("{place}: wanted {wanted}, got {}", short(got)))
}

/// A value's text, cut to a line.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The longest file of a tokenizer that is read.
pub(super) const MAX_FILE: u64 = 256 << 20;

/// Reads a text file; `None` if there is none.
pub(super) fn read_text(dir: &Path, file: &str) -> Result<Option<String>> {
    let Some(bytes) = read_bytes(dir, file, MAX_FILE)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| Error::malformed("JSON", format!("{file} is not UTF-8")))
}

/// Reads a regular file of at most `most` bytes; `None` if there is none.
pub(super) fn read_bytes(dir: &Path, file: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let path = dir.join(file);
    let kind = match std::fs::metadata(&path) {
        Ok(kind) => kind,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    if !kind.is_file() || kind.len() > most {
        return Err(Error::Invalid(format!(
            "{} is no regular file of at most {most} bytes",
            path.display()
        )));
    }
    std::fs::read(&path).map(Some).map_err(Error::io("read", path))
}
