//! Sequences that grow. A session has one user at a time: who comes in while it has one is told so, a
//! callback that comes back too.

use std::{
    cell::UnsafeCell,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pith::{
    Session, cache,
    lora::Adapter,
    sampler::{self, Sampler},
    session::{Options, Stopper},
    team::Team,
    tokenizer::Buffers,
};

use crate::{
    error::{Fault, Status},
    guard::{guard, quietly},
    memory::most,
    model::PithModel,
    pointers::{self, Place},
    structs::{self, Out, PithError, PithMemory, PithSessionOptions, Struct},
};

/// `PITH_SESSION_SCORE`
pub const SESSION_SCORE: u32 = 1;
/// `PITH_CACHE_F16`
pub const CACHE_F16: i32 = 0;
/// `PITH_CACHE_F32`
pub const CACHE_F32: i32 = 1;
/// `PITH_CACHE_Q8_0`
pub const CACHE_Q8_0: i32 = 2;

/// More threads than any use is known for.
const MAX_THREADS: u32 = 1024;

/// Bytes, generously, of what no list is: the session itself, and as much for each of its threads.
const HANDLES: u64 = 4 << 10;

/// `pith_session`.
pub struct PithSession {
    /// Whether somebody is using `inner`.
    busy: AtomicBool,
    /// Whether a bug has left it half done.
    broken: AtomicBool,
    stopper: Stopper,
    inner: UnsafeCell<Inner>,
}

/// What one caller at a time works with.
pub(crate) struct Inner {
    pub session: Session<'static>,
    pub model: Arc<PithModel>,
    pub sampler: Sampler,
    /// Logits that the repeat penalty changes.
    pub penalized: Vec<f32>,
    /// Of each sequence.
    pub draws: Vec<Draw>,
    pub buffers: Buffers,
    /// The sequence whose next token the logits are of.
    pub fresh: Option<u32>,
    pub score: bool,
}

/// How a sequence's tokens are chosen, and where its random numbers are.
pub(crate) struct Draw {
    pub options: sampler::Options,
    pub state: u64,
}

impl Inner {
    /// A sequence's number as an index.
    pub fn seq(&self, seq: u32) -> Result<usize, Fault> {
        let index = seq as usize;
        match index < self.session.n_seq() {
            true => Ok(index),
            false => Err(Fault::Invalid("the session has no sequence of this number")),
        }
    }

    /// A sequence isn't any more what the logits are of.
    pub fn forget(&mut self, seq: u32) {
        self.fresh = self.fresh.filter(|&fresh| fresh != seq);
    }

    pub fn require_score(&self) -> Result<(), Fault> {
        match self.score {
            true => Ok(()),
            false => Err(Fault::Invalid("the session was made without PITH_SESSION_SCORE")),
        }
    }
}

/// The right to use a session's inside, until it is dropped.
struct Lease<'a> {
    of: &'a PithSession,
    done: bool,
}

impl PithSession {
    fn enter(&self) -> Result<Lease<'_>, Fault> {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(Fault::Busy);
        }
        let lease = Lease { of: self, done: false };
        match self.broken.load(Ordering::Relaxed) {
            true => Err(Fault::Broken),
            false => Ok(lease),
        }
    }
}

impl Lease<'_> {
    fn inner(&mut self) -> &mut Inner {
        // SAFETY: `busy` was false when this lease was made and stays true while it lives, so that it is
        // the only one; it is borrowed for as long as what this returns.
        unsafe { &mut *self.of.inner.get() }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.of.broken.store(true, Ordering::Relaxed);
        }
        self.of.busy.store(false, Ordering::Release);
    }
}

/// Runs a function's body with a session that nobody else uses.
///
/// # Safety
/// `session` is null or a session that lives; `error` as [`guard`] wants it.
pub(crate) unsafe fn enter<T>(
    session: *const PithSession,
    error: *mut PithError,
    body: impl FnOnce(&mut Inner) -> Result<T, Fault>,
    give: impl FnOnce(T),
) -> Status {
    let body = || {
        // SAFETY: by this function's contract.
        let session = unsafe { session.as_ref() }.ok_or(Fault::Null("session"))?;
        let mut lease = session.enter()?;
        let result = body(lease.inner());
        // A panic doesn't come here.
        lease.done = true;
        result
    };
    // SAFETY: by this function's contract.
    unsafe { guard(error, body, give) }
}

/// A caller's options in the runtime's terms; the ceiling stays behind, as it is on more.
///
/// # Safety
/// The adapters' arrays are as long as `n_adapters` says, or null, and the adapters live.
unsafe fn options(from: &PithSessionOptions) -> Result<Options, Fault> {
    if from.flags & !SESSION_SCORE != 0 {
        return Err(Fault::Invalid("pith_session_options.flags has bits that mean nothing"));
    }
    if from.n_threads > MAX_THREADS {
        return Err(Fault::Invalid("n_threads is more than 1024"));
    }
    let cache = match from.cache {
        CACHE_F16 => cache::Type::F16,
        CACHE_F32 => cache::Type::F32,
        CACHE_Q8_0 => cache::Type::Q8_0,
        _ => return Err(Fault::Invalid("cache is no PITH_CACHE_...")),
    };
    Ok(Options {
        n_ctx: from.n_ctx as usize,
        n_seq: from.n_seq as usize,
        n_batch: from.n_batch as usize,
        n_threads: from.n_threads as usize,
        score: from.flags & SESSION_SCORE != 0,
        cache,
        // SAFETY: by this function's contract.
        adapters: unsafe { adapters(from) }?,
        ..Options::default()
    })
}

/// # Safety
/// As [`options`].
unsafe fn adapters(from: &PithSessionOptions) -> Result<Vec<Adapter>, Fault> {
    let n = from.n_adapters;
    // SAFETY: by this function's contract.
    let adapters = unsafe { pointers::values(from.adapters, n, "adapters") }?;
    let scales = match from.adapter_scales.is_null() {
        true => None,
        // SAFETY: by this function's contract.
        false => Some(unsafe { pointers::values(from.adapter_scales, n, "adapter_scales") }?),
    };
    let mut all = Vec::new();
    let wanted = (n as u64).saturating_mul(size_of::<Adapter>() as u64);
    all.try_reserve_exact(n).map_err(|_| pith::Error::OutOfMemory { wanted })?;
    for (i, &adapter) in adapters.iter().enumerate() {
        // SAFETY: by this function's contract it is null or an adapter that lives.
        let adapter = unsafe { adapter.as_ref() }.ok_or(Fault::Null("an adapter"))?;
        let scale = scales.map_or(1.0, |scales| scales[i]);
        if !scale.is_finite() {
            return Err(Fault::Invalid("a scale of an adapter is not finite"));
        }
        all.push(Adapter { lora: adapter.lora.clone(), scale });
    }
    Ok(all)
}

/// What a session takes, all in all.
fn plan(model: &PithModel, options: &Options) -> Result<PithMemory, Fault> {
    // The plan itself is memory of the session, too.
    let (planned, own) = most(|| Session::plan_memory(&model.model, options));
    let planned = planned?;
    let n_threads = match options.n_threads {
        0 => Team::n_cores(),
        n => n,
    };
    let handles = (n_threads as u64 + 1).saturating_mul(HANDLES);
    let more = chooser_bytes(model, options.n_seq)?.saturating_add(own + handles);
    let buffers = planned.buffers.saturating_add(more);
    let (kv, scratch) = (planned.kv, planned.scratch);
    let total = [kv, buffers, scratch].into_iter().fold(model.anonymous, u64::saturating_add);
    Ok(PithMemory {
        file_backed: model.file_backed,
        model: model.anonymous,
        kv,
        buffers,
        scratch,
        total,
        ..PithMemory::INIT
    })
}

/// Bytes of what chooses tokens and writes their text.
fn chooser_bytes(model: &PithModel, n_seq: usize) -> Result<u64, Fault> {
    if model.model.classifier().is_some() {
        return Ok(0);
    }
    let n_vocab = model.model.hparams().n_vocab;
    let penalized = (n_vocab as u64).saturating_mul(size_of::<f32>() as u64);
    let draws = (n_seq as u64).saturating_mul(size_of::<Draw>() as u64);
    let text = model.model.tokenizer().buffers()?.n_bytes() as u64;
    let parts = [penalized, draws, text];
    Ok(parts.into_iter().fold(Sampler::reserved_bytes(n_vocab), u64::saturating_add))
}

fn check_ceiling(memory: &PithMemory, limit: u64) -> Result<(), Fault> {
    match limit != 0 && memory.total > limit {
        true => Err(Fault::Planned { needed: memory.total, limit }),
        false => Ok(()),
    }
}

/// `n` values, or what the system says.
fn filled<T>(n: usize, value: impl Fn() -> T) -> Result<Vec<T>, Fault> {
    let mut values = Vec::new();
    let wanted = (n as u64).saturating_mul(size_of::<T>() as u64);
    values.try_reserve_exact(n).map_err(|_| pith::Error::OutOfMemory { wanted })?;
    values.resize_with(n, value);
    Ok(values)
}

impl PithSession {
    fn new(
        model: Arc<PithModel>,
        options: &Options,
        memory: &PithMemory,
    ) -> Result<Box<PithSession>, Fault> {
        let session = Session::new(model.model.clone(), options)?;
        let defaults = sampler::Options::default;
        let mut sampler = Sampler::new(defaults());
        let (mut penalized, mut buffers) = (Vec::new(), Buffers::default());
        if model.model.classifier().is_none() {
            let n_vocab = model.model.hparams().n_vocab;
            sampler.reserve(n_vocab)?;
            penalized = filled(n_vocab, || 0.0)?;
            buffers = model.model.tokenizer().buffers()?;
        }
        model.say(format_args!(
            "session: {} threads, {}, {} sequences of {} tokens, {} bytes of memory with the model's",
            session.n_threads(),
            session.kernels().name(),
            session.n_seq(),
            session.n_ctx(),
            memory.total,
        ));
        Ok(Box::new(PithSession {
            busy: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            stopper: session.stopper(),
            inner: UnsafeCell::new(Inner {
                draws: filled(session.n_seq(), || Draw { options: defaults(), state: 0 })?,
                session,
                model,
                sampler,
                penalized,
                buffers,
                fresh: None,
                score: options.score,
            }),
        }))
    }
}

/// What a session would take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_plan(
    model: *const PithModel,
    from: *const PithSessionOptions,
    memory: *mut PithMemory,
    error: *mut PithError,
) -> Status {
    let body = || {
        if memory.is_null() {
            return Err(Fault::Null("memory"));
        }
        // SAFETY: the header's contract.
        let memory = unsafe { Out::new(memory) }?;
        memory.set(&PithMemory::INIT);
        // SAFETY: the header's contract: it is null or a model that lives.
        let model = unsafe { model.as_ref() }.ok_or(Fault::Null("model"))?;
        // SAFETY: the header's contract.
        let from = unsafe { structs::read(from) }?;
        // SAFETY: the header's contract.
        let planned = plan(model, &unsafe { options(&from) }?)?;
        memory.set(&planned);
        check_ceiling(&planned, from.max_memory)
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |()| ()) }
}

/// Allocates all that a session's steps need.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_session_new(
    model: *mut PithModel,
    from: *const PithSessionOptions,
    session: *mut *mut PithSession,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let session = unsafe { Place::new(session, ptr::null_mut()) };
    let body = || {
        session.needed("session")?;
        if model.is_null() {
            return Err(Fault::Null("model"));
        }
        // SAFETY: the header's contract: it is one of `pith_model_open` and lives, so that there is a
        // count of it, to which this adds one.
        let model = unsafe {
            Arc::increment_strong_count(model.cast_const());
            Arc::from_raw(model.cast_const())
        };
        // SAFETY: the header's contract.
        let from = unsafe { structs::read(from) }?;
        // SAFETY: the header's contract.
        let options = unsafe { options(&from) }?;
        let memory = plan(&model, &options)?;
        check_ceiling(&memory, from.max_memory)?;
        PithSession::new(model, &options, &memory)
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |made| session.set(Box::into_raw(made))) }
}

/// Frees a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_session_free(session: *mut PithSession) {
    // SAFETY: the header's contract: it is null or a session that lives.
    let Some(of) = (unsafe { session.as_ref() }) else { return };
    // Somebody is in it: memory that is lost is better than memory that is used after it was freed.
    if of.busy.swap(true, Ordering::Acquire) {
        return;
    }
    // SAFETY: the header's contract: it is one of `pith_session_new`, not yet freed.
    quietly(|| drop(unsafe { Box::from_raw(session) }));
}

/// Ends the call that is running in the session, or the next one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_cancel(session: *mut PithSession) {
    // SAFETY: the header's contract: it is null or a session that lives. What is behind `busy` isn't
    // touched.
    if let Some(session) = unsafe { session.as_ref() } {
        session.stopper.stop();
    }
}
