//! Worker threads, and disjoint tiles of a matrix for them to fill.
//!
//! rayon owns the threads (the feature `threads`). A step of the model is one parallel region ([`Team::step`]): helpers
//! spin for its jobs, and go to sleep when there has been none for a while. Each job is a matrix cut
//! into tiles ([`Region::tiles`]) that anyone may take. Helpers are optional: the caller takes tiles
//! too, and waits only for tiles that somebody has already begun. Which thread fills a tile never
//! changes what is in it.
//!
//! Each thread has a share of adjacent tiles and takes others' only when that is used up: what it
//! reads then lies in one piece, which is what prefetching wants. One queue for all made generation
//! a third slower.
//!
//! Where other processes want the cores too, nobody keeps one for waiting: whoever has waited for
//! long sleeps, caller and helper alike, so that the system moves the thread that is waited for to the
//! core that is free. A helper shares its core with them in good time (`Company`).
#![allow(unsafe_code)]

mod company;
mod pool;

use std::{
    any::Any,
    hint,
    marker::PhantomData,
    ops::{Deref, Range},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*},
    },
    thread,
};

use crate::{Error, Result};
use company::Company;

/// Rounds of [`spin`] before a waiting thread sleeps: some 200 us, longer than the gap between jobs
/// and than most gaps between the steps of one text, much shorter than a time slice.
const ROUNDS: usize = 200;

/// Threads for the steps of one model.
pub struct Team {
    shared: Arc<Shared>,
    /// Keeps the helpers' threads; none for a team of one.
    _pool: Option<pool::Pool>,
    n_threads: usize,
}

impl Team {
    /// A team of `n_threads`, the caller of [`Team::step`] among them.
    ///
    /// # Errors
    /// `n_threads` is 0, the system refuses a thread, or `n_threads` is over 1 in a build without the
    /// feature `threads`.
    pub fn new(n_threads: usize) -> Result<Team> {
        if n_threads == 0 {
            return Err(Error::Invalid("a team needs at least 1 thread, got 0".into()));
        }
        let crowded = n_threads > Team::n_cores();
        let shared = Arc::new(Shared { crowded, ..Shared::default() });
        let pool = if n_threads == 1 {
            None
        } else {
            let shared = Arc::clone(&shared);
            Some(pool::start(n_threads, move |worker| shared.help(worker))?)
        };
        Ok(Team { shared, _pool: pool, n_threads })
    }

    /// Cores that a team can use: those of this process, or 1 in a build without the feature `threads`.
    pub fn n_cores() -> usize {
        pool::n_cores()
    }

    /// Threads, the caller included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// One parallel region: runs `f` on this thread, with the others at hand for its jobs.
    pub fn step<R>(&self, f: impl FnOnce(&Region<'_>) -> R) -> R {
        // Early, so that helpers that sleep are there for the first job.
        self.shared.call();
        f(&Region { n_threads: self.n_threads, shared: &self.shared })
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.helpers.wake();
    }
}

/// What the helpers share with the callers of steps. Helpers own a part in it, so that nobody has
/// to wait for them.
#[derive(Default)]
struct Shared {
    /// The job that helpers may take tiles of; null between jobs.
    job: Apart<AtomicPtr<Job>>,
    /// Counts jobs: two jobs often lie at the same address. This is what helpers watch.
    epoch: Apart<AtomicUsize>,
    /// Helpers that may be looking at `job`.
    visitors: Apart<AtomicUsize>,
    /// The core of who published the job, where that is known, and one.
    core: AtomicUsize,
    /// Whether there are more threads than cores: then helpers get in each other's way first of all.
    crowded: bool,
    /// Whether the team is gone.
    over: AtomicBool,
    /// Where helpers sleep when there are no jobs.
    helpers: Bed,
    /// Where callers sleep when their job's last tiles take long.
    callers: Bed,
}

/// A value in cache lines of its own: who watches another then doesn't slow its changes down. Two lines, as
/// some CPUs fetch pairs.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Shared {
    /// Has the helpers look at `job`.
    fn call(&self) {
        self.core.store(company::core().map_or(0, |core| core + 1), Relaxed);
        self.epoch.fetch_add(1, SeqCst);
        self.helpers.wake();
    }

    /// A helper's life.
    fn help(&self, worker: usize) {
        let mut seen = 0;
        let mut company = Company::default();
        while !self.over.load(Relaxed) {
            let epoch = self.epoch.load(Acquire);
            if epoch != seen {
                seen = epoch;
                self.visit(worker);
                if !self.crowded {
                    company.mind(self.core.load(Relaxed));
                }
            } else if !spin(self.crowded, || self.epoch.load(Relaxed) != seen) {
                self.helpers.sleep(|| self.epoch.load(SeqCst) != seen || self.over.load(SeqCst));
            }
        }
    }

    /// Takes tiles of the present job, if there is one.
    fn visit(&self, worker: usize) {
        // Announce the visit first, then read the job: the owner withdraws the job first, then
        // waits for the visitors (sequentially consistent on both sides), so either the owner
        // sees this visit or this thread sees no job.
        self.visitors.fetch_add(1, SeqCst);
        let job = self.job.load(SeqCst);
        if !job.is_null() {
            // SAFETY: the job was published by `Region::tiles`, which keeps it alive until it has
            // withdrawn it and seen no visitors.
            unsafe { &*job }.work(worker);
        }
        if self.visitors.fetch_sub(1, SeqCst) == 1 {
            self.callers.wake();
        }
    }

    /// Waits until no helper is looking at a job.
    fn wait(&self) {
        let none = || self.visitors.load(SeqCst) == 0;
        // The caller doesn't offer its core: what it waits for is a tile at most.
        if !spin(false, none) {
            self.callers.sleep(none);
        }
    }
}

/// Waits some 200 us for `done`, and may offer the core every microsecond; false if in vain.
fn spin(offer: bool, done: impl Fn() -> bool) -> bool {
    for _ in 0..ROUNDS {
        for _ in 0..64 {
            if done() {
                return true;
            }
            hint::spin_loop();
        }
        if offer {
            thread::yield_now();
        }
    }
    false
}

/// Where threads sleep until others have changed something.
#[derive(Default)]
struct Bed {
    /// Whether there may be a sleeper; set under the lock.
    taken: AtomicBool,
    lock: Mutex<()>,
    alarm: Condvar,
}

impl Bed {
    /// Sleeps until `done`, which reads with sequential consistency what is changed before a
    /// [`Bed::wake`].
    fn sleep(&self, done: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // The bed is taken first and the change looked for then; who wakes does the reverse
            // (sequentially consistent on both sides), so one of the two sees the other.
            self.taken.store(true, SeqCst);
            if done() {
                return;
            }
            guard = self.alarm.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes all sleepers, after a sequentially consistent change. Costs a load if there are none.
    fn wake(&self) {
        if self.taken.load(SeqCst) {
            // The lock keeps the alarm from falling between a sleeper's look and its sleep.
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.taken.store(false, Relaxed);
            drop(guard);
            self.alarm.notify_all();
        }
    }
}

/// A parallel region in progress.
pub struct Region<'a> {
    n_threads: usize,
    shared: &'a Shared,
}

/// A matrix being filled. Lives on the stack of the thread in [`Region::tiles`].
struct Job {
    /// Fills a tile: `run(context, worker, tile)`.
    run: unsafe fn(*const (), usize, usize),
    context: *const (),
    n_tiles: usize,
    /// The first `n_shares` are in use.
    shares: [Share; MAX_SHARES],
    n_shares: usize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Most shares of a job; further threads help with those of others.
const MAX_SHARES: usize = 16;

/// The next tile of a share. A cache line of its own: each is the business of one thread, mostly.
#[repr(align(64))]
struct Share(AtomicUsize);

impl Job {
    /// The first tile of a share; share `i` ends where `i + 1` begins.
    fn first(share: usize, n_shares: usize, n_tiles: usize) -> usize {
        n_tiles / n_shares * share + (n_tiles % n_shares).min(share)
    }

    /// Takes tiles until there are none left, of one's own share first.
    fn work(&self, worker: usize) {
        for i in 0..self.n_shares {
            let share = (worker + i) % self.n_shares;
            let end = Job::first(share + 1, self.n_shares, self.n_tiles);
            loop {
                let tile = self.shares[share].0.fetch_add(1, Relaxed);
                if tile >= end {
                    break;
                }
                self.fill(worker, tile);
            }
        }
    }

    fn fill(&self, worker: usize, tile: usize) {
        // SAFETY: `run` and `context` were made for each other in `Region::tiles`, whose frame
        // outlives every visit; shares are disjoint, and `fetch_add` gives each of their tiles to
        // one thread only.
        let run = || unsafe { (self.run)(self.context, worker, tile) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            // Nobody begins another tile.
            for share in &self.shares[..self.n_shares] {
                share.0.store(self.n_tiles, Relaxed);
            }
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

impl Region<'_> {
    /// Threads that may take tiles.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Cuts `out` into tiles of up to `tile_rows` x `tile_cols` and has `f(worker, tile)` fill each
    /// of them once, on whatever thread is free; returns when all are filled. `worker` is below
    /// [`Region::n_threads`], and no two calls with the same number run at once. A panic in `f` is
    /// passed on. Must not be called from within `f`.
    pub fn tiles<T: Send>(
        &self,
        mut out: Mat<'_, T>,
        tile_rows: usize,
        tile_cols: usize,
        f: impl Fn(usize, Tile<'_, T>) + Sync,
    ) {
        let grid = Grid::new(&mut out, tile_rows.max(1), tile_cols.max(1));
        let n_tiles = grid.n_tiles();
        if n_tiles <= 1 || self.n_threads == 1 {
            // SAFETY: `grid` borrows `out` mutably, and each tile is made once, one at a time.
            (0..n_tiles).for_each(|i| f(0, unsafe { grid.tile(i) }));
            return;
        }
        let context = Context { grid: &grid, f: &f };
        let n_shares = self.n_threads.min(MAX_SHARES);
        let first = |share| AtomicUsize::new(Job::first(share, n_shares, n_tiles));
        let job = Job {
            run: runner(&context),
            context: (&raw const context).cast(),
            n_tiles,
            shares: std::array::from_fn(|share| Share(first(share))),
            n_shares,
            panic: Mutex::new(None),
        };
        let published = (&raw const job).cast_mut();
        self.shared.job.store(published, SeqCst);
        self.shared.call();
        job.work(0);
        self.shared.job.store(std::ptr::null_mut(), SeqCst);
        self.shared.wait();
        let panic = job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// What a job's tiles are made from.
struct Context<'a, T, F> {
    grid: &'a Grid<'a, T>,
    f: &'a F,
}

/// The function that runs one tile of jobs with this context.
fn runner<T: Send, F: Fn(usize, Tile<'_, T>) + Sync>(
    _: &Context<'_, T, F>,
) -> unsafe fn(*const (), usize, usize) {
    /// # Safety
    /// `context` points to a live `Context<T, F>`, and no other call is given the same tile.
    unsafe fn fill<T: Send, F: Fn(usize, Tile<'_, T>) + Sync>(
        context: *const (),
        worker: usize,
        tile: usize,
    ) {
        // SAFETY: by this function's contract.
        let Context { grid, f } = unsafe { &*context.cast::<Context<'_, T, F>>() };
        // SAFETY: by this function's contract each tile is made once.
        f(worker, unsafe { grid.tile(tile) });
    }
    fill::<T, F>
}

/// A matrix `[n_rows, n_cols]` whose rows begin `stride` values apart.
pub struct Mat<'a, T> {
    data: &'a mut [T],
    n_rows: usize,
    n_cols: usize,
    stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The first `n_rows` rows of `data`.
    ///
    /// # Panics
    /// The data is too short, or the rows overlap.
    pub fn new(data: &'a mut [T], n_rows: usize, n_cols: usize, stride: usize) -> Self {
        Mat::window(data, n_rows, 0, n_cols, stride)
    }

    /// Columns `col..col + n_cols` of rows that begin `stride` values apart.
    ///
    /// # Panics
    /// As [`Mat::new`].
    pub fn window(
        data: &'a mut [T],
        n_rows: usize,
        col: usize,
        n_cols: usize,
        stride: usize,
    ) -> Self {
        let inside = col.checked_add(n_cols).is_some_and(|end| end <= stride);
        assert!(inside, "columns {col}+{n_cols} in rows of {stride}");
        if n_rows == 0 || n_cols == 0 {
            return Mat { data: &mut [], n_rows: 0, n_cols: 0, stride };
        }
        let data = &mut data[col..];
        // Checked: what tiles may touch rests on this.
        let end = (n_rows - 1).checked_mul(stride).and_then(|at| at.checked_add(n_cols));
        assert!(end.is_some_and(|end| end <= data.len()), "{n_rows} rows of {stride}");
        Mat { data, n_rows, n_cols, stride }
    }

    /// The whole matrix as one tile.
    pub fn tile(&mut self) -> Tile<'_, T> {
        Tile {
            data: self.data.as_mut_ptr(),
            stride: self.stride,
            row0: 0,
            col0: 0,
            n_rows: self.n_rows,
            n_cols: self.n_cols,
            _life: PhantomData,
        }
    }
}

/// A matrix cut into tiles.
struct Grid<'a, T> {
    data: *mut T,
    n_rows: usize,
    n_cols: usize,
    stride: usize,
    tile_rows: usize,
    tile_cols: usize,
    _life: PhantomData<&'a mut T>,
}

// SAFETY: a grid only gives out disjoint tiles (`tile`'s contract), each to one thread at a time.
unsafe impl<T: Send> Sync for Grid<'_, T> {}

impl<'a, T> Grid<'a, T> {
    fn new(mat: &'a mut Mat<'_, T>, tile_rows: usize, tile_cols: usize) -> Self {
        let Mat { n_rows, n_cols, stride, .. } = *mat;
        let data = mat.data.as_mut_ptr();
        Grid { data, n_rows, n_cols, stride, tile_rows, tile_cols, _life: PhantomData }
    }

    fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(self.tile_rows) * self.n_cols.div_ceil(self.tile_cols)
    }

    /// Tile `i`, row of tiles by row of tiles.
    ///
    /// # Safety
    /// No other tile `i` of this grid is alive.
    unsafe fn tile(&self, i: usize) -> Tile<'_, T> {
        let across = self.n_cols.div_ceil(self.tile_cols);
        let (row0, col0) = (i / across * self.tile_rows, i % across * self.tile_cols);
        assert!(row0 < self.n_rows, "tile {i} of {}", self.n_tiles());
        Tile {
            // SAFETY: row0 and col0 are inside the matrix, which `Mat::window` checked against
            // the slice.
            data: unsafe { self.data.add(row0 * self.stride + col0) },
            stride: self.stride,
            row0,
            col0,
            n_rows: self.tile_rows.min(self.n_rows - row0),
            n_cols: self.tile_cols.min(self.n_cols - col0),
            _life: PhantomData,
        }
    }
}

/// A window of a matrix that one thread alone may write.
pub struct Tile<'a, T> {
    data: *mut T,
    stride: usize,
    row0: usize,
    col0: usize,
    n_rows: usize,
    n_cols: usize,
    _life: PhantomData<&'a mut T>,
}

impl<T> Tile<'_, T> {
    /// First row, counted in the matrix.
    pub fn row0(&self) -> usize {
        self.row0
    }

    /// First column, counted in the matrix.
    pub fn col0(&self) -> usize {
        self.col0
    }

    /// Rows of the tile.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns of the tile.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Some of the tile's columns.
    ///
    /// # Panics
    /// The tile has no such columns.
    pub fn columns(&mut self, columns: Range<usize>) -> Tile<'_, T> {
        assert!(columns.start <= columns.end && columns.end <= self.n_cols);
        Tile {
            // SAFETY: inside the tile, and `&mut self` makes this the only live part of it.
            data: unsafe { self.data.add(columns.start) },
            stride: self.stride,
            row0: self.row0,
            col0: self.col0 + columns.start,
            n_rows: self.n_rows,
            n_cols: columns.len(),
            _life: PhantomData,
        }
    }

    /// Row `i` of the tile, `[n_cols]`.
    ///
    /// # Panics
    /// The tile has no row `i`.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.n_rows, "row {i} of a tile of {}", self.n_rows);
        // SAFETY: the row is inside the tile, the tile inside the matrix, and `&mut self` makes
        // this the only live row of it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.n_cols) }
    }
}

#[cfg(all(test, feature = "threads"))]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Each cell is written once, by a tile that knows where it is.
    fn check(team: &Team, n_rows: usize, n_cols: usize, tile: (usize, usize), margin: usize) {
        let stride = n_cols + 2 * margin;
        let mut data = vec![-1i64; n_rows * stride];
        team.step(|region| {
            let mat = Mat::window(&mut data, n_rows, margin, n_cols, stride);
            region.tiles(mat, tile.0, tile.1, |worker, mut tile| {
                assert!(worker < region.n_threads());
                for i in 0..tile.n_rows() {
                    let (row, col) = (tile.row0() + i, tile.col0());
                    for (j, cell) in tile.row_mut(i).iter_mut().enumerate() {
                        assert_eq!(*cell, -1, "written twice");
                        *cell = (row * stride + col + j) as i64;
                    }
                }
            });
        });
        for (i, cell) in data.iter().enumerate() {
            let inside = (margin..margin + n_cols).contains(&(i % stride));
            assert_eq!(*cell, if inside { (i - margin) as i64 } else { -1 });
        }
    }

    #[test]
    fn every_cell_is_filled_once() {
        for n_threads in 1..=4 {
            let team = Team::new(n_threads).unwrap();
            for (n_rows, n_cols) in [(1, 1), (1, 1000), (17, 33), (64, 7), (0, 5), (5, 0)] {
                for tile in [(1, 1), (3, 8), (100, 100), (1, 1000)] {
                    check(&team, n_rows, n_cols, tile, 3);
                }
            }
        }
    }

    #[test]
    fn many_small_jobs_in_one_region() {
        let team = Team::new(4).unwrap();
        let mut data = vec![0u32; 64];
        team.step(|region| {
            for _ in 0..20_000 {
                region.tiles(Mat::new(&mut data, 1, 64, 64), 1, 4, |_, mut tile| {
                    tile.row_mut(0).iter_mut().for_each(|v| *v += 1);
                });
            }
        });
        assert_eq!(data, [20_000; 64]);
    }

    #[test]
    fn no_two_tiles_at_once_share_a_worker() {
        let team = Team::new(3).unwrap();
        let busy: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let mut data = vec![0u8; 4096];
        team.step(|region| {
            region.tiles(Mat::new(&mut data, 1, 4096, 4096), 1, 1, |worker, _| {
                assert!(!busy[worker].swap(true, SeqCst));
                hint::spin_loop();
                busy[worker].store(false, SeqCst);
            });
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(3).unwrap();
        for at in [0, 5, 99] {
            let mut data = vec![0u8; 100];
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.step(|region| {
                    region.tiles(Mat::new(&mut data, 1, 100, 100), 1, 1, |_, tile| {
                        assert!(tile.col0() != at, "tile {at}");
                    });
                });
            }));
            assert!(caught.is_err());
            check(&team, 9, 9, (2, 2), 1);
        }
    }

    #[test]
    fn steps_far_apart_find_sleeping_helpers() {
        let team = Team::new(4).unwrap();
        for _ in 0..300 {
            check(&team, 7, 7, (2, 2), 0);
            // Helpers sleep by the next round, or are about to.
            thread::sleep(Duration::from_micros(400));
        }
    }

    #[test]
    fn callers_sleep_until_the_last_tile_is_filled() {
        let team = Team::new(3).unwrap();
        for _ in 0..50 {
            let mut data = vec![0u8; 8];
            team.step(|region| {
                region.tiles(Mat::new(&mut data, 1, 8, 8), 1, 1, |worker, mut tile| {
                    // The caller is done early; helpers take longer than it spins.
                    if worker != 0 {
                        thread::sleep(Duration::from_millis(2));
                    }
                    tile.row_mut(0).fill(1);
                });
            });
            assert_eq!(data, [1; 8]);
        }
    }

    #[test]
    fn steps_of_two_threads_may_overlap() {
        let team = Team::new(3).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2000).for_each(|_| check(&team, 5, 40, (1, 8), 1)));
            }
        });
    }

    #[test]
    fn helpers_leave_with_the_team() {
        let team = Team::new(3).unwrap();
        let shared = Arc::downgrade(&team.shared);
        check(&team, 9, 9, (2, 2), 1);
        drop(team);
        while shared.strong_count() != 0 {
            thread::yield_now();
        }
    }

    #[test]
    #[should_panic(expected = "rows of")]
    fn rows_beyond_the_address_space_are_refused() {
        Mat::new(&mut [0u8; 8], (1 << 32) + 1, 8, 1 << 32);
    }

    #[test]
    fn a_team_of_none_is_refused() {
        assert!(Team::new(0).is_err());
    }
}
