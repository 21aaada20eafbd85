//! LevelDB tables of one data block, right or wrong.

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// CRC-32C, bit by bit, with LevelDB's mask.
pub fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A block of entries without shared prefixes.
pub fn block(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in entries {
        out.push(0);
        out.extend(varint(key.len() as u64));
        out.extend(varint(value.len() as u64));
        out.extend(*key);
        out.extend(*value);
    }
    out.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    out
}

/// Block handles: where a block lies and its length.
pub fn handle(at: u64, len: u64) -> Vec<u8> {
    [varint(at), varint(len)].concat()
}

/// A table with these bytes as its one block, of compression `kind`, and an index of `handles`, or
/// of that block.
pub fn table(block: &[u8], kind: u8, handles: Option<&[Vec<u8>]>) -> Vec<u8> {
    tables(&[block], kind, handles)
}

/// The same with several blocks.
pub fn tables(blocks: &[&[u8]], kind: u8, handles: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut put = |data: &[u8], kind: u8| {
        let at = file.len() as u64;
        file.extend(data);
        file.push(kind);
        let crc = masked_crc(&file[at as usize..]);
        file.extend(crc.to_le_bytes());
        handle(at, data.len() as u64)
    };
    let own: Vec<Vec<u8>> = blocks.iter().map(|block| put(block, kind)).collect();
    let handles = handles.unwrap_or(&own);
    let entries: Vec<(&[u8], &[u8])> = handles.iter().map(|h| (&b"z"[..], h.as_slice())).collect();
    let index = put(&block(&entries), 0);
    let mut footer = [handle(0, 0), index].concat();
    footer.resize(40, 0);
    file.extend(footer);
    file.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    file
}

/// A field of a protobuf message: a number, or bytes.
pub fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

pub fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(value.len() as u64), value.to_vec()].concat()
}
