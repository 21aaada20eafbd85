//! Sequences as a prefix tree: what several begin with is there once, and is run once.

use std::ops::Range;

use super::schedule::{self, Piece, Schedule};

/// A run of tokens that the same sequences share.
#[derive(Debug)]
pub(super) struct Node {
    /// What comes before it; [`ROOT`] has no other.
    pub(super) parent: usize,
    /// Its tokens in [`Tree::ids`].
    pub(super) tokens: Range<usize>,
    /// Tokens before it.
    pub(super) depth: usize,
    /// What may come behind it.
    pub(super) children: Vec<usize>,
}

/// The node without tokens that all sequences begin with.
pub(super) const ROOT: usize = 0;

/// A prefix tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// Tokens of all nodes.
    pub(super) ids: Vec<u32>,
    /// From the root to the node in which the sequence inserted last ends.
    path: Vec<usize>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let root = Node { parent: ROOT, tokens: 0..0, depth: 0, children: Vec::new() };
        Tree { nodes: vec![root], ids: Vec::new(), path: vec![ROOT] }
    }

    /// The tree of sequences that are sorted. After each one is in, `each` is told its number.
    pub(super) fn of<'a>(
        sorted: impl Iterator<Item = (usize, &'a [u32])>,
        mut each: impl FnMut(&Tree, usize),
    ) -> Tree {
        let mut tree = Tree::new();
        let mut previous: &[u32] = &[];
        for (number, ids) in sorted {
            debug_assert!(previous <= ids);
            let common = previous.iter().zip(ids).take_while(|(a, b)| a == b).count();
            tree.insert(ids, common);
            each(&tree, number);
            previous = ids;
        }
        tree
    }

    /// Inserts a sequence that has its first `common` tokens in common with the one before it, and is
    /// not less than it.
    fn insert(&mut self, ids: &[u32], common: usize) {
        while let Some(&node) = self.path.last()
            && self.nodes[node].depth >= common
            && node != ROOT
        {
            self.path.pop();
        }
        let last = self.path.len() - 1;
        let mut end = self.path[last];
        if common < self.end(end) {
            end = self.split(end, common);
            self.path[last] = end;
        }
        if common < ids.len() {
            let first = self.ids.len();
            self.ids.extend_from_slice(&ids[common..]);
            let new = self.add(end, first..self.ids.len());
            self.path.push(new);
        }
    }

    /// Tokens up to the end of a node.
    pub(super) fn end(&self, node: usize) -> usize {
        self.nodes[node].depth + self.nodes[node].tokens.len()
    }

    fn add(&mut self, parent: usize, tokens: Range<usize>) -> usize {
        let new = self.nodes.len();
        let depth = self.end(parent);
        self.nodes.push(Node { parent, tokens, depth, children: Vec::new() });
        self.nodes[parent].children.push(new);
        new
    }

    /// Cuts a node in two where `depth` tokens end; the first part is new. So a node's number goes on
    /// naming where its sequences end.
    fn split(&mut self, node: usize, depth: usize) -> usize {
        let Node { parent, depth: begin, ref tokens, .. } = self.nodes[node];
        let cut = tokens.start + depth - begin;
        let head = Node { parent, tokens: tokens.start..cut, depth: begin, children: vec![node] };
        let new = self.nodes.len();
        self.nodes.push(head);
        let tail = &mut self.nodes[node];
        (tail.parent, tail.depth, tail.tokens.start) = (new, depth, cut);
        // Sequences are sorted: the node is the last that its parent got.
        let last = self.nodes[parent].children.last_mut();
        debug_assert_eq!(last.as_deref(), Some(&node));
        last.into_iter().for_each(|child| *child = new);
        new
    }

    /// The node in which the sequence inserted last ends.
    pub(super) fn leaf(&self) -> usize {
        self.path.last().copied().unwrap_or(ROOT)
    }

    /// Where in [`Tree::ids`] the tokens of the sequence inserted last are, from token `from` on.
    pub(super) fn places(&self, from: usize) -> impl Iterator<Item = usize> {
        let begins = self.path.partition_point(|&node| self.end(node) <= from);
        self.path[begins..].iter().flat_map(move |&node| {
            let Node { depth, ref tokens, .. } = self.nodes[node];
            tokens.start + from.saturating_sub(depth)..tokens.end
        })
    }

    /// Where in [`Tree::ids`] a piece's tokens are. Its tag is a node.
    pub(super) fn places_of(&self, piece: &Piece) -> Range<usize> {
        let first = self.nodes[piece.tag].tokens.start + piece.from;
        first..first + piece.n
    }

    /// A schedule of the whole tree: its first nodes. Others follow by [`Tree::ran`].
    pub(super) fn schedule(&self, n_seq: usize) -> Schedule {
        let mut schedule = Schedule::new(n_seq);
        self.offer(&mut schedule, schedule::ROOT, ROOT);
        schedule
    }

    /// Takes a step's pieces as run: nodes that have ended make room for their children.
    pub(super) fn ran(&self, schedule: &mut Schedule, pieces: &[Piece]) {
        for piece in pieces {
            if schedule.ran(piece) {
                self.offer(schedule, piece.node, piece.tag);
                schedule.finish(piece.node);
            }
        }
    }

    /// Adds a node's children to a schedule in which the node has the number `parent`.
    fn offer(&self, schedule: &mut Schedule, parent: usize, node: usize) {
        // The schedule takes the last one first.
        for &child in self.nodes[node].children.iter().rev() {
            schedule.add(parent, self.nodes[child].tokens.len(), child);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path_ids(tree: &Tree, node: usize) -> Vec<u32> {
        let Node { parent, ref tokens, .. } = tree.nodes[node];
        let mut ids = if node == ROOT { Vec::new() } else { path_ids(tree, parent) };
        ids.extend(&tree.ids[tokens.clone()]);
        ids
    }

    proptest! {
        #[test]
        fn every_sequence_ends_in_its_node_and_nothing_is_there_twice(
            mut texts in prop::collection::vec(prop::collection::vec(0u32..3, 1..9), 1..40),
        ) {
            texts.sort();
            let mut leaves = Vec::new();
            let tree = Tree::of(texts.iter().map(Vec::as_slice).enumerate(), |tree, number| {
                leaves.push((number, tree.leaf()));
                for from in 0..texts[number].len() {
                    let ids: Vec<u32> = tree.places(from).map(|place| tree.ids[place]).collect();
                    assert_eq!(ids, texts[number][from..]);
                }
            });
            for (number, leaf) in leaves {
                prop_assert_eq!(&path_ids(&tree, leaf), &texts[number]);
            }
            for node in &tree.nodes {
                let mut first: Vec<u32> =
                    node.children.iter().map(|&c| tree.ids[tree.nodes[c].tokens.start]).collect();
                first.dedup();
                prop_assert_eq!(first.len(), node.children.len());
            }
            let mut prefixes: Vec<&[u32]> =
                texts.iter().flat_map(|ids| (1..=ids.len()).map(|n| &ids[..n])).collect();
            prefixes.sort();
            prefixes.dedup();
            prop_assert_eq!(tree.ids.len(), prefixes.len());
        }
    }
}
