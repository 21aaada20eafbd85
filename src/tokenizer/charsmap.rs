//! SentencePiece's map of characters (`precompiled_charsmap`): texts and what they become.
//!
//! Format: `src/normalizer.cc` in google/sentencepiece: the size of a double array (u32), the array
//! (u32 each, little-endian; units as in `third_party/darts_clone/darts.h`), then what texts become,
//! each with a zero behind it. A unit of the array has its own byte (bits 0 to 7), whether a text ends
//! there (bit 8), and where its children are: their places are its place, its offset (bits 10 to 30, in
//! units of 256 if bit 9 is set) and their byte, by exclusive or. Where a text ends, the child by
//! byte 0 is a number (bit 31 set): a place in what texts become.

use super::fault;
use crate::{
    Result,
    zeros::{filled, gathered, push},
};

/// The longest text that has a rule. SentencePiece's own rules have at most 18 bytes; a text is looked
/// up at each of its places, so that this bounds what a place costs.
const MAX_KEY: usize = 255;

pub(super) struct Charsmap {
    units: Vec<u32>,
    /// What texts become, each with a zero behind it.
    becomes: String,
}

fn ends(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// Where the children of the unit at `at` are.
fn base(unit: u32, at: usize) -> usize {
    at ^ ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

impl Charsmap {
    /// Reads a map.
    ///
    /// # Errors
    /// It is cut off, or its array is no graph of texts that lead to what they become.
    pub(super) fn parse(bytes: &[u8]) -> Result<Charsmap> {
        let fault = |what: &str| fault(format!("tokenizer.ggml.precompiled_charsmap: {what}"));
        let (size, rest) = bytes.split_first_chunk().ok_or_else(|| fault("it is cut off"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (array, becomes) =
            rest.split_at_checked(size).ok_or_else(|| fault("its array is cut off"))?;
        let (units, []) = array.as_chunks::<4>() else {
            return Err(fault("its array is no array of 32-bit words"));
        };
        let map = Charsmap {
            units: gathered(units.iter().map(|unit| u32::from_le_bytes(*unit)))?,
            becomes: String::from_utf8(gathered(becomes.iter().copied())?)
                .map_err(|_| fault("what texts become is not UTF-8"))?,
        };
        map.check()?.ok_or_else(|| {
            fault("its array has a path that leads back, is too long, or ends in nothing")
        })?;
        Ok(map)
    }

    /// Follows every path once (paths meet again where texts end alike): no path leads back into itself,
    /// none is too long, and the end of each text leads to what it becomes.
    fn check(&self) -> Result<Option<()>> {
        /// A unit whose children are being followed.
        struct Open {
            at: usize,
            children: usize,
            /// The next child.
            byte: u32,
            /// The longest path of the children so far.
            longest: usize,
        }
        const OPEN: usize = usize::MAX;
        let open = |at, unit| Open { at, children: base(unit, at), byte: 1, longest: 0 };
        // The longest path that begins with each unit: 0 where it isn't known yet.
        let mut lengths = filled(self.units.len(), 0)?;
        let Some(&first) = self.units.first() else { return Ok(None) };
        let mut way = vec![open(0, first)];
        lengths[0] = OPEN;
        while let Some(last) = way.last_mut() {
            let Ok(byte) = u8::try_from(last.byte) else {
                let length = last.longest + 1;
                lengths[last.at] = length;
                way.pop();
                if let Some(parent) = way.last_mut() {
                    parent.longest = parent.longest.max(length);
                }
                continue;
            };
            last.byte += 1;
            let Some((at, unit)) = self.child(last.children, byte) else { continue };
            match lengths[at] {
                OPEN => return Ok(None),
                0 => {
                    if ends(unit) && self.becomes(base(unit, at)).is_none() {
                        return Ok(None);
                    }
                    lengths[at] = OPEN;
                    push(&mut way, open(at, unit))?;
                }
                length => last.longest = last.longest.max(length),
            }
        }
        Ok((lengths[0] <= MAX_KEY + 1).then_some(()))
    }

    /// The child by `byte` of the unit whose children are at `children`.
    fn child(&self, children: usize, byte: u8) -> Option<(usize, u32)> {
        let at = children ^ usize::from(byte);
        let unit = *self.units.get(at)?;
        // 0 is what stands behind a text.
        (byte != 0 && unit & (1 << 31 | 0xff) == u32::from(byte)).then_some((at, unit))
    }

    /// What the number at `at` stands for.
    fn becomes(&self, at: usize) -> Option<&str> {
        let start = (self.units.get(at)? & !(1 << 31)) as usize;
        let text = self.becomes.get(start..)?;
        text.split('\0').next().filter(|found| found.len() < text.len())
    }

    /// The rules whose text `text` begins with, the shortest first: its length, what it becomes.
    fn rules(&self, text: &[u8]) -> impl Iterator<Item = (usize, &str)> {
        let mut children = self.units.first().map_or(0, |unit| base(*unit, 0));
        let steps = text.iter().map_while(move |&byte| {
            let (at, unit) = self.child(children, byte)?;
            children = base(unit, at);
            Some(ends(unit).then_some(children))
        });
        (1..).zip(steps).filter_map(|(len, at)| Some((len, self.becomes(at?)?)))
    }

    /// The longest rule for the beginning of `text`: its length, what it becomes.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let rules = self.rules(text.as_bytes());
        rules.filter(|(len, _)| text.is_char_boundary(*len)).last()
    }

    /// What the shortest rule for the beginning of `text` makes of it.
    pub(super) fn shortest(&self, text: &str) -> Option<&str> {
        self.rules(text.as_bytes()).next().map(|(_, becomes)| becomes)
    }
}
