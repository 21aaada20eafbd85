//! Any bytes as a GGUF file: parse, then look at everything the parser vouches for.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use pith::gguf::{Array, Gguf, Value};

fuzz_target!(|bytes: &[u8]| {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            // An error is short, whatever the file says.
            assert!(error.to_string().len() < 2000);
            return;
        }
    };
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.get(key), Some(value));
        black_box((value.as_i64(), value.as_u64(), value.as_f32(), gguf.require_str(key)).3.ok());
        if let Some(array) = value.as_array() {
            look_at(array);
        }
    }
    for tensor in gguf.tensors() {
        assert!(std::ptr::eq(gguf.tensor(tensor.name).unwrap(), tensor));
        assert_eq!(tensor.offset % u64::from(gguf.alignment()), 0);
        assert!(std::ptr::eq(&bytes[tensor.offset as usize], &tensor.data[0]));
        let row_bytes = tensor.format.row_bytes(tensor.n_in()).unwrap();
        assert_eq!(tensor.data.len(), row_bytes * tensor.n_rows());
        let mut row = vec![0.0; tensor.n_in()];
        tensor.format.decode(&tensor.data[..row_bytes], &mut row);
        black_box(row);
    }
});

fn look_at(array: &Array) {
    assert_eq!(array.values().count(), array.len());
    for count in [
        array.strings().map(Iterator::count),
        array.f32s().map(Iterator::count),
        array.i64s().map(Iterator::count),
        array.u64s().map(Iterator::count),
        array.bools().map(Iterator::count),
    ] {
        assert!(count.is_none_or(|n| n == array.len()));
    }
    for value in array.values() {
        assert_eq!(value.value_type(), array.element_type());
        if let Value::Array(inner) = value {
            look_at(&inner);
        }
    }
}
