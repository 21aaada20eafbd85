//! Scores of tokens: the head's product, tile by tile of the vocabulary, each tile reduced at once
//! to what a score needs of it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Mat, Step, lock};
use crate::{
    Result,
    kernel::{
        Candidate, Softmax,
        logits::{self, TILE, insert, log_sum_exp},
    },
    plan::{Limits, Plan},
    zeros::{gathered, room, zeros},
};

/// A question to a step: what an id's logit is after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which of the step's wanted rows.
    pub row: usize,
    /// The id.
    pub id: u32,
}

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
    pub fn new(sizes: &Sizes) -> Result<Scratch> {
        Ok(Scratch { logits: zeros(sizes.logits)?, top: zeros(sizes.top)? })
    }
}

/// What came of a step.
pub struct Scores {
    /// What tiles come to, `[n_tiles, n]`.
    tiles: Vec<Softmax>,
    /// `[n, n_top]`
    top: Vec<Candidate>,
    n_top: usize,
    n_tiles: usize,
    /// Wanted rows of the step.
    n: usize,
    /// The step's questions by id, each with its number.
    asks: Vec<(Ask, usize)>,
    /// Bits of the answers, in the order of the questions. Each is written by the thread that has the
    /// id's tile.
    logits: Vec<AtomicU32>,
}

impl Scores {
    pub(super) fn new(plan: &Plan, limits: &Limits) -> Result<Scores> {
        let n = if limits.n_top.is_some() { limits.n_batch } else { 0 };
        let n_top = limits.n_top.unwrap_or(0);
        let n_tiles = n_tiles(plan);
        Ok(Scores {
            tiles: zeros(n_tiles * n)?,
            top: zeros(n * n_top)?,
            n_top,
            n_tiles,
            n: 0,
            asks: room(n)?,
            logits: gathered((0..n).map(|_| AtomicU32::new(0)))?,
        })
    }

    pub(super) fn bytes(plan: &Plan, limits: &Limits) -> usize {
        let Some(n_top) = limits.n_top else { return 0 };
        let row = n_tiles(plan) * size_of::<Softmax>()
            + n_top * size_of::<Candidate>()
            + size_of::<(Ask, usize)>()
            + size_of::<AtomicU32>();
        limits.n_batch.saturating_mul(row)
    }

    /// Takes a step's questions. More than `n_batch` of them make it grow.
    pub fn ask(&mut self, asks: &[Ask]) {
        self.asks.clear();
        self.asks.extend(asks.iter().copied().zip(0..));
        self.asks.sort_unstable_by_key(|(ask, at)| (ask.id, *at));
        if asks.len() > self.logits.len() {
            self.logits.resize_with(asks.len(), || AtomicU32::new(0));
        }
    }

    /// Answer `i` of the last step.
    pub fn logit(&self, i: usize) -> f32 {
        f32::from_bits(self.logits[i].load(Ordering::Relaxed))
    }

    /// ln of the sum of exp over all logits of wanted row `row` of the last step.
    pub fn log_sum_exp(&self, row: usize) -> f64 {
        let column = self.tiles[row..].iter().step_by(self.n).take(self.n_tiles);
        log_sum_exp(column.copied())
    }

    /// The likeliest ids of a wanted row of the last step.
    pub fn top(&self, row: usize) -> &[Candidate] {
        let top = &self.top[row * self.n_top..][..self.n_top];
        &top[..top.iter().take_while(|best| **best != Candidate::NONE).count()]
    }
}

fn n_tiles(plan: &Plan) -> usize {
    plan.head.part.weight.n_out.div_ceil(TILE)
}

impl Step<'_> {
    /// Reduces the wanted rows' logits, and answers the questions.
    pub(super) fn score(&self, scores: &mut Scores) {
        let n = self.n_wanted;
        scores.n = n;
        let Scores { tiles, top, n_top, n_tiles, asks, logits: answers, .. } = scores;
        let (n_top, n_tiles) = (*n_top, *n_tiles);
        for scratch in self.scratch {
            lock(scratch).score.top[..n * n_top].fill(Candidate::NONE);
        }
        let head = &self.plan.head;
        let x = self.activations(head.input, n);
        let (asks, answers) = (&asks[..], &answers[..]);
        self.region.tiles(Mat::new(tiles, n_tiles, n, n), 1, n, |worker, mut tile| {
            let scratch = &mut *lock(&self.scratch[worker]);
            let first = tile.row0() * TILE;
            let end = head.part.weight.n_out.min(first + TILE);
            let mut logits = Mat::new(&mut scratch.score.logits, n, end - first, TILE);
            self.product(&head.part, x, &mut scratch.packs, first..end, &mut logits.tile());
            for low in &head.low_rank {
                self.change(low, first, &mut scratch.change, &mut logits.tile());
            }
            for (i, softmax) in tile.row_mut(0).iter_mut().enumerate() {
                let logits = &mut scratch.score.logits[i * TILE..][..end - first];
                let top = &mut scratch.score.top[i * n_top..][..n_top];
                *softmax = self.reduce(logits, first, top);
            }
            let begins = asks.partition_point(|(ask, _)| (ask.id as usize) < first);
            let here = asks[begins..].iter().take_while(|(ask, _)| (ask.id as usize) < end);
            for (ask, at) in here {
                let logit = scratch.score.logits[ask.row * TILE + ask.id as usize - first];
                answers[*at].store(logit.to_bits(), Ordering::Relaxed);
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
    fn reduce(&self, logits: &mut [f32], first: usize, top: &mut [Candidate]) -> Softmax {
        if let Some(cap) = self.plan.head.softcap {
            self.kernels.softcap(logits, cap);
        }
        let softmax = self.kernels.softmax(logits);
        if top.last().is_some_and(|worst| softmax.max >= worst.logit) {
            logits::top(logits, first as u32, top);
        }
        softmax
    }
}
