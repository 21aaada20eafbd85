//! Ids back to text, all at once or as they come.

use super::{Kind, Leading, Tokenizer};
use crate::{Error, Result, zeros::room};

/// Turns ids into text as they come. Never gives half a character: bytes that may be the start of
/// one are held back, and bytes that can't be part of any become U+FFFD, so that the parts together
/// are what [`String::from_utf8_lossy`] makes of all bytes.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    show_special: bool,
    /// No text has come yet, so that a space in front is still to be dropped.
    at_start: bool,
    /// Bytes that are no whole character yet: at most three between calls.
    held: Vec<u8>,
    ready: String,
}

/// What a [`Stream`] writes into. One that is used again, or was made for a tokenizer, needs no more memory.
#[derive(Debug, Default)]
pub struct Buffers {
    held: Vec<u8>,
    ready: String,
}

/// A [`Stream`] between two ids, without its tokenizer, so that whoever holds the tokenizer too can keep it.
#[derive(Debug)]
pub struct Paused {
    show_special: bool,
    at_start: bool,
    buffers: Buffers,
}

impl Buffers {
    /// Bytes that they take.
    pub fn n_bytes(&self) -> usize {
        self.held.capacity() + self.ready.capacity()
    }
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, buffers: Buffers) -> Stream<'a> {
        let Buffers { mut held, mut ready } = buffers;
        held.clear();
        ready.clear();
        Stream { tokenizer, show_special: false, at_start: true, held, ready }
    }

    /// Whether special tokens appear in the text. By default they don't.
    pub fn show_special(mut self, show: bool) -> Self {
        self.show_special = show;
        self
    }

    /// Has these ids behind it, whose text isn't given: what follows is their continuation, and some
    /// vocabularies drop a space at the very start of a text.
    pub fn after(mut self, ids: &[u32]) -> Self {
        ids.iter().for_each(|&id| {
            self.push(id);
        });
        self
    }

    /// Takes the next id; gives the text that has become certain by it, which may be empty.
    pub fn push(&mut self, id: u32) -> &str {
        self.ready.clear();
        self.take(id);
        &self.ready
    }

    /// Gives what is left when no more ids come: nothing, or U+FFFD for an incomplete character.
    pub fn finish(mut self) -> &'static str {
        if std::mem::take(&mut self.held).is_empty() { "" } else { "\u{fffd}" }
    }

    /// The buffers, when no more ids come.
    pub fn into_buffers(self) -> Buffers {
        Buffers { held: self.held, ready: self.ready }
    }

    /// Lets go of the tokenizer until the next id: [`Tokenizer::resume`].
    pub fn pause(self) -> Paused {
        let Stream { show_special, at_start, held, ready, .. } = self;
        Paused { show_special, at_start, buffers: Buffers { held, ready } }
    }

    /// Appends what `id` makes certain to `ready`.
    fn take(&mut self, id: u32) {
        let hidden = self.tokenizer.is_special(id) || self.tokenizer.is_unused(id);
        if hidden && !self.show_special {
            return;
        }
        let piece = self.tokenizer.piece(id);
        if self.at_start && !piece.is_empty() {
            self.first(id, piece);
        } else {
            self.held.extend_from_slice(piece);
        }
        let mut n_done = 0;
        for chunk in self.held.utf8_chunks() {
            self.ready.push_str(chunk.valid());
            n_done += chunk.valid().len();
            let invalid = chunk.invalid();
            // The last chunk may be the start of a character that the next piece completes.
            let more = n_done + invalid.len() == self.held.len()
                && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if invalid.is_empty() || more {
                break;
            }
            self.ready.push('\u{fffd}');
            n_done += invalid.len();
        }
        self.held.drain(..n_done);
    }

    /// Takes a piece that no text is in front of.
    fn first(&mut self, id: u32, piece: &[u8]) {
        let without = piece.strip_prefix(b" ").unwrap_or(piece);
        self.at_start = false;
        match self.tokenizer.leading {
            Leading::Keep => self.held.extend_from_slice(piece),
            Leading::One => self.held.extend_from_slice(without),
            Leading::Token if self.tokenizer.is_literal(id) => self.held.extend_from_slice(piece),
            Leading::Token => self.held.extend(piece.iter().filter(|byte| **byte != b' ')),
            // A space as a byte is none that encoding has put there.
            Leading::Each if self.tokenizer.kinds[id as usize] == Kind::Byte => {
                self.held.extend_from_slice(piece);
            }
            Leading::Each => {
                self.held.extend_from_slice(without);
                self.at_start = without.is_empty();
            }
        }
    }
}

impl Tokenizer {
    /// The text of `ids`, without special tokens. Invalid UTF-8 becomes U+FFFD; nothing else is
    /// changed: spaces before punctuation stay.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, false)
    }

    /// The text of `ids`, with or without special tokens.
    pub fn decode_with(&self, ids: &[u32], show_special: bool) -> String {
        let mut stream = self.stream().show_special(show_special);
        ids.iter().for_each(|&id| stream.take(id));
        let mut text = std::mem::take(&mut stream.ready);
        text.push_str(stream.finish());
        text
    }

    /// A decoder that takes one id at a time.
    pub fn stream(&self) -> Stream<'_> {
        self.stream_into(Buffers::default())
    }

    /// A decoder that writes into these.
    pub fn stream_into(&self, buffers: Buffers) -> Stream<'_> {
        Stream::new(self, buffers)
    }

    /// Goes on with a stream of this tokenizer.
    pub fn resume(&self, paused: Paused) -> Stream<'_> {
        let Paused { show_special, at_start, buffers: Buffers { held, ready } } = paused;
        Stream { tokenizer: self, show_special, at_start, held, ready }
    }

    /// Buffers that are large enough for any of the tokenizer's pieces.
    ///
    /// # Errors
    /// The system has no more memory.
    pub fn buffers(&self) -> Result<Buffers> {
        self.buffers_for((0..).take(self.n_vocab()))
    }

    /// Buffers that are large enough for any of these.
    ///
    /// # Errors
    /// The system has no more memory.
    pub fn buffers_for(&self, ids: impl Iterator<Item = u32>) -> Result<Buffers> {
        let longest = ids.map(|id| self.piece(id).len()).max().unwrap_or(0);
        // A byte of a piece becomes three of U+FFFD at most, and three may be left of the piece before.
        let most = longest.saturating_add(3).saturating_mul(3);
        let mut ready = String::new();
        let wanted = most as u64;
        ready.try_reserve_exact(most).map_err(|_| Error::OutOfMemory { wanted })?;
        Ok(Buffers { held: room(most)?, ready })
    }
}
