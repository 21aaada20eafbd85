//! ggml's own pool of threads, as its programs use it: without one, every step would start threads
//! anew.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

/// Threads that wait for ggml's graphs.
pub struct Pool {
    pool: NonNull<sys::ggml_threadpool>,
}

impl Pool {
    /// `n_threads` with ggml's defaults, the caller among them.
    pub fn new(n_threads: usize) -> Result<Pool, String> {
        let fault = || format!("ggml cannot start {n_threads} threads");
        let n_threads = i32::try_from(n_threads).map_err(|_| fault())?;
        // SAFETY: the parameters are plain data that the call reads.
        let pool = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads);
            sys::ggml_threadpool_new(&raw mut params)
        };
        Ok(Pool { pool: NonNull::new(pool).ok_or_else(fault)? })
    }

    /// The pool, for calls that borrow it for as long as `self` lives.
    pub fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pool.as_ptr()
    }

    /// Puts the threads to sleep until the next graph: they would spin beside whoever is measured
    /// next.
    pub fn pause(&self) {
        // SAFETY: the pool is valid and no graph is running, as graphs are computed by calls that
        // return when they are done.
        unsafe { sys::ggml_threadpool_pause(self.pool.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: made by ggml_threadpool_new, freed once; backends and contexts that borrow the
        // pool are freed first by their owners.
        unsafe { sys::ggml_threadpool_free(self.pool.as_ptr()) }
    }
}
