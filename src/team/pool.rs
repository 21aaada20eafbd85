//! Where helpers live: on threads of their own, or nowhere in a build without the feature `threads`.

pub use imp::{Pool, n_cores};

#[cfg(feature = "threads")]
mod imp {
    use std::{
        num::NonZero,
        thread::{self, JoinHandle},
    };

    use crate::{Error, Result, memory::enough, zeros::room};

    /// Bytes of a helper's stack: std's own number, which it would else ask the environment for.
    const STACK: usize = 2 << 20;

    /// Bytes, generously, of what std allocates to start a thread.
    const PROBE: usize = 16 << 10;

    /// The helpers' threads. Waits for their end, which somebody must have told them of: code that is
    /// unloaded then must not have a thread in it.
    #[derive(Default)]
    pub struct Pool {
        threads: Vec<JoinHandle<()>>,
    }

    impl Pool {
        /// Has all but the first of `n_threads` lead a helper's life, which is given the thread's number.
        pub fn start(
            &mut self,
            n_threads: usize,
            life: impl Fn(usize) + Clone + Send + 'static,
        ) -> Result<()> {
            for worker in 1..n_threads {
                // What std takes for a thread it takes in ways that end the process where the system
                // has no more memory; so that is asked before.
                drop(room::<u8>(PROBE)?);
                enough()?;
                let life = life.clone();
                let thread = thread::Builder::new()
                    .name(format!("pith-{worker}"))
                    .stack_size(STACK)
                    .spawn(move || life(worker))
                    .map_err(|e| Error::Threads { wanted: n_threads, reason: e.to_string() })?;
                self.threads.push(thread);
            }
            Ok(())
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            for thread in self.threads.drain(..) {
                // A helper's panics are its job's.
                let _ = thread.join();
            }
        }
    }

    /// Cores that this process may use.
    pub fn n_cores() -> usize {
        thread::available_parallelism().map_or(1, NonZero::get)
    }
}

#[cfg(not(feature = "threads"))]
mod imp {
    use crate::{Error, Result};

    /// No threads.
    #[derive(Default)]
    pub struct Pool(());

    impl Pool {
        /// Refuses: `n_threads` are more than the caller.
        pub fn start(
            &mut self,
            n_threads: usize,
            _: impl Fn(usize) + Clone + Send + 'static,
        ) -> Result<()> {
            match n_threads {
                1 => Ok(()),
                n => Err(Error::Unsupported(format!(
                    "{n} threads: pith was built without the feature `threads`, which leaves 1"
                ))),
            }
        }
    }

    /// The caller's: no other can be used.
    pub fn n_cores() -> usize {
        1
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
