//! Sessions that are made when they are first needed, and kept between calls. Python's threads share a
//! model: each thread that writes a text has a session of its own, and calls that fill all cores anyway
//! (scores, labels, embeddings) take turns at one.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use pyo3::prelude::*;
use runtime::{
    Error, Model, Session,
    batch::{Heads, N_BATCH, Scorer},
    cache,
    session::{DEFAULT_CTX, Memory, Options},
};

use crate::{
    error::OrRaise,
    signals::{TICK, watched},
};

/// Tokens of a step after each of which the logits are wanted.
const N_LOGITS: usize = 32;
/// Idle sessions for texts that are kept.
const MOST_IDLE: usize = 4;

/// What a model can be asked for, each with sessions of its own kind.
pub struct Sessions {
    model: Arc<Model>,
    budget: Arc<Budget>,
    /// Texts that are written, and the logits after a text.
    pub write: Arc<Shelf<Session<'static>>>,
    /// Logits after each token.
    pub logits: Arc<Shelf<Session<'static>>>,
    /// Embeddings.
    pub embed: Arc<Shelf<Session<'static>>>,
    /// Scores.
    pub score: Arc<Shelf<Scorer<'static>>>,
    /// What a classification head says.
    pub heads: Arc<Shelf<Heads<'static>>>,
}

/// Memory of all sessions together.
struct Budget {
    limit: Option<u64>,
    used: Mutex<u64>,
}

/// Sessions of one kind.
pub struct Shelf<T> {
    options: Options,
    /// Most that can be in use at a time.
    most: usize,
    budget: Arc<Budget>,
    state: Mutex<State<T>>,
    /// One that was in use no longer is.
    back: Condvar,
}

struct State<T> {
    idle: Vec<T>,
    n_used: usize,
}

/// What holds a session.
pub trait Holds: Sized + Send {
    /// Plans and allocates.
    fn make(model: Arc<Model>, options: &Options) -> runtime::Result<Self>;
    /// The session.
    fn session(&self) -> &Session<'static>;
}

impl Holds for Session<'static> {
    fn make(model: Arc<Model>, options: &Options) -> runtime::Result<Self> {
        Session::new(model, options)
    }

    fn session(&self) -> &Session<'static> {
        self
    }
}

impl Holds for Scorer<'static> {
    fn make(model: Arc<Model>, options: &Options) -> runtime::Result<Self> {
        Scorer::new(model, options)
    }

    fn session(&self) -> &Session<'static> {
        Scorer::session(self)
    }
}

impl Holds for Heads<'static> {
    fn make(model: Arc<Model>, options: &Options) -> runtime::Result<Self> {
        Heads::new(model, options)
    }

    fn session(&self) -> &Session<'static> {
        Heads::session(self)
    }
}

/// A session in use; it goes back to its shelf when this is dropped.
pub struct Lease<T: Holds> {
    shelf: Arc<Shelf<T>>,
    /// Always there until the drop.
    held: Option<T>,
    is_spoiled: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All states are whole between two statements: a panic elsewhere doesn't matter.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// None yet. `options` say the context, the threads, the adapters, how many sequences calls of many
    /// texts run, and the ceiling on all sessions together; `cache` how keys and values are kept, where
    /// somebody says.
    ///
    /// # Errors
    /// The options make no sense for the model, or the session that it is for is over the ceiling.
    pub fn new(
        model: Arc<Model>,
        options: &Options,
        cache: Option<cache::Type>,
    ) -> runtime::Result<Sessions> {
        let limit = options.max_memory;
        let budget = Arc::new(Budget { limit, used: Mutex::new(0) });
        let is_lm = model.classifier().is_none();
        // As the command has it: a head's session is small, and need not round.
        let default = if is_lm { cache::Type::F16 } else { cache::Type::F32 };
        let many = Options { max_memory: None, cache: cache.unwrap_or(default), ..options.clone() };
        let many = Options { n_batch: N_BATCH, ..many };
        let one = Options { n_seq: 1, ..many.clone() };
        let write = Options { n_batch: Options::default().n_batch, ..one.clone() };
        let logits = Options { n_logits: N_LOGITS, ..write.clone() };
        let embed = Options { score: is_lm, ..one };
        let score = Options { score: true, n_top: 1, ..many.clone() };
        let score = fitting(&model, score, limit)?;
        let heads = fitting(&model, many, limit)?;
        let sessions = Sessions {
            write: Shelf::new(write, usize::MAX, &budget),
            logits: Shelf::new(logits, 1, &budget),
            embed: Shelf::new(embed, 1, &budget),
            score: Shelf::new(score, 1, &budget),
            heads: Shelf::new(heads, 1, &budget),
            model,
            budget,
        };
        let needed = match is_lm {
            true => sessions.plan(&sessions.write)?.total(),
            false => sessions.plan(&sessions.heads)?.total(),
        };
        match limit.filter(|&limit| needed > limit) {
            Some(limit) => Err(Error::Memory { needed, limit }),
            None => Ok(sessions),
        }
    }

    /// What a session of a shelf takes.
    ///
    /// # Errors
    /// As [`Session::plan_memory`].
    pub fn plan<T>(&self, shelf: &Shelf<T>) -> runtime::Result<Memory> {
        Session::plan_memory(&self.model, &shelf.options)
    }

    /// Bytes that all sessions take now.
    pub fn used(&self) -> u64 {
        *lock(&self.budget.used)
    }

    /// Tokens that the context of each sequence holds.
    pub fn n_ctx(&self) -> usize {
        match self.write.options.n_ctx {
            0 => self.model.hparams().n_ctx.min(DEFAULT_CTX),
            n => n,
        }
    }

    /// A session of a shelf: an idle one that begins with as much of `ids` as any, or a new one. Waits
    /// while as many as can be are in use.
    ///
    /// # Errors
    /// What a signal's handler raises; [`Error::Memory`] where it would be over the ceiling; the system
    /// has no memory for it.
    pub fn take<T: Holds>(
        &self,
        py: Python<'_>,
        shelf: &Arc<Shelf<T>>,
        ids: &[u32],
    ) -> PyResult<Lease<T>> {
        loop {
            match py.detach(|| self.try_take(shelf, ids)).or_raise(py)? {
                Some(lease) => return Ok(lease),
                None => py.check_signals()?,
            }
        }
    }

    /// The same, but `None` if none comes back within a [`TICK`].
    fn try_take<T: Holds>(
        &self,
        shelf: &Arc<Shelf<T>>,
        ids: &[u32],
    ) -> runtime::Result<Option<Lease<T>>> {
        let mut state = lock(&shelf.state);
        if state.idle.is_empty() && state.n_used >= shelf.most {
            let waited = shelf.back.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let lease = |held| Lease { shelf: shelf.clone(), held: Some(held), is_spoiled: false };
        if let Some(best) = best(&state.idle, ids) {
            state.n_used += 1;
            return Ok(Some(lease(state.idle.swap_remove(best))));
        }
        if state.n_used >= shelf.most {
            return Ok(None);
        }
        state.n_used += 1;
        drop(state);
        let made = self.make(&shelf.options);
        if made.is_err() {
            lock(&shelf.state).n_used -= 1;
            shelf.back.notify_one();
        }
        made.map(|held| Some(lease(held)))
    }

    /// Makes a session, in place of idle ones where memory is short.
    fn make<T: Holds>(&self, options: &Options) -> runtime::Result<T> {
        let needed = Session::plan_memory(&self.model, options)?.total();
        if self.budget.reserve(needed).is_err() {
            self.write.clear();
            self.logits.clear();
            self.embed.clear();
            self.score.clear();
            self.heads.clear();
            self.budget.reserve(needed)?;
        }
        T::make(self.model.clone(), options).inspect_err(|_| self.budget.release(needed))
    }
}

/// The options with as many sequences as they name or as fit the limit: what comes of texts is the same.
///
/// # Errors
/// As [`Session::plan_memory`].
fn fitting(model: &Model, mut options: Options, limit: Option<u64>) -> runtime::Result<Options> {
    loop {
        let needed = Session::plan_memory(model, &options)?.total();
        match limit.filter(|&limit| needed > limit && options.n_seq > 1) {
            Some(_) => options.n_seq /= 2,
            None => return Ok(options),
        }
    }
}

/// Which of these has the longest beginning in common with `ids`.
fn best<T: Holds>(idle: &[T], ids: &[u32]) -> Option<usize> {
    let common =
        |held: &T| held.session().ids(0).iter().zip(ids).take_while(|(a, b)| a == b).count();
    (0..idle.len()).max_by_key(|&i| common(&idle[i]))
}

impl Budget {
    fn reserve(&self, needed: u64) -> runtime::Result<()> {
        let mut used = lock(&self.used);
        let sum = used.saturating_add(needed);
        if let Some(limit) = self.limit.filter(|&limit| sum > limit) {
            return Err(Error::Memory { needed: sum, limit });
        }
        *used = sum;
        Ok(())
    }

    fn release(&self, n: u64) {
        let mut used = lock(&self.used);
        *used = used.saturating_sub(n);
    }
}

impl<T> Shelf<T> {
    fn new(options: Options, most: usize, budget: &Arc<Budget>) -> Arc<Shelf<T>> {
        Arc::new(Shelf {
            options,
            most,
            budget: budget.clone(),
            state: Mutex::new(State { idle: Vec::new(), n_used: 0 }),
            back: Condvar::new(),
        })
    }
}

impl<T: Holds> Shelf<T> {
    /// Drops what is idle.
    fn clear(&self) {
        let idle = std::mem::take(&mut lock(&self.state).idle);
        idle.into_iter().for_each(|held| self.end(held));
    }

    fn end(&self, held: T) {
        let n = held.session().memory().total();
        drop(held);
        self.budget.release(n);
    }
}

impl Lease<Session<'static>> {
    /// Works with the session, [`watched`]. Where that fails the session isn't used again: it may have
    /// been told to stop at the very end of the work, which would end the next.
    pub fn work<T: Send>(
        &mut self,
        py: Python<'_>,
        work: impl FnOnce(&mut Session<'static>) -> runtime::Result<T> + Send,
    ) -> PyResult<T> {
        let stop = self.stopper();
        let session: &mut Session<'static> = self;
        let done = watched(py, &stop, || work(session));
        self.is_spoiled |= done.is_err();
        done
    }
}

impl<T: Holds> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held until the drop")
    }
}

impl<T: Holds> DerefMut for Lease<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held until the drop")
    }
}

impl<T: Holds> Drop for Lease<T> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let mut state = lock(&self.shelf.state);
        state.n_used -= 1;
        // A panic may have left it between two states.
        if self.is_spoiled || thread::panicking() || state.idle.len() >= MOST_IDLE {
            drop(state);
            self.shelf.end(held);
        } else {
            state.idle.push(held);
        }
        self.shelf.back.notify_one();
    }
}
