//! The writer: keys and tensor headers first, then the tensors' data in pieces, so that no more
//! than one piece is in memory. The file appears under its name only when it is whole.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    thread,
};

use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_GGML_NAME, MAX_KEY, MAX_KEYS,
    MAX_TENSORS, Type, Value, n_bytes,
};
use crate::{Error, Result, quant::Format};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum OwnedValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    Strings(Vec<String>),
    F32s(Vec<f32>),
    F64s(Vec<f64>),
    U8s(Vec<u8>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

impl OwnedValue {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            OwnedValue::U8(v) => put(out, Type::U8, &v.to_le_bytes()),
            OwnedValue::I8(v) => put(out, Type::I8, &v.to_le_bytes()),
            OwnedValue::U16(v) => put(out, Type::U16, &v.to_le_bytes()),
            OwnedValue::I16(v) => put(out, Type::I16, &v.to_le_bytes()),
            OwnedValue::U32(v) => put(out, Type::U32, &v.to_le_bytes()),
            OwnedValue::I32(v) => put(out, Type::I32, &v.to_le_bytes()),
            OwnedValue::F32(v) => put(out, Type::F32, &v.to_le_bytes()),
            OwnedValue::Bool(v) => put(out, Type::Bool, &[u8::from(*v)]),
            OwnedValue::U64(v) => put(out, Type::U64, &v.to_le_bytes()),
            OwnedValue::I64(v) => put(out, Type::I64, &v.to_le_bytes()),
            OwnedValue::F64(v) => put(out, Type::F64, &v.to_le_bytes()),
            OwnedValue::String(v) => {
                put(out, Type::String, &[]);
                put_string(out, v);
            }
            OwnedValue::Strings(v) => {
                put_array(out, Type::String, v, |out, v| put_string(out, v));
            }
            OwnedValue::F32s(v) => {
                put_array(out, Type::F32, v, |out, v| out.extend(v.to_le_bytes()))
            }
            OwnedValue::F64s(v) => {
                put_array(out, Type::F64, v, |out, v| out.extend(v.to_le_bytes()))
            }
            OwnedValue::U8s(v) => put_array(out, Type::U8, v, |out, v| out.push(*v)),
            OwnedValue::U32s(v) => {
                put_array(out, Type::U32, v, |out, v| out.extend(v.to_le_bytes()))
            }
            OwnedValue::I32s(v) => {
                put_array(out, Type::I32, v, |out, v| out.extend(v.to_le_bytes()))
            }
            OwnedValue::Bools(v) => put_array(out, Type::Bool, v, |out, v| out.push(u8::from(*v))),
        }
    }
}

fn put(out: &mut Vec<u8>, of: Type, bytes: &[u8]) {
    out.extend((of as u32).to_le_bytes());
    out.extend(bytes);
}

fn put_string(out: &mut Vec<u8>, v: &str) {
    out.extend((v.len() as u64).to_le_bytes());
    out.extend(v.as_bytes());
}

fn put_array<T>(out: &mut Vec<u8>, of: Type, values: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    put(out, Type::Array, &(of as u32).to_le_bytes());
    out.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|v| each(out, v));
}

/// A value as it was read. An array's bytes are those of the file, checked when it was parsed.
fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    let of = value.value_type();
    match value {
        Value::U8(v) => put(out, of, &v.to_le_bytes()),
        Value::I8(v) => put(out, of, &v.to_le_bytes()),
        Value::U16(v) => put(out, of, &v.to_le_bytes()),
        Value::I16(v) => put(out, of, &v.to_le_bytes()),
        Value::U32(v) => put(out, of, &v.to_le_bytes()),
        Value::I32(v) => put(out, of, &v.to_le_bytes()),
        Value::F32(v) => put(out, of, &v.to_le_bytes()),
        Value::Bool(v) => put(out, of, &[u8::from(*v)]),
        Value::U64(v) => put(out, of, &v.to_le_bytes()),
        Value::I64(v) => put(out, of, &v.to_le_bytes()),
        Value::F64(v) => put(out, of, &v.to_le_bytes()),
        Value::String(v) => {
            put(out, of, &[]);
            put_string(out, v);
        }
        Value::Array(v) => {
            put(out, of, &(v.element_type() as u32).to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v.bytes);
        }
    }
}

/// A tensor that has been declared.
struct Declared {
    name: String,
    format: Format,
    dims: Vec<u64>,
    /// Where its data begins, counted from the first tensor's.
    offset: u64,
    n_bytes: u64,
}

/// Collects what comes first in the file: keys, and the headers of all tensors.
pub struct Writer {
    alignment: u32,
    keys: HashSet<String>,
    metadata: Vec<u8>,
    names: HashSet<String>,
    tensors: Vec<Declared>,
    /// Where the next tensor's data begins, counted from the first tensor's.
    end: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Writer {
            alignment: DEFAULT_ALIGNMENT,
            keys: HashSet::new(),
            metadata: Vec::new(),
            names: HashSet::new(),
            tensors: Vec::new(),
            end: 0,
        }
    }
}

impl Writer {
    /// A file whose tensors lie at multiples of `alignment`; one other than 32 is written as
    /// `general.alignment`.
    ///
    /// # Errors
    /// The alignment is no power of two, or over 65536.
    pub fn new(alignment: u32) -> Result<Writer> {
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(Error::Invalid(format!(
                "alignment {alignment}: wanted a power of two up to {MAX_ALIGNMENT}"
            )));
        }
        let mut writer = Writer { alignment, ..Writer::default() };
        if alignment != DEFAULT_ALIGNMENT {
            writer.insert(ALIGNMENT_KEY, &OwnedValue::U32(alignment))?;
        }
        Ok(writer)
    }

    /// Adds a key.
    ///
    /// # Errors
    /// The key is empty, longer than 65,535 bytes, there already, or `general.alignment` (see
    /// [`Writer::new`]); or there are 65,536 keys.
    pub fn set(&mut self, key: &str, value: OwnedValue) -> Result<()> {
        if key == ALIGNMENT_KEY {
            return Err(Error::Invalid(format!("{key} is given to Writer::new")));
        }
        self.insert(key, &value)
    }

    /// Adds a key with the value that it has in another file, of whatever type.
    ///
    /// # Errors
    /// As [`Writer::set`].
    pub fn copy(&mut self, key: &str, value: &Value<'_>) -> Result<()> {
        if key == ALIGNMENT_KEY {
            return Err(Error::Invalid(format!("{key} is given to Writer::new")));
        }
        self.add_key(key)?;
        put_value(&mut self.metadata, value);
        Ok(())
    }

    fn insert(&mut self, key: &str, value: &OwnedValue) -> Result<()> {
        self.add_key(key)?;
        value.put(&mut self.metadata);
        Ok(())
    }

    /// Begins a key's entry.
    fn add_key(&mut self, key: &str) -> Result<()> {
        if key.is_empty() || key.len() > MAX_KEY {
            let fault = format!("a metadata key has {} bytes, wanted 1 to {MAX_KEY}", key.len());
            return Err(Error::Invalid(fault));
        }
        if self.keys.len() == MAX_KEYS {
            return Err(Error::Invalid(format!("metadata key {key}: over {MAX_KEYS} keys")));
        }
        if !self.keys.insert(key.to_string()) {
            return Err(Error::Invalid(format!("metadata key {key} is set twice")));
        }
        put_string(&mut self.metadata, key);
        Ok(())
    }

    /// Adds a tensor of `dims` values, fastest dimension first; its data follows after
    /// [`Writer::create`], in the order of the declarations.
    ///
    /// # Errors
    /// The name is empty, longer than ggml's 63 bytes, or taken; there are not 1 to 4 dimensions of
    /// at least 1; rows of `dims[0]` values are no whole blocks of the format; the size overflows;
    /// or there are 131,072 tensors.
    pub fn declare(&mut self, name: &str, format: Format, dims: &[u64]) -> Result<()> {
        let fault = |fault: &str| Error::Invalid(format!("tensor {name}: {fault}"));
        if name.is_empty() || name.len() > MAX_GGML_NAME {
            let len = name.len();
            return Err(fault(&format!("the name has {len} bytes, wanted 1 to {MAX_GGML_NAME}")));
        }
        if self.names.contains(name) {
            return Err(fault("declared twice"));
        }
        if self.tensors.len() == MAX_TENSORS {
            return Err(fault(&format!("over {MAX_TENSORS} tensors")));
        }
        let n_bytes = n_bytes(format, dims).map_err(|e| fault(&e))?;
        let offset = self.end;
        // Half of all 64 bits leaves room for what comes before the data.
        let end = offset
            .checked_add(n_bytes)
            .and_then(|end| end.checked_next_multiple_of(u64::from(self.alignment)))
            .filter(|&end| end <= u64::MAX / 2);
        self.end = end.ok_or_else(|| fault("the file's size overflows"))?;
        self.names.insert(name.to_string());
        let (name, dims) = (name.to_string(), dims.to_vec());
        self.tensors.push(Declared { name, format, dims, offset, n_bytes });
        Ok(())
    }

    /// Opens a temporary file beside `path` and writes everything but the tensors' data.
    ///
    /// # Errors
    /// The file can't be created or written.
    pub fn create(self, path: &Path) -> Result<OpenWriter> {
        let head = self.head();
        let (file, temporary) = Temporary::beside(path)?;
        let mut writer = OpenWriter {
            file: BufWriter::with_capacity(1 << 20, file),
            temporary,
            path: path.to_path_buf(),
            alignment: u64::from(self.alignment),
            tensors: self.tensors,
            current: 0,
            written: 0,
            total: 0,
        };
        writer.put(&head)?;
        writer.pad()?;
        Ok(writer)
    }

    fn head(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        out.extend(&self.metadata);
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend((tensor.format as u32).to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }
}

/// A file being written. Dropped before [`OpenWriter::finish`], it leaves nothing behind.
pub struct OpenWriter {
    file: BufWriter<File>,
    temporary: Temporary,
    path: PathBuf,
    alignment: u64,
    tensors: Vec<Declared>,
    /// The tensor whose data comes next, and how much of it is written.
    current: usize,
    written: u64,
    total: u64,
}

impl OpenWriter {
    /// Writes the next tensor's data, whole.
    ///
    /// # Errors
    /// Another tensor is next, the length is wrong, or the file can't be written.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let n_bytes = self.next(name)?;
        if self.written != 0 || n_bytes != data.len() as u64 {
            return Err(Error::Invalid(format!(
                "tensor {name}: wanted {n_bytes} bytes, got {} after {}",
                data.len(),
                self.written
            )));
        }
        self.append(name, data)
    }

    /// Writes a piece of the next tensor's data.
    ///
    /// # Errors
    /// Another tensor is next, the piece is too long, or the file can't be written.
    pub fn append(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        let (n_bytes, written) = (self.next(name)?, self.written + piece.len() as u64);
        if written > n_bytes {
            return Err(Error::Invalid(format!(
                "tensor {name}: wanted {n_bytes} bytes, got {written} or more"
            )));
        }
        self.put(piece)?;
        self.written = written;
        if written == n_bytes {
            self.pad()?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Size in bytes of the tensor whose data comes next, if that is `name`.
    fn next(&self, name: &str) -> Result<u64> {
        match self.tensors.get(self.current) {
            Some(tensor) if tensor.name == name => Ok(tensor.n_bytes),
            next => {
                let next = next.map_or("the end of the file", |t| &t.name);
                Err(Error::Invalid(format!("data for tensor {name}, but next is {next}")))
            }
        }
    }

    /// Syncs the file and puts it in its place; returns its size.
    ///
    /// # Errors
    /// A tensor's data is missing, or the file can't be written or renamed.
    pub fn finish(self) -> Result<u64> {
        self.finish_if(|_| Ok(()))
    }

    /// As [`OpenWriter::finish`], if `check` of the written file, still under its temporary name and
    /// being synced, finds no fault; else an older file in its place stays as it is.
    ///
    /// # Errors
    /// As [`OpenWriter::finish`], and what `check` says.
    pub fn finish_if(mut self, check: impl FnOnce(&Path) -> Result<()>) -> Result<u64> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let (written, n_bytes) = (self.written, tensor.n_bytes);
            let fault = format!("tensor {}: {written} of {n_bytes} bytes written", tensor.name);
            return Err(Error::Invalid(fault));
        }
        self.file.flush().map_err(Error::io("write", self.temporary.path()))?;
        let (file, path) = (self.file.get_ref(), self.temporary.path());
        // The system shows the check what was written before it is on the disk, too.
        thread::scope(|scope| {
            let sync = thread::Builder::new().spawn_scoped(scope, || file.sync_all());
            check(path)?;
            let synced = sync.and_then(|sync| sync.join().expect("syncing doesn't panic"));
            synced.map_err(Error::io("sync", path))
        })?;
        self.temporary.rename(&self.path)?;
        sync_folder(&self.path)?;
        Ok(self.total)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", self.temporary.path()))?;
        self.total += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        static ZEROS: [u8; MAX_ALIGNMENT as usize] = [0; MAX_ALIGNMENT as usize];
        let n = self.total.next_multiple_of(self.alignment) - self.total;
        self.put(&ZEROS[..n as usize])
    }
}

/// A file that is removed when dropped, unless it was renamed.
struct Temporary(Option<PathBuf>);

impl Temporary {
    /// Creates a file in the folder of `path`, so that the rename stays on one file system. A name
    /// that is taken belongs to another writer, maybe one that was killed: it is left alone.
    fn beside(path: &Path) -> Result<(File, Temporary)> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Invalid(format!("{} names no file to write", path.display())))?;
        let mut attempt = 0u32;
        loop {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.tmp", std::process::id()));
            let temporary = folder_of(path).join(hidden);
            match File::create_new(&temporary) {
                Ok(file) => return Ok((file, Temporary(Some(temporary)))),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(e) => return Err(Error::io("create", temporary)(e)),
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    fn rename(&mut self, to: &Path) -> Result<()> {
        fs::rename(self.path(), to).map_err(Error::io("rename a temporary file to", to))?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path); // a drop can't report; the worst is a file left over
        }
    }
}

/// Makes a rename in the folder of `path` last through a power cut.
fn sync_folder(path: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere a folder can't be opened as a file
    }
    let folder = folder_of(path);
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems, networked ones above all, can't sync a folder, and say so.
        Err(e) if e.kind() != ErrorKind::InvalidInput => Err(Error::io("sync", folder)(e)),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
