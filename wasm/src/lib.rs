//! pith as a WebAssembly module, for a page or for Node (`pith.js`), or for any other host that calls
//! functions of a module. An instance imports nothing and holds one model, for as long as it lives: the memory
//! of an instance never shrinks, so a second model is a second instance's.
//!
//! What goes in lies in the input ([`pith_input`]), what comes out is the output ([`pith_output`]): the
//! text of a step, or an error's message. Functions that can fail return -1 then, and else whether there
//! is more to come, 1 or 0. Pointers are good until the next call.
//!
//! No code here is unsafe: pointers are only given out. What the attribute promises is that no other
//! function of the module has the name.
#![allow(unsafe_code)]

mod writer;

use std::cell::RefCell;

use pith::{Error, Model, Result, bytes::Bytes, sampler};

use writer::Writer;

/// What an instance holds.
struct State {
    input: Vec<u8>,
    output: String,
    writer: Option<Writer<'static>>,
}

thread_local! {
    static STATE: RefCell<State> =
        const { RefCell::new(State { input: Vec::new(), output: String::new(), writer: None }) };
}

/// What `f` says as a number; its error becomes the output.
fn answer(f: impl FnOnce(&mut State) -> Result<bool>) -> i32 {
    STATE.with_borrow_mut(|state| {
        state.output.clear();
        f(state).map_or_else(
            |error| {
                state.output = error.to_string();
                -1
            },
            i32::from,
        )
    })
}

impl State {
    fn writer(&mut self) -> Result<&mut Writer<'static>> {
        self.writer.as_mut().ok_or_else(|| Error::Invalid("there is no model yet".into()))
    }
}

/// Room for `len` bytes of input, to be written by the caller; null where there is no memory for them.
#[unsafe(no_mangle)]
pub extern "C" fn pith_input(len: usize) -> *mut u8 {
    STATE.with_borrow_mut(|state| {
        state.input = Vec::new();
        if state.input.try_reserve_exact(len).is_err() {
            return std::ptr::null_mut();
        }
        state.input.resize(len, 0);
        state.input.as_mut_ptr()
    })
}

/// Takes the input as a model's file, and makes a session with a context of `n_ctx` tokens, 0 for the
/// model's own, up to 4096. An instance that can't do that is of no further use.
#[unsafe(no_mangle)]
pub extern "C" fn pith_open(n_ctx: usize) -> i32 {
    answer(|state| {
        if state.writer.is_some() {
            return Err(Error::Invalid("the instance has a model already".into()));
        }
        let bytes = Bytes::from_vec(std::mem::take(&mut state.input));
        // The model lives as long as the instance, whose memory goes as a whole.
        let model: &'static Model = Box::leak(Box::new(Model::from_bytes(bytes)?));
        state.writer = Some(Writer::new(model, n_ctx)?);
        Ok(false)
    })
}

/// Takes the input as a prompt in UTF-8, which up to `n` tokens are to follow, drawn by this seed; temperature
/// 0 always takes the likeliest.
#[unsafe(no_mangle)]
pub extern "C" fn pith_start(n: usize, temp: f32, seed: u32) -> i32 {
    answer(|state| {
        let input = std::mem::take(&mut state.input);
        let prompt = std::str::from_utf8(&input);
        let prompt = prompt.map_err(|e| Error::Invalid(format!("the prompt isn't UTF-8: {e}")))?;
        let options = sampler::Options { temp, seed: seed.into(), ..Default::default() };
        state.writer()?.start(prompt, n, options)?;
        Ok(n > 0)
    })
}

/// Draws the next token; the output is the text that is certain by it, which may be empty.
#[unsafe(no_mangle)]
pub extern "C" fn pith_step() -> i32 {
    answer(|state| {
        let mut text = std::mem::take(&mut state.output);
        let more = state.writer()?.step(&mut text)?;
        state.output = text;
        Ok(more)
    })
}

/// The last call's output, in UTF-8.
#[unsafe(no_mangle)]
pub extern "C" fn pith_output() -> *const u8 {
    STATE.with_borrow(|state| state.output.as_ptr())
}

/// Bytes of the output.
#[unsafe(no_mangle)]
pub extern "C" fn pith_output_len() -> usize {
    STATE.with_borrow(|state| state.output.len())
}

/// The logits that the last token was drawn from, or, after a prompt, the first one will be.
#[unsafe(no_mangle)]
pub extern "C" fn pith_logits() -> *const f32 {
    STATE.with_borrow(|state| state.writer.as_ref().map_or(&[][..], Writer::logits).as_ptr())
}

/// How many logits there are: one for each token of the vocabulary, or none before a prompt.
#[unsafe(no_mangle)]
pub extern "C" fn pith_logits_len() -> usize {
    STATE.with_borrow(|state| state.writer.as_ref().map_or(0, |writer| writer.logits().len()))
}
