//! The library's allocator: the system's, counted, with a reserve.
//!
//! Rust's large blocks are asked for in ways that can be refused; of its many small ones a refusal ends
//! the process. So what the system refuses of those comes from a reserve, and the thread is marked short
//! of memory: the runtime's work ends at its next look at the mark ([`pith::memory`]), and the function
//! that was called gives everything back and says `PITH_MEMORY` (`guard`). The reserve holds what can
//! be asked for between two looks, and what starting threads ask for. Text of any length becomes ids in lists
//! that grow with it: for that a call takes a reserve of its own beforehand ([`insured`]).

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, UnsafeCell},
    hint,
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

/// Bytes of the reserve: pages that are never touched as long as the system has memory.
const RESERVE: usize = 1 << 20;
/// It is handed out in units of so many bytes.
const UNIT: usize = 64;
/// More at once can be refused: who asks for as much asks in a way that can fail.
const SMALL: usize = 256 << 10;

use crate::error::Fault;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

static POOL: Pool = Pool {
    locked: AtomicBool::new(false),
    memory: UnsafeCell::new(Memory([0; RESERVE])),
    used: UnsafeCell::new([false; RESERVE / UNIT]),
};

thread_local! {
    /// Bytes that this thread has allocated, less those it has freed.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The most that has been.
    static MOST: Cell<i64> = const { Cell::new(0) };
    static INSURANCE: Cell<Insurance> = const { Cell::new(UNINSURED) };
}

/// Bytes that this thread has allocated, less those it has freed: what some work of it holds is the
/// difference that the work makes.
pub fn held() -> i64 {
    HELD.get()
}

/// A call's own reserve: a block that is handed out from its start to its end.
#[derive(Clone, Copy)]
struct Insurance {
    base: *mut u8,
    size: usize,
    used: usize,
}

const UNINSURED: Insurance = Insurance { base: ptr::null_mut(), size: 0, used: 0 };

/// Runs `f`, which takes up to `n_bytes` of memory and keeps none of it, with as much at hand for what
/// the system refuses.
pub fn insured<R: Copy>(n_bytes: usize, f: impl FnOnce() -> Result<R, Fault>) -> Result<R, Fault> {
    let refused = || Fault::Runtime(pith::Error::OutOfMemory { wanted: n_bytes as u64 });
    let mut block = Vec::<u8>::new();
    block.try_reserve_exact(n_bytes).map_err(|_| refused())?;
    let outer = INSURANCE.replace(Insurance { base: block.as_mut_ptr(), size: n_bytes, used: 0 });
    // Where `f` panics, the block is lost: what the panic carries may lie in it.
    let block = ManuallyDrop::new(block);
    let result = f();
    // What lies in the block ends before it does.
    let result = if pith::memory::is_short() {
        drop(result);
        None
    } else {
        Some(result)
    };
    INSURANCE.set(outer);
    drop(ManuallyDrop::into_inner(block));
    result.unwrap_or_else(|| Err(refused()))
}

impl Insurance {
    fn has(self, data: *const u8) -> bool {
        data.addr().wrapping_sub(self.base.addr()) < self.size
    }

    /// The next bytes of this thread's block; null where there are not enough.
    fn take(layout: Layout) -> *mut u8 {
        let of = INSURANCE.get();
        let pad = of.base.wrapping_add(of.used).addr().wrapping_neg() & (layout.align() - 1);
        match of.size.checked_sub(of.used).and_then(|left| left.checked_sub(pad)) {
            Some(left) if left >= layout.size() => {
                INSURANCE.set(Insurance { used: of.used + pad + layout.size(), ..of });
                of.base.wrapping_add(of.used + pad)
            }
            _ => ptr::null_mut(),
        }
    }

    /// Changes the size of what was handed out last; false if it wasn't, or there is no room.
    fn resize(data: *const u8, from: usize, to: usize) -> bool {
        let of = INSURANCE.get();
        let start = data.addr().wrapping_sub(of.base.addr());
        let fits = start + from == of.used && to <= of.size - start;
        if fits {
            INSURANCE.set(Insurance { used: start + to, ..of });
        }
        fits
    }
}

/// Runs `f`, and gives the most bytes that it held at once.
pub fn most<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = HELD.get();
    let outer = MOST.replace(before);
    let result = f();
    let most = MOST.get();
    MOST.set(outer.max(most));
    (result, u64::try_from(most - before).unwrap_or(0))
}

fn count(more: i64) {
    let held = HELD.get() + more;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

struct Allocator;

impl Allocator {
    /// What the system gave; or else memory of a reserve: of the call's own, or of the common one if it
    /// is little.
    fn or_reserve(&self, from_system: *mut u8, layout: Layout) -> *mut u8 {
        let mut data = from_system;
        if data.is_null() {
            data = Insurance::take(layout);
            if data.is_null() && layout.size() <= SMALL {
                data = POOL.take(layout);
            }
            if !data.is_null() {
                pith::memory::set_short(true);
            }
        }
        if !data.is_null() {
            count(layout.size() as i64);
        }
        data
    }
}

// SAFETY: what is given out is the system allocator's, whose contract is the same, or the pool's: units
// that are in use by nobody else, as many and as aligned as the layout wants; or bytes of a block of this
// thread that nothing else has been given, by the same thread's `insured`, which outlives their use. Nothing here panics or
// allocates: thread-locals of numbers have no destructors and are there from a thread's start to its end.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract.
        let data = if refused() { ptr::null_mut() } else { unsafe { System.alloc(layout) } };
        self.or_reserve(data, layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract.
        let data = if refused() { ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } };
        let given = self.or_reserve(data, layout);
        if data.is_null() && !given.is_null() {
            // SAFETY: the pool gave as many bytes.
            unsafe { given.write_bytes(0, layout.size()) };
        }
        given
    }

    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        if INSURANCE.get().has(data) {
            Insurance::resize(data, layout.size(), 0);
        } else if POOL.has(data) {
            POOL.give_back(data, 0, layout.size());
        } else {
            // SAFETY: the same contract, and what is no reserve's is the system's.
            unsafe { System.dealloc(data, layout) };
        }
    }

    unsafe fn realloc(&self, data: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        let more = n_bytes as i64 - layout.size() as i64;
        let (insured, pooled) = (INSURANCE.get().has(data), POOL.has(data));
        if insured && Insurance::resize(data, layout.size(), n_bytes) {
            count(more);
            return data;
        }
        if !insured && !pooled && !refused() {
            // SAFETY: the same contract, and what is no reserve's is the system's.
            let moved = unsafe { System.realloc(data, layout, n_bytes) };
            if !moved.is_null() {
                count(more);
                return moved;
            }
        }
        // To become shorter nothing is needed.
        if more <= 0 {
            if pooled {
                POOL.give_back(data, n_bytes, layout.size());
            }
            count(more);
            return data;
        }
        // SAFETY: who calls has checked that the size, rounded up to the alignment, is no overflow.
        let larger = unsafe { Layout::from_size_align_unchecked(n_bytes, layout.align()) };
        let moved = self.or_reserve(ptr::null_mut(), larger);
        if !moved.is_null() {
            // SAFETY: the larger block has the smaller one's bytes, and is another; the old one is freed
            // once, by the same contract.
            unsafe {
                ptr::copy_nonoverlapping(data, moved, layout.size());
                self.dealloc(data, layout);
            }
        }
        moved
    }
}

/// A place for the reserve, as aligned as anything of this library.
#[repr(align(4096))]
struct Memory(#[allow(dead_code)] [u8; RESERVE]);

/// The reserve, and which of its units are in use.
struct Pool {
    locked: AtomicBool,
    memory: UnsafeCell<Memory>,
    used: UnsafeCell<[bool; RESERVE / UNIT]>,
}

// SAFETY: `used` is looked at under the lock only; `memory` only by who was given a part of it.
unsafe impl Sync for Pool {}

impl Pool {
    fn base(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    fn has(&self, data: *const u8) -> bool {
        data.addr().wrapping_sub(self.base().addr()) < RESERVE
    }

    /// Runs `f` on the marks of units in use.
    fn locked<R>(&self, f: impl FnOnce(&mut [bool]) -> R) -> R {
        // No mutex of std, which might allocate. Nobody comes here while there is memory.
        while self.locked.swap(true, Ordering::Acquire) {
            hint::spin_loop();
        }
        // SAFETY: the lock is held, and `f` doesn't come back here.
        let result = f(unsafe { &mut *self.used.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    /// The first free units that are enough; null where there are none.
    fn take(&self, layout: Layout) -> *mut u8 {
        let n = layout.size().div_ceil(UNIT);
        let step = layout.align().div_ceil(UNIT);
        if layout.align() > align_of::<Memory>() {
            return ptr::null_mut();
        }
        let at = self.locked(|used| {
            let free =
                |at: &usize| used.get(*at..at + n).is_some_and(|units| !units.contains(&true));
            let at = (0..used.len()).step_by(step).find(free)?;
            used[at..at + n].fill(true);
            Some(at)
        });
        // SAFETY: a unit of the pool begins so far from its base.
        at.map_or(ptr::null_mut(), |at| unsafe { self.base().add(at * UNIT) })
    }

    /// Frees the bytes `from..to` of what was given out at `data`, in whole units.
    fn give_back(&self, data: *const u8, from: usize, to: usize) {
        let first = (data.addr() - self.base().addr()) / UNIT;
        self.locked(|used| {
            used[first + from.div_ceil(UNIT)..first + to.div_ceil(UNIT)].fill(false);
        });
    }

    /// Units in use.
    #[cfg(test)]
    fn n_used(&self) -> usize {
        self.locked(|used| used.iter().filter(|used| **used).count())
    }
}

/// Whether this request is to be refused, as a test wants it.
#[cfg(not(test))]
fn refused() -> bool {
    false
}

#[cfg(test)]
pub use testing::*;

/// A system that refuses memory, and counts.
#[cfg(test)]
mod testing {
    use super::*;
    use std::sync::atomic::AtomicU64;

    thread_local! {
        static ASKED: Cell<u64> = const { Cell::new(0) };
        /// From which request of this thread on memory is refused, and up to which.
        static REFUSED: Cell<(u64, u64)> = const { Cell::new((u64::MAX, u64::MAX)) };
    }

    static ALL: AtomicU64 = AtomicU64::new(0);

    pub(super) fn refused() -> bool {
        ALL.fetch_add(1, Ordering::Relaxed);
        ASKED.set(ASKED.get() + 1);
        let (from, to) = REFUSED.get();
        (from..to).contains(&ASKED.get())
    }

    /// Requests of all threads so far.
    pub fn n_requests() -> u64 {
        ALL.load(Ordering::Relaxed)
    }

    /// Runs `f` on a system that refuses this thread's `n`th request, counted from 1, and `more` after
    /// it. Gives how many requests there were, too.
    pub fn refusing<R>(n: u64, more: u64, f: impl FnOnce() -> R) -> (R, u64) {
        let asked = ASKED.get();
        let from = asked.saturating_add(n);
        REFUSED.set((from, from.saturating_add(more).saturating_add(1)));
        let result = f();
        REFUSED.set((u64::MAX, u64::MAX));
        (result, ASKED.get() - asked)
    }

    /// Units of the reserve in use, by any thread.
    pub fn n_reserved() -> usize {
        POOL.n_used()
    }
}
