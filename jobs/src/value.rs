//! A cell as a value for templates: texts as they are, JSON as numbers, lists and dictionaries.

use std::collections::BTreeMap;

use minijinja::Value;

use crate::row::Cell;

/// Arrays and objects inside each other; as many as serde_json takes.
const MAX_DEPTH: usize = 128;

/// The value of a cell. Whole numbers are exact up to 128 bits, other numbers are of 64 bits.
///
/// # Errors
/// What no value can hold: nesting too deep, a number too large, half a surrogate pair.
pub(crate) fn of(cell: &Cell) -> Result<Value, String> {
    match cell {
        Cell::Text(text) => Ok(Value::from(text.as_str())),
        Cell::Json(json) => Reader { json: json.get(), at: 0 }.value(0),
    }
}

/// A reader of what serde_json has found to be JSON. It is written here because serde_json makes
/// floats of whole numbers of more than 64 bits.
struct Reader<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.json[self.at..]
    }

    /// The next character that is no whitespace.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.rest().bytes().next()
    }

    /// Takes `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} arrays and objects inside each other"));
        }
        match self.peek() {
            Some(b'"') => Ok(Value::from(self.string()?)),
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            _ => self.word(),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut values = Vec::new();
        while !self.take(b']') {
            values.push(self.value(depth + 1)?);
            self.take(b',');
        }
        Ok(Value::from(values))
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut values = BTreeMap::new();
        while !self.take(b'}') {
            self.peek();
            let key = self.string()?;
            self.take(b':');
            values.insert(key, self.value(depth + 1)?);
            self.take(b',');
        }
        Ok(Value::from(values))
    }

    fn string(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let mut is_escaped = false;
        let inside = |byte: &u8| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            !ends
        };
        let len = rest.bytes().skip(1).take_while(inside).count() + 2;
        let string = rest.get(..len).ok_or("a text without an end")?;
        self.at += len;
        serde_json::from_str(string).map_err(|error| error.to_string())
    }

    /// A number, true, false or null.
    fn word(&mut self) -> Result<Value, String> {
        let rest = self.rest();
        let word = &rest[..rest.find([' ', '\t', '\r', '\n', ',', ']', '}']).unwrap_or(rest.len())];
        self.at += word.len();
        match word {
            "null" => return Ok(Value::from(())),
            "true" | "false" => return Ok(Value::from(word == "true")),
            _ => {}
        }
        // 0 and -0 are different floats, and so would be a reader's idea of them.
        let whole = word
            .parse::<i128>()
            .map(Value::from)
            .or_else(|_| word.parse::<u128>().map(Value::from));
        if let Ok(whole) = whole {
            return Ok(whole);
        }
        match word.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::from(number)),
            _ => Err(format!("{:.40} is no number of 64 bits", word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn value(json: &str) -> Result<Value, String> {
        of(&Cell::Json(RawValue::from_string(json.to_owned()).unwrap()))
    }

    #[test]
    fn values_are_those_of_the_json() {
        for (json, wanted) in [
            ("null", "none"),
            (" true", "true"),
            ("18446744073709551616", "18446744073709551616"),
            (
                "-170141183460469231731687303715884105728",
                "-170141183460469231731687303715884105728",
            ),
            ("340282366920938463463374607431768211455", "340282366920938463463374607431768211455"),
            ("1.50", "1.5"),
            ("[1, \"a\\\"\\\\\", [ ] , {\"b\" : {}}]", r#"[1, 'a"\\', [], {'b': {}}]"#),
            ("{\"\\u00e9\\ud83e\\udd99\":[null]}", "{'é🦙': [none]}"),
        ] {
            assert_eq!(value(json).unwrap().to_string().to_lowercase(), wanted, "{json}");
        }
    }

    #[test]
    fn what_no_value_can_hold_is_said() {
        let deep = "[".repeat(99_999) + &"]".repeat(99_999);
        assert!(value(&deep).unwrap_err().contains("inside each other"));
        assert!(value("1e999").unwrap_err().contains("no number"));
        assert!(value("\"\\ud800\"").is_err());
    }
}
