//! Damaged and absurd GGUF files: an error or a sound view, never a panic, and never more memory
//! than the file's size explains. This binary's allocator counts.

#[path = "support/counting.rs"]
mod counting;

use pith::gguf::Gguf;

/// Parses and looks at everything; returns whether the file was sound, and the most bytes held.
fn parse(file: &[u8]) -> (bool, usize) {
    counting::peak(|| match Gguf::parse(file) {
        Ok(gguf) => {
            for (key, value) in gguf.metadata() {
                let array = value.as_array();
                assert!(array.is_none_or(|a| a.values().count() == a.len()), "{key}");
            }
            for tensor in gguf.tensors() {
                let row = tensor.format.row_bytes(tensor.n_in()).unwrap();
                assert_eq!(tensor.data.len(), row * tensor.n_rows(), "{}", tensor.name);
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000, "{error}");
            false
        }
    })
}

/// Every value type and ten tensors: 5.5 KB made by tests/gguf_python.py.
const SAMPLE: &[u8] = include_bytes!("data/gguf_python.gguf.bin");

/// What the sample and its damaged copies may take at most.
const MOST: usize = 64 << 10;

#[test]
fn truncated_anywhere() {
    let (sound, peak) = parse(SAMPLE);
    assert!(sound && peak < MOST, "{peak}");
    let gguf = Gguf::parse(SAMPLE).unwrap();
    let end = gguf.tensors().iter().map(|t| t.offset as usize + t.data.len()).max().unwrap();
    for len in 0..SAMPLE.len() {
        let (sound, peak) = parse(&SAMPLE[..len]);
        assert_eq!(sound, len >= end, "cut to {len} bytes"); // after the last tensor: padding
        assert!(peak < MOST, "cut to {len} bytes: {peak}");
    }
}

#[test]
fn any_bit_flipped() {
    let mut file = SAMPLE.to_vec();
    for at in 0..file.len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            let (_, peak) = parse(&file);
            assert!(peak < MOST, "bit {bit} of byte {at}: {peak}");
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn absurd_numbers_anywhere() {
    let mut absurd =
        [0, 1 << 31, 1 << 32, (1 << 42) + 1, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX];
    absurd[0] = SAMPLE.len() as u64;
    for at in 0..SAMPLE.len() - 8 {
        for number in absurd {
            let mut file = SAMPLE.to_vec();
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
            let (_, peak) = parse(&file);
            assert!(peak < MOST, "{number} at byte {at}: {peak}");
        }
    }
}

fn header(n_tensors: usize, n_keys: usize) -> Vec<u8> {
    let counts = [n_tensors as u64, n_keys as u64].map(u64::to_le_bytes).concat();
    [b"GGUF\x03\0\0\0", &*counts].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn long_arrays_are_not_copied() {
    let n_tokens = 262_144u64;
    let mut file = header(0, 1);
    file.extend([&*text("tokens"), &9u32.to_le_bytes(), &8u32.to_le_bytes()].concat());
    file.extend(n_tokens.to_le_bytes());
    (0..n_tokens).for_each(|i| file.extend(text(&format!("token {i}"))));
    let (sound, peak) = parse(&file);
    assert!(sound && peak < 2048, "{peak}");
}

#[test]
fn as_many_keys_and_tensors_as_may_be() {
    let (n_keys, n_tensors) = (1 << 16, 1 << 17);
    let mut file = header(n_tensors, n_keys);
    (0..n_keys).for_each(|i| file.extend([&*text(&format!("{i:x}")), &[0; 4], &[0]].concat()));
    for i in 0..n_tensors as u64 {
        let (n_dims, n_in, f32) = (1u32.to_le_bytes(), 1u64.to_le_bytes(), 0u32.to_le_bytes());
        let offset = (32 * i).to_le_bytes();
        file.extend([&*text(&format!("{i:x}")), &n_dims, &n_in, &f32, &offset].concat());
    }
    file.resize(file.len().next_multiple_of(32) + 32 * n_tensors, 0);
    let (sound, peak) = parse(&file);
    assert!(sound && peak < 64 << 20, "{peak}");
}

#[test]
fn counts_of_what_is_not_there() {
    let mut file = header(1 << 17, 1 << 16);
    file.resize(6 << 20, 0); // room for that many of the smallest, but the first key is empty
    let (sound, peak) = parse(&file);
    assert!(!sound && peak < 16 << 20, "{peak}");
}
