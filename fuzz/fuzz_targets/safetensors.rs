//! Any bytes as a weight file: listed and read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::Source;

fuzz_target!(|file: &[u8]| {
    let Ok(source) = Source::from_bytes(file.to_vec()) else { return };
    for tensor in source.tensors() {
        let Ok(view) = source.view(tensor) else { continue };
        // Checked by the readers: no more values than four times the file's bytes.
        assert!(view.n_rows() * view.n_in() <= 4 * file.len());
        let _ = source.values(tensor);
    }
});
