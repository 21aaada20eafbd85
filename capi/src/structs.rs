//! The header's structs, and how a caller's are read and written: each begins with its own size, so that
//! a caller may know fewer fields than this library, or more.

use std::{
    ffi::{c_char, c_void},
    mem::{MaybeUninit, offset_of},
    ptr,
    sync::Arc,
};

use pith::Lora;

use crate::error::{Fault, Status};

/// More than any version of a struct will have: a size above it is something else.
const MAX_SIZE: usize = 1 << 16;

/// A struct of the header.
///
/// # Safety
/// It is `repr(C)`, begins with its size as a `usize`, and all bytes that a C caller can write into it
/// are a value. `FIRST` is at least the size of that `usize`.
pub(crate) unsafe trait Struct: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// Its size in the header's first version.
    const FIRST: usize;
    /// What `PITH_..._INIT` says.
    const INIT: Self;
}

/// The end of the field that is the last of the header's first version.
macro_rules! first {
    ($of:ty, $last:ident: $type:ty) => {
        offset_of!($of, $last) + size_of::<$type>()
    };
}

/// Checks the size that a struct begins with.
///
/// # Safety
/// `at` isn't null and points to a struct that begins with a `usize`.
unsafe fn size_at<T: Struct>(at: *const T) -> Result<usize, Fault> {
    // SAFETY: by this function's contract; it may lie anywhere.
    let size = unsafe { at.cast::<usize>().read_unaligned() };
    match (T::FIRST..=MAX_SIZE).contains(&size) {
        true => Ok(size),
        false => Err(Fault::Size { of: T::NAME, got: size, least: T::FIRST }),
    }
}

/// Copies the first `n` bytes of a struct, from byte `from` on.
///
/// # Safety
/// Both have `n` bytes, and don't overlap.
unsafe fn copy<T>(source: *const T, target: *mut T, from: usize, n: usize) {
    let (source, target) = (source.cast::<MaybeUninit<u8>>(), target.cast::<MaybeUninit<u8>>());
    // SAFETY: by this function's contract.
    unsafe { ptr::copy_nonoverlapping(source.add(from), target.add(from), n - from) };
}

/// A caller's struct; the defaults for none, and for fields that it doesn't have.
///
/// # Safety
/// `at` is null, or points to a struct as long as it says.
pub(crate) unsafe fn read<T: Struct>(at: *const T) -> Result<T, Fault> {
    let mut value = T::INIT;
    if !at.is_null() {
        // SAFETY: it isn't null, and by this function's contract.
        let n = unsafe { size_at(at) }?.min(size_of::<T>());
        // SAFETY: the caller's has as many bytes as it says, ours `size_of` of them, and ours is a local.
        unsafe { copy(at, &raw mut value, 0, n) };
    }
    Ok(value)
}

/// Where a result goes: a caller's struct whose size was checked, or nowhere.
pub(crate) struct Out<T> {
    at: *mut T,
    size: usize,
}

impl<T: Struct> Out<T> {
    /// A caller's struct.
    ///
    /// # Safety
    /// `at` is null, or points to a struct as long as it says, which stays while this is in use.
    pub unsafe fn new(at: *mut T) -> Result<Out<T>, Fault> {
        match at.is_null() {
            true => Ok(Out { at, size: 0 }),
            // SAFETY: it isn't null, and by this function's contract.
            false => Ok(Out { at, size: unsafe { size_at(at.cast_const()) }? }),
        }
    }

    /// Fills the fields that the caller knows, but for the size.
    pub fn set(&self, value: &T) {
        if !self.at.is_null() {
            let n = self.size.min(size_of::<T>());
            // SAFETY: `new` was promised as many bytes as its size says, which is at least a usize's;
            // `value` is ours.
            unsafe { copy(value, self.at, size_of::<usize>(), n) };
        }
    }
}

/// `pith_error`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithError {
    /// Its size.
    pub struct_size: usize,
    /// What the function returned.
    pub status: Status,
    /// 0.
    pub reserved: i32,
    /// What was needed.
    pub needed: u64,
    /// What there was.
    pub limit: u64,
    /// In words, NUL-terminated.
    pub message: [c_char; 512],
}

// SAFETY: numbers, the first of them the size.
unsafe impl Struct for PithError {
    const NAME: &'static str = "pith_error";
    const FIRST: usize = first!(PithError, message: [c_char; 512]);
    const INIT: PithError = PithError {
        struct_size: size_of::<PithError>(),
        status: 0,
        reserved: 0,
        needed: 0,
        limit: 0,
        message: [0; 512],
    };
}

/// `pith_log`.
pub type Log = Option<
    unsafe extern "C" fn(user: *mut c_void, level: i32, text: *const c_char, n_bytes: usize),
>;

/// `pith_model_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithModelOptions {
    /// Its size.
    pub struct_size: usize,
    /// `PITH_MODEL_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Ceiling on the model's anonymous bytes; 0 is none.
    pub max_memory: u64,
    /// Gets lines for people.
    pub log: Log,
    /// Its first argument.
    pub log_user: *mut c_void,
}

// SAFETY: numbers and pointers, the first of them the size; a function's address is any but null.
unsafe impl Struct for PithModelOptions {
    const NAME: &'static str = "pith_model_options";
    const FIRST: usize = first!(PithModelOptions, log_user: *mut c_void);
    const INIT: PithModelOptions = PithModelOptions {
        struct_size: size_of::<PithModelOptions>(),
        flags: 0,
        reserved: 0,
        max_memory: 0,
        log: None,
        log_user: ptr::null_mut(),
    };
}

/// Copies a file's bytes: 0, or anything else for a failure.
pub type Read = Option<
    unsafe extern "C" fn(user: *mut c_void, offset: u64, to: *mut c_void, n_bytes: usize) -> i32,
>;

/// `pith_reader`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithReader {
    /// Its size.
    pub struct_size: usize,
    /// Of the whole file.
    pub n_bytes: u64,
    /// Copies bytes of it.
    pub read: Read,
    /// Its first argument.
    pub user: *mut c_void,
}

// SAFETY: numbers and pointers, the first of them the size; a function's address is any but null.
unsafe impl Struct for PithReader {
    const NAME: &'static str = "pith_reader";
    const FIRST: usize = first!(PithReader, user: *mut c_void);
    const INIT: PithReader = PithReader {
        struct_size: size_of::<PithReader>(),
        n_bytes: 0,
        read: None,
        user: ptr::null_mut(),
    };
}

/// `pith_model_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithModelInfo {
    /// Its size.
    pub struct_size: usize,
    /// Tokens.
    pub n_vocab: u32,
    /// Most tokens of a sequence.
    pub n_ctx: u32,
    /// Floats of an embedding.
    pub n_embd: u32,
    /// Layers.
    pub n_layer: u32,
    /// Labels of a classifier.
    pub n_labels: u32,
    /// Begins a text; -1 for none.
    pub bos: i32,
    /// Ends a text; -1 for none.
    pub eos: i32,
    /// `PITH_MODEL_INFO_...`
    pub flags: u32,
    /// Of the file.
    pub file_bytes: u64,
    /// Beside a mapped or lent file.
    pub anonymous_bytes: u64,
    /// Name of its family, NUL-terminated.
    pub family: [c_char; 32],
}

// SAFETY: numbers, the first of them the size.
unsafe impl Struct for PithModelInfo {
    const NAME: &'static str = "pith_model_info";
    const FIRST: usize = first!(PithModelInfo, family: [c_char; 32]);
    const INIT: PithModelInfo = PithModelInfo {
        struct_size: size_of::<PithModelInfo>(),
        n_vocab: 0,
        n_ctx: 0,
        n_embd: 0,
        n_layer: 0,
        n_labels: 0,
        bos: 0,
        eos: 0,
        flags: 0,
        file_bytes: 0,
        anonymous_bytes: 0,
        family: [0; 32],
    };
}

/// `pith_adapter`.
pub struct PithAdapter {
    pub(crate) lora: Arc<Lora>,
}

/// `pith_session_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithSessionOptions {
    /// Its size.
    pub struct_size: usize,
    /// Tokens of a sequence; 0 is the model's own, at most 4096.
    pub n_ctx: u32,
    /// Sequences.
    pub n_seq: u32,
    /// Tokens of a step.
    pub n_batch: u32,
    /// Threads; 0 is all cores.
    pub n_threads: u32,
    /// `PITH_CACHE_...`
    pub cache: i32,
    /// `PITH_SESSION_...`
    pub flags: u32,
    /// Ceiling on all anonymous bytes; 0 is none.
    pub max_memory: u64,
    /// `n_adapters` of them.
    pub adapters: *const *const PithAdapter,
    /// `n_adapters` of them, or null.
    pub adapter_scales: *const f32,
    /// How many.
    pub n_adapters: usize,
}

// SAFETY: numbers and pointers, the first of them the size.
unsafe impl Struct for PithSessionOptions {
    const NAME: &'static str = "pith_session_options";
    const FIRST: usize = first!(PithSessionOptions, n_adapters: usize);
    const INIT: PithSessionOptions = PithSessionOptions {
        struct_size: size_of::<PithSessionOptions>(),
        n_ctx: 0,
        n_seq: 1,
        n_batch: 128,
        n_threads: 0,
        cache: 0,
        flags: 0,
        max_memory: 0,
        adapters: ptr::null(),
        adapter_scales: ptr::null(),
        n_adapters: 0,
    };
}

/// `pith_memory`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PithMemory {
    /// Its size.
    pub struct_size: usize,
    /// Mapped, or the caller's.
    pub file_backed: u64,
    /// Anonymous, shared by sessions.
    pub model: u64,
    /// Keys and values.
    pub kv: u64,
    /// What ops write.
    pub buffers: u64,
    /// What threads need.
    pub scratch: u64,
    /// All but `file_backed`.
    pub total: u64,
}

// SAFETY: numbers, the first of them the size.
unsafe impl Struct for PithMemory {
    const NAME: &'static str = "pith_memory";
    const FIRST: usize = first!(PithMemory, total: u64);
    const INIT: PithMemory = PithMemory {
        struct_size: size_of::<PithMemory>(),
        file_backed: 0,
        model: 0,
        kv: 0,
        buffers: 0,
        scratch: 0,
        total: 0,
    };
}

/// `pith_sampling`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithSampling {
    /// Its size.
    pub struct_size: usize,
    /// 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens count for it.
    pub repeat_last_n: u32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 0 is always the likeliest.
    pub temp: f32,
    /// Start of the random numbers.
    pub seed: u64,
}

// SAFETY: numbers, the first of them the size.
unsafe impl Struct for PithSampling {
    const NAME: &'static str = "pith_sampling";
    const FIRST: usize = first!(PithSampling, seed: u64);
    const INIT: PithSampling = PithSampling {
        struct_size: size_of::<PithSampling>(),
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        temp: 0.8,
        seed: 0,
    };
}

/// `pith_generation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithGeneration {
    /// Its size.
    pub struct_size: usize,
    /// 0: until the context is full.
    pub max_tokens: u32,
    /// `PITH_SHOW_SPECIAL`, `PITH_IGNORE_EOS`
    pub flags: u32,
    /// How tokens are chosen.
    pub sampling: *const PithSampling,
}

// SAFETY: numbers and a pointer, the first of them the size.
unsafe impl Struct for PithGeneration {
    const NAME: &'static str = "pith_generation";
    const FIRST: usize = first!(PithGeneration, sampling: *const PithSampling);
    const INIT: PithGeneration = PithGeneration {
        struct_size: size_of::<PithGeneration>(),
        max_tokens: 0,
        flags: 0,
        sampling: ptr::null(),
    };
}

/// `pith_generated`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PithGenerated {
    /// Its size.
    pub struct_size: usize,
    /// Tokens of the prompt that were computed.
    pub n_prompt: u32,
    /// Tokens that were handed out.
    pub n_tokens: u32,
    /// `PITH_FINISH_...`
    pub finish: i32,
    /// 0.
    pub reserved: i32,
}

// SAFETY: numbers, the first of them the size.
unsafe impl Struct for PithGenerated {
    const NAME: &'static str = "pith_generated";
    const FIRST: usize = first!(PithGenerated, reserved: i32);
    const INIT: PithGenerated = PithGenerated {
        struct_size: size_of::<PithGenerated>(),
        n_prompt: 0,
        n_tokens: 0,
        finish: 0,
        reserved: 0,
    };
}
