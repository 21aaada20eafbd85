//! Pickles and torch.save's legacy streams, made by hand to be damaged by tests.
#![allow(dead_code, missing_docs)]

/// The magic number and the version.
pub const HEAD: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
/// What the machine was like.
pub const LITTLE: &[u8] = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";

/// A string.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An integer.
pub fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

/// A tuple of values.
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &*items.concat(), b"t"].concat()
}

/// A tensor with these parts; `part` is what legacy streams say behind a storage's length.
pub fn tensor(key: &str, whole: i64, part: &[u8], offset: i64, shape: &[i64]) -> Vec<u8> {
    let ints = |sizes: &[i64]| tuple(&sizes.iter().map(|&size| int(size)).collect::<Vec<_>>());
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].wrapping_mul(shape[i]);
    }
    let class = b"ctorch\nFloatStorage\n".to_vec();
    let id = [text("storage"), class, text(key), text("cpu"), int(whole), part.to_vec()];
    let storage = [tuple(&id), b"Q".to_vec()].concat();
    let args = [storage, int(offset), ints(shape), ints(&strides), b"\x89".to_vec(), b"N".to_vec()];
    [b"ctorch._utils\n_rebuild_tensor_v2\n", &*tuple(&args), b"R"].concat()
}

/// A dict as a value.
pub fn inner(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<_> =
        pairs.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &*pairs.concat(), b"u"].concat()
}

/// A pickle of a dict.
pub fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    [b"\x80\x02", &*inner(pairs), b"."].concat()
}

/// A pickle of a list of strings.
pub fn list(keys: &[&str]) -> Vec<u8> {
    let keys: Vec<_> = keys.iter().map(|key| text(key)).collect();
    [b"\x80\x02](", &*keys.concat(), b"e."].concat()
}

/// A storage of F32 zeros with its count.
pub fn zeros(count: u64) -> Vec<u8> {
    [&count.to_le_bytes()[..], &vec![0; count as usize * 4]].concat()
}

/// A stream of these pickles and storages.
pub fn stream(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    [HEAD, LITTLE, object, keys, storages].concat()
}
