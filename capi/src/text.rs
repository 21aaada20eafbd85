//! Text to ids and back.

use std::ffi::c_char;

use pith::tokenizer::{Encode, Tokenizer};

use crate::{
    error::{Fault, Status},
    guard::guard,
    memory::insured,
    model::PithModel,
    pointers::{self, Place},
    structs::PithError,
};

/// `PITH_ADD_SPECIAL`
pub const ADD_SPECIAL: u32 = 1;
/// `PITH_PARSE_SPECIAL`
pub const PARSE_SPECIAL: u32 = 2;
/// `PITH_SHOW_SPECIAL`
pub const SHOW_SPECIAL: u32 = 4;
/// `PITH_ADD_BEGIN`
pub const ADD_BEGIN: u32 = 16;

/// Texts up to this length need no more memory than there always is.
const SHORT: usize = 512;
/// Most bytes of memory for one of a text that becomes ids: as one long word, its copies, symbols, the
/// queue of merges and ids, each in a list that has grown by doubling.
const PER_BYTE: usize = 512;

/// The ids of a text, as the flags say.
fn encode(tokenizer: &Tokenizer, text: &str, flags: u32) -> Result<Vec<u32>, Fault> {
    if flags & !(ADD_SPECIAL | PARSE_SPECIAL | ADD_BEGIN) != 0 {
        return Err(Fault::Invalid("flags of pith_tokenize have bits that mean nothing"));
    }
    let encode = Encode {
        add_special: flags & (ADD_SPECIAL | ADD_BEGIN) != 0,
        parse_special: flags & PARSE_SPECIAL != 0,
    };
    let mut ids = tokenizer.encode(text, encode);
    if flags & ADD_SPECIAL == 0 && flags & ADD_BEGIN != 0 {
        tokenizer.take_end(&mut ids);
    }
    Ok(ids)
}

/// Text to ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_tokenize(
    model: *const PithModel,
    text: *const c_char,
    n_bytes: usize,
    flags: u32,
    ids: *mut u32,
    capacity: usize,
    n_ids: *mut usize,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let n_ids = unsafe { Place::new(n_ids, 0) };
    let body = || {
        n_ids.needed("n_ids")?;
        // SAFETY: the header's contract: it is null or a model that lives.
        let model = unsafe { model.as_ref() }.ok_or(Fault::Null("model"))?;
        // SAFETY: the header's contract.
        let (text, to) = unsafe {
            (pointers::text(text, n_bytes)?, pointers::values_mut(ids, capacity, "ids")?)
        };
        let mut tokenize = || {
            let ids = encode(model.model.tokenizer(), text, flags)?;
            if let Some(to) = to.get_mut(..ids.len()) {
                to.copy_from_slice(&ids);
            }
            Ok(ids.len())
        };
        let n = match text.len() <= SHORT {
            true => tokenize()?,
            false => insured(text.len().saturating_mul(PER_BYTE), tokenize)?,
        };
        if n > capacity {
            n_ids.set(n);
            return Err(Fault::Buffer { needed: n, capacity });
        }
        Ok(n)
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |n| n_ids.set(n)) }
}

/// Writes the text of ids as far as it fits; gives its length.
fn decode(tokenizer: &Tokenizer, ids: &[u32], show: bool, to: &mut [u8]) -> Result<usize, Fault> {
    let buffers = tokenizer.buffers_for(ids.iter().copied())?;
    let mut stream = tokenizer.stream_into(buffers).show_special(show);
    let mut n = 0;
    let mut write = |text: &str| {
        if let Some(to) = to.get_mut(n..n + text.len()) {
            to.copy_from_slice(text.as_bytes());
        }
        n += text.len();
    };
    ids.iter().for_each(|&id| write(stream.push(id)));
    write(stream.finish());
    Ok(n)
}

/// Ids to text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pith_detokenize(
    model: *const PithModel,
    ids: *const u32,
    n_ids: usize,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    n_bytes: *mut usize,
    error: *mut PithError,
) -> Status {
    // SAFETY: the header's contract.
    let n_bytes = unsafe { Place::new(n_bytes, 0) };
    let body = || {
        n_bytes.needed("n_bytes")?;
        // SAFETY: the header's contract: it is null or a model that lives.
        let model = unsafe { model.as_ref() }.ok_or(Fault::Null("model"))?;
        // SAFETY: the header's contract.
        let (ids, to) = unsafe {
            let ids = pointers::values(ids, n_ids, "ids")?;
            (ids, pointers::values_mut(text.cast::<u8>(), capacity, "text")?)
        };
        if flags & !SHOW_SPECIAL != 0 {
            return Err(Fault::Invalid("flags of pith_detokenize have bits that mean nothing"));
        }
        let tokenizer = model.model.tokenizer();
        if ids.iter().any(|&id| id as usize >= tokenizer.n_vocab()) {
            return Err(Fault::Invalid("ids has one that the model doesn't have"));
        }
        let n = decode(tokenizer, ids, flags & SHOW_SPECIAL != 0, to)?;
        if n > capacity {
            n_bytes.set(n);
            return Err(Fault::Buffer { needed: n, capacity });
        }
        Ok(n)
    };
    // SAFETY: the header's contract.
    unsafe { guard(error, body, |n| n_bytes.set(n)) }
}
