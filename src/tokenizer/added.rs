//! Added tokens: pieces that are cut out of the text before anything else happens to it. As the
//! `tokenizers` package does it: leftmost first, the longest there, no overlap.

use std::ops::Range;

use crate::{Error, Result};

/// Longest added token in bytes. A text without a match costs at most this many steps per byte.
const MAX_LEN: usize = 512;

/// One added token.
pub(super) struct AddedToken {
    /// What is looked for.
    pub(super) text: String,
    /// What it becomes.
    pub(super) id: u32,
    /// Only found where the caller asks for special tokens.
    pub(super) special: bool,
    /// Swallows the whitespace before it.
    pub(super) lstrip: bool,
    /// Swallows the whitespace behind it.
    pub(super) rstrip: bool,
}

/// A part of a text: an added token's id, or what lies between two of them.
pub(super) enum Part {
    Id(u32),
    Text(Range<usize>),
}

/// A set of added tokens.
pub(super) struct Added {
    /// Sorted by text, so that those with a common prefix are neighbours.
    tokens: Vec<AddedToken>,
    /// Where the tokens that begin with each byte start in `tokens`.
    by_first: Box<[u32; 257]>,
}

impl Added {
    /// The set of `tokens`. Of two with the same text the one with the lower id counts.
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Result<Added> {
        tokens.retain(|t| !t.text.is_empty());
        if let Some(t) = tokens.iter().find(|t| t.text.len() > MAX_LEN) {
            return Err(Error::Unsupported(format!(
                "added token {} has {} bytes of text; pith matches up to {MAX_LEN}",
                t.id,
                t.text.len()
            )));
        }
        tokens.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        tokens.dedup_by(|b, a| a.text == b.text);
        let mut by_first = Box::new([0; 257]);
        for (byte, start) in by_first.iter_mut().enumerate() {
            *start = tokens.partition_point(|t| usize::from(t.text.as_bytes()[0]) < byte) as u32;
        }
        Ok(Added { tokens, by_first })
    }

    /// The id of the token that is exactly `text`.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let at = self.tokens.binary_search_by(|t| t.text.as_str().cmp(text)).ok()?;
        Some(self.tokens[at].id)
    }

    /// The longest token that `text` begins with.
    fn longest(&self, text: &[u8]) -> Option<&AddedToken> {
        let first = usize::from(*text.first()?);
        let (lo, hi) = (self.by_first[first] as usize, self.by_first[first + 1] as usize);
        // All of these agree with the text in their first `depth` bytes.
        let mut tokens = &self.tokens[lo..hi];
        let (mut depth, mut best) = (1, None);
        while let Some(head) = tokens.first() {
            if head.text.len() == depth {
                best = Some(head);
                tokens = &tokens[1..];
            }
            let Some(byte) = text.get(depth) else { break };
            let lo = tokens.partition_point(|t| t.text.as_bytes()[depth] < *byte);
            let hi = tokens.partition_point(|t| t.text.as_bytes()[depth] <= *byte);
            tokens = &tokens[lo..hi];
            depth += 1;
        }
        best
    }

    /// Cuts `text` into its parts, in order. A special token that isn't asked for stays text, but
    /// no other token is looked for inside it.
    pub(super) fn split(&self, text: &str, parse_special: bool, mut part: impl FnMut(Part)) {
        let bytes = text.as_bytes();
        // Everything before `done` has been handed out; the next match is looked for from `at`.
        let (mut done, mut at) = (0, 0);
        while !self.tokens.is_empty() && at < bytes.len() {
            let Some(token) = self.longest(&bytes[at..]) else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + token.text.len());
            at = end;
            if token.special && !parse_special {
                continue;
            }
            if token.lstrip && done < start {
                start = done + text[done..start].trim_end().len();
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                part(Part::Text(done..start));
            }
            part(Part::Id(token.id));
            done = end;
        }
        if done < text.len() {
            part(Part::Text(done..text.len()));
        }
    }
}
