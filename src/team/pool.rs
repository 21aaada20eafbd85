//! Where helpers live: on threads of their own, or nowhere in a build without the feature `threads`.

pub use imp::{Pool, n_cores};

#[cfg(feature = "threads")]
mod imp {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        num::NonZero,
        thread,
    };

    use crate::{Error, Result, memory};

    /// The helpers' threads.
    #[derive(Default)]
    pub struct Pool(Vec<thread::JoinHandle<()>>);

    /// Bytes of a helper's stack: std's own number, which it would else ask the environment for.
    const STACK: usize = 2 << 20;

    /// Cores that this process may use.
    pub fn n_cores() -> usize {
        thread::available_parallelism().map_or(1, NonZero::get)
    }

    impl Pool {
        /// Starts the thread of one of `n_threads`, the caller's among them, for a helper's life.
        pub fn start(
            &mut self,
            n_threads: usize,
            worker: usize,
            life: impl FnOnce() + Send + 'static,
        ) -> Result<()> {
            let builder = thread::Builder::new().name(format!("pith-{worker}")).stack_size(STACK);
            memory::enough()?;
            require_handle()?;
            let helper = builder
                .spawn(life)
                .map_err(|error| Error::Threads { wanted: n_threads, reason: error.to_string() })?;
            self.0.push(helper);
            Ok(())
        }

        /// Waits until the helpers' lives are over, which who calls has brought about. Where this is a
        /// library in another program, its code may be gone from then on.
        pub fn join(&mut self) {
            for helper in self.0.drain(..) {
                let _ = helper.join();
            }
        }
    }

    /// Whether the system has memory for a thread's handle. std takes it past the program's allocator,
    /// and ends the process where it is refused.
    fn require_handle() -> Result<()> {
        let layout = Layout::new::<[u64; 32]>();
        // SAFETY: the layout has a size, and the block is freed as it was allocated.
        unsafe {
            let block = System.alloc(layout);
            if block.is_null() {
                return Err(Error::OutOfMemory { wanted: layout.size() as u64 });
            }
            System.dealloc(block, layout);
        }
        Ok(())
    }
}

#[cfg(not(feature = "threads"))]
mod imp {
    use crate::{Error, Result};

    /// There is none.
    #[derive(Default)]
    pub struct Pool;

    /// The caller's: no other can be used.
    pub fn n_cores() -> usize {
        1
    }

    impl Pool {
        /// Refuses: `n_threads` are more than the caller.
        pub fn start(&mut self, n_threads: usize, _: usize, _: impl FnOnce()) -> Result<()> {
            Err(Error::Unsupported(format!(
                "{n_threads} threads: pith was built without the feature `threads`, which leaves 1"
            )))
        }

        /// There is nobody to wait for.
        pub fn join(&mut self) {}
    }

    #[cfg(test)]
    mod tests {
        use crate::team::Team;

        #[test]
        fn a_team_is_its_caller_alone() {
            assert_eq!(Team::new(Team::n_cores()).unwrap().n_threads(), 1);
            let refused = Team::new(2).err().unwrap().to_string();
            assert!(refused.contains("without the feature `threads`"), "{refused}");
        }
    }
}
