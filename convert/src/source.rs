//! A checkpoint as a list of named tensors, whatever its container.
//!
//! The container is told by content, never by file name. Files are mapped; a tensor is a checked
//! view of a map, and its values are decoded to f32 row by row as they are asked for.

mod checksum;
mod files;
pub mod hdf5;
pub mod msgpack;
pub mod pickle;
pub mod safetensors;
mod state_dict;
pub mod tf_bundle;
pub mod torch;
pub mod torch_legacy;
mod view;
mod wrappers;
pub mod zip;

pub use checksum::Checksum;
pub(crate) use files::read_json;
pub use view::View;

use files::{FIRST_RANK, is_plain_name, locate, map_file};
use pith::{Error, Result, bytes::Bytes};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Type of a source tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an F32.
    BF16,
    /// A byte of 4 bits of exponent and 3 of mantissa, without infinities ("FN" in other libraries).
    F8E4M3,
    /// The upper half of an F16.
    F8E5M2,
    /// A type that holds no weights: listed, sized, never read.
    Other {
        /// Its name in safetensors.
        name: &'static str,
        /// Its size.
        bits: usize,
    },
}

impl Dtype {
    /// Size of a value.
    pub const fn bits(self) -> usize {
        match self {
            Dtype::F64 => 64,
            Dtype::F32 => 32,
            Dtype::F16 | Dtype::BF16 => 16,
            Dtype::F8E4M3 | Dtype::F8E5M2 => 8,
            Dtype::Other { bits, .. } => bits,
        }
    }

    /// Its name in safetensors.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F8E4M3 => "F8_E4M3",
            Dtype::F8E5M2 => "F8_E5M2",
            Dtype::Other { name, .. } => name,
        }
    }
}

/// Bytes that don't lie in the file as they are: compressed chunks, or a matrix with an adapter.
pub trait Packed: fmt::Debug + Send + Sync {
    /// The tensor's bytes, little-endian, as its entry's type and strides say; `file` is the whole
    /// file that the entry is of. Called once for each time that the tensor is read.
    ///
    /// # Errors
    /// What is wrong with the packed bytes.
    fn unpack(&self, file: &[u8]) -> Result<Vec<u8>>;
}

/// Where a tensor's bytes come from.
#[derive(Clone, Debug)]
pub enum Data {
    /// These bytes of the file: the tensor, or the storage that it views.
    Mapped {
        /// Place in the file.
        range: Range<usize>,
        /// Their checksum, where the container has one.
        crc: Option<Checksum>,
    },
    /// Unpacked when asked for.
    Packed(Arc<dyn Packed>),
}

/// One tensor as its container lists it. The readers guarantee that mapped data lie in the file, and
/// that every element of the view lies in its data.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the checkpoint.
    pub name: String,
    /// Type of the values.
    pub dtype: Dtype,
    /// Sizes, slowest dimension first as in PyTorch.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
    /// First element of the view, within `data`.
    pub offset: usize,
    /// Its bytes.
    pub data: Data,
}

/// Something in a checkpoint that is no tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its key.
    pub name: String,
    /// What it is, for people.
    pub what: &'static str,
    /// Its value, where it is a number, a flag, a short string, or a small dict of these.
    pub value: Value,
    /// Whether it lies beside the state dict (an optimizer, an epoch) and not in it.
    pub beside: bool,
}

impl Leftover {
    /// Something whose value doesn't matter.
    pub(crate) fn new(name: impl Into<String>, what: &'static str, beside: bool) -> Leftover {
        Leftover { name: name.into(), what, value: Value::Null, beside }
    }
}

/// An open checkpoint.
#[derive(Default)]
pub struct Source {
    folder: PathBuf,
    files: Vec<(PathBuf, Arc<Bytes>)>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    leftovers: Vec<Leftover>,
    /// The configuration as Hugging Face would write it, where a dialect keeps it elsewhere.
    config: Option<Value>,
    /// Storages whose checksum was looked at, as file and offset.
    checked: Mutex<HashSet<(usize, usize)>>,
}

/// A tensor of a [`Source`].
pub struct Tensor {
    /// Where and what it is.
    pub entry: Entry,
    file: usize,
}

/// What holds the factors of an 8-bit weight, behind its name.
const SCALES: &[&str] = &["_scale", "_scale_inv"];

impl Source {
    /// Opens the checkpoint in the folder `path`, or the weight file or index `path`, whose
    /// `config.json` and tokenizer lie beside it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no checkpoint is found; [`Error::Malformed`] and
    /// [`Error::Unsupported`] from the container's reader, with the file's name.
    pub fn open(path: &Path) -> Result<Source> {
        let (folder, weights) = locate(path)?;
        let mut source = Source { folder, ..Source::default() };
        if weights.extension().is_some_and(|extension| extension == "json") {
            source.add_shards(&weights)?;
        } else {
            let is_first = weights.file_name().is_some_and(|name| name == FIRST_RANK);
            let bytes = map_file(&weights)?;
            if tf_bundle::is_table(&bytes) {
                source.add_bundle(weights, bytes)?;
            } else {
                source.add_file(weights, bytes)?;
            }
            if is_first {
                source.add_ranks()?;
            }
        }
        source.finish();
        Ok(source)
    }

    /// A checkpoint of one weight file that is in memory.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Source> {
        let mut source = Source::default();
        source.add_file(PathBuf::from("memory"), Bytes::from_vec(bytes))?;
        source.finish();
        Ok(source)
    }

    /// Drops prefixes of wrappers and sorts the tensors by name.
    fn finish(&mut self) {
        wrappers::strip(&mut self.tensors);
        self.sort();
    }

    /// All tensors, for a dialect to change; [`Source::set_tensors`] takes them back.
    pub(crate) fn take_tensors(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.tensors)
    }

    /// These become all tensors that there are.
    pub(crate) fn set_tensors(&mut self, tensors: Vec<Tensor>) {
        self.tensors = tensors;
        self.sort();
    }

    fn sort(&mut self) {
        // Ranks of one name keep the order of their files.
        self.tensors.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        let names = self.tensors.iter().enumerate();
        self.by_name = names.map(|(i, tensor)| (tensor.entry.name.clone(), i)).collect();
    }

    /// Uses this instead of `config.json`.
    pub(crate) fn set_config(&mut self, config: Value) {
        self.config = Some(config);
    }

    /// Notes something that a dialect found beside the weights.
    pub(crate) fn leave(&mut self, leftover: Leftover) {
        self.leftovers.push(leftover);
    }

    /// The bytes of the file that a tensor of this source lies in.
    pub(crate) fn file_of(&self, tensor: &Tensor) -> Arc<Bytes> {
        Arc::clone(&self.files[tensor.file].1)
    }

    /// The folder of `config.json` and the tokenizer.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All weight files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Bytes of all weight files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// Puts `entry` in the place of the tensor that has its name, or adds it. Mapped data are in the
    /// file of the tensor `like`, which must be there.
    pub(crate) fn put(&mut self, entry: Entry, like: &str) {
        let file = self.tensors[self.by_name[like]].file;
        match self.by_name.get(&entry.name) {
            Some(&i) => self.tensors[i] = Tensor { entry, file },
            None => {
                self.tensors.push(Tensor { entry, file });
                self.sort();
            }
        }
    }

    /// The configuration: a dialect's, else `config.json`.
    ///
    /// # Errors
    /// A file that is absent or no JSON.
    pub(crate) fn config(&self) -> Result<Value> {
        match &self.config {
            Some(config) => Ok(config.clone()),
            None => read_json(&self.folder.join("config.json")),
        }
    }

    /// Lets a dialect change every entry: its name, its shape and strides, never its data.
    ///
    /// # Errors
    /// What `change` says; two tensors that get one name.
    pub(crate) fn change(&mut self, change: impl Fn(&mut Entry) -> Result<()>) -> Result<()> {
        let before: Vec<String> = self.tensors.iter().map(|t| t.entry.name.clone()).collect();
        let mut names = HashMap::new();
        for (tensor, before) in self.tensors.iter_mut().zip(&before) {
            change(&mut tensor.entry)?;
            if let Some(other) = names.insert(tensor.entry.name.clone(), before) {
                return Err(Error::Unsupported(format!(
                    "both `{other}` and `{before}` are `{}`",
                    tensor.entry.name
                )));
            }
        }
        self.sort();
        Ok(())
    }

    /// What the checkpoint holds besides tensors.
    pub fn leftovers(&self) -> &[Leftover] {
        &self.leftovers
    }

    /// How the values of a tensor of this source lie in what [`Source::load`] gives.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that holds no weights, and for 8-bit weights with factors of
    /// their own.
    pub fn view(&self, tensor: &Tensor) -> Result<View> {
        let entry = &tensor.entry;
        if let Dtype::Other { name, .. } = entry.dtype {
            return Err(Error::Unsupported(format!(
                "tensor `{}` holds {name} values; weights are F64, F32, F16, BF16, F8_E4M3 or F8_E5M2",
                entry.name
            )));
        }
        let scale = SCALES.iter().find_map(|scale| self.tensor(&format!("{}{scale}", entry.name)));
        if let (Dtype::F8E4M3 | Dtype::F8E5M2, Some(scale)) = (entry.dtype, scale) {
            return Err(Error::Unsupported(format!(
                "tensor `{}` holds {} values that `{}` scales; load it with its own program and save \
                 it as BF16",
                entry.name,
                entry.dtype.name(),
                scale.entry.name
            )));
        }
        Ok(View::new(entry))
    }

    /// The bytes of a tensor of this source, unpacked if they are packed, and checked against their
    /// checksum, where there is one: this reads all of them, but once for many tensors of a storage.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a wrong checksum, or what can't be unpacked.
    pub fn load<'a>(&'a self, tensor: &Tensor) -> Result<Cow<'a, [u8]>> {
        let entry = &tensor.entry;
        let (path, file) = &self.files[tensor.file];
        match &entry.data {
            Data::Packed(packed) => {
                let bytes = packed.unpack(file).map_err(|error| in_file(error, path))?;
                let end = view_end(entry.offset, &entry.shape, &entry.strides);
                let wanted = end.and_then(|end| end.checked_mul(entry.dtype.bits() / 8));
                if wanted.is_none_or(|wanted| bytes.len() < wanted) {
                    return Err(in_file(
                        Error::malformed(
                            "checkpoint",
                            format!("`{}` unpacks to {} bytes only", entry.name, bytes.len()),
                        ),
                        path,
                    ));
                }
                Ok(Cow::Owned(bytes))
            }
            Data::Mapped { range, crc } => {
                let bytes = &file[range.clone()];
                let is_new = || {
                    let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
                    checked.insert((tensor.file, range.start))
                };
                if let Some(crc) = *crc
                    && is_new()
                {
                    crc.check(bytes, &entry.name, range.start)
                        .map_err(|error| in_file(error, path))?;
                }
                Ok(Cow::Borrowed(bytes))
            }
        }
    }

    /// All values of a tensor of this source, as they lie in its view.
    ///
    /// # Errors
    /// As [`Source::view`] and [`Source::load`].
    pub fn values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let view = self.view(tensor)?;
        let mut values = vec![0.0; view.n_rows() * view.n_in()];
        view.read(&self.load(tensor)?, 0, &mut values);
        Ok(values)
    }

    /// Whether the weight files are as long as they were when they were mapped: reading beyond the end
    /// of one that became shorter would end the process (SIGBUS).
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the file.
    pub(crate) fn still_whole(&self) -> Result<()> {
        for (path, bytes) in &self.files {
            let now = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
            if now < bytes.len() as u64 {
                return Err(Error::Invalid(format!(
                    "{} became shorter while it was read: {now} bytes of {}",
                    path.display(),
                    bytes.len()
                )));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf, bytes: Bytes) -> Result<()> {
        let (entries, leftovers) = read(&bytes).map_err(|error| in_file(error, &path))?;
        let file = self.files.len();
        self.files.push((path, Arc::new(bytes)));
        self.leftovers.extend(leftovers);
        let tensor = |entry| Tensor { entry, file };
        self.tensors.extend(entries.into_iter().map(tensor));
        Ok(())
    }
}

impl Tensor {
    /// Another tensor of the same file.
    pub(crate) fn beside(&self, entry: Entry) -> Tensor {
        Tensor { entry, file: self.file }
    }
}

/// Puts the file's name into an error about its contents.
fn in_file(error: Error, path: &Path) -> Error {
    match error {
        Error::Malformed { format, fault, offset } => {
            Error::Malformed { format, fault: format!("{fault} ({})", path.display()), offset }
        }
        Error::Unsupported(what) => Error::Unsupported(format!("{what} ({})", path.display())),
        other => other,
    }
}

/// Lists the tensors of a weight file, told apart by its first bytes.
///
/// # Errors
/// [`Error::Unsupported`] for what is none of safetensors, a file of torch.save, HDF5 and Flax's
/// msgpack.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let refuse = |what: &str| Err(Error::Unsupported(what.into()));
    match file {
        [b'P', b'K', 3, 4, ..] => torch::read(file),
        _ if torch_legacy::is_legacy(file) => torch_legacy::read(file),
        _ if torch_legacy::is_tar(file) => refuse(
            "a tar archive; if torch.save wrote it before PyTorch 0.1.10, load it with a newer \
             PyTorch and save it again",
        ),
        [b'G', b'G', b'U', b'F', ..] => refuse("this is GGUF already: run it as it is"),
        [0x89, b'H', b'D', b'F', ..] => hdf5::read(file),
        _ if file.starts_with(b"version https://git-lfs") => {
            refuse("a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
        }
        [_, _, _, _, _, _, _, _, b'{', ..] => Ok((safetensors::read(file)?, Vec::new())),
        // A map whose first key is a string.
        [0x81..=0x8f, 0xa0..=0xbf | 0xd9..=0xdb, ..] | [0xde | 0xdf, ..] => msgpack::read(file),
        _ if tf_bundle::is_table(file) => {
            refuse("the index of a TensorFlow checkpoint, which is read from its folder alone")
        }
        _ => refuse("neither safetensors, nor a file of torch.save, nor HDF5, nor Flax's msgpack"),
    }
}

/// Strides of a tensor without gaps. The product of `shape` must fit.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// One past the last element of a view; 0 for an empty one; `None` where sums overflow.
fn view_end(offset: usize, shape: &[usize], strides: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
    if count == 0 {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |at, (&dim, &stride)| at.checked_add((dim - 1).checked_mul(stride)?))?;
    last.checked_add(1)
}
