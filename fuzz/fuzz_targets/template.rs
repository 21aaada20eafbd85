//! Templates and rows: a template, a text and a JSON value. A row must never make a control token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pith::tokenizer::{Kind, Model, Splitter, Tokenizer, Vocab};
use pith_jobs::{
    guard::Guard,
    row::{Cell, Row},
    template::Template,
};
use serde_json::value::RawValue;

fuzz_target!(|input: (&str, &str, &str)| {
    let (source, text, json) = input;
    let tokenizer = tokenizer();
    let Ok(template) = Template::new(source, Some(&Guard::new(&tokenizer))) else { return };
    let mut row = Row::default();
    row.push("x", Cell::Text(text.into()));
    if let Ok(json) = RawValue::from_string(json.to_owned()) {
        row.push("y", Cell::Json(json));
    }
    let Ok(prompt) = template.prompt(&row) else { return };
    let ids = prompt.encode(&tokenizer);
    assert!(source.contains("<s>") || !ids.contains(&0));
});

fn tokenizer() -> Tokenizer {
    let tokens: [&[u8]; 5] = [b"<s>", b"<", b"s", b">", b" "];
    let mut kinds = vec![Kind::Normal; tokens.len()];
    kinds[0] = Kind::Control;
    let vocab =
        Vocab { splitter: Splitter::Gpt2, kinds, ..Vocab::new(Model::ByteLevel, tokens.to_vec()) };
    Tokenizer::new(&vocab).unwrap()
}
