//! Models and adapters.

use std::{
    ffi::{c_char, c_void},
    fmt::{self, Write},
    fs,
    io::Read as _,
    path::Path,
    ptr,
    sync::Arc,
};

use pith::{Error, Lora, Model, bytes::Bytes};
use pith_models::{ClassifierKind, Problem};

use crate::{
    error::{Fault, Status},
    guard::{guard, quietly},
    memory::held,
    pointers::{self, Place},
    structs::{
        self, Log, Out, PithAdapter, PithError, PithModelInfo, PithModelOptions, PithReader, Struct,
    },
};

/// `PITH_MODEL_READ`
pub const MODEL_READ: u32 = 1;
/// `PITH_MODEL_INFO_PER_TOKEN`
pub const MODEL_INFO_PER_TOKEN: u32 = 1;
/// `PITH_MODEL_INFO_MULTI_LABEL`
pub const MODEL_INFO_MULTI_LABEL: u32 = 2;
/// `PITH_MODEL_INFO_REGRESSION`
pub const MODEL_INFO_REGRESSION: u32 = 4;

/// Bytes that a caller's reader is asked for at once.
const PIECE: usize = 1 << 20;

/// `pith_model`: a count of it is the handle's, one is each session's.
pub struct PithModel {
    pub(crate) model: Arc<Model>,
    labels: Labels,
    /// Bytes of the file that the system can drop and read again, or that are the caller's.
    pub(crate) file_backed: u64,
    pub(crate) anonymous: u64,
    logger: Logger,
}

/// The caller's log.
struct Logger {
    log: Log,
    user: *mut c_void,
}

// SAFETY: the pointer is only given back to the caller's function, on the thread that has called; the
// header says that it hears of the model's sessions, on whose threads they are.
unsafe impl Send for Logger {}
// SAFETY: as above.
unsafe impl Sync for Logger {}

/// Where a model's bytes are.
enum Source<'a> {
    File(&'a Path),
    Lent(&'static [u8]),
    Reader(PithReader),
}

impl Source<'_> {
    /// The bytes, and how many of them are no memory of ours.
    fn bytes(self, options: &PithModelOptions) -> Result<(Bytes, u64), Fault> {
        let read = options.flags & MODEL_READ != 0 || !cfg!(feature = "mmap");
        let (bytes, ours) = match self {
            Source::File(path) if read => (Bytes::from_vec(read_file(path, options)?), true),
            Source::File(path) => (Bytes::map(path)?, false),
            Source::Lent(bytes) => (Bytes::from_static(bytes), false),
            Source::Reader(reader) => (Bytes::from_vec(read_all(&reader, options)?), true),
        };
        let n = bytes.len() as u64;
        Ok((bytes, if ours { 0 } else { n }))
    }
}

/// Zeros for a file of `n` bytes, if the model may have as many.
fn room(n: u64, options: &PithModelOptions) -> Result<Vec<u8>, Fault> {
    let limit = options.max_memory;
    if limit != 0 && n > limit {
        return Err(Fault::Model { needed: n, limit });
    }
    let refused = || Error::OutOfMemory { wanted: n };
    let n = usize::try_from(n).map_err(|_| refused())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(n).map_err(|_| refused())?;
    bytes.resize(n, 0);
    Ok(bytes)
}

/// A file's bytes, copied.
fn read_file(path: &Path, options: &PithModelOptions) -> Result<Vec<u8>, Fault> {
    // Asked before opening: opening a named pipe waits for a writer, maybe for ever.
    let kind = fs::metadata(path).map_err(Error::io("open", path))?;
    if !kind.is_file() {
        return Err(Error::Invalid(format!("{} is not a regular file", path.display())).into());
    }
    let mut bytes = room(kind.len(), options)?;
    let mut file = fs::File::open(path).map_err(Error::io("open", path))?;
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// What a caller's reader gives.
fn read_all(reader: &PithReader, options: &PithModelOptions) -> Result<Vec<u8>, Fault> {
    let read = reader.read.ok_or(Fault::Null("reader.read"))?;
    let mut bytes = room(reader.n_bytes, options)?;
    for (piece, i) in bytes.chunks_mut(PIECE).zip(0u64..) {
        let offset = i * PIECE as u64;
        // SAFETY: the function is the caller's for this; the piece is as long as it is told.
        let code = unsafe { read(reader.user, offset, piece.as_mut_ptr().cast(), piece.len()) };
        if code != 0 {
            return Err(Fault::Reader { offset, code });
        }
    }
    Ok(bytes)
}

impl PithModel {
    fn open(source: Source<'_>, options: &PithModelOptions) -> Result<Arc<PithModel>, Fault> {
        if options.flags & !MODEL_READ != 0 || options.reserved != 0 {
            return Err(Fault::Invalid("pith_model_options.flags has bits that mean nothing"));
        }
        let before = held();
        let (bytes, file_backed) = source.bytes(options)?;
        let model = Model::from_bytes(bytes)?;
        let labels = Labels::of(&model)?;
        let mut model = Arc::new(PithModel {
            model: Arc::new(model),
            labels,
            file_backed,
            anonymous: 0,
            logger: Logger { log: options.log, user: options.log_user },
        });
        let anonymous = u64::try_from(held() - before).unwrap_or(0);
        let limit = options.max_memory;
        if limit != 0 && anonymous > limit {
            return Err(Fault::Model { needed: anonymous, limit });
        }
        // Nobody else has it yet.
        if let Some(model) = Arc::get_mut(&mut model) {
            model.anonymous = anonymous;
        }
        let of = &model.model;
        model.say(format_args!(
            "model: {}, {} bytes in the file, {anonymous} of memory, {} tokens, context {}",
            of.family().arch,
            of.bytes().len(),
            of.hparams().n_vocab,
            of.hparams().n_ctx,
        ));
        Ok(model)
    }

    /// Gives the caller's log a line, if there is one. Nothing is allocated; long lines are cut.
    pub(crate) fn say(&self, line: fmt::Arguments<'_>) {
        let Some(log) = self.logger.log else { return };
        let mut text = Line { bytes: [0; 256], n: 0 };
        // It fails where the line is too long.
        let _ = text.write_fmt(line);
        // SAFETY: the function is the caller's for this; the line has as many bytes as it is told.
        unsafe { log(self.logger.user, 0, text.bytes.as_ptr().cast(), text.n) };
    }

    fn info(&self) -> PithModelInfo {
        let (hp, tokenizer) = (self.model.hparams(), self.model.tokenizer());
        let id = |id: Option<u32>| id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
        // The model has bounded its numbers.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut info = PithModelInfo {
            n_vocab: number(hp.n_vocab),
            n_ctx: number(hp.n_ctx),
            n_embd: number(hp.n_embd),
            n_layer: number(hp.n_layer),
            n_labels: number(self.labels.ends.len()),
            bos: id(tokenizer.bos()),
            eos: id(tokenizer.eos()),
            flags: self.flags(),
            file_bytes: self.model.bytes().len() as u64,
            anonymous_bytes: self.anonymous,
            ..PithModelInfo::INIT
        };
        let room = info.family.len() - 1;
        for (to, from) in info.family[..room].iter_mut().zip(self.model.family().arch.bytes()) {
            *to = from as c_char;
        }
        info
    }

    fn flags(&self) -> u32 {
        let Some(head) = self.model.classifier() else { return 0 };
        let per_token = match head.kind() {
            ClassifierKind::Sequence => 0,
            ClassifierKind::Token => MODEL_INFO_PER_TOKEN,
        };
        per_token
            | match head.problem() {
                Problem::SingleLabel => 0,
                Problem::MultiLabel => MODEL_INFO_MULTI_LABEL,
                Problem::Regression => MODEL_INFO_REGRESSION,
            }
    }
}

/// A line that is being written, cut between characters.
struct Line {
    bytes: [u8; 256],
    n: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary((self.bytes.len() - self.n).min(text.len()));
        self.bytes[self.n..self.n + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.n += fits;
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A classifier's labels, each with a NUL behind it.
struct Labels {
    text: Vec<u8>,
    /// Where each ends, its NUL included.
    ends: Vec<usize>,
}

impl Labels {
    fn of(model: &Model) -> Result<Labels, Fault> {
        let names = model.classifier().map_or(&[][..], |head| head.labels());
        let n_bytes: usize = names.iter().map(|name| name.len() + 1).sum();
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        text.try_reserve_exact(n_bytes)
            .and_then(|()| ends.try_reserve_exact(names.len()))
            .map_err(|_| Error::OutOfMemory { wanted: n_bytes as u64 })?;
        for name in names {
            text.extend(name.bytes().chain([0]));
            ends.push(text.len());
        }
        Ok(Labels { text, ends })
    }

    fn get(&self, label: u32) -> Option<&[u8]> {
        let label = label as usize;
        let end = *self.ends.get(label)?;
        let start = label.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }
}

/// Opens a model from where `source` says, and gives its handle to `model`.
///
/// # Safety
/// The header's: each pointer is null or points to what it is to.
unsafe fn open<'a>(
    source: impl FnOnce() -> Result<Source<'a>, Fault>,
    options: *const PithModelOptions,
    model: *mut *mut PithModel,
    error: *mut PithError,
) -> Status {
    // SAFETY: by this function's contract.
    let model = unsafe { Place::new(model, ptr::null_mut()) };
    let body = || {
        model.needed("model")?;
        // SAFETY: by this function's contract.
        let options = unsafe { structs::read(options) }?;
        PithModel::open(source()?, &options)
    };
    // SAFETY: by this function's contract.
    unsafe { guard(error, body, |made| model.set(Arc::into_raw(made).cast_mut())) }
}

/// Maps a GGUF file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_open(
    path: *const c_char,
    options: *const PithModelOptions,
    model: *mut *mut PithModel,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    unsafe { open(|| pointers::path(path).map(Source::File), options, model, error) }
}

/// A GGUF file that lies in memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_from_memory(
    data: *const c_void,
    n_bytes: usize,
    options: *const PithModelOptions,
    model: *mut *mut PithModel,
    error: *mut PithError,
) -> Status {
    let source = || {
        // SAFETY: the header's contract: the bytes stay, as they are, as long as the model.
        let bytes = unsafe { pointers::values(data.cast::<u8>(), n_bytes, "data") }?;
        Ok(Source::Lent(bytes))
    };
    // SAFETY: the header's contract.
    unsafe { open(source, options, model, error) }
}

/// A GGUF file through callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_from_reader(
    reader: *const PithReader,
    options: *const PithModelOptions,
    model: *mut *mut PithModel,
    error: *mut PithError,
) -> Status {
    let source = || match reader.is_null() {
        true => Err(Fault::Null("reader")),
        // SAFETY: the header's contract.
        false => unsafe { structs::read(reader) }.map(Source::Reader),
    };
    // SAFETY: the header's contract.
    unsafe { open(source, options, model, error) }
}

/// Gives the handle back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_free(model: *mut PithModel) {
    if !model.is_null() {
        // SAFETY: it isn't null, and by the header's contract it is one of `open`, not yet freed.
        quietly(|| drop(unsafe { Arc::from_raw(model.cast_const()) }));
    }
}

/// A model's numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_get_info(
    model: *const PithModel,
    info: *mut PithModelInfo,
    error: *mut PithError,
) -> Status {
    let body = || {
        if info.is_null() {
            return Err(Fault::Null("info"));
        }
        // SAFETY: the header's contract.
        let info = unsafe { Out::new(info) }?;
        info.set(&PithModelInfo::INIT);
        // SAFETY: the header's contract: it is null or a model that lives.
        let model = unsafe { model.as_ref() }.ok_or(Fault::Null("model"))?;
        info.set(&model.info());
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |()| ()) }
}

/// A classifier's label.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_model_label(model: *const PithModel, label: u32) -> *const c_char {
    // SAFETY: the header's contract: it is null or a model that lives.
    let label = unsafe { model.as_ref() }.and_then(|model| model.labels.get(label));
    label.map_or(ptr::null(), |label| label.as_ptr().cast())
}

/// Maps an adapter's file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_adapter_open(
    path: *const c_char,
    adapter: *mut *mut PithAdapter,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let adapter = unsafe { Place::new(adapter, ptr::null_mut()) };
    let body = || {
        adapter.needed("adapter")?;
        // SAFETY: the header's contract.
        let path = unsafe { pointers::path(path) }?;
        Ok(Box::new(PithAdapter { lora: Arc::new(Lora::open(path)?) }))
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |made| adapter.set(Box::into_raw(made))) }
}

/// Gives the handle back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_adapter_free(adapter: *mut PithAdapter) {
    if !adapter.is_null() {
        // SAFETY: it isn't null, and by the header's contract it is one of `pith_adapter_open`, not yet
        // freed.
        quietly(|| drop(unsafe { Box::from_raw(adapter) }));
    }
}
