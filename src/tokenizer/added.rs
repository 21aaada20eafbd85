//! Added tokens: pieces that are cut out of the text before anything else happens to it. As the
//! `tokenizers` package does it: leftmost first, the longest there, no overlap.

use std::ops::Range;

const ROOT: u32 = 0;
/// No state, no token.
const NONE: u32 = u32::MAX;

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
/// costs no more than other text. States are numbered breadth first: the children of state `s` are
/// `first[s]..first[s + 1]`, in the order of their bytes.
pub(super) struct Added {
    /// Sorted by text.
    tokens: Vec<AddedToken>,
    /// The byte that leads to each state.
    byte: Vec<u8>,
    /// First child of each state; one more entry than there are states.
    first: Vec<u32>,
    /// Where to go on when no child fits: the state of the longest proper suffix, or `NONE` where
    /// giving up the state's own start would lose a token that was found there.
    fail: Vec<u32>,
    /// The leftmost, longest token that ends in each state, or `NONE`.
    token: Vec<u32>,
}

impl Added {
    /// The set of `tokens`. Of two with the same text the one with the lower id counts.
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Added {
        tokens.retain(|t| !t.text.is_empty());
        tokens.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        tokens.dedup_by(|b, a| a.text == b.text);
        let mut added =
            Added { tokens, byte: vec![0], first: vec![1], fail: vec![ROOT], token: vec![NONE] };
        added.grow();
        added.link();
        added
    }

    /// Makes the states, breadth first, with their own tokens.
    fn grow(&mut self) {
        // The tokens that each state is a prefix of, and the prefix's length.
        let mut prefixes = vec![(0..self.tokens.len(), 0)];
        let mut state = 0;
        while let Some((range, depth)) = prefixes.get(state).cloned() {
            let mut from = range.start;
            if from < range.end && self.tokens[from].text.len() == depth {
                self.token[state] = from as u32;
                from += 1;
            }
            while from < range.end {
                let byte = self.tokens[from].text.as_bytes()[depth];
                let same = |t: &AddedToken| t.text.as_bytes()[depth] == byte;
                let to = from + self.tokens[from..range.end].partition_point(same);
                self.byte.push(byte);
                self.token.push(NONE);
                prefixes.push((from..to, depth + 1));
                from = to;
            }
            self.first.push(self.byte.len() as u32);
            state += 1;
        }
    }

    /// Sets `fail`, parents before children, and lets states inherit tokens that end in them.
    fn link(&mut self) {
        self.fail.resize(self.byte.len(), ROOT);
        for parent in 0..self.byte.len() as u32 {
            for state in self.children(parent) {
                let own = self.token[state as usize] != NONE;
                // A token that starts here is further left than any suffix.
                let fail = if own { NONE } else { self.suffix(parent, self.byte[state as usize]) };
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
            if let Some(child) = self.child(state, byte) {
                return child;
            }
        }
        ROOT
    }

    fn children(&self, state: u32) -> Range<u32> {
        self.first[state as usize]..self.first[state as usize + 1]
    }

    fn child(&self, state: u32, byte: u8) -> Option<u32> {
        let children = self.children(state);
        let bytes = &self.byte[children.start as usize..children.end as usize];
        bytes.binary_search(&byte).ok().map(|at| children.start + at as u32)
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
        let (mut state, mut found) = (ROOT, None);
        for (at, &byte) in text.iter().enumerate().skip(from) {
            loop {
                if let Some(child) = self.child(state, byte) {
                    state = child;
                    break;
                }
                if state == ROOT {
                    break;
                }
                state = self.fail[state as usize];
                if state == NONE {
                    return found;
                }
            }
            if let Some(token) = self.tokens.get(self.token[state as usize] as usize) {
                found = Some((token, at + 1));
            }
        }
        found
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
