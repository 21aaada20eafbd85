//! GGUF: every rule of the reader and the writer broken once, and round trips: with pith's own
//! writer, and with the Python package `gguf` (tests/gguf_python.py).

use std::{fs, path::Path};

use pith::{
    gguf::{Array, Gguf, OwnedValue, Tensor, Type, Value, Writer},
    quant::Format,
};
use proptest::prelude::*;

// ---------------------------------------------------------------- files written by hand

/// A string as GGUF stores it.
fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    [&(text.as_ref().len() as u64).to_le_bytes(), text.as_ref()].concat()
}

/// A key and its value, whose bytes follow the type.
fn key(name: &str, of: u32, value: &[u8]) -> Vec<u8> {
    [&*text(name), &of.to_le_bytes(), value].concat()
}

/// What comes before the elements of an array.
fn array(of: u32, len: u64) -> Vec<u8> {
    [&of.to_le_bytes()[..], &len.to_le_bytes()].concat()
}

fn header(name: &str, dims: &[u64], format: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let n_dims = (dims.len() as u32).to_le_bytes();
    [&*text(name), &n_dims, &dims_bytes, &format.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A file of these keys and tensor headers, padded to 32 bytes, and `n_data` bytes of data. The
/// first key or header begins at byte 24.
fn file(keys: &[Vec<u8>], headers: &[Vec<u8>], n_data: usize) -> Vec<u8> {
    let counts = [headers.len() as u64, keys.len() as u64].map(u64::to_le_bytes).concat();
    let mut file = [b"GGUF\x03\0\0\0", &*counts, &keys.concat(), &headers.concat()].concat();
    file.resize(file.len().next_multiple_of(32) + n_data, 0);
    file
}

fn with_key(of: u32, value: &[u8]) -> Vec<u8> {
    file(&[key("k", of, value)], &[], 0)
}

fn with_tensor(dims: &[u64], format: u32, offset: u64, n_data: usize) -> Vec<u8> {
    file(&[], &[header("t", dims, format, offset)], n_data)
}

/// The file with some bytes replaced.
fn patched(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..][..bytes.len()].copy_from_slice(bytes);
    file
}

// ---------------------------------------------------------------- the reader's rules

/// One test per rule: a file that breaks it, and the error, word for word.
macro_rules! refuses {
    ($($rule:ident: $file:expr => $error:expr;)*) => {$(
        #[test]
        #[allow(clippy::unnecessary_to_owned)] // files are arrays and vectors alike
        fn $rule() {
            assert_eq!(Gguf::parse(&$file).unwrap_err().to_string(), $error);
        }
    )*};
}

mod refuses {
    use super::*;

    const F32: u32 = 0;
    const Q8_0: u32 = 8;

    refuses! {
        an_empty_file: [] =>
            "malformed GGUF file at byte 0: wanted 4 bytes, 0 are left; is the file truncated?";
        another_magic: patched(file(&[], &[], 0), 0, b"ggjt") =>
            "malformed GGUF file at byte 0: wanted the magic \"GGUF\", got [67, 67, 6a, 74]; convert the model first";
        version_1: patched(file(&[], &[], 0), 4, &[1]) =>
            "unsupported: GGUF version 1; pith reads 2 and 3: convert the model again";
        version_0: patched(file(&[], &[], 0), 4, &[0]) =>
            "unsupported: GGUF version 0; pith reads 2 and 3: convert the model again";
        version_4: patched(file(&[], &[], 0), 4, &[4]) =>
            "unsupported: GGUF version 4; pith reads 2 and 3: convert the model again";
        big_endian_files: patched(file(&[], &[], 0), 4, &[0, 0, 0, 3]) =>
            "unsupported: the version field reads as 0x03000000: a big-endian GGUF file; make it little-endian with gguf-convert-endian of the Python package gguf";
        more_tensors_than_bytes: patched(file(&[], &[], 0), 8, &[1]) =>
            "malformed GGUF file at byte 8: tensor count is 1, but the 16 bytes left hold at most 0";
        absurdly_many_tensors: patched(file(&[], &[], 0), 8, &[255; 8]) =>
            "malformed GGUF file at byte 8: tensor count is 18446744073709551615, but the 16 bytes left hold at most 0";
        tensors_over_the_limit: patched(file(&[], &[], 33 << 18), 8, &(1u64 << 18).to_le_bytes()) =>
            "malformed GGUF file at byte 8: tensor count is 262144, pith reads at most 131072";
        more_keys_than_bytes: patched(file(&[], &[], 0), 16, &[1]) =>
            "malformed GGUF file at byte 16: key count is 1, but the 8 bytes left hold at most 0";
        keys_over_the_limit: patched(file(&[], &[], 14 << 17), 16, &(1u64 << 17).to_le_bytes()) =>
            "malformed GGUF file at byte 16: key count is 131072, pith reads at most 65536";
        empty_keys: file(&[key("", 0, &[0])], &[], 0) =>
            "malformed GGUF file at byte 24: key 0 has 0 bytes, wanted 1 to 65535";
        long_keys: file(&[key(&"k".repeat(65536), 0, &[0])], &[], 0) =>
            "malformed GGUF file at byte 24: key 0 has 65536 bytes, wanted 1 to 65535";
        keys_longer_than_the_file: patched(with_key(0, &[0]), 24, &[255; 8]) =>
            "malformed GGUF file at byte 24: key 0: string length is 18446744073709551615, but the 32 bytes left hold at most 32";
        keys_that_are_not_utf8: patched(file(&[key("k\u{e9}", 0, &[0])], &[], 0), 33, &[255]) =>
            "malformed GGUF file at byte 33: key 0: the string is not UTF-8";
        duplicate_keys: file(&[key("k", 0, &[0]), key("k", 0, &[1])], &[], 0) =>
            "malformed GGUF file at byte 38: key k occurs twice";
        unknown_value_types: with_key(13, &[0]) =>
            "malformed GGUF file at byte 33: key k: value type 13 does not exist";
        flags_other_than_0_and_1: with_key(7, &[2]) =>
            "malformed GGUF file at byte 37: key k: a flag is 0 or 1, got 2";
        flags_in_arrays_other_than_0_and_1: with_key(9, &[&*array(7, 2), &[1, 2]].concat()) =>
            "malformed GGUF file at byte 50: key k: element 1: a flag is 0 or 1, got 2";
        strings_longer_than_the_file: with_key(8, &9999u64.to_le_bytes()) =>
            "malformed GGUF file at byte 37: key k: string length is 9999, but the 19 bytes left hold at most 19";
        strings_that_are_not_utf8: with_key(8, &text(b"ab\xc3")) =>
            "malformed GGUF file at byte 47: key k: the string is not UTF-8";
        strings_in_arrays_that_are_not_utf8: with_key(9, &[array(8, 2), text("a"), text(b"\xff")].concat()) =>
            "malformed GGUF file at byte 66: key k: element 1: the string is not UTF-8";
        values_cut_off: file(&[key("k", 10, &[])], &[], 0)[..40].to_vec() =>
            "malformed GGUF file at byte 37: key k: wanted 8 bytes, 3 are left; is the file truncated?";
        unknown_element_types: with_key(9, &array(99, 1)) =>
            "malformed GGUF file at byte 37: key k: value type 99 does not exist";
        arrays_longer_than_the_file: with_key(9, &array(6, 1 << 62)) =>
            "malformed GGUF file at byte 41: key k: array length is 4611686018427387904, but the 15 bytes left hold at most 3";
        arrays_in_arrays_in_arrays: with_key(9, &[array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat()) =>
            "malformed GGUF file at byte 85: key k: element 0: element 0: element 0: element 0: arrays lie more than 4 deep";
        alignment_of_another_type: file(&[key("general.alignment", 0, &[32])], &[], 0) =>
            "malformed GGUF file: key general.alignment: wanted a power of two up to 65536 as U32, got U8(32)";
        alignment_0: file(&[key("general.alignment", 4, &0u32.to_le_bytes())], &[], 0) =>
            "malformed GGUF file: key general.alignment: wanted a power of two up to 65536 as U32, got U32(0)";
        alignment_24: file(&[key("general.alignment", 4, &24u32.to_le_bytes())], &[], 0) =>
            "malformed GGUF file: key general.alignment: wanted a power of two up to 65536 as U32, got U32(24)";
        huge_alignments: file(&[key("general.alignment", 4, &(1u32 << 30).to_le_bytes())], &[], 0) =>
            "malformed GGUF file: key general.alignment: wanted a power of two up to 65536 as U32, got U32(1073741824)";
        empty_tensor_names: file(&[], &[header("", &[1], F32, 0)], 32) =>
            "malformed GGUF file at byte 24: name of tensor 0 has 0 bytes, wanted 1 to 1024";
        long_tensor_names: file(&[], &[header(&"t".repeat(1025), &[1], F32, 0)], 32) =>
            "malformed GGUF file at byte 24: name of tensor 0 has 1025 bytes, wanted 1 to 1024";
        tensor_names_that_are_not_utf8: patched(with_tensor(&[1], F32, 0, 32), 32, &[128]) =>
            "malformed GGUF file at byte 32: name of tensor 0: the string is not UTF-8";
        duplicate_tensor_names: file(&[], &[header("t", &[1], F32, 0), header("t", &[1], F32, 32)], 64) =>
            "malformed GGUF file at byte 57: tensor t: the name occurs twice";
        no_dimensions: patched(with_tensor(&[1], F32, 0, 32), 33, &[0]) =>
            "malformed GGUF file at byte 24: tensor t: 0 dimensions, wanted 1 to 4";
        five_dimensions: with_tensor(&[1; 5], F32, 0, 32) =>
            "malformed GGUF file at byte 24: tensor t: 5 dimensions, wanted 1 to 4";
        dimensions_of_0: with_tensor(&[4, 0], F32, 0, 32) =>
            "malformed GGUF file at byte 24: tensor t: shape [4, 0] has a dimension of 0";
        shapes_that_wrap_to_nothing: with_tensor(&[1 << 32, 1 << 32], F32, 0, 32) =>
            "malformed GGUF file at byte 24: tensor t: shape [4294967296, 4294967296] overflows";
        sizes_that_wrap_to_nothing: with_tensor(&[1 << 31, 1 << 31], F32, 0, 32) =>
            "malformed GGUF file at byte 24: tensor t: shape [2147483648, 2147483648] overflows";
        rows_of_half_a_block: with_tensor(&[48, 2], Q8_0, 0, 128) =>
            "malformed GGUF file at byte 24: tensor t: rows of 48 values are no multiple of Q8_0's block of 32";
        formats_that_pith_does_not_decode: with_tensor(&[256], 16, 0, 128) =>
            "unsupported: tensor t: stored as IQ2_XXS (type 16), which pith does not decode; get the model in another format";
        formats_that_do_not_exist: with_tensor(&[256], 5, 0, 128) =>
            "malformed GGUF file at byte 24: tensor t: type 5 does not exist in ggml as pith knows it";
        offsets_between_alignments: with_tensor(&[1], F32, 4, 64) =>
            "malformed GGUF file at byte 24: tensor t: offset 4 is no multiple of the alignment 32";
        data_outside_the_file: with_tensor(&[9], F32, 0, 32) =>
            "malformed GGUF file at byte 24: tensor t: 36 bytes at 64 + 0 lie outside the file of 96 bytes; is it truncated?";
        data_that_wraps_around: with_tensor(&[8], F32, u64::MAX - 31, 32) =>
            "malformed GGUF file at byte 24: tensor t: 32 bytes at 64 + 18446744073709551584 lie outside the file of 96 bytes; is it truncated?";
        overlapping_tensors: file(&[], &[header("t", &[4], F32, 32), header("u", &[9], F32, 0)], 64) =>
            "malformed GGUF file at byte 128: tensor u ends at 132, but tensor t begins at 128";
        headers_cut_off: with_tensor(&[1], F32, 0, 0)[..53].to_vec() =>
            "malformed GGUF file at byte 49: tensor t: wanted 8 bytes, 4 are left; is the file truncated?";
    }

    #[test]
    fn control_characters_and_endless_names_do_not_reach_the_terminal() {
        let file = file(&[], &[header(&format!("\x1b[2J{}", "x".repeat(500)), &[], F32, 0)], 0);
        assert_eq!(
            Gguf::parse(&file).unwrap_err().to_string(),
            format!(
                "malformed GGUF file at byte 24: tensor \\u{{1b}}[2J{}...: 0 dimensions, wanted 1 to 4",
                "x".repeat(76)
            )
        );
    }

    #[test]
    fn keys_that_a_caller_needs() {
        let file = file(&[key("k", 8, &text("x")), key("n", 5, &[255; 4])], &[], 0);
        let gguf = Gguf::parse(&file).unwrap();
        let prefix = "malformed GGUF file: key";
        for (got, wanted) in [
            (
                gguf.require_u64("k").err(),
                "k: wanted a whole number of at least 0, got the string \"x\"",
            ),
            (gguf.require_u64("n").err(), "n: wanted a whole number of at least 0, got I32(-1)"),
            (gguf.require_f32("n").err(), "n: wanted a float, got I32(-1)"),
            (gguf.require_bool("n").err(), "n: wanted a flag, got I32(-1)"),
            (gguf.require_str("n").err(), "n: wanted a string, got I32(-1)"),
            (gguf.require_str("o").err(), "o: wanted a string, got no such key"),
        ] {
            assert_eq!(got.unwrap().to_string(), format!("{prefix} {wanted}"));
        }
    }
}

// ---------------------------------------------------------------- what the reader accepts

#[test]
fn a_file_of_nothing_is_sound() {
    let file = file(&[], &[], 0);
    let gguf = Gguf::parse(&file[..24]).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 32));
    assert!(gguf.metadata().is_empty() && gguf.tensors().is_empty());
}

#[test]
fn version_2_reads_like_version_3() {
    let file = patched(with_tensor(&[2, 3], 0, 0, 24), 4, &[2]);
    let gguf = Gguf::parse(&file).unwrap();
    let tensor = gguf.tensor("t").unwrap();
    assert_eq!(gguf.version(), 2);
    assert_eq!((tensor.n_in(), tensor.n_rows(), tensor.offset), (2, 3, 96));
}

#[test]
fn data_may_lie_in_any_order_with_holes() {
    let headers = [header("t", &[1], 0, 64), header("u", &[1], 0, 0)];
    let bytes = file(&[], &headers, 68);
    let gguf = Gguf::parse(&bytes).unwrap();
    let start = bytes.len() as u64 - 68;
    let offsets: Vec<u64> = gguf.tensors().iter().map(|t| t.offset - start).collect();
    assert_eq!(offsets, [64, 0]);
}

#[test]
fn numbers_are_given_only_where_they_fit() {
    let values = [
        (Value::U64(u64::MAX), Some(u64::MAX), None),
        (Value::I64(-1), None, Some(-1)),
        (Value::I8(5), Some(5), Some(5)),
        (Value::F32(5.0), None, None),
        (Value::Bool(true), None, None),
    ];
    for (value, unsigned, signed) in values {
        assert_eq!((value.as_u64(), value.as_i64()), (unsigned, signed), "{value:?}");
    }
    let large = [array(10, 2), vec![255; 8], vec![1; 8]].concat();
    let negative = [array(5, 2), vec![255; 4], vec![1; 4]].concat();
    let file = file(&[key("large", 9, &large), key("negative", 9, &negative)], &[], 0);
    let gguf = Gguf::parse(&file).unwrap();
    let array = |key| gguf.get(key).unwrap().as_array().unwrap();
    assert!(array("large").i64s().is_none() && array("negative").u64s().is_none());
    assert_eq!(array("large").u64s().unwrap().next(), Some(u64::MAX));
    assert_eq!(array("negative").i64s().unwrap().next(), Some(-1));
}

// ---------------------------------------------------------------- the writer

fn files_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name());
    names.map(|n| n.into_string().unwrap()).collect()
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = Writer::default();
    writer.set("k", OwnedValue::U8(0)).unwrap();
    writer.declare("t", Format::Q8_0, &[32]).unwrap();
    let u8 = OwnedValue::U8(0);
    let long = "n".repeat(64);
    for (fault, wanted) in [
        (Writer::new(24).err(), "alignment 24: wanted a power of two up to 65536"),
        (Writer::new(0).err(), "alignment 0: wanted a power of two up to 65536"),
        (Writer::new(1 << 17).err(), "alignment 131072: wanted a power of two up to 65536"),
        (writer.set("", u8.clone()).err(), "a metadata key has 0 bytes, wanted 1 to 65535"),
        (
            writer.set(&"k".repeat(65536), u8.clone()).err(),
            "a metadata key has 65536 bytes, wanted 1 to 65535",
        ),
        (writer.set("k", u8.clone()).err(), "metadata key k is set twice"),
        (writer.set("general.alignment", u8).err(), "general.alignment is given to Writer::new"),
        (
            writer.declare("", Format::F32, &[1]).err(),
            "tensor : the name has 0 bytes, wanted 1 to 63",
        ),
        (
            writer.declare(&long, Format::F32, &[1]).err(),
            &format!("tensor {long}: the name has 64 bytes, wanted 1 to 63"),
        ),
        (writer.declare("t", Format::F32, &[1]).err(), "tensor t: declared twice"),
        (writer.declare("u", Format::F32, &[]).err(), "tensor u: 0 dimensions, wanted 1 to 4"),
        (writer.declare("u", Format::F32, &[1; 5]).err(), "tensor u: 5 dimensions, wanted 1 to 4"),
        (
            writer.declare("u", Format::F32, &[1, 0]).err(),
            "tensor u: shape [1, 0] has a dimension of 0",
        ),
        (
            writer.declare("u", Format::Q4_K, &[32]).err(),
            "tensor u: rows of 32 values are no multiple of Q4_K's block of 256",
        ),
        (
            writer.declare("u", Format::F32, &[1 << 62]).err(),
            "tensor u: shape [4611686018427387904] overflows",
        ),
    ] {
        assert_eq!(fault.unwrap().to_string(), wanted);
    }
    writer.declare("u", Format::F32, &[1 << 60]).unwrap();
    let fault = writer.declare("v", Format::F32, &[1 << 60]).unwrap_err().to_string();
    assert_eq!(fault, "tensor v: the file's size overflows");
}

#[test]
fn the_open_writer_refuses_data_that_was_not_declared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = Writer::default();
    writer.declare("t", Format::F32, &[2]).unwrap();
    writer.declare("u", Format::F32, &[1]).unwrap();
    let mut file = writer.create(&path).unwrap();
    for (fault, wanted) in [
        (file.write("u", &[0; 4]).err(), "data for tensor u, but next is t"),
        (file.write("t", &[0; 4]).err(), "tensor t: wanted 8 bytes, got 4 after 0"),
        (file.append("t", &[0; 9]).err(), "tensor t: wanted 8 bytes, got 9 or more"),
        (file.append("t", &[0; 4]).err(), ""),
        (file.write("t", &[0; 8]).err(), "tensor t: wanted 8 bytes, got 8 after 4"),
        (file.append("t", &[0; 5]).err(), "tensor t: wanted 8 bytes, got 9 or more"),
        (file.append("t", &[0; 4]).err(), ""),
        (file.append("t", &[0; 4]).err(), "data for tensor t, but next is u"),
        (file.append("u", &[0; 3]).err(), ""),
    ] {
        assert_eq!(fault.map_or(String::new(), |f| f.to_string()), wanted);
    }
    let fault = file.finish().unwrap_err().to_string();
    assert_eq!(fault, "tensor u: 3 of 4 bytes written");
    assert!(files_in(folder.path()).is_empty());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "before").unwrap();

    let mut writer = Writer::default();
    writer.declare("t", Format::F32, &[1]).unwrap();
    let mut file = writer.create(&path).unwrap();
    // Another writer of the same file neither disturbs this one nor is disturbed by its end.
    let other = Writer::default().create(&path).unwrap();
    file.write("t", &1f32.to_le_bytes()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"before");
    let n_bytes = file.finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), n_bytes);
    assert_eq!(files_in(folder.path()).len(), 2);
    drop(other);
    assert_eq!(files_in(folder.path()), ["model.gguf"]);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(Gguf::parse(&bytes).unwrap().tensor("t").unwrap().data, 1f32.to_le_bytes());
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model.gguf");
    let fault = Writer::default().create(&path).err().unwrap().to_string();
    assert!(fault.starts_with("cannot create ") && fault.contains("absent"), "{fault}");
    let fault = Writer::default().create(Path::new("..")).err().unwrap().to_string();
    assert_eq!(fault, ".. names no file to write");
}

// ---------------------------------------------------------------- round trips

fn same(read: &Value, written: &OwnedValue) -> bool {
    fn all<T: PartialEq>(read: Option<impl Iterator<Item = T>>, written: &[T]) -> bool {
        read.is_some_and(|read| read.collect::<Vec<_>>() == written)
    }
    match (read, written) {
        (Value::U8(a), OwnedValue::U8(b)) => a == b,
        (Value::I8(a), OwnedValue::I8(b)) => a == b,
        (Value::U16(a), OwnedValue::U16(b)) => a == b,
        (Value::I16(a), OwnedValue::I16(b)) => a == b,
        (Value::U32(a), OwnedValue::U32(b)) => a == b,
        (Value::I32(a), OwnedValue::I32(b)) => a == b,
        (Value::F32(a), OwnedValue::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::Bool(a), OwnedValue::Bool(b)) => a == b,
        (Value::String(a), OwnedValue::String(b)) => a == b,
        (Value::U64(a), OwnedValue::U64(b)) => a == b,
        (Value::I64(a), OwnedValue::I64(b)) => a == b,
        (Value::F64(a), OwnedValue::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), OwnedValue::Strings(b)) => {
            all(a.strings().map(|s| s.map(String::from)), b)
        }
        (Value::Array(a), OwnedValue::F32s(b)) => {
            let bits: Vec<u32> = b.iter().map(|v| v.to_bits()).collect();
            all(a.f32s().map(|f| f.map(f32::to_bits)), &bits)
        }
        (Value::Array(a), OwnedValue::U32s(b)) => {
            let wide: Vec<u64> = b.iter().map(|&v| v.into()).collect();
            a.element_type() == Type::U32 && all(a.u64s(), &wide)
        }
        (Value::Array(a), OwnedValue::I32s(b)) => {
            let wide: Vec<i64> = b.iter().map(|&v| v.into()).collect();
            a.element_type() == Type::I32 && all(a.i64s(), &wide)
        }
        (Value::Array(a), OwnedValue::Bools(b)) => all(a.bools(), b),
        _ => false,
    }
}

fn any_value() -> impl Strategy<Value = OwnedValue> {
    use OwnedValue::*;
    let few = 0..5usize;
    prop_oneof![
        any::<u8>().prop_map(U8),
        any::<i8>().prop_map(I8),
        any::<u16>().prop_map(U16),
        any::<i16>().prop_map(I16),
        any::<u32>().prop_map(U32),
        any::<i32>().prop_map(I32),
        any::<u32>().prop_map(|bits| F32(f32::from_bits(bits))),
        any::<bool>().prop_map(Bool),
        ".{0,20}".prop_map(String),
        any::<u64>().prop_map(U64),
        any::<i64>().prop_map(I64),
        any::<u64>().prop_map(|bits| F64(f64::from_bits(bits))),
        prop::collection::vec(".{0,5}", few.clone()).prop_map(Strings),
        prop::collection::vec(any::<f32>(), few.clone()).prop_map(F32s),
        prop::collection::vec(any::<u32>(), few.clone()).prop_map(U32s),
        prop::collection::vec(any::<i32>(), few.clone()).prop_map(I32s),
        prop::collection::vec(any::<bool>(), few).prop_map(Bools),
    ]
}

/// A format, a shape of at most 2 blocks by 3 by 3 by 3, and a seed for the data.
fn any_tensor() -> impl Strategy<Value = (Format, Vec<u64>, u8)> {
    let rows = prop::collection::vec(1..4u64, 0..4);
    (prop::sample::select(Format::ALL), 1..3u64, rows, any::<u8>()).prop_map(
        |(format, blocks, rows, seed)| {
            let n_in = blocks * format.block_len() as u64;
            (format, [vec![n_in], rows].concat(), seed)
        },
    )
}

fn data_of(format: Format, dims: &[u64], seed: u8) -> Vec<u8> {
    let n_rows: u64 = dims[1..].iter().product();
    let n = format.row_bytes(dims[0] as usize).unwrap() * n_rows as usize;
    (0..n).map(|i| seed.wrapping_add((i % 251) as u8)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_reader_undoes_the_writer(
        log_alignment in 0..=16u32,
        keys in prop::collection::btree_map(".{1,20}", any_value(), 0..10),
        tensors in prop::collection::btree_map("[a-z0-9._é]{1,30}", any_tensor(), 0..6),
        piece in 1..100usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut writer = Writer::new(1 << log_alignment).unwrap();
        for (key, value) in &keys {
            writer.set(key, value.clone()).unwrap();
        }
        for (name, (format, dims, _)) in &tensors {
            writer.declare(name, *format, dims).unwrap();
        }
        let mut open = writer.create(&path).unwrap();
        for (i, (name, (format, dims, seed))) in tensors.iter().enumerate() {
            let data = data_of(*format, dims, *seed);
            if i % 2 == 0 {
                open.write(name, &data).unwrap();
            } else {
                data.chunks(piece).for_each(|piece| open.append(name, piece).unwrap());
            }
        }
        let n_bytes = open.finish().unwrap();

        let bytes = pith::bytes::Bytes::map(&path).unwrap();
        prop_assert_eq!(bytes.len() as u64, n_bytes);
        let gguf = Gguf::parse(&bytes).unwrap();
        prop_assert_eq!((gguf.version(), gguf.alignment()), (3, 1 << log_alignment));
        let read = gguf.metadata().iter().filter(|(key, _)| *key != "general.alignment");
        prop_assert_eq!(read.clone().count(), keys.len());
        for ((read_key, read), (key, value)) in read.zip(&keys) {
            prop_assert_eq!(read_key, key);
            prop_assert!(same(read, value), "{read:?} {value:?}");
        }
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (read, (name, (format, dims, seed))) in gguf.tensors().iter().zip(&tensors) {
            prop_assert_eq!((read.name, read.format), (&**name, *format));
            prop_assert_eq!(&read.dims[..read.n_dims as usize], &**dims);
            prop_assert_eq!(read.offset % (1 << log_alignment), 0);
            prop_assert_eq!(read.data, data_of(*format, dims, *seed));
        }
    }
}

// ---------------------------------------------------------------- round trips with Python

/// The scalars and arrays of tests/gguf_python.py, for both directions.
fn python_values() -> Vec<(&'static str, OwnedValue)> {
    let strings = ["", "Ġthe", "\u{1f989}", "line\nbreak"].map(String::from).to_vec();
    vec![
        ("test.u8", OwnedValue::U8(200)),
        ("test.i8", OwnedValue::I8(-100)),
        ("test.u16", OwnedValue::U16(60000)),
        ("test.i16", OwnedValue::I16(-30000)),
        ("test.u32", OwnedValue::U32(4000000000)),
        ("test.i32", OwnedValue::I32(-2000000000)),
        ("test.f32", OwnedValue::F32(-1.5)),
        ("test.bool", OwnedValue::Bool(true)),
        ("test.string", OwnedValue::String("Grüße, 世界 \u{1f989}\n".into())),
        ("test.u64", OwnedValue::U64(18000000000000000000)),
        ("test.i64", OwnedValue::I64(-9000000000000000000)),
        ("test.f64", OwnedValue::F64(0.1)),
        ("test.strings", OwnedValue::Strings(strings)),
        ("test.f32s", OwnedValue::F32s(vec![0.0, -1.5, 3.25])),
        ("test.u32s", OwnedValue::U32s(vec![0, 7, 4000000000])),
        ("test.i32s", OwnedValue::I32s(vec![1, -2, 3])),
        ("test.bools", OwnedValue::Bools(vec![true, false, true])),
    ]
}

/// The script's numbers: f16 holds them exactly.
fn python_numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 % 17.0 - 8.0) * 0.25).collect()
}

fn decoded(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.n_in() * tensor.n_rows()];
    tensor.format.decode(tensor.data, &mut values);
    values
}

/// Reads the file that `tests/gguf_python.py make` wrote with the package gguf 0.19.0.
#[test]
fn reads_what_python_wrote() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf_python.gguf.bin");
    let bytes = pith::bytes::Bytes::map(&path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    assert_eq!(gguf.require_str("general.architecture").unwrap(), "test");
    for (key, value) in python_values() {
        let read = gguf.get(key).unwrap();
        assert!(same(read, &value), "{key}: {read:?} {value:?}");
    }
    let array = |key: &str| gguf.get(key).unwrap().as_array().unwrap();
    let i64s = |array: &Array| array.i64s().unwrap().collect::<Vec<_>>();
    assert_eq!(i64s(array("test.u8s")), [0, 255]);
    assert_eq!(i64s(array("test.i8s")), [-128, 127]);
    assert_eq!(i64s(array("test.u16s")), [65535]);
    assert_eq!(i64s(array("test.i16s")), [-32768]);
    assert_eq!(i64s(array("test.i64s")), [-9000000000000000000]);
    let u64s: Vec<u64> = array("test.u64s").u64s().unwrap().collect();
    assert_eq!(u64s, [0, 18000000000000000000]);
    let f64s: Vec<Value> = array("test.f64s").values().collect();
    assert_eq!(f64s, [Value::F64(0.1), Value::F64(1e300)]);
    let nested: Vec<Value> = array("test.nested").values().collect();
    let nested: Vec<_> = nested.iter().map(|v| i64s(v.as_array().unwrap())).collect();
    assert_eq!(nested, [vec![1, 2], vec![3]]);
    let nested: Vec<Value> = array("test.nested_strings").values().collect();
    let strings =
        |v: &Value| v.as_array().unwrap().strings().unwrap().collect::<Vec<_>>().join("|");
    assert_eq!(nested.iter().map(strings).collect::<Vec<_>>(), ["a", "b|c"]);
    assert_eq!(gguf.metadata().len(), 2 + python_values().len() + 9);

    let shapes: Vec<_> = gguf.tensors().iter().map(|t| (t.name, t.format, t.dims)).collect();
    assert_eq!(
        shapes,
        [
            ("f32", Format::F32, [5, 3, 1, 1]),
            ("f16", Format::F16, [4, 2, 2, 1]),
            ("q4_0", Format::Q4_0, [64, 2, 1, 1]),
            ("q4_0.values", Format::F32, [64, 2, 1, 1]),
            ("q8_0", Format::Q8_0, [64, 2, 1, 1]),
            ("q8_0.values", Format::F32, [64, 2, 1, 1]),
            ("bf16", Format::BF16, [8, 2, 1, 1]),
            ("bf16.values", Format::F32, [8, 2, 1, 1]),
            ("q4_k", Format::Q4_K, [256, 2, 1, 1]),
            ("q4_k.values", Format::F32, [256, 2, 1, 1]),
        ]
    );
    let values = |name: &str| decoded(gguf.tensor(name).unwrap());
    assert_eq!(values("f32"), python_numbers(15));
    assert_eq!(values("f16"), python_numbers(16));
    assert_eq!(values("bf16"), python_numbers(16));
    for name in ["q4_0", "q8_0", "bf16", "q4_k"] {
        assert_eq!(values(name), values(&format!("{name}.values")), "{name}");
    }
    assert!(values("q4_k").iter().any(|v| v.abs() > 100.0));
}

#[test]
#[ignore = "writes the file that `tests/gguf_python.py check` reads, to the path in PITH_GGUF_OUT"]
fn for_python() {
    let path = std::env::var_os("PITH_GGUF_OUT").expect("PITH_GGUF_OUT names the file to write");
    let mut writer = Writer::new(64).unwrap();
    for (key, value) in python_values() {
        writer.set(key, value).unwrap();
    }
    let tensors: [(&str, Format, &[u64]); 5] = [
        ("f32", Format::F32, &[5, 3]),
        ("f16", Format::F16, &[4, 2, 2]),
        ("q8_0", Format::Q8_0, &[64, 2]),
        ("q4_0", Format::Q4_0, &[64, 2]),
        ("one", Format::F32, &[1]),
    ];
    for (name, format, dims) in tensors {
        writer.declare(name, format, dims).unwrap();
    }
    let mut file = writer.create(Path::new(&path)).unwrap();
    for (name, format, dims) in tensors {
        let values = python_numbers(dims.iter().product::<u64>() as usize);
        let mut data = vec![0; format.row_bytes(values.len()).unwrap()];
        format.encode(&values, &mut data);
        file.write(name, &data).unwrap();
    }
    file.finish().unwrap();
}
