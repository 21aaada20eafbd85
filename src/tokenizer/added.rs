//! Added tokens: pieces that are cut out of the text before anything else happens to it. As the
//! `tokenizers` package does it: leftmost first, the longest there, no overlap.

use std::ops::Range;

use super::trie::{NONE, ROOT, Trie};
use crate::{
    Result,
    zeros::{filled, gathered},
};

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

/// The places where a special token's text becomes that token.
#[derive(Clone, Copy)]
pub(super) enum Allowed<'a> {
    None,
    All,
    /// Where it is exactly one of these, which are in order and apart.
    At(&'a [Range<usize>]),
}

impl Allowed<'_> {
    fn has(self, place: &Range<usize>) -> bool {
        match self {
            Allowed::None => false,
            Allowed::All => true,
            Allowed::At(places) => places
                .binary_search_by_key(&place.start, |other| other.start)
                .is_ok_and(|at| places[at] == *place),
        }
    }
}

/// A set of added tokens as an automaton after Aho and Corasick, so that text which almost matches
/// costs no more than other text.
pub(super) struct Added {
    /// Sorted by text.
    tokens: Vec<AddedToken>,
    trie: Trie,
    /// Where to go on when no child fits: the state of the longest proper suffix, or `NONE` where
    /// giving up the state's own start would lose a token that was found there.
    fail: Vec<u32>,
    /// The leftmost, longest token that ends in each state, or `NONE`.
    token: Vec<u32>,
}

impl Added {
    /// The set of `tokens`. Of two with the same text the one with the lower id counts.
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Result<Added> {
        tokens.retain(|t| !t.text.is_empty());
        tokens.sort_unstable_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        tokens.dedup_by(|b, a| a.text == b.text);
        let texts = gathered(tokens.iter().map(|t| t.text.as_bytes()))?;
        let trie = Trie::new(&texts)?;
        let token = gathered((0..trie.len() as u32).map(|state| trie.end(state)))?;
        let mut added = Added { fail: filled(trie.len(), ROOT)?, tokens, trie, token };
        added.link();
        Ok(added)
    }

    /// Sets `fail`, parents before children, and lets states inherit tokens that end in them.
    fn link(&mut self) {
        for parent in 0..self.trie.len() as u32 {
            for state in self.trie.children(parent) {
                let own = self.token[state as usize] != NONE;
                // A token that starts here is further left than any suffix.
                let fail = if own { NONE } else { self.suffix(parent, self.trie.byte(state)) };
                self.fail[state as usize] = fail;
                if !own && fail != NONE {
                    self.token[state as usize] = self.token[fail as usize];
                }
            }
        }
    }

    /// The state of the longest proper suffix of `parent` and `byte`.
    fn suffix(&self, parent: u32, byte: u8) -> u32 {
        let mut state = parent;
        while state != ROOT {
            state = self.fail[state as usize];
            if state == NONE {
                return NONE;
            }
            if let Some(child) = self.trie.child(state, byte) {
                return child;
            }
        }
        ROOT
    }

    /// The id of the token that is exactly `text`.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let at = self.tokens.binary_search_by(|t| t.text.as_str().cmp(text)).ok()?;
        Some(self.tokens[at].id)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens, sorted by text.
    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// The leftmost token in `text[from..]`, the longest there, and where it ends.
    pub(super) fn find(&self, text: &[u8], from: usize) -> Option<(&AddedToken, usize)> {
        let (mut state, mut found, mut end) = (ROOT, None, from);
        'text: for (at, &byte) in text.iter().enumerate().skip(from) {
            loop {
                if let Some(child) = self.trie.child(state, byte) {
                    state = child;
                    break;
                }
                if state == ROOT {
                    break;
                }
                state = self.fail[state as usize];
                if state == NONE {
                    break 'text;
                }
            }
            if let Some(token) = self.tokens.get(self.token[state as usize] as usize) {
                (found, end) = (Some(token), at + 1);
            }
        }
        // Not an option of both: an end that isn't there would be memory that was never written, which
        // the compiler may look at in vain, and valgrind complains of that.
        Some((found?, end))
    }

    /// Cuts `text` into its parts, in order. A special token that isn't allowed stays text, but no
    /// other token is looked for inside it.
    pub(super) fn split(&self, text: &str, special: Allowed<'_>, mut part: impl FnMut(Part)) {
        // Everything before `done` has been handed out; the next match is looked for from `at`.
        let (mut done, mut at) = (0, 0);
        while !self.tokens.is_empty()
            && let Some((token, mut end)) = self.find(text.as_bytes(), at)
        {
            let mut start = end - token.text.len();
            at = end;
            if token.special && !special.has(&(start..end)) {
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
