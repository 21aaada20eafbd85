//! Any bytes as the index of a TensorFlow checkpoint: as they are, and as the first block of a table
//! whose checksums are right. What is accepted lies in its data files, and apart.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith_convert::source::{Data, tf_bundle};

fuzz_target!(|input: &[u8]| {
    check(input);
    let Some((&kind, block)) = input.split_first() else { return };
    check(&table(block, kind & 1));
});

fn check(file: &[u8]) {
    let Ok(bundle) = tf_bundle::read(file) else { return };
    let mut places = Vec::new();
    for (shard, entry) in &bundle.tensors {
        let Data::Mapped { range, .. } = &entry.data else { panic!("bundles pack nothing") };
        assert!(*shard < bundle.n_shards);
        let n = entry.shape.iter().product::<usize>();
        assert_eq!(range.len(), n * entry.dtype.bits() / 8);
        if !range.is_empty() {
            places.push((*shard, range.start, range.end));
        }
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1));
}

/// A table of one data block.
fn table(block: &[u8], kind: u8) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, block, kind);
    let mut index = vec![0, 1];
    let handle = handle(0, block.len());
    index.push(handle.len() as u8);
    index.push(b'z');
    index.extend(&handle);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let at = file.len();
    put(&mut file, &index, 0);
    let mut footer = [self::handle(0, 0), self::handle(at, index.len())].concat();
    footer.resize(40, 0);
    file.extend(footer);
    file.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    file
}

/// Appends a block with its type and checksum.
fn put(file: &mut Vec<u8>, block: &[u8], kind: u8) {
    let at = file.len();
    file.extend(block);
    file.push(kind);
    let mut crc = !0u32;
    for &byte in &file[at..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    file.extend((!crc).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
}

fn handle(at: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for mut value in [at, len] {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    out
}
