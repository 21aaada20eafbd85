//! The texts of special tokens: for callers that put a text together from a trusted part, whose
//! special tokens count, and others, whose don't.

use std::{
    alloc::{Layout, handle_alloc_error},
    ops::Range,
};

use super::{
    Tokenizer,
    added::{Added, AddedToken, Allowed},
};
use crate::zeros::gathered;

/// The texts of a vocabulary's special tokens, ready to be looked for.
pub struct Specials {
    texts: Added,
}

impl Tokenizer {
    /// The texts of all special tokens. Where the system has no memory for them this ends the process.
    pub fn specials(&self) -> Specials {
        let as_is = self.added.tokens().iter().map(|token| (token, token.text.as_str()));
        // The space in front is the normalizer's.
        let spaces = self.len_of_prefix();
        let bare = self.added_normalized.tokens().iter();
        let bare = bare.filter_map(|token| Some((token, token.text.get(spaces..)?)));
        let special = as_is.chain(bare).filter(|(token, _)| token.special);
        let texts = special.map(|(token, text)| AddedToken {
            text: text.to_owned(),
            id: token.id,
            special: false,
            lstrip: false,
            rstrip: false,
        });
        let texts = gathered(texts).and_then(Added::new);
        // As Rust's own collections do.
        let refused = |_| handle_alloc_error(Layout::new::<Specials>());
        Specials { texts: texts.unwrap_or_else(refused) }
    }

    /// Bytes that normalization puts before every text.
    fn len_of_prefix(&self) -> usize {
        self.normalize("a").len().saturating_sub(1)
    }

    /// Where those places of `allowed` that lie in `text[range]` are in that part normalized, if
    /// there is anything to find there. A place that normalization joins with its neighbours isn't
    /// found again: its text stays text.
    pub(super) fn normalized_places(
        &self,
        text: &str,
        range: Range<usize>,
        allowed: Allowed<'_>,
    ) -> Option<Vec<Range<usize>>> {
        let Allowed::At(places) = allowed else { return None };
        if self.added_normalized.is_empty() {
            return None;
        }
        let prefix = self.len_of_prefix();
        let len = |range: Range<usize>| match text.get(range) {
            None | Some("") => 0,
            Some(text) => self.normalize(text).len().saturating_sub(prefix),
        };
        let from = places.partition_point(|place| place.start < range.start);
        let (mut out, mut done, mut end) = (Vec::new(), range.start, prefix);
        for place in places[from..].iter().take_while(|place| place.end <= range.end) {
            let own = len(place.clone());
            end += len(done..place.start) + own;
            done = place.end;
            // The token's own text was normalized in the same way, a space in front included.
            out.push(end.saturating_sub(own + prefix)..end);
        }
        Some(out)
    }
}

impl Specials {
    /// Where the texts are in `text`: leftmost first, the longest there, no overlap.
    pub fn places(&self, text: &str) -> Vec<Range<usize>> {
        let (mut places, mut at) = (Vec::new(), 0);
        while let Some((token, end)) = self.texts.find(text.as_bytes(), at) {
            places.push(end - token.text.len()..end);
            at = end;
        }
        places
    }

    /// Whether `text` is one of them.
    pub fn is_one(&self, text: &str) -> bool {
        self.texts.id(text).is_some()
    }

    /// Bytes of the longest of them that `text` begins with.
    pub fn at_start_of(&self, text: &str) -> Option<usize> {
        let texts = self.texts.tokens().iter().map(|token| token.text.as_str());
        texts.filter(|special| text.starts_with(special)).map(str::len).max()
    }

    /// Bytes of the longest end of `text` that one of them begins with and goes on from.
    pub fn begun_at_end_of(&self, text: &str) -> usize {
        let texts = || self.texts.tokens().iter().map(|token| token.text.as_str());
        let longest = texts().map(str::len).max().unwrap_or(0);
        let from = text.ceil_char_boundary(text.len().saturating_sub(longest));
        let ends = text[from..].char_indices().map(|(at, _)| &text[from + at..]);
        let goes_on = |end: &&str| texts().any(|t| t.len() > end.len() && t.starts_with(*end));
        ends.filter(goes_on).map(str::len).next().unwrap_or(0)
    }
}
