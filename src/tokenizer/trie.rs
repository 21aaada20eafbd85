//! Byte strings as a trie, in four flat arrays. States are numbered breadth first: the children of
//! state `s` are `first[s]..first[s + 1]`, in the order of their bytes.

use std::{collections::VecDeque, ops::Range};

use crate::{Error, Result, zeros::push};

/// The state of the empty prefix.
pub(super) const ROOT: u32 = 0;
/// No state, no text.
pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Trie {
    /// The byte that leads to each state.
    byte: Vec<u8>,
    /// First child of each state; one more entry than there are states.
    first: Vec<u32>,
    /// The root's children by their bytes, or `NONE`: most steps are taken from there.
    roots: Box<[u32; 256]>,
    /// The place, among the texts, of the one that ends in each state, or `NONE`.
    ends: Vec<u32>,
}

impl Trie {
    /// The trie of `texts`, which are sorted, each there once, and none empty.
    pub(super) fn new(texts: &[&[u8]]) -> Result<Trie> {
        let mut trie =
            Trie { byte: vec![0], first: vec![1], roots: Box::new([NONE; 256]), ends: vec![NONE] };
        // The texts that a state is a prefix of, and the prefix's length.
        let mut prefixes = VecDeque::from([(0..texts.len(), 0)]);
        let mut state = 0;
        while let Some((range, depth)) = prefixes.pop_front() {
            let mut from = range.start;
            if from < range.end && texts[from].len() == depth {
                trie.ends[state] = from as u32;
                from += 1;
            }
            while from < range.end {
                let byte = texts[from][depth];
                let to = from + texts[from..range.end].partition_point(|t| t[depth] == byte);
                if depth == 0 {
                    trie.roots[usize::from(byte)] = trie.byte.len() as u32;
                }
                push(&mut trie.byte, byte)?;
                push(&mut trie.ends, NONE)?;
                prefixes.try_reserve(1).map_err(|_| Error::OutOfMemory { wanted: 0 })?;
                prefixes.push_back((from..to, depth + 1));
                from = to;
            }
            push(&mut trie.first, trie.byte.len() as u32)?;
            state += 1;
        }
        Ok(trie)
    }

    /// How many states there are.
    pub(super) fn len(&self) -> usize {
        self.byte.len()
    }

    /// The place of the text that ends in `state`, or `NONE`.
    pub(super) fn end(&self, state: u32) -> u32 {
        self.ends[state as usize]
    }

    /// The byte that leads to `state`.
    pub(super) fn byte(&self, state: u32) -> u8 {
        self.byte[state as usize]
    }

    pub(super) fn children(&self, state: u32) -> Range<u32> {
        self.first[state as usize]..self.first[state as usize + 1]
    }

    pub(super) fn child(&self, state: u32, byte: u8) -> Option<u32> {
        if state == ROOT {
            let child = self.roots[usize::from(byte)];
            return (child != NONE).then_some(child);
        }
        let children = self.children(state);
        let bytes = &self.byte[children.start as usize..children.end as usize];
        bytes.binary_search(&byte).ok().map(|at| children.start + at as u32)
    }

    /// The texts that `text` begins with, the shortest first: length and place.
    pub(super) fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        let mut state = ROOT;
        let states = text.iter().map_while(move |&byte| {
            state = self.child(state, byte)?;
            Some(self.end(state))
        });
        (1..).zip(states).filter(|(_, end)| *end != NONE)
    }
}
