//! Any bytes as a `config.json`: numbers, heads, and what they say together.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use pith_convert::config::Config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let Ok(config) = Config::read(&json, &[]) else { return };
    if let Some(head) = &config.classifier {
        assert!(!head.labels.is_empty());
    }
    black_box(config.numbers());
});
