//! Which nodes of a tree run in which of a session's sequences, and when. Knows lengths, no tokens and
//! no model, and may decide anything: no choice changes a bit of what a node gets.
//!
//! A node runs in a sequence that holds all that comes before it. Where one has just run its parent,
//! or a sibling behind the parent, it goes on there without a copy; else the parent's tokens are copied
//! into a free one. A node with children that have not begun is pinned: its sequence may grow behind
//! it, and is cut back to it, but no further. So one sequence is enough for any tree, and more of
//! them run more nodes at once.

use std::collections::HashMap;

/// The node without tokens that all others are behind.
pub(super) const ROOT: usize = 0;

/// Part of a step: tokens of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) node: usize,
    /// What its owner calls the node.
    pub(super) tag: usize,
    /// Index of the first of the tokens in the node.
    pub(super) from: usize,
    pub(super) n: usize,
    pub(super) seq: usize,
}

/// How a sequence is made ready for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// It is cut to this many tokens.
    Cut { seq: usize, len: usize },
    /// It becomes a copy of this many tokens of another.
    Copy { from: usize, len: usize, seq: usize },
}

/// A node that waits, runs, or is pinned.
#[derive(Debug, Default)]
struct Node {
    tag: usize,
    /// Tokens before it.
    depth: usize,
    /// Tokens, and how many of them have run.
    n: usize,
    done: usize,
    /// Children that have not begun, the next one last.
    children: Vec<usize>,
    /// The sequence that it runs in, or is pinned in.
    seq: usize,
}

/// A sequence.
#[derive(Debug)]
struct Seq {
    busy: bool,
    /// The nodes that it holds, from the root on. Numbers are never given twice, so that one of a node
    /// that is gone means nothing.
    path: Vec<usize>,
    /// How many of them may not be cut off: all up to the last one that is pinned.
    n_pinned: usize,
}

/// The order of work.
#[derive(Debug)]
pub(super) struct Schedule {
    nodes: HashMap<usize, Node>,
    next: usize,
    seqs: Vec<Seq>,
    /// Nodes that run, in the order in which they began.
    running: Vec<usize>,
    /// The root, and nodes that have run and have children that have not begun. The last are looked at
    /// first, so that few are pinned.
    pinned: Vec<usize>,
}

impl Schedule {
    pub(super) fn new(n_seq: usize) -> Schedule {
        let seq = || Seq { busy: false, path: vec![ROOT], n_pinned: 0 };
        Schedule {
            nodes: HashMap::from([(ROOT, Node::default())]),
            next: ROOT + 1,
            seqs: (0..n_seq).map(|_| seq()).collect(),
            running: Vec::new(),
            pinned: vec![ROOT],
        }
    }

    /// Adds a node of `n` tokens behind another, which is the root, or runs.
    pub(super) fn add(&mut self, parent: usize, n: usize, tag: usize) {
        let Some(before) = self.nodes.get_mut(&parent) else { return };
        before.children.push(self.next);
        let depth = before.depth + before.n;
        self.nodes.insert(self.next, Node { tag, depth, n, ..Node::default() });
        self.next += 1;
    }

    /// Whether a node has not begun.
    pub(super) fn has_waiting(&self) -> bool {
        self.pinned.iter().any(|node| !self.nodes[node].children.is_empty())
    }

    /// The next step, of at most `budget` tokens: nodes that run, those with one token left first, then
    /// those that can begin. None when all have ended. What must be done to sequences before the step
    /// goes to `prepare`, in order.
    pub(super) fn step(&mut self, budget: usize, mut prepare: impl FnMut(Move)) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut left = budget;
        let (short, long): (Vec<usize>, Vec<usize>) =
            (self.running.iter()).partition(|node| self.nodes[node].n - self.nodes[node].done == 1);
        let mut running = short.into_iter().chain(long);
        while left > 0
            && let Some(number) = running.next().or_else(|| self.begin(&mut prepare))
        {
            let node = &self.nodes[&number];
            let n = left.min(node.n - node.done);
            let Node { tag, done: from, seq, .. } = *node;
            pieces.push(Piece { node: number, tag, from, n, seq });
            left -= n;
        }
        pieces
    }

    /// Takes a step's piece as run. `true` if its node has no more tokens: it then gets another by
    /// [`Schedule::extend`], or ends by [`Schedule::finish`].
    pub(super) fn ran(&mut self, piece: &Piece) -> bool {
        self.nodes.get_mut(&piece.node).is_some_and(|node| {
            node.done += piece.n;
            node.done == node.n
        })
    }

    /// Gives a node one more token.
    pub(super) fn extend(&mut self, node: usize) {
        self.nodes.entry(node).and_modify(|node| node.n += 1);
    }

    /// Ends a node that has run: its sequence is free, but for what the node's children need.
    pub(super) fn finish(&mut self, number: usize) {
        let Some(node) = self.nodes.get(&number) else { return };
        let seq = &mut self.seqs[node.seq];
        seq.busy = false;
        self.running.retain(|&running| running != number);
        if node.children.is_empty() {
            self.nodes.remove(&number);
        } else {
            seq.path.push(number);
            seq.n_pinned = seq.path.len();
            self.pinned.push(number);
        }
    }

    /// Begins a node that can begin.
    fn begin(&mut self, prepare: &mut impl FnMut(Move)) -> Option<usize> {
        let (at, seq) = self.place()?;
        let number = self.pinned[at];
        let parent = self.nodes.get_mut(&number)?;
        let (len, from) = (parent.depth + parent.n, parent.seq);
        let child = parent.children.pop()?;
        let is_last = parent.children.is_empty();
        match self.seqs[seq].index(number) {
            Some(index) => {
                self.seqs[seq].path.truncate(index + 1);
                prepare(Move::Cut { seq, len });
            }
            None => {
                let path = &self.seqs[from].path;
                let n = path.iter().take_while(|&&node| node != number).count() + 1;
                self.seqs[seq].path = path[..n].to_vec();
                prepare(Move::Copy { from, len, seq });
            }
        }
        self.seqs[seq].busy = true;
        self.running.push(child);
        self.nodes.entry(child).and_modify(|node| node.seq = seq);
        if is_last && number != ROOT {
            self.pinned.remove(at);
            self.nodes.remove(&number);
            let Seq { path, n_pinned, .. } = &mut self.seqs[from];
            let last = path.iter().rposition(|node| self.pinned[1..].contains(node));
            *n_pinned = last.map_or(0, |last| last + 1);
        }
        Some(child)
    }

    /// A pinned node with a child to begin, and a sequence for the child.
    fn place(&self) -> Option<(usize, usize)> {
        let free = self.seqs.iter().position(|seq| !seq.busy && seq.n_pinned == 0);
        let waiting = self.pinned.iter().enumerate().rev();
        let mut waiting = waiting.filter(|(_, node)| !self.nodes[node].children.is_empty());
        waiting.find_map(|(at, &node)| {
            // One that holds the node, and may be cut back to it.
            let holds = |seq: &Seq| {
                !seq.busy && seq.index(node).is_some_and(|index| seq.n_pinned <= index + 1)
            };
            Some((at, self.seqs.iter().position(holds).or(free)?))
        })
    }
}

impl Seq {
    fn index(&self, node: usize) -> Option<usize> {
        self.path.iter().position(|&held| held == node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree by its nodes' parents and lengths; node `i` of it has number `i + 1` as tag.
    fn simulate(nodes: &[(usize, usize)], n_seq: usize, budget: usize) -> usize {
        let parent = |i: usize| nodes[i].0 % (i + 1);
        let path = |mut tag: usize| {
            let mut tokens = Vec::new();
            while tag > 0 {
                let mut own: Vec<_> = (0..nodes[tag - 1].1).map(|at| (tag, at)).collect();
                own.append(&mut tokens);
                tokens = own;
                tag = parent(tag - 1);
            }
            tokens
        };
        let children = |tag: usize| (1..=nodes.len()).filter(move |&i| parent(i - 1) == tag);
        let mut schedule = Schedule::new(n_seq);
        children(0).for_each(|tag| schedule.add(ROOT, nodes[tag - 1].1, tag));
        // The tokens that each sequence holds, as (tag, index in the node).
        let mut seqs: Vec<Vec<(usize, usize)>> = vec![Vec::new(); n_seq];
        let (mut ended, mut steps) = (0, 0);
        loop {
            let pieces = schedule.step(budget, |made| match made {
                Move::Cut { seq, len } => {
                    assert!(seqs[seq].len() >= len);
                    seqs[seq].truncate(len);
                }
                Move::Copy { from, len, seq } => seqs[seq] = seqs[from][..len].to_vec(),
            });
            if pieces.is_empty() {
                break;
            }
            steps += 1;
            assert!(pieces.iter().map(|piece| piece.n).sum::<usize>() <= budget);
            for piece in &pieces {
                let seq = &mut seqs[piece.seq];
                seq.extend((piece.from..piece.from + piece.n).map(|at| (piece.tag, at)));
                assert_eq!(seq[..], path(piece.tag)[..seq.len()]);
                if schedule.ran(piece) {
                    assert_eq!(seq[..], path(piece.tag));
                    let tag = piece.tag;
                    children(tag).for_each(|tag| schedule.add(piece.node, nodes[tag - 1].1, tag));
                    schedule.finish(piece.node);
                    ended += 1;
                }
            }
        }
        assert_eq!(ended, nodes.len());
        assert_eq!(schedule.nodes.len(), 1);
        steps
    }

    proptest! {
        #[test]
        fn every_node_runs_once_behind_its_parent(
            nodes in prop::collection::vec((0usize..1000, 1usize..20), 1..60),
            n_seq in 1usize..6,
            budget in 1usize..40,
        ) {
            simulate(&nodes, n_seq, budget);
        }
    }

    #[test]
    fn steps_are_full_while_there_is_work() {
        // A prompt of 100 tokens and 40 texts of 10 behind it.
        let mut nodes = vec![(0, 100)];
        nodes.extend(vec![(1, 10); 40]);
        // Node i's parent is taken modulo i + 1.
        assert_eq!(simulate(&nodes, 8, 50), 2 + 400 / 50);
        assert_eq!(simulate(&nodes, 1, 50), 2 + 40);
    }
}
