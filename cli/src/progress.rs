//! A progress bar on standard error; nothing where that is no terminal, or in a build without the feature
//! `terminal`.

#[cfg(feature = "terminal")]
use std::fmt::Write;

#[cfg(feature = "terminal")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A bar with a rate and the time left, which goes away when it is dropped.
pub struct Bar(#[cfg(feature = "terminal")] ProgressBar);

impl Bar {
    /// A bar that counts bytes; shows nothing yet.
    #[cfg(feature = "convert")]
    pub fn bytes() -> Bar {
        Bar::new("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}")
    }

    /// A bar that counts tokens; shows nothing yet.
    pub fn tokens() -> Bar {
        Bar::new("{bar:30} {pos} of {len} tokens, {rate} tok/s, {eta} left  {msg}")
    }

    /// A bar for rows, which counts what has been read of the input; shows nothing yet.
    #[cfg(feature = "jobs")]
    pub fn rows() -> Bar {
        Bar::new("{bar:30} {percent} %, {eta} left  {msg}")
    }

    /// A bar that counts steps, whose times differ; shows nothing yet.
    pub fn steps() -> Bar {
        Bar::new("{bar:30} {pos} of {len}  {msg}")
    }

    #[cfg(not(feature = "terminal"))]
    fn new(_: &str) -> Bar {
        Bar()
    }

    #[cfg(feature = "terminal")]
    fn new(template: &str) -> Bar {
        // This target draws only on a terminal.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.0}", state.per_sec()); // what fails to draw is not drawn
        };
        match ProgressStyle::with_template(template) {
            Ok(style) => Bar(bar.with_style(style.with_key("rate", rate))),
            // The templates are constants; were one wrong, a plain bar would do.
            Err(_) => Bar(bar),
        }
    }

    /// `done` of `total`, and what is being worked on.
    pub fn show(&mut self, done: u64, total: u64, what: &str) {
        #[cfg(feature = "terminal")]
        {
            self.0.set_length(total);
            self.0.set_position(done);
            self.0.set_message(what.to_owned());
        }
        #[cfg(not(feature = "terminal"))]
        let _ = (done, total, what);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        #[cfg(feature = "terminal")]
        self.0.finish_and_clear();
    }
}
