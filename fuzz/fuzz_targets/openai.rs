//! OpenAI requests: the body of a line as bytes, for both endpoints.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_jobs::{
    openai::{Request, custom_id, refuse},
    row::{Cell, Row},
};
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let Ok(json) = std::str::from_utf8(data) else { return };
    let Ok(body) = RawValue::from_string(json.to_owned()) else { return };
    for url in ["/v1/completions", "/v1/chat/completions"] {
        let mut row = Row::default();
        for (key, text) in [("custom_id", "a"), ("method", "POST"), ("url", url)] {
            row.push(key, Cell::Text(text.into()));
        }
        row.push("body", Cell::Json(body.clone()));
        if let Err(fault) = Request::parse(&row) {
            let line = refuse(custom_id(&row), true, 0, &fault).json();
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
        }
    }
});
