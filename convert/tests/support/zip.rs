//! Archives as torch.save writes them, without its zip64 records, to be damaged by tests.
#![allow(dead_code, missing_docs)]

/// A stored archive of these entries.
pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = file.len() as u32;
        let crc = crc32fast::hash(data).to_le_bytes();
        let len = (data.len() as u32).to_le_bytes();
        let mut fields = vec![0u8; 8]; // flags, method, time
        fields.extend(crc);
        fields.extend(len);
        fields.extend(len);
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
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0, 0]);
    file
}

/// Where the nth occurrence of `what` begins.
pub fn position(file: &[u8], what: &[u8], n: usize) -> usize {
    let found = file.windows(what.len()).enumerate().filter(|(_, window)| *window == what);
    found.map(|(at, _)| at).nth(n).expect("a signature that the archive has")
}
