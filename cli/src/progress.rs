//! A progress bar on standard error; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that counts bytes, with their rate and the time left.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows nothing yet.
    pub fn new() -> Bar {
        // This target draws only on a terminal.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}";
        match ProgressStyle::with_template(template) {
            Ok(style) => Bar(bar.with_style(style)),
            // The template is a constant; were it wrong, a plain bar would do.
            Err(_) => Bar(bar),
        }
    }

    /// `done` bytes of `total`, and what is being worked on.
    pub fn show(&mut self, done: u64, total: u64, what: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(what.to_owned());
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        self.0.finish_and_clear();
    }
}
