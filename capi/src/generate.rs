//! Tokens chosen, and the whole loop.

use std::ffi::{c_char, c_void};

use pith::sampler;

use crate::{
    error::{Fault, Status},
    pointers::{self, Place},
    session::{Draw, Inner, PithSession, enter},
    structs::{self, Out, PithError, PithGenerated, PithGeneration, PithSampling, Struct},
    text::SHOW_SPECIAL,
};

/// `PITH_IGNORE_EOS`
pub const IGNORE_EOS: u32 = 8;
/// `PITH_FINISH_EOS`
pub const FINISH_EOS: i32 = 0;
/// `PITH_FINISH_LENGTH`
pub const FINISH_LENGTH: i32 = 1;
/// `PITH_FINISH_FULL`
pub const FINISH_FULL: i32 = 2;
/// `PITH_FINISH_CANCELLED`
pub const FINISH_CANCELLED: i32 = 3;

/// Gets each token as it comes.
pub type OnToken = Option<
    unsafe extern "C" fn(user: *mut c_void, id: u32, text: *const c_char, n_bytes: usize) -> i32,
>;

/// How tokens are chosen, in the runtime's terms.
fn sampling(from: &PithSampling) -> Result<sampler::Options, Fault> {
    let PithSampling { repeat_penalty, top_p, min_p, temp, .. } = *from;
    let fraction = 0.0..=1.0;
    let sound = repeat_penalty.is_finite()
        && repeat_penalty > 0.0
        && fraction.contains(&top_p)
        && fraction.contains(&min_p)
        && temp.is_finite()
        && temp >= 0.0;
    if !sound {
        return Err(Fault::Invalid(
            "pith_sampling wants repeat_penalty above 0, top_p and min_p from 0 to 1, temp from 0 on",
        ));
    }
    Ok(sampler::Options {
        repeat_penalty,
        repeat_last_n: from.repeat_last_n as usize,
        top_k: from.top_k as usize,
        top_p,
        min_p,
        temp,
        seed: from.seed,
    })
}

impl Inner {
    /// The next token of a sequence whose logits are there, by the sampler as it is.
    fn choose(&mut self, seq: usize) -> u32 {
        let Inner { session, sampler, penalized, .. } = self;
        let logits = session.logits(0);
        if sampler.options().repeat_penalty == 1.0 {
            return sampler.choose(logits);
        }
        penalized.copy_from_slice(logits);
        sampler.sample(penalized, session.ids(seq))
    }

    /// Has the sampler go on with a sequence's random numbers.
    fn draw(&mut self, seq: usize) {
        let Draw { options, state } = &self.draws[seq];
        self.sampler.resume(options.clone(), *state);
    }
}

/// Chooses an id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_sample(
    session: *mut PithSession,
    seq: u32,
    how: *const PithSampling,
    id: *mut u32,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let id = unsafe { Place::new(id, 0) };
    let body = |inner: &mut Inner| {
        id.needed("id")?;
        let index = inner.seq(seq)?;
        if inner.fresh != Some(seq) {
            return Err(Fault::Invalid(
                "there are no logits of this sequence: call pith_feed with it first",
            ));
        }
        if !how.is_null() {
            // SAFETY: the header's contract.
            let options = sampling(&unsafe { structs::read(how) }?)?;
            inner.draws[index] = Draw { state: options.seed, options };
        }
        inner.draw(index);
        let chosen = inner.choose(index);
        inner.draws[index].state = inner.sampler.state();
        Ok(chosen)
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |chosen| id.set(chosen)) }
}

/// What a generation is to be.
struct Wanted {
    max_tokens: u32,
    show_special: bool,
    ignore_eos: bool,
    options: sampler::Options,
    on_token: OnToken,
    user: *mut c_void,
}

/// Reads what a caller wants.
///
/// # Safety
/// The header's of `pith_generate`.
unsafe fn wanted(
    from: *const PithGeneration,
    on_token: OnToken,
    user: *mut c_void,
) -> Result<Wanted, Fault> {
    // SAFETY: by this function's contract.
    let from = unsafe { structs::read(from) }?;
    if from.flags & !(SHOW_SPECIAL | IGNORE_EOS) != 0 {
        return Err(Fault::Invalid("pith_generation.flags has bits that mean nothing"));
    }
    Ok(Wanted {
        max_tokens: if from.max_tokens == 0 { u32::MAX } else { from.max_tokens },
        show_special: from.flags & SHOW_SPECIAL != 0,
        ignore_eos: from.flags & IGNORE_EOS != 0,
        // SAFETY: by this function's contract.
        options: sampling(&unsafe { structs::read(from.sampling) }?)?,
        on_token,
        user,
    })
}

impl Inner {
    /// Makes the sequence hold the prompt; its logits are there then.
    fn read(&mut self, seq: usize, ids: &[u32], done: &mut PithGenerated) -> Result<(), Fault> {
        self.model.model.require_language_model()?;
        self.session.check_text(seq, ids)?;
        self.fresh = None;
        let n = ids.len() - self.session.common(seq, ids);
        self.session.sync(seq, ids)?;
        self.fresh = Some(seq as u32);
        // A context's tokens are counted in 32 bits.
        done.n_prompt = n as u32;
        Ok(())
    }

    /// Chooses, hands out and appends tokens.
    fn write(
        &mut self,
        seq: usize,
        wanted: &Wanted,
        done: &mut PithGenerated,
    ) -> Result<i32, Fault> {
        let model = self.model.clone();
        let tokenizer = model.model.tokenizer();
        let buffers = std::mem::take(&mut self.buffers);
        let text = tokenizer.stream_into(buffers).show_special(wanted.show_special);
        let mut text = text.after(self.session.ids(seq));
        let stopper = self.session.stopper();
        let finish = loop {
            if done.n_tokens == wanted.max_tokens {
                break FINISH_LENGTH;
            }
            if self.session.ids(seq).len() == self.session.n_ctx() {
                break FINISH_FULL;
            }
            if stopper.take() {
                break FINISH_CANCELLED;
            }
            let id = self.choose(seq);
            if tokenizer.is_eog(id) && !wanted.ignore_eos {
                break FINISH_EOS;
            }
            let piece = text.push(id);
            done.n_tokens += 1;
            // SAFETY: the function is the caller's for this; the text has as many bytes as it is told.
            let over = wanted.on_token.is_some_and(|on_token| unsafe {
                on_token(wanted.user, id, piece.as_ptr().cast(), piece.len()) != 0
            });
            // What was handed out is in the sequence, whoever wants to end here.
            self.fresh = None;
            self.session.ignore_stops(true);
            let appended = self.session.eval(seq, &[id]).map(|_| ());
            self.session.ignore_stops(false);
            appended?;
            self.fresh = Some(seq as u32);
            if over {
                break FINISH_CANCELLED;
            }
        };
        self.buffers = text.into_buffers();
        Ok(finish)
    }
}

/// The whole loop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_generate(
    session: *mut PithSession,
    seq: u32,
    ids: *const u32,
    n_ids: usize,
    options: *const PithGeneration,
    on_token: OnToken,
    user: *mut c_void,
    generated: *mut PithGenerated,
    error: *mut PithError,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header's contract.
        let out = unsafe { Out::new(generated) }?;
        let mut done = PithGenerated::INIT;
        out.set(&done);
        // SAFETY: the header's contract.
        let (ids, wanted) =
            unsafe { (pointers::values(ids, n_ids, "ids")?, wanted(options, on_token, user)?) };
        let index = inner.seq(seq)?;
        inner.read(index, ids, &mut done).inspect_err(|fault| {
            if fault.status() == crate::error::CANCELLED {
                out.set(&PithGenerated { finish: FINISH_CANCELLED, ..done });
            }
        })?;
        inner.draws[index] = Draw { state: wanted.options.seed, options: wanted.options.clone() };
        inner.draw(index);
        let finish = inner.write(index, &wanted, &mut done);
        inner.draws[index].state = inner.sampler.state();
        done.finish = finish?;
        out.set(&done);
        if done.finish == FINISH_CANCELLED { Err(Fault::Cancelled) } else { Ok(()) }
    };
    // SAFETY: the header's contract.
    unsafe { enter(session, error, body, |()| ()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_defaults_are_the_runtimes() {
        let defaults = sampling(&PithSampling::INIT);
        assert!(defaults.is_ok_and(|defaults| defaults == sampler::Options::default()));
    }
}
