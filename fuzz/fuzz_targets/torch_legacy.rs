//! Any bytes behind the head of a legacy stream of torch.save: the object's pickle, the storages' keys
//! and the storages. Listed and read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::{Data, Source, torch_legacy};

/// The magic number, the version, and a little-endian machine, each a pickle.
const HEAD: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\
    \x80\x02}X\x0d\0\0\0little_endian\x88s.";

fuzz_target!(|rest: &[u8]| {
    let file = [HEAD, rest].concat();
    let Ok((entries, _)) = torch_legacy::read(&file) else { return };
    for entry in &entries {
        let Data::Mapped { range, .. } = &entry.data else { panic!("streams pack nothing") };
        assert!(range.end <= file.len());
    }
    let source = Source::from_bytes(file).expect("what was read once is read again");
    for tensor in source.tensors() {
        if source.view(tensor).is_ok() {
            source.values(tensor).expect("streams have no CRC");
        }
    }
});
