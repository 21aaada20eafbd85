//! Any bytes as an adapter's file: an error, or pairs whose sizes the file explains.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith::{Lora, bytes::Bytes};

fuzz_target!(|bytes: &[u8]| {
    match Lora::from_bytes(Bytes::from_vec(bytes.to_vec())) {
        Err(error) => assert!(error.to_string().len() < 2000),
        Ok(lora) => {
            assert!(lora.changes().count() > 0);
            for (name, rank) in lora.changes() {
                // Both factors have a row or column for each rank, of 2 bytes at least.
                assert!(!name.is_empty() && rank >= 1 && 4 * rank <= bytes.len());
            }
        }
    }
});
