//! How a helper shares cores with the caller and with other programs.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How a helper gets on with other programs on its core and with the caller.
///
/// Beside an endless loop on two cores (Linux 6.18), the system left helper and caller on one core half of
/// the time; and a helper that offers its core whenever it has nothing to do loses it for a time slice,
/// as does one that is stopped inside a tile, while the caller waits. Without any of this a prompt ran at 53 to
/// 57 % of its speed on two free cores, with it at 66 to 73 % (SmolLM2 Q4_0).
#[derive(Default)]
pub struct Company {
    /// Jobs in a row after which it was on the caller's core.
    jobs_together: usize,
    /// When it last offered its core.
    offered: Option<Instant>,
}

impl Company {
    /// Jobs in a row on the caller's core until the helper leaves it: one alone may be chance.
    const TOGETHER: usize = 4;
    /// Less than a time slice: who never uses one up isn't stopped inside a tile.
    const TURN: Duration = Duration::from_micros(1000);

    /// After a job whose caller's core is `callers` - 1.
    pub fn mind(&mut self, callers: usize) {
        match core() {
            Some(core) if core + 1 == callers => self.jobs_together += 1,
            _ => self.jobs_together = 0,
        }
        if self.jobs_together == Self::TOGETHER {
            self.jobs_together = 0;
            leave(callers - 1);
        }
        let now = Instant::now();
        if now - *self.offered.get_or_insert(now) > Self::TURN {
            thread::yield_now();
            self.offered = Some(Instant::now());
        }
    }
}

/// A core's number; `None` where the system doesn't say.
pub fn core() -> Option<usize> {
    imp::core()
}

/// Moves the calling thread to another core of those it may use, if there is one; where it may run is as
/// before when this returns.
fn leave(core: usize) {
    imp::leave(core);
}

#[cfg(all(target_os = "linux", feature = "threads"))]
mod imp {
    use std::mem::MaybeUninit;

    pub fn core() -> Option<usize> {
        // SAFETY: takes nothing, and touches no memory of ours.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub fn leave(core: usize) {
        let size = size_of::<libc::cpu_set_t>();
        if core >= 8 * size {
            return;
        }
        // SAFETY: the set is as long as is said, zeros are a set, and `core` is inside it (checked above).
        // 0 is the calling thread.
        unsafe {
            let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
            if libc::sched_getaffinity(0, size, set.as_mut_ptr()) != 0 {
                return;
            }
            let all = set.assume_init();
            let mut others = all;
            libc::CPU_CLR(core, &mut others);
            if libc::CPU_COUNT(&others) > 0 && libc::sched_setaffinity(0, size, &others) == 0 {
                // Can't fail: these are the cores that it had.
                libc::sched_setaffinity(0, size, &all);
            }
        }
    }
}

#[cfg(not(all(target_os = "linux", feature = "threads")))]
mod imp {
    pub fn core() -> Option<usize> {
        None
    }

    pub fn leave(_: usize) {}
}

#[cfg(test)]
mod tests {
    use std::thread::available_parallelism;

    #[test]
    fn who_leaves_a_core_may_come_back() {
        let cores = available_parallelism().unwrap();
        for _ in 0..10 {
            super::leave(super::core().unwrap_or(0));
            assert_eq!(available_parallelism().unwrap(), cores);
        }
        super::leave(usize::MAX);
    }
}
