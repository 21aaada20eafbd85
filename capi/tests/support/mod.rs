//! What the tests share: models, and the functions as tests want to call them.
#![allow(dead_code, missing_docs)]

#[path = "../../../tests/goldens/support/checkpoint.rs"]
pub mod checkpoint;

use std::{
    ffi::{CStr, CString, c_char, c_void},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    ptr,
    sync::OnceLock,
};

use pith_c::*;
use pith_convert::{Options, Target};
use tempfile::TempDir;

/// Converts a checkpoint into a file of a folder that lives as long as the tests.
pub fn converted(source: &Path, name: &str, target: &str) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    let out = folder.path().join(name);
    let target = Target::by_name(target).expect("a type");
    let options = Options { target, threads: 1, ..Options::default() };
    pith_convert::convert(source, &out, &options, &mut |_| ControlFlow::Continue(()))
        .expect("it is converted");
    out
}

/// The demo model.
pub fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    DEMO.get_or_init(|| converted(&source, "demo.gguf", "q8_0"))
}

/// A golden checkpoint, converted; with another tokenizer of `tests/data` if one is named.
pub fn golden(name: &str, source: &Path, tokenizer: Option<&str>) -> PathBuf {
    checkpoint::Checkpoint::open(name).write(source, checkpoint::Layout::PLAIN);
    if let Some(tokenizer) = tokenizer {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer");
        fs::remove_file(source.join("tokenizer_config.json")).expect("it was there");
        let file = "tokenizer.json";
        fs::copy(data.join(tokenizer).join(file), source.join(file)).expect("copied");
    }
    let out = format!("{}{}.gguf", name.replace('/', "-"), tokenizer.unwrap_or_default());
    converted(source, &out, "f16")
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().expect("UTF-8")).expect("no NUL")
}

pub fn error() -> PithError {
    PithError {
        struct_size: size_of::<PithError>(),
        status: -1,
        reserved: 0,
        needed: 0,
        limit: 0,
        message: [0; 512],
    }
}

pub fn message(error: &PithError) -> String {
    // SAFETY: the library keeps a NUL at its end.
    unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().expect("UTF-8").to_owned()
}

/// A null pointer of any kind.
pub fn none<T>() -> *mut T {
    ptr::null_mut()
}

/// Numbers that a call is to overwrite.
pub fn info() -> PithModelInfo {
    PithModelInfo {
        struct_size: size_of::<PithModelInfo>(),
        n_vocab: 9,
        n_ctx: 9,
        n_embd: 9,
        n_layer: 9,
        n_labels: 9,
        bos: 9,
        eos: 9,
        flags: 9,
        file_bytes: 9,
        anonymous_bytes: 9,
        family: [9; 32],
    }
}

/// Numbers that a call is to overwrite.
pub fn nothing() -> PithMemory {
    PithMemory {
        struct_size: size_of::<PithMemory>(),
        file_backed: 9,
        model: 9,
        kv: 9,
        buffers: 9,
        scratch: 9,
        total: 9,
    }
}

pub fn model_options() -> PithModelOptions {
    PithModelOptions {
        struct_size: size_of::<PithModelOptions>(),
        flags: 0,
        reserved: 0,
        max_memory: 0,
        log: None,
        log_user: ptr::null_mut(),
    }
}

pub fn session_options() -> PithSessionOptions {
    PithSessionOptions {
        struct_size: size_of::<PithSessionOptions>(),
        n_ctx: 64,
        n_seq: 2,
        n_batch: 16,
        n_threads: 1,
        cache: CACHE_F16,
        flags: SESSION_SCORE,
        max_memory: 0,
        adapters: ptr::null(),
        adapter_scales: ptr::null(),
        n_adapters: 0,
    }
}

pub fn sampling(temp: f32) -> PithSampling {
    PithSampling {
        struct_size: size_of::<PithSampling>(),
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        temp,
        seed: 7,
    }
}

pub fn generated() -> PithGenerated {
    PithGenerated {
        struct_size: size_of::<PithGenerated>(),
        n_prompt: 9,
        n_tokens: 9,
        finish: 9,
        reserved: 0,
    }
}

/// Asserts that a call gives OK.
#[track_caller]
pub fn ok(call: impl FnOnce(*mut PithError) -> Status) {
    let mut error = error();
    let status = call(&mut error);
    assert_eq!((status, error.status), (OK, OK), "{}", message(&error));
    assert_eq!(message(&error), "");
}

/// Asserts that a call fails in this way, and gives what it says.
#[track_caller]
pub fn fails(wanted: Status, call: impl FnOnce(*mut PithError) -> Status) -> PithError {
    let mut error = error();
    let status = call(&mut error);
    assert_eq!((status, error.status), (wanted, wanted), "{}", message(&error));
    assert_ne!(message(&error), "");
    error
}

/// A model that is freed in the end.
pub struct Model(pub *mut PithModel);

impl Model {
    pub fn open(path: &Path) -> Model {
        let (mut model, path) = (ptr::null_mut(), c_path(path));
        // SAFETY: all of it lives.
        ok(|e| unsafe { pith_model_open(path.as_ptr(), ptr::null(), &mut model, e) });
        Model(model)
    }

    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let (mut ids, mut n) = (vec![0; 256], 0);
        let bytes = text.as_ptr().cast::<c_char>();
        // SAFETY: all of it lives.
        ok(|e| unsafe {
            pith_tokenize(self.0, bytes, text.len(), ADD_BEGIN, ids.as_mut_ptr(), 256, &mut n, e)
        });
        ids.truncate(n);
        ids
    }

    pub fn session(&self, options: &PithSessionOptions) -> Session {
        let mut session = ptr::null_mut();
        // SAFETY: all of it lives.
        ok(|e| unsafe { pith_session_new(self.0, options, &mut session, e) });
        Session(session)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe { pith_model_free(self.0) };
    }
}

/// A session that is freed in the end.
pub struct Session(pub *mut PithSession);

impl Session {
    pub fn feed(&self, seq: u32, ids: &[u32]) {
        // SAFETY: all of it lives.
        ok(|e| unsafe { pith_feed(self.0, seq, ids.as_ptr(), ids.len(), ptr::null_mut(), e) });
    }

    pub fn tokens(&self, seq: u32) -> Vec<u32> {
        let (mut ids, mut n) = (ptr::null(), 0);
        // SAFETY: all of it lives, and what is borrowed is copied at once.
        unsafe {
            ok(|e| pith_tokens(self.0, seq, &mut ids, &mut n, e));
            std::slice::from_raw_parts(ids, n).to_vec()
        }
    }

    pub fn state(&self, seq: u32) -> Vec<u8> {
        let mut n = 0;
        // SAFETY: all of it lives.
        unsafe {
            fails(BUFFER, |e| pith_state_save(self.0, seq, ptr::null_mut(), 0, &mut n, e));
            let mut state = vec![0u8; n];
            ok(|e| pith_state_save(self.0, seq, state.as_mut_ptr().cast(), n, &mut n, e));
            state
        }
    }

    /// Generates with a function that says whether to go on.
    pub fn generate(
        &self,
        prompt: &[u32],
        max_tokens: u32,
        temp: f32,
        mut each: impl FnMut(u32, &str) -> bool,
    ) -> (Status, PithGenerated) {
        let sampling = sampling(temp);
        let options = PithGeneration {
            struct_size: size_of::<PithGeneration>(),
            max_tokens,
            flags: 0,
            sampling: &sampling,
        };
        let mut done = generated();
        let mut each: &mut dyn FnMut(u32, &str) -> bool = &mut each;
        // SAFETY: all of it lives.
        let status = unsafe {
            pith_generate(
                self.0,
                0,
                prompt.as_ptr(),
                prompt.len(),
                &options,
                Some(on_token),
                (&raw mut each).cast(),
                &mut done,
                ptr::null_mut(),
            )
        };
        (status, done)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe { pith_session_free(self.0) };
    }
}

unsafe extern "C" fn on_token(user: *mut c_void, id: u32, text: *const c_char, n: usize) -> i32 {
    // SAFETY: `Session::generate` passes this, and the library a text of this length.
    let (each, text) = unsafe {
        let each = &mut *user.cast::<&mut dyn FnMut(u32, &str) -> bool>();
        (each, std::slice::from_raw_parts(text.cast::<u8>(), n))
    };
    i32::from(!each(id, std::str::from_utf8(text).expect("UTF-8")))
}
