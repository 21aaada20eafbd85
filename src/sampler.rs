//! Logits to the next id. Sees logits and the ids so far, and nothing else. The generator is
//! seeded, so the same seed and logits give the same text on every machine.

use crate::{
    Result,
    kernel::{Candidate, math::exp},
    zeros::room,
};

/// How the next token is chosen. The filters run in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Divides the logits of recent tokens where positive and multiplies them where negative
    /// (Keskar et al. 2019); 1 is off.
    pub repeat_penalty: f32,
    /// How many of the last tokens count as recent.
    pub repeat_last_n: usize,
    /// Only the k most probable tokens; 0 is off.
    pub top_k: usize,
    /// The smallest set of most probable tokens with this much probability (Holtzman et al. 2020);
    /// 1 is off.
    pub top_p: f32,
    /// Tokens with at least this fraction of the best one's probability; 0 is off.
    pub min_p: f32,
    /// Divides the logits; 0 takes the best token, whatever the filters say.
    pub temp: f32,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            temp: 0.8,
            seed: 0,
        }
    }
}

/// Chooses tokens one after the other.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: Options,
    state: u64,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its seed's random numbers.
    pub fn new(options: Options) -> Sampler {
        Sampler { state: options.seed, options, candidates: Vec::new() }
    }

    /// Makes room for a vocabulary, so that sampling allocates nothing.
    ///
    /// # Errors
    /// The system has no more memory.
    pub fn reserve(&mut self, n_vocab: usize) -> Result<()> {
        self.candidates = room(n_vocab)?;
        Ok(())
    }

    /// Bytes that [`Sampler::reserve`] takes.
    pub fn reserved_bytes(n_vocab: usize) -> u64 {
        (n_vocab as u64).saturating_mul(size_of::<(f32, u32)>() as u64)
    }

    /// How it chooses.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where its random numbers are.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Makes it one that chooses by these options and whose random numbers are at `state`: the seed, to
    /// begin with. It keeps its memory.
    pub fn resume(&mut self, options: Options, state: u64) {
        (self.options, self.state) = (options, state);
    }

    /// The next id, given logits `[n_vocab]` and the ids so far. NaN logits are never chosen while
    /// there are others.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> u32 {
        self.penalize(logits, history);
        self.choose(logits)
    }

    /// [`Sampler::sample`] where no token is penalized.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.options.temp <= 0.0 {
            return argmax(logits);
        }
        self.select(logits);
        self.filter();
        self.draw()
    }

    /// How many of the likeliest ids it needs to know of; `None` is all.
    pub fn needs(&self) -> Option<usize> {
        let Options { repeat_penalty, top_k, temp, .. } = self.options;
        match (repeat_penalty == 1.0, temp <= 0.0, top_k) {
            (true, true, _) => Some(1),
            (true, false, 1..) => Some(top_k),
            _ => None,
        }
    }

    /// The same id as [`Sampler::sample`] would give, from the likeliest ids, best first: at least as
    /// many as it [`needs`](Sampler::needs), or all.
    pub fn sample_top(&mut self, best: &[Candidate]) -> u32 {
        if self.options.temp <= 0.0 {
            return best.first().map_or(0, |best| best.id);
        }
        self.candidates.clear();
        self.candidates.extend(best.iter().take(self.options.top_k).map(|c| (c.logit, c.id)));
        self.filter();
        self.draw()
    }

    fn penalize(&self, logits: &mut [f32], history: &[u32]) {
        let Options { repeat_penalty, repeat_last_n, .. } = self.options;
        if repeat_penalty == 1.0 {
            return;
        }
        let recent = &history[history.len().saturating_sub(repeat_last_n)..];
        for (i, &id) in recent.iter().enumerate() {
            if recent[..i].contains(&id) {
                continue;
            }
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit =
                    if *logit > 0.0 { *logit / repeat_penalty } else { *logit * repeat_penalty };
            }
        }
    }

    /// Fills `candidates` with the `top_k` likeliest tokens and their logits, best first; with all of them,
    /// by id, where that filter is off.
    fn select(&mut self, logits: &[f32]) {
        let top_k = self.options.top_k;
        let kept = &mut self.candidates;
        kept.clear();
        kept.extend(logits.iter().zip(0..).filter(|(l, _)| !l.is_nan()).map(|(&l, id)| (l, id)));
        if top_k > 0 {
            sort_best(kept, top_k);
            kept.truncate(top_k);
        }
    }

    /// Leaves those that pass, and makes weights of their logits, which are not normalized.
    fn filter(&mut self) {
        let Options { top_p, min_p, temp, .. } = self.options;
        let kept = &mut self.candidates;
        let best = kept.iter().fold(f32::NEG_INFINITY, |best, c| best.max(c.0));
        let weight = |logit: f32| exp(logit - best);
        if min_p > 0.0 {
            kept.retain(|c| c.0 == best || weight(c.0) >= min_p);
        }
        if top_p < 1.0 {
            let enough =
                f64::from(top_p) * kept.iter().map(|c| f64::from(weight(c.0))).sum::<f64>();
            // Of a whole vocabulary few make up that much: sorting all would take milliseconds.
            let mut n_sorted = 64;
            loop {
                sort_best(kept, n_sorted);
                let mut sum = 0.0;
                let passing = kept.iter().take(n_sorted).take_while(|c| {
                    let before = sum;
                    sum += f64::from(weight(c.0));
                    before < enough
                });
                let passing = passing.count();
                if passing < n_sorted || n_sorted >= kept.len() {
                    kept.truncate(passing.max(1));
                    break;
                }
                n_sorted *= 4;
            }
        }
        for candidate in kept {
            candidate.0 = exp((candidate.0 - best) / temp);
        }
    }

    fn draw(&mut self) -> u32 {
        // In f64: a whole vocabulary's weights add up.
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.0)).sum();
        let mut left = f64::from(self.uniform()) * total;
        for &(weight, id) in &self.candidates {
            left -= f64::from(weight);
            if left < 0.0 {
                return id;
            }
        }
        self.candidates.last().map_or(0, |c| c.1)
    }

    /// A number in [0, 1) from splitmix64 (Steele et al. 2014).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Puts the `n` likeliest in front, best first, of equals the lower id first.
fn sort_best(candidates: &mut [(f32, u32)], n: usize) {
    // Adding 0 makes one zero of two.
    let order =
        |a: &(f32, u32), b: &(f32, u32)| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1));
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, order);
    }
    let n = n.min(candidates.len());
    candidates[..n].sort_unstable_by(order);
}

/// The id of the largest logit; the lowest id among equals, 0 if all are NaN.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&logit, id) in logits.iter().zip(0..) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(options: Options, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(&mut logits.to_vec(), &[]) as usize] += 1;
        }
        counts
    }

    const OFF: Options = Options {
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        temp: 1.0,
        seed: 7,
    };

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        let n = 20_000;
        for (count, logit) in counts(OFF, &logits, n).into_iter().zip(logits) {
            let (got, wanted) = (count as f32 / n as f32, logit.exp() / total);
            assert!((got - wanted).abs() < 0.015, "wanted {wanted}, got {got}");
        }
    }

    #[test]
    fn filters_cut_the_tail() {
        let logits = [1.0, 3.0, 2.0, 0.0];
        let kept =
            |options| counts(options, &logits, 2000).iter().map(|&c| c > 0).collect::<Vec<_>>();
        assert_eq!(kept(Options { top_k: 2, ..OFF }), [false, true, true, false]);
        assert_eq!(kept(Options { min_p: 0.3, ..OFF }), [false, true, true, false]);
        assert_eq!(kept(Options { top_p: 0.5, ..OFF }), [false, true, false, false]);
    }

    #[test]
    fn temperature_zero_is_greedy_and_ties_take_the_lowest_id() {
        let mut sampler = Sampler::new(Options { temp: 0.0, ..OFF });
        assert_eq!(sampler.sample(&mut [1.0, 5.0, 5.0], &[]), 1);
        assert_eq!(sampler.sample(&mut [f32::NAN, -5.0, f32::NAN], &[]), 1);
    }

    #[test]
    fn the_penalty_counts_each_recent_token_once() {
        let options = Options { repeat_penalty: 2.0, repeat_last_n: 3, ..OFF };
        let mut logits = [4.0, -1.0, 3.0];
        Sampler::new(options).penalize(&mut logits, &[2, 0, 0, 1]);
        assert_eq!(logits, [2.0, -2.0, 3.0]);
    }

    #[test]
    fn a_nucleus_of_many_is_found() {
        let logits: Vec<f32> = (0..2000).map(|i| ((i * 37) % 1999) as f32 * 0.002).collect();
        let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        for top_p in [0.01f32, 0.3, 0.9] {
            let enough = f64::from(top_p) * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let wanted = order.iter().take_while(|&&id| {
                let before = sum;
                sum += weights[id];
                before < enough
            });
            let wanted = wanted.count();
            let mut sampler = Sampler::new(Options { top_p, ..OFF });
            sampler.select(&logits);
            sampler.filter();
            let got: Vec<usize> = sampler.candidates.iter().map(|c| c.1 as usize).collect();
            assert!(got.len().abs_diff(wanted) <= 1, "{} {wanted}", got.len());
            assert_eq!(got, order[..got.len()]);
        }
    }

    #[test]
    fn the_likeliest_are_enough() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 * 0.07).collect();
        for options in [
            Options { top_k: 5, top_p: 0.9, min_p: 0.01, ..OFF },
            Options { top_k: 40, ..OFF },
            Options { temp: 0.0, ..OFF },
        ] {
            let (mut all, mut few) = (Sampler::new(options.clone()), Sampler::new(options));
            let mut best = vec![Candidate::NONE; all.needs().unwrap()];
            crate::kernel::logits::top(&logits, 0, &mut best);
            for _ in 0..200 {
                assert_eq!(all.sample(&mut logits.clone(), &[]), few.sample_top(&best));
            }
        }
        assert_eq!(Sampler::new(Options { repeat_penalty: 1.1, top_k: 5, ..OFF }).needs(), None);
        assert_eq!(Sampler::new(OFF).needs(), None);
    }

    #[test]
    fn one_seed_gives_one_text() {
        let logits = [0.1, 0.2, 0.3];
        assert_eq!(counts(OFF, &logits, 50), counts(OFF, &logits, 50));
    }
}
