//! Any bytes as the pickle of a torch archive: run by the data machine alone, then in an archive
//! with one storage of 64 bytes, whose tensors are read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::{self, Data, pickle::Pickle};

fuzz_target!(|pickle: &[u8]| {
    let sound = Pickle::parse(pickle).is_ok();
    let file = archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 64])]);
    let Ok((entries, _)) = source::read(&file) else { return };
    assert!(sound, "an archive can't hold a state dict that its pickle doesn't");
    for entry in &entries {
        let Data::Mapped { range, .. } = &entry.data else { panic!("archives pack nothing") };
        assert!(range.end <= file.len());
    }
    let Ok(source) = source::Source::from_bytes(file) else { return };
    for tensor in source.tensors() {
        if source.view(tensor).is_ok() {
            source.values(tensor).expect("the archive's CRC is right");
        }
    }
});

/// A stored zip archive.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = file.len() as u32;
        let mut fields = vec![0; 8]; // flags, method, time
        fields.extend(crc32fast::hash(data).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]); // no extra field
        file.extend(b"PK\x03\x04\0\0");
        file.extend(&fields);
        file.extend(name.as_bytes());
        file.extend(*data);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(&fields);
        directory.extend([0; 10]); // comment length, disk, attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([entries.len() as u8, 0, entries.len() as u8, 0]);
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0, 0]);
    file
}
