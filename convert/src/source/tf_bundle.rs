//! TensorFlow's tensor bundle: `NAME.index`, a sorted table from tensor names to their places, and
//! `NAME.data-00000-of-00001` and its like with the values, as `tf.train.Saver` writes them.
//!
//! Format: `tensorflow/core/util/tensor_bundle/tensor_bundle.h` and
//! `tensorflow/core/protobuf/tensor_bundle.proto` in tensorflow/tensorflow.

mod table;

pub(super) use table::is_table;

use super::{
    Checksum, Data, Dtype, Entry, Leftover, Source, Tensor, contiguous, in_file, is_plain_name,
    map_file,
};
use crate::wire::{Field, Message};
use pith::{Error, Result, bytes::Bytes};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// The version of bundles that this reader knows; a bundle says which versions may read it.
const VERSION: u64 = 1;
/// More dimensions than any weight has.
const MAX_DIMS: usize = 8;
/// Most shards: their number has five digits.
const MAX_SHARDS: u64 = 99_999;
/// The longest `checkpoint` file that is read.
const MAX_STATE: u64 = 1 << 20;
/// What TensorFlow 2 keeps beside the variables: which object holds which.
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

fn fault(what: impl Into<String>) -> Error {
    Error::malformed("TensorFlow checkpoint", what)
}

/// TensorFlow's `DataType`s of numbers, by number.
const DTYPES: &[(u64, Dtype)] = &[
    (1, Dtype::F32),
    (2, Dtype::F64),
    (3, Dtype::Other { name: "I32", bits: 32 }),
    (4, Dtype::Other { name: "U8", bits: 8 }),
    (5, Dtype::Other { name: "I16", bits: 16 }),
    (6, Dtype::Other { name: "I8", bits: 8 }),
    (8, Dtype::Other { name: "C64", bits: 64 }),
    (9, Dtype::Other { name: "I64", bits: 64 }),
    (10, Dtype::Other { name: "BOOL", bits: 8 }),
    (14, Dtype::BF16),
    (17, Dtype::Other { name: "U16", bits: 16 }),
    (19, Dtype::F16),
    (22, Dtype::Other { name: "U32", bits: 32 }),
    (23, Dtype::Other { name: "U64", bits: 64 }),
    (24, Dtype::Other { name: "F8_E5M2", bits: 8 }),
    (25, Dtype::Other { name: "F8_E4M3", bits: 8 }),
];
/// `DT_STRING`: lengths and texts, no numbers.
const STRING: u64 = 7;

/// What an index says.
#[derive(Debug)]
pub struct Bundle {
    /// Data files that it is of.
    pub n_shards: usize,
    /// Tensors with the number of the data file that their range is of, by name.
    pub tensors: Vec<(usize, Entry)>,
    /// What holds no numbers.
    pub leftovers: Vec<Leftover>,
}

/// Reads an index.
///
/// # Errors
/// [`Error::Malformed`] for a damaged table or message, with the tensor's name where there is one;
/// [`Error::Unsupported`] for big-endian values, another version, an unknown type, a tensor in
/// slices.
pub fn read(index: &[u8]) -> Result<Bundle> {
    let mut n_shards = None;
    let (mut tensors, mut leftovers) = (Vec::new(), Vec::new());
    table::entries(index, |key, value| {
        let Some(n_shards) = n_shards else {
            // The header has the empty key, which comes first.
            if !key.is_empty() {
                return Err(fault("its first entry is no header"));
            }
            n_shards = Some(header(value)?);
            return Ok(());
        };
        // A slice's key: 0, the variable's name, 0, 1, the place.
        if let [0, slice @ ..] = key {
            let name = slice.split(|&byte| byte == 0).next().unwrap_or_default();
            return Err(sliced(&String::from_utf8_lossy(name)));
        }
        let name = std::str::from_utf8(key)
            .map_err(|_| fault(format!("name `{}` is not UTF-8", key.escape_ascii())))?;
        match Line::parse(name, value)?.resolve(name, n_shards)? {
            Ok(tensor) => tensors.push(tensor),
            Err(leftover) => leftovers.push(leftover),
        }
        Ok(())
    })?;
    let n_shards = n_shards.ok_or_else(|| fault("it has no header"))?;
    let bundle = Bundle { n_shards, tensors, leftovers };
    bundle.check_apart()?;
    Ok(bundle)
}

impl Bundle {
    /// The ranges of the tensors in data file `shard`, which has `len` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`], naming a tensor that ends behind the file.
    pub fn check_shard(&self, shard: usize, len: usize) -> Result<()> {
        for (of, entry) in &self.tensors {
            let end = range(entry).end;
            if *of == shard && end > len {
                return Err(fault(format!(
                    "tensor `{}` ends at {end} of a data file of {len} bytes; is it truncated?",
                    entry.name
                )));
            }
        }
        Ok(())
    }

    /// No two tensors share a byte, so that all together are at most the files.
    fn check_apart(&self) -> Result<()> {
        let mut places: Vec<_> =
            self.tensors.iter().map(|(shard, entry)| (*shard, range(entry), &entry.name)).collect();
        places.retain(|(_, range, _)| !range.is_empty());
        places.sort_by_key(|(shard, range, _)| (*shard, range.start));
        for pair in places.windows(2) {
            let [(shard, range, name), (next_shard, next, next_name)] = pair else { continue };
            if shard == next_shard && range.end > next.start {
                return Err(fault(format!("tensors `{name}` and `{next_name}` overlap")));
            }
        }
        Ok(())
    }
}

fn range(entry: &Entry) -> Range<usize> {
    match &entry.data {
        Data::Mapped { range, .. } => range.clone(),
        Data::Packed(_) => unreachable!("bundles pack nothing"),
    }
}

/// `BundleHeaderProto`: the number of shards.
fn header(bytes: &[u8]) -> Result<usize> {
    let mut n_shards = 0;
    let mut message = Message::new(bytes, "the bundle's header");
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Varint(n)) => n_shards = n,
            (2, Field::Varint(0)) => {}
            (2, Field::Varint(_)) => {
                return Err(Error::Unsupported(
                    "big-endian values; save the checkpoint on a little-endian machine".into(),
                ));
            }
            (3, Field::Bytes(version)) => check_version(version)?,
            (number, _) => return Err(unknown_field("the bundle's header", number)),
        }
    }
    let n_shards = Some(n_shards).filter(|n| (1..=MAX_SHARDS).contains(n));
    n_shards.map(|n| n as usize).ok_or_else(|| fault("its header states no number of shards"))
}

/// `VersionDef`: its producer, the oldest consumer that may read it, and bad consumers.
fn check_version(bytes: &[u8]) -> Result<()> {
    let mut message = Message::new(bytes, "the bundle's version");
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Varint(_)) => {}
            (2, Field::Varint(oldest)) if oldest <= VERSION => {}
            (number, field) => {
                return Err(Error::Unsupported(format!(
                    "a tensor bundle that wants another reader (version field {number}: {field:?}; \
                     pith reads version {VERSION})"
                )));
            }
        }
    }
    Ok(())
}

fn sliced(name: &str) -> Error {
    Error::Unsupported(format!(
        "variable `{name}` is stored in slices (a partitioned variable); restore it and save it whole"
    ))
}

fn unknown_field(of: &str, number: u32) -> Error {
    Error::Unsupported(format!("field {number} of {of} isn't known, or of an unexpected type"))
}

/// `BundleEntryProto`, less what must be absent.
#[derive(Default)]
struct Line {
    dtype: u64,
    shape: Vec<usize>,
    shard: u64,
    offset: u64,
    size: u64,
    crc: u32,
}

impl Line {
    fn parse(name: &str, bytes: &[u8]) -> Result<Line> {
        let mut line = Line::default();
        let mut message = Message::new(bytes, "a tensor's entry");
        while let Some(field) = message.next()? {
            match field {
                (1, Field::Varint(dtype)) => line.dtype = dtype,
                (2, Field::Bytes(shape)) => line.shape = read_shape(name, shape)?,
                (3, Field::Varint(shard)) => line.shard = shard,
                (4, Field::Varint(offset)) => line.offset = offset,
                (5, Field::Varint(size)) => line.size = size,
                (6, Field::Fixed32(crc)) => line.crc = crc,
                (7, _) => return Err(sliced(name)),
                (number, _) => {
                    return Err(unknown_field(&format!("the entry of tensor `{name}`"), number));
                }
            }
        }
        Ok(line)
    }

    /// The tensor, or a string as what is left over.
    fn resolve(
        self,
        name: &str,
        n_shards: usize,
    ) -> Result<std::result::Result<(usize, Entry), Leftover>> {
        if self.dtype == STRING {
            let beside = name == OBJECT_GRAPH;
            return Ok(Err(Leftover::new(name, "a string", beside)));
        }
        let dtype = DTYPES.iter().find(|(number, _)| *number == self.dtype);
        let dtype = dtype.map(|&(_, dtype)| dtype).ok_or_else(|| {
            Error::Unsupported(format!("tensor `{name}` has TensorFlow's type {}", self.dtype))
        })?;
        let wanted = self.shape.iter().try_fold(dtype.bits() / 8, |n, &dim| n.checked_mul(dim));
        if wanted.and_then(|n| u64::try_from(n).ok()) != Some(self.size) {
            return Err(fault(format!(
                "tensor `{name}` of shape {:?} and type {} takes {} bytes, {} are given",
                self.shape,
                dtype.name(),
                wanted.map_or_else(|| "too many".into(), |n| n.to_string()),
                self.size
            )));
        }
        let range = || {
            let start = usize::try_from(self.offset).ok()?;
            Some(start..start.checked_add(usize::try_from(self.size).ok()?)?)
        };
        let shard = usize::try_from(self.shard).ok().filter(|&shard| shard < n_shards);
        let (Some(range), Some(shard)) = (range(), shard) else {
            return Err(fault(format!(
                "tensor `{name}` lies at {} of data file {} of {n_shards}",
                self.offset, self.shard
            )));
        };
        let entry = Entry {
            name: name.to_owned(),
            dtype,
            strides: contiguous(&self.shape),
            shape: self.shape,
            offset: 0,
            data: Data::Mapped { range, crc: Some(Checksum::MaskedCrc32c(self.crc)) },
        };
        Ok(Ok((shard, entry)))
    }
}

/// `TensorShapeProto`: a message for each dimension.
fn read_shape(name: &str, bytes: &[u8]) -> Result<Vec<usize>> {
    let odd = || fault(format!("tensor `{name}` has no plain shape"));
    let mut shape = Vec::new();
    let mut message = Message::new(bytes, "a shape");
    while let Some(field) = message.next()? {
        let (2, Field::Bytes(dim)) = field else { return Err(odd()) };
        let mut size = 0;
        let mut dim = Message::new(dim, "a dimension");
        while let Some(field) = dim.next()? {
            match field {
                (1, Field::Varint(n)) => size = n,
                (2, Field::Bytes(_)) => {} // its name
                _ => return Err(odd()),
            }
        }
        // A negative size, for an unknown one, is a huge number here.
        shape.push(
            usize::try_from(size).ok().filter(|&n| n <= isize::MAX as usize).ok_or_else(odd)?,
        );
        if shape.len() > MAX_DIMS {
            return Err(odd());
        }
    }
    Ok(shape)
}

/// The index of the checkpoint in `folder`: OpenAI's name, else what the file `checkpoint` names.
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>> {
    let named = folder.join("model.ckpt.index");
    let state = folder.join("checkpoint");
    if named.exists() {
        return Ok(Some(named));
    }
    let Ok(kind) = std::fs::metadata(&state) else { return Ok(None) };
    if !kind.is_file() || kind.len() > MAX_STATE {
        return Ok(None);
    }
    let text = std::fs::read(&state).map_err(Error::io("read", &state))?;
    // `CheckpointState` as text. The path may be that of the machine that trained: its last part counts.
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| {
        line.trim()
            .strip_prefix("model_checkpoint_path:")?
            .trim()
            .strip_prefix('"')?
            .strip_suffix('"')
    });
    let Some(path) = path else { return Ok(None) };
    let name = path.rsplit('/').next().unwrap_or(path);
    if !is_plain_name(name) {
        return Err(in_file(fault(format!("`{path}` ends in no plain file name")), &state));
    }
    Ok(Some(folder.join(format!("{name}.index"))))
}

impl Source {
    /// Adds the tensors of the index `bytes` at `path`, and the data files beside it.
    pub(super) fn add_bundle(&mut self, path: PathBuf, bytes: Bytes) -> Result<()> {
        let bundle = read(&bytes).map_err(|error| in_file(error, &path))?;
        let index = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = index.strip_suffix(".index").ok_or_else(|| {
            Error::Invalid(format!(
                "{} is the index of a TensorFlow checkpoint: call it NAME.index, for its data lie \
                 in NAME.data-00000-of-{:05}",
                path.display(),
                bundle.n_shards
            ))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut shards: Vec<usize> = bundle.tensors.iter().map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut files = Vec::with_capacity(shards.len());
        for &shard in &shards {
            let data = folder.join(format!("{stem}.data-{shard:05}-of-{:05}", bundle.n_shards));
            let bytes = map_file(&data)?;
            bundle.check_shard(shard, bytes.len()).map_err(|error| in_file(error, &data))?;
            files.push((data, bytes));
        }
        let first = self.files.len();
        self.files.extend(files.into_iter().map(|(path, bytes)| (path, bytes.into())));
        self.files.push((path, bytes.into()));
        self.leftovers.extend(bundle.leftovers);
        let tensor = |(shard, entry)| {
            let file = first + shards.binary_search(&shard).expect("all shards are listed");
            Tensor { entry, file }
        };
        self.tensors.extend(bundle.tensors.into_iter().map(tensor));
        Ok(())
    }
}
