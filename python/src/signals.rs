//! Long work without the GIL that Ctrl-C ends.

use std::{
    panic,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use pyo3::prelude::*;
use runtime::{Error, session::Stopper};

use crate::error::OrRaise;

/// How often a waiting thread looks for signals.
pub const TICK: Duration = Duration::from_millis(20);

/// Whether a signal's handler has raised something; for work that has released the GIL. Python runs
/// handlers on its main thread only: on others this says no.
pub fn pending() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// Does work on another thread, without the GIL, and waits for it. What a signal's handler raises
/// meanwhile ends the work between two ops of a step by `stop`, which is that of the work's session, and
/// is what comes of it.
pub fn watched<T: Send>(
    py: Python<'_>,
    stop: &Stopper,
    work: impl FnOnce() -> runtime::Result<T> + Send,
) -> PyResult<T> {
    py.check_signals()?;
    let (result, signal) = py.detach(|| {
        thread::scope(|scope| {
            let (done, result) = mpsc::sync_channel(1);
            let worker = thread::Builder::new().name("pith".into());
            let worker = worker.spawn_scoped(scope, move || drop(done.send(work())));
            let worker = match worker {
                Ok(worker) => worker,
                Err(error) => return (Err(Error::Invalid(error.to_string())), Ok(())),
            };
            let mut signal = Ok(());
            loop {
                match result.recv_timeout(TICK) {
                    Ok(result) => return (result, signal),
                    Err(RecvTimeoutError::Timeout) if signal.is_ok() => {
                        signal = pending();
                        if signal.is_err() {
                            stop.stop();
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // It has panicked.
                    Err(RecvTimeoutError::Disconnected) => match worker.join() {
                        Err(payload) => panic::resume_unwind(payload),
                        Ok(()) => return (Err(Error::Stopped), signal),
                    },
                }
            }
        })
    });
    signal?;
    result.or_raise(py)
}
