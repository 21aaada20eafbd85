//! Any bytes as Flax parameters: listed and read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::{Data, Source, msgpack};

fuzz_target!(|file: &[u8]| {
    let Ok((entries, _)) = msgpack::read(file) else { return };
    for entry in &entries {
        if let Data::Mapped { range, .. } = &entry.data {
            assert!(range.end <= file.len());
        }
    }
    // A file whose ninth byte is `{` may be safetensors.
    let Ok(source) = Source::from_bytes(file.to_vec()) else { return };
    for tensor in source.tensors() {
        if source.view(tensor).is_ok() {
            source.values(tensor).expect("what is listed is there");
        }
    }
});
