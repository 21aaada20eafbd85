//! Models and contexts of llama.cpp, on the CPU, silent.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::Once;

use llama_cpp_sys_2 as sys;

use crate::pool::Pool;

/// Why llama.cpp did not do it.
pub type Result<T> = std::result::Result<T, String>;

extern "C" fn discard(_: sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// Starts the backend once and silences its log, ggml's too.
pub fn init() {
    static INIT: Once = Once::new();
    // SAFETY: called once, before any other call; `discard` lives as long as the program.
    INIT.call_once(|| unsafe {
        sys::llama_log_set(Some(discard), std::ptr::null_mut());
        sys::llama_backend_init();
    });
}

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Map the file; otherwise read it into memory.
    pub mmap: bool,
    /// Let ggml make a second, repacked copy of the formats that its fastest kernels want
    /// (llama.cpp's default).
    pub repack: bool,
}

impl Default for Load {
    fn default() -> Self {
        Load { mmap: true, repack: true }
    }
}

/// A loaded GGUF file.
pub struct Model {
    model: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
}

impl Model {
    /// Loads a GGUF file, all layers on the CPU.
    pub fn load(path: &Path, load: Load) -> Result<Model> {
        init();
        let fault = || format!("llama.cpp cannot load {}", path.display());
        let c_path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| fault())?;
        // SAFETY: returns plain data.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = 0;
        params.load_mode =
            if load.mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
        params.use_extra_bufts = load.repack;
        // SAFETY: the path is NUL-terminated and outlives the call; params are the defaults but for
        // plain fields.
        let model = unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) };
        let model = NonNull::new(model).ok_or_else(fault)?;
        // SAFETY: the model is valid; its vocabulary lives as long as it does.
        let vocab = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        let vocab = NonNull::new(vocab.cast_mut()).ok_or_else(fault)?;
        Ok(Model { model, vocab })
    }

    /// Number of tokens in the vocabulary.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary is valid for as long as self.
        let n = unsafe { sys::llama_vocab_n_tokens(self.vocab.as_ptr()) };
        n.try_into().unwrap_or(0)
    }

    /// The id that begins every sequence, if the model wants one.
    pub fn bos_to_add(&self) -> Option<u32> {
        // SAFETY: the vocabulary is valid for as long as self.
        let (wanted, bos) = unsafe {
            (
                sys::llama_vocab_get_add_bos(self.vocab.as_ptr()),
                sys::llama_vocab_bos(self.vocab.as_ptr()),
            )
        };
        if wanted { bos.try_into().ok() } else { None }
    }

    /// Whether a token ends a text.
    pub fn is_eog(&self, id: u32) -> bool {
        let n_vocab = self.n_vocab();
        // SAFETY: the vocabulary is valid for as long as self, and the id is one of it.
        (id as usize) < n_vocab
            && unsafe { sys::llama_vocab_is_eog(self.vocab.as_ptr(), id as i32) }
    }

    /// Text to ids. `add_special` adds what the model wants around a text (BOS);
    /// `parse_special` reads special tokens in the text as such.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let len = i32::try_from(text.len()).map_err(|_| "text over 2 GiB".to_string())?;
        // A token is at least a byte long, save for the special ones and a space put in front; but a
        // vocabulary without words spells SentencePiece's mark for a space in three.
        let mut ids = vec![0 as sys::llama_token; 3 * text.len() + 8];
        let room = i32::try_from(ids.len()).map_err(|_| "text over 2 GiB".to_string())?;
        // SAFETY: reads `len` bytes of text, writes at most `room` ids.
        let n = unsafe {
            sys::llama_tokenize(
                self.vocab.as_ptr(),
                text.as_ptr().cast(),
                len,
                ids.as_mut_ptr(),
                room,
                add_special,
                parse_special,
            )
        };
        let n = usize::try_from(n).map_err(|_| format!("tokenize: {n}"))?;
        ids[..n].iter().map(|&id| u32::try_from(id).map_err(|_| format!("id {id}"))).collect()
    }

    /// The text of a token.
    pub fn piece(&self, id: u32) -> Result<Vec<u8>> {
        let fault = || format!("token {id} has no text");
        let token = i32::try_from(id).ok().filter(|_| (id as usize) < self.n_vocab());
        let mut text = [0u8; 256];
        // SAFETY: the id is below n_vocab; writes at most as many bytes as there are.
        let n = unsafe {
            sys::llama_token_to_piece(
                self.vocab.as_ptr(),
                token.ok_or_else(fault)?,
                text.as_mut_ptr().cast(),
                text.len() as i32,
                0,
                false,
            )
        };
        usize::try_from(n).map(|n| text[..n].to_vec()).map_err(|_| fault())
    }

    /// A context for one sequence of at most `n_ctx` tokens, which it can take at once.
    pub fn context(&self, n_ctx: usize, n_threads: usize) -> Result<Context<'_>> {
        self.batch_context(1, n_ctx, n_threads)
    }

    /// A context for `n_seq` sequences of at most `n_ctx` tokens each, with a pool of threads of its
    /// own. Sequences have caches apart, which is faster than one for all.
    pub fn batch_context(
        &self,
        n_seq: usize,
        n_ctx: usize,
        n_threads: usize,
    ) -> Result<Context<'_>> {
        let n_batch = n_ctx.max(n_seq);
        // n_ubatch stays at llama.cpp's default of 512, as its own measurements have it.
        let cells = Cells::Apart;
        self.context_of(&Setup {
            n_seq,
            n_ctx,
            cells,
            n_batch,
            n_ubatch: 512,
            flash: None,
            n_threads,
        })
    }

    /// A context, with a pool of threads of its own.
    pub fn context_of(&self, setup: &Setup) -> Result<Context<'_>> {
        let Setup { n_seq, n_ctx, cells, n_batch, n_ubatch, flash, n_threads } = *setup;
        let fault = || format!("llama.cpp cannot make a context: {setup:?}");
        let number = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0).ok_or_else(fault);
        // llama.cpp rounds each sequence's part up to 256 itself, but not the whole.
        let n_all = match cells {
            Cells::Apart => n_seq.saturating_mul(n_ctx.next_multiple_of(256)),
            Cells::Shared(n) => n.next_multiple_of(256),
        };
        let n_threads = i32::try_from(number(n_threads)?).map_err(|_| fault())?;
        let pool = Pool::new(n_threads as usize)?;
        // SAFETY: returns plain data.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = number(n_all)?;
        params.n_batch = number(n_batch)?;
        params.n_ubatch = number(n_ubatch.min(n_batch))?;
        params.n_seq_max = number(n_seq)?;
        params.kv_unified = matches!(cells, Cells::Shared(_));
        params.flash_attn_type = match flash {
            None => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(true) => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Some(false) => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        params.n_threads = n_threads;
        params.n_threads_batch = n_threads;
        params.no_perf = true;
        // SAFETY: the model is valid and outlives the context, as `Context` borrows it.
        let context = unsafe { sys::llama_init_from_model(self.model.as_ptr(), params) };
        let context = NonNull::new(context).ok_or_else(fault)?;
        // SAFETY: both are valid; the pool outlives the context, as `Context` frees it last.
        unsafe {
            sys::llama_attach_threadpool(context.as_ptr(), pool.as_ptr(), std::ptr::null_mut());
        }
        let (n_past, n_vocab) = (vec![0; n_seq], self.n_vocab());
        Ok(Context { context, n_ctx, n_past, n_vocab, pool, model: PhantomData })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by llama_model_load_from_file, freed once; contexts borrow it, so none is
        // left.
        unsafe { sys::llama_model_free(self.model.as_ptr()) }
    }
}

/// The mixes of formats that llama.cpp's quantizer is asked for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileType(sys::llama_ftype);

impl FromStr for FileType {
    type Err = String;

    fn from_str(name: &str) -> Result<FileType> {
        Ok(FileType(match name {
            "F16" => sys::LLAMA_FTYPE_MOSTLY_F16,
            "Q4_0" => sys::LLAMA_FTYPE_MOSTLY_Q4_0,
            "Q4_1" => sys::LLAMA_FTYPE_MOSTLY_Q4_1,
            "Q4_K_S" => sys::LLAMA_FTYPE_MOSTLY_Q4_K_S,
            "Q4_K_M" => sys::LLAMA_FTYPE_MOSTLY_Q4_K_M,
            "Q6_K" => sys::LLAMA_FTYPE_MOSTLY_Q6_K,
            "Q8_0" => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
            _ => return Err(format!("{name}: no type that quantize knows")),
        }))
    }
}

/// Writes `source` as `target`, its matrices in other formats; those that are quantized already are
/// decoded first.
pub fn quantize(source: &Path, target: &Path, of: FileType, n_threads: usize) -> Result<()> {
    init();
    let c_path =
        |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string());
    let (c_source, c_target) = (c_path(source)?, c_path(target)?);
    // SAFETY: returns plain data.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.ftype = of.0;
    params.nthread = i32::try_from(n_threads).map_err(|e| e.to_string())?;
    params.allow_requantize = true;
    // SAFETY: paths are NUL-terminated and outlive the call; params are the defaults but for plain
    // fields.
    match unsafe { sys::llama_model_quantize(c_source.as_ptr(), c_target.as_ptr(), &params) } {
        0 => Ok(()),
        status => Err(format!("llama.cpp cannot quantize {}: {status}", source.display())),
    }
}

/// What a context is made for.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Sequences.
    pub n_seq: usize,
    /// Tokens that a sequence can hold.
    pub n_ctx: usize,
    /// How the cache is divided.
    pub cells: Cells,
    /// Most tokens of a call.
    pub n_batch: usize,
    /// Most tokens of a step, of which a call makes as many as it needs.
    pub n_ubatch: usize,
    /// Whether attention is fused; `None` where llama.cpp chooses so.
    pub flash: Option<bool>,
    /// Threads.
    pub n_threads: usize,
}

/// How a cache is divided among sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cells {
    /// Each sequence has its part; a step has as many tokens of each that it has any of.
    Apart,
    /// So many for all, and what sequences share is there once; each token is multiplied with all.
    Shared(usize),
}

/// For which tokens of a batch to compute logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// For each.
    All,
    /// For the last.
    Last,
}

/// An adapter's file, loaded for a model that frees it.
pub struct Adapter<'m> {
    adapter: NonNull<sys::llama_adapter_lora>,
    model: PhantomData<&'m Model>,
}

impl Model {
    /// Loads an adapter's file for this model.
    pub fn adapter(&self, path: &Path) -> Result<Adapter<'_>> {
        let fault = || format!("llama.cpp cannot load {} for the model", path.display());
        let c_path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| fault())?;
        // SAFETY: the model is valid; the path is NUL-terminated and outlives the call.
        let adapter = unsafe { sys::llama_adapter_lora_init(self.model.as_ptr(), c_path.as_ptr()) };
        Ok(Adapter { adapter: NonNull::new(adapter).ok_or_else(fault)?, model: PhantomData })
    }
}

/// Sequences and their KV cache.
pub struct Context<'m> {
    context: NonNull<sys::llama_context>,
    n_ctx: usize,
    /// Tokens that each sequence holds.
    n_past: Vec<usize>,
    n_vocab: usize,
    pool: Pool,
    model: PhantomData<&'m Model>,
}

impl<'m> Context<'m> {
    /// Tokens that a sequence can hold.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Sequences.
    pub fn n_seq(&self) -> usize {
        self.n_past.len()
    }

    /// Tokens that sequence `seq` holds.
    pub fn len(&self, seq: usize) -> usize {
        self.n_past[seq]
    }

    /// Numbers in a row of logits.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Adds what an adapter changes, times `scale`, from here on.
    pub fn adapt(&mut self, adapter: &Adapter<'m>, mut scale: f32) -> Result<()> {
        let mut adapter = adapter.adapter.as_ptr();
        // SAFETY: both are of one model, which outlives the context; the arrays have one element,
        // and their values are copied.
        let code = unsafe {
            sys::llama_set_adapters_lora(self.context.as_ptr(), &mut adapter, 1, &mut scale)
        };
        if code == 0 { Ok(()) } else { Err(format!("set_adapters_lora: {code}")) }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        // SAFETY: the context is valid.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context.as_ptr()), true) };
        self.n_past.fill(0);
    }

    /// Forgets the tokens of a sequence from position `len` on.
    pub fn truncate(&mut self, seq: usize, len: usize) -> Result<()> {
        if len >= self.n_past[seq] {
            return Ok(());
        }
        let number = |n: usize| i32::try_from(n).map_err(|e| e.to_string());
        let (id, from) = (number(seq)?, number(len)?);
        // SAFETY: the context is valid.
        let done = unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            sys::llama_memory_seq_rm(memory, id, from, -1)
        };
        self.n_past[seq] = len;
        if done { Ok(()) } else { Err("llama.cpp cannot truncate its cache".to_string()) }
    }

    /// Makes a sequence, which holds nothing, one of what another holds.
    pub fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        let number = |n: usize| i32::try_from(n).map_err(|e| e.to_string());
        let (from_id, to_id) = (number(from)?, number(to)?);
        assert!(from.max(to) < self.n_seq(), "sequences {from} and {to} of {}", self.n_seq());
        // SAFETY: the context is valid; both are its sequences.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            sys::llama_memory_seq_cp(memory, from_id, to_id, -1, -1);
        }
        self.n_past[to] = self.n_past[from];
        Ok(())
    }

    /// Appends `ids` to sequence 0 in one call; returns the logits asked for,
    /// `[n_ids or 1, n_vocab]`.
    pub fn decode(&mut self, ids: &[u32], logits: Logits) -> Result<&[f32]> {
        let tokens: Vec<(usize, u32)> = ids.iter().map(|&id| (0, id)).collect();
        self.decode_batch(&tokens, logits)
    }

    /// Appends ids to sequences in one call, each given as its sequence and itself; returns the
    /// logits asked for, `[n_tokens or 1, n_vocab]`.
    pub fn decode_batch(&mut self, tokens: &[(usize, u32)], logits: Logits) -> Result<&[f32]> {
        let mut wanted = vec![logits == Logits::All; tokens.len()];
        *wanted.last_mut().ok_or("no tokens")? = true;
        self.decode_wanted(tokens, &wanted)
    }

    /// As [`Context::decode_batch`]; says of each token whether its logits are wanted, as some are.
    pub fn decode_wanted(&mut self, tokens: &[(usize, u32)], wanted: &[bool]) -> Result<&[f32]> {
        let n = tokens.len();
        if n != wanted.len() || !wanted.contains(&true) {
            return Err(format!("{n} tokens, {} words on them", wanted.len()));
        }
        let mut n_past = self.n_past.clone();
        let mut ids: Vec<sys::llama_token> = Vec::with_capacity(n);
        let mut positions: Vec<sys::llama_pos> = Vec::with_capacity(n);
        let mut sequences: Vec<sys::llama_seq_id> = Vec::with_capacity(n);
        for &(seq, id) in tokens {
            let past = n_past.get_mut(seq).ok_or_else(|| format!("no sequence {seq}"))?;
            if id as usize >= self.n_vocab || *past >= self.n_ctx {
                let (n_vocab, n_ctx) = (self.n_vocab, self.n_ctx);
                return Err(format!("id {id} of {n_vocab} at position {past} of {n_ctx}"));
            }
            // All fit i32: llama.cpp's own counts of the vocabulary, positions and sequences did.
            ids.push(id as i32);
            positions.push(*past as i32);
            sequences.push(seq as i32);
            *past += 1;
        }
        let mut n_seq_ids = vec![1; n];
        let mut seq_ids: Vec<*mut sys::llama_seq_id> =
            sequences.iter_mut().map(|seq| &raw mut *seq).collect();
        let mut flags: Vec<i8> = wanted.iter().map(|&wanted| i8::from(wanted)).collect();
        let batch = sys::llama_batch {
            n_tokens: n as i32,
            token: ids.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_seq_ids.as_mut_ptr(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: flags.as_mut_ptr(),
        };
        // SAFETY: every array of the batch has n_tokens entries and outlives the call; ids are
        // below n_vocab and positions fit the context, both checked above.
        let status = unsafe { sys::llama_decode(self.context.as_ptr(), batch) };
        if status != 0 {
            return Err(format!("llama_decode: {status}"));
        }
        self.n_past = n_past;
        let n_logits = wanted.iter().filter(|&&wanted| wanted).count();
        // SAFETY: the context is valid; this waits for the step to finish.
        let pointer = unsafe { sys::llama_get_logits(self.context.as_ptr()) };
        if pointer.is_null() {
            return Err("llama.cpp has no logits".to_string());
        }
        // SAFETY: llama_get_logits gives one row of n_vocab floats per wanted token, in the order of
        // the batch; they stay until the next call that takes &mut self.
        Ok(unsafe { std::slice::from_raw_parts(pointer, n_logits * self.n_vocab) })
    }

    /// Puts llama.cpp's threads to sleep, so that they don't spin beside the next who is measured.
    pub fn rest(&self) {
        self.pool.pause();
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: made by llama_init_from_model, freed once.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}
