//! Where helpers live: on rayon's threads, or nowhere in a build without the feature `threads`.

pub use imp::{Pool, n_cores, start};

#[cfg(feature = "threads")]
mod imp {
    use std::{num::NonZero, thread};

    use crate::{Error, Result};

    /// Keeps the helpers' threads.
    pub type Pool = rayon::ThreadPool;

    /// Bytes of a helper's stack: std's own number, which it would else ask the environment for.
    const STACK: usize = 2 << 20;

    /// Cores that this process may use.
    pub fn n_cores() -> usize {
        thread::available_parallelism().map_or(1, NonZero::get)
    }

    /// Has all but the first of `n_threads` lead a helper's life, which is given the thread's number.
    pub fn start(n_threads: usize, life: impl Fn(usize) + Clone + Send + 'static) -> Result<Pool> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads - 1)
            .stack_size(STACK)
            .thread_name(|i| format!("pith-{}", i + 1))
            .build()
            .map_err(|e| Error::Threads { wanted: n_threads, reason: e.to_string() })?;
        for worker in 1..n_threads {
            let life = life.clone();
            pool.spawn(move || life(worker));
        }
        Ok(pool)
    }
}

#[cfg(not(feature = "threads"))]
mod imp {
    use crate::{Error, Result};

    /// There is none.
    pub type Pool = std::convert::Infallible;

    /// The caller's: no other can be used.
    pub fn n_cores() -> usize {
        1
    }

    /// Refuses: `n_threads` are more than the caller.
    pub fn start(n_threads: usize, _: impl Fn(usize) + Clone + Send + 'static) -> Result<Pool> {
        Err(Error::Unsupported(format!(
            "{n_threads} threads: pith was built without the feature `threads`, which leaves 1"
        )))
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
