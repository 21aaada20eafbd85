//! Scores of tokens: the head's product, tile by tile of the vocabulary, each tile reduced at once
//! to what a score needs of it.

use super::{Mat, Step, lock};
use crate::{
    kernel::{
        Candidate, Softmax,
        logits::{self, TILE, insert, log_sum_exp},
    },
    plan::{Limits, Plan},
};

/// What the model says of the token that follows one.
#[derive(Clone, Copy, Debug)]
pub struct Score<'a> {
    /// The target's logit, bit for bit as in the logits that a step gives.
    pub logit: f32,
    /// ln of the sum of exp over all logits; an id's logit less this is its log-probability. NaN if
    /// a logit is NaN or +inf, -inf if all are -inf.
    pub log_sum_exp: f64,
    /// The likeliest ids, best first, of equals the lower id first. Ids with a NaN for a logit are
    /// never among them.
    pub top: &'a [Candidate],
}

impl Score<'_> {
    /// Natural logarithm of the target's probability.
    pub fn log_prob(&self) -> f64 {
        f64::from(self.logit) - self.log_sum_exp
    }
}

/// Lengths of a thread's scratch.
pub struct Sizes {
    logits: usize,
    top: usize,
}

impl Sizes {
    pub fn new(limits: &Limits) -> Sizes {
        match limits.n_top {
            None => Sizes { logits: 0, top: 0 },
            Some(n_top) => Sizes {
                logits: limits.n_batch.saturating_mul(TILE),
                top: limits.n_batch.saturating_mul(n_top),
            },
        }
    }

    pub fn bytes(&self) -> usize {
        (self.logits.saturating_mul(size_of::<f32>()))
            .saturating_add(self.top.saturating_mul(size_of::<Candidate>()))
    }
}

/// What one thread needs.
pub struct Scratch {
    /// Logits of one tile, `[n, TILE]`.
    logits: Vec<f32>,
    /// The best ids in the tiles that this thread has taken, `[n, n_top]`.
    top: Vec<Candidate>,
}

impl Scratch {
    pub fn new(sizes: &Sizes) -> Scratch {
        Scratch { logits: vec![0.0; sizes.logits], top: vec![Candidate::NONE; sizes.top] }
    }
}

/// What a tile comes to for one token.
#[derive(Clone, Copy)]
struct Reduced {
    softmax: Softmax,
    /// The target's logit, if the tile has it.
    target: f32,
}

/// What came of a step.
pub struct Scores {
    /// `[n_tiles, n]`
    tiles: Vec<Reduced>,
    /// `[n, n_top]`
    top: Vec<Candidate>,
    n_top: usize,
    n_tiles: usize,
    /// `[n]`
    targets: Vec<u32>,
}

impl Scores {
    pub fn new(plan: &Plan, limits: &Limits) -> Scores {
        let n = if limits.n_top.is_some() { limits.n_batch } else { 0 };
        let n_top = limits.n_top.unwrap_or(0);
        let n_tiles = n_tiles(plan);
        Scores {
            tiles: vec![Reduced { softmax: Softmax::NONE, target: 0.0 }; n_tiles * n],
            top: vec![Candidate::NONE; n * n_top],
            n_top,
            n_tiles,
            targets: Vec::with_capacity(n),
        }
    }

    pub fn bytes(plan: &Plan, limits: &Limits) -> usize {
        let Some(n_top) = limits.n_top else { return 0 };
        let row = n_tiles(plan) * size_of::<Reduced>()
            + n_top * size_of::<Candidate>()
            + size_of::<u32>();
        limits.n_batch.saturating_mul(row)
    }

    /// Row `i` of the last step.
    pub fn get(&self, i: usize) -> Score<'_> {
        let column = self.tiles[i..].iter().step_by(self.targets.len()).take(self.n_tiles);
        let top = &self.top[i * self.n_top..][..self.n_top];
        let n_top = top.iter().take_while(|best| **best != Candidate::NONE).count();
        Score {
            logit: self.tiles[self.targets[i] as usize / TILE * self.targets.len() + i].target,
            log_sum_exp: log_sum_exp(column.map(|tile| tile.softmax)),
            top: &top[..n_top],
        }
    }
}

fn n_tiles(plan: &Plan) -> usize {
    plan.head.part.weight.n_out.div_ceil(TILE)
}

impl Step<'_> {
    /// Scores the wanted rows by their targets.
    pub(super) fn score(&self, targets: &[u32], scores: &mut Scores) {
        let Scores { tiles, top, n_top, n_tiles, .. } = scores;
        let (n, n_top, n_tiles) = (targets.len(), *n_top, *n_tiles);
        scores.targets.clear();
        scores.targets.extend_from_slice(targets);
        for scratch in self.scratch {
            lock(scratch).score.top[..n * n_top].fill(Candidate::NONE);
        }
        let head = &self.plan.head;
        let x = self.activations(head.input, n);
        self.region.tiles(Mat::new(tiles, n_tiles, n, n), 1, n, |worker, mut tile| {
            let scratch = &mut *lock(&self.scratch[worker]);
            let first = tile.row0() * TILE;
            let end = head.part.weight.n_out.min(first + TILE);
            let mut logits = Mat::new(&mut scratch.score.logits, n, end - first, TILE);
            self.product(&head.part, x, &mut scratch.packs, first..end, &mut logits.tile());
            for low in &head.low_rank {
                self.change(low, first, &mut scratch.change, &mut logits.tile());
            }
            for (i, reduced) in tile.row_mut(0).iter_mut().enumerate() {
                let logits = &mut scratch.score.logits[i * TILE..][..end - first];
                let top = &mut scratch.score.top[i * n_top..][..n_top];
                *reduced = self.reduce(logits, first, targets[i], top);
            }
        });
        // A set's best ids are the same however threads have shared it.
        top[..n * n_top].fill(Candidate::NONE);
        for scratch in self.scratch.iter().filter(|_| n_top > 0) {
            let scratch = lock(scratch);
            let of_rows = scratch.score.top.chunks_exact(n_top).take(n);
            for (top, found) in top.chunks_exact_mut(n_top).zip(of_rows) {
                found.iter().for_each(|&found| insert(top, found));
            }
        }
    }

    /// One token's logits of a tile whose first id is `first`, before the cap.
    fn reduce(
        &self,
        logits: &mut [f32],
        first: usize,
        target: u32,
        top: &mut [Candidate],
    ) -> Reduced {
        if let Some(cap) = self.plan.head.softcap {
            self.kernels.softcap(logits, cap);
        }
        let softmax = self.kernels.softmax(logits);
        if top.last().is_some_and(|worst| softmax.max >= worst.logit) {
            logits::top(logits, first as u32, top);
        }
        let target = (target as usize).checked_sub(first).and_then(|at| logits.get(at));
        Reduced { softmax, target: target.copied().unwrap_or(0.0) }
    }
}
