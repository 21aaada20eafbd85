//! One text, written a token at a time, as `pith run` does.

use pith::{
    Error, Model, Result, Session,
    sampler::{self, Sampler},
    session::Options,
    tokenizer::{Encode, Stream},
};

/// A session of one sequence, and the text that is being written in it.
pub struct Writer<'m> {
    model: &'m Model,
    session: Session<'m>,
    sampler: Sampler,
    /// `None` where no text is being written.
    stream: Option<Stream<'m>>,
    logits: Vec<f32>,
    /// Tokens that may still be written.
    n_left: usize,
    /// Drawn last, and not evaluated yet: a text's last token never is.
    last: Option<u32>,
}

impl<'m> Writer<'m> {
    /// Plans and allocates a session; `n_ctx` is as in [`Options`].
    pub fn new(model: &'m Model, n_ctx: usize) -> Result<Writer<'m>> {
        model.require_language_model()?;
        if model.tokenizer().is_none() {
            return Err(Error::Unsupported("the model has no tokenizer".into()));
        }
        Ok(Writer {
            model,
            session: Session::new(model, &Options { n_ctx, ..Options::default() })?,
            sampler: Sampler::new(sampler::Options::default()),
            stream: None,
            logits: Vec::new(),
            n_left: 0,
            last: None,
        })
    }

    /// The logits that the last token was drawn from, or the next one will be; none before a prompt.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Reads a prompt, of which only what the context doesn't hold already is evaluated; up to `n`
    /// tokens are to follow it.
    pub fn start(&mut self, prompt: &str, n: usize, options: sampler::Options) -> Result<()> {
        self.stream = None;
        let tokenizer = self.model.tokenizer();
        let mut ids = tokenizer.encode(prompt, Encode { add_special: true, parse_special: true });
        tokenizer.take_end(&mut ids);
        let logits = self.session.sync(0, &ids)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.stream = Some(tokenizer.stream().after(&ids));
        self.sampler = Sampler::new(options);
        (self.n_left, self.last) = (n, None);
        Ok(())
    }

    /// Draws a token, and appends the text that is certain by it. Whether more may follow.
    pub fn step(&mut self, text: &mut String) -> Result<bool> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.n_left > 0) else {
            return Ok(false);
        };
        if let Some(id) = self.last {
            self.logits.copy_from_slice(self.session.eval(0, &[id])?);
        }
        let id = self.sampler.sample(&mut self.logits, self.session.ids(0));
        let is_end = self.model.tokenizer().is_eog(id);
        if !is_end {
            text.push_str(stream.push(id));
        }
        (self.n_left, self.last) = (self.n_left - 1, Some(id));
        let is_full = self.session.ids(0).len() == self.session.n_ctx();
        let more = !is_end && !is_full && self.n_left > 0;
        if let Some(stream) = self.stream.take_if(|_| !more) {
            text.push_str(stream.finish());
        }
        Ok(more)
    }
}
