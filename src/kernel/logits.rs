//! Logits of one token, a tile of the vocabulary at a time, so that scoring a text never holds
//! `[n, n_vocab]` of them.
//!
//! Tiles begin at multiples of [`TILE`] and are independent: each has its own maximum and its sum of
//! exp(logit - maximum), which [`log_sum_exp`] puts together in ascending order. The best ids of a
//! set don't depend on the order in which they are looked at, so [`top`] may take tiles in any.

use super::{attend::Softmax, lanes, math};

/// Ids of a tile.
pub const TILE: usize = 256;

/// An id and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

impl Candidate {
    /// Worse than any id.
    pub const NONE: Candidate = Candidate { id: u32::MAX, logit: f32::NEG_INFINITY };

    /// Whether it comes before another: the larger logit, of equal ones (0 and -0 are) the lower
    /// id. NaN comes before nothing.
    fn beats(self, other: Candidate) -> bool {
        self.logit > other.logit || (self.logit == other.logit && self.id < other.id)
    }
}

/// Maximum of a tile's logits, and the sum of exp(logit - maximum) in lanes. NaN is no maximum but
/// makes the sum NaN, as +inf does; of logits that are all -inf the sum is 0.
#[inline(always)]
pub fn softmax(logits: &[f32], out: &mut Softmax) {
    let (whole, rest) = logits.as_chunks::<{ lanes::LANES }>();
    let mut most = [f32::NEG_INFINITY; lanes::LANES];
    for logits in whole {
        for l in 0..lanes::LANES {
            most[l] = if logits[l] > most[l] { logits[l] } else { most[l] };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &logit in most.iter().chain(rest) {
        max = if logit > max { logit } else { max };
    }
    let from = finite_or_zero(max);
    *out = Softmax { max, sum: lanes::sum(logits, |logit| math::exp(logit - from)) };
}

/// What exponents are counted from: -inf less itself would be NaN.
#[inline(always)]
fn finite_or_zero(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// Takes a tile whose first id is `first` into the best ids so far, which are ordered, best first.
/// One body for all tables: few tiles have a logit that gets in, and comparing is no work.
pub fn top(logits: &[f32], first: u32, best: &mut [Candidate]) {
    let Some(mut worst) = best.last().copied() else { return };
    for (logits, first) in logits.chunks(lanes::LANES).zip((first..).step_by(lanes::LANES)) {
        if logits.iter().fold(false, |any, &logit| any | (logit >= worst.logit)) {
            for (&logit, id) in logits.iter().zip(first..) {
                insert(best, Candidate { id, logit });
            }
            worst = best[best.len() - 1];
        }
    }
}

/// Puts an id at its place among the best ones, the last of which goes, or nowhere.
pub fn insert(best: &mut [Candidate], new: Candidate) {
    let mut at = best.len();
    while at > 0 && new.beats(best[at - 1]) {
        at -= 1;
    }
    if at < best.len() {
        best[at..].rotate_right(1);
        best[at] = new;
    }
}

/// ln of the sum of exp over all tiles, given in ascending order: with M the largest maximum,
/// `M + ln(sum of exp(max - M) * sum)`, added in f64, because hundreds of tiles would lose digits
/// in f32. NaN if a logit is NaN or +inf; -inf if all are -inf.
pub fn log_sum_exp(tiles: impl Iterator<Item = Softmax> + Clone) -> f64 {
    let max = tiles.clone().fold(f32::NEG_INFINITY, |m, t| if t.max > m { t.max } else { m });
    let from = finite_or_zero(max);
    let total = tiles.fold(0.0, |total, tile| {
        total + f64::from(math::exp(tile.max - from)) * f64::from(tile.sum)
    });
    match total {
        // One NaN for all machines.
        _ if f64::is_nan(total) => f64::NAN,
        0.0 => f64::NEG_INFINITY,
        _ => f64::from(max) + math::ln64(total),
    }
}
