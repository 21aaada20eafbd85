//! On which core a thread runs.

/// A core's number; `None` where the system doesn't say.
pub fn core() -> Option<usize> {
    imp::core()
}

/// Moves the calling thread to another core of those it may use, if there is one; where it may run is as
/// before when this returns.
pub fn leave(core: usize) {
    imp::leave(core);
}

#[cfg(target_os = "linux")]
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
        // SAFETY: the set is as long as is said; it is read only where the system has filled it, and
        // `core` is inside it. 0 is the calling thread.
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

#[cfg(not(target_os = "linux"))]
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
