//! Any bytes as an HDF5 file: listed and unpacked, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::Source;

fuzz_target!(|file: &[u8]| {
    // The signature would be found only once in a lifetime.
    let file = [b"\x89HDF\r\n\x1a\n", file].concat();
    let len = file.len();
    let Ok(source) = Source::from_bytes(file) else { return };
    for tensor in source.tensors() {
        // Checked by the reader: no more bytes than four times the file's.
        assert!(tensor.entry.shape.iter().product::<usize>() <= 4 * len);
        let _ = source.values(tensor);
    }
});
