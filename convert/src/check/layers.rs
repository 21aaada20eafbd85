//! The layers of the reference network in plain arithmetic, one function for each switch of a family's
//! block. Sums and elementary functions are f64: what the reference rounds is left to products.

use pith::model::Rope;
use pith_models::{Act, Norm, Pairing};

/// A row of `width` values for each token.
#[derive(Clone)]
pub(super) struct Rows {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Rows {
    /// Rows from columns `[width, n]`.
    pub fn from_columns(columns: &[f32], n: usize) -> Rows {
        let width = columns.len() / n;
        let values = (0..n).flat_map(|t| (0..width).map(move |i| columns[i * n + t])).collect();
        Rows { width, values }
    }

    /// Tokens.
    pub fn n(&self) -> usize {
        self.values.len() / self.width
    }

    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.width)
    }

    pub fn row(&self, t: usize) -> &[f32] {
        &self.values[t * self.width..][..self.width]
    }

    /// Each value by `f`.
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Rows {
        self.values.iter_mut().for_each(|value| *value = f(*value));
        self
    }

    /// Adds as many values.
    pub fn add(&mut self, other: &Rows) {
        self.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a += b);
    }

    /// Columns `start..start + width`.
    pub fn narrow(&self, start: usize, width: usize) -> Rows {
        let values = self.iter().flat_map(|row| row[start..start + width].iter().copied());
        Rows { width, values: values.collect() }
    }
}

/// Normalizes one group of values. A weight or bias may be absent.
pub(super) fn norm(
    kind: Norm,
    x: &mut [f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    let n = x.len() as f64;
    let mean = match kind {
        Norm::Layer => x.iter().map(|&v| f64::from(v)).sum::<f64>() / n,
        Norm::Rms => 0.0,
    };
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + f64::from(eps)).sqrt();
    for (i, value) in x.iter_mut().enumerate() {
        let weight = weight.map_or(1.0, |weight| f64::from(weight[i]));
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        *value = ((f64::from(*value) - mean) * factor * weight + bias) as f32;
    }
}

/// Turns the pairs of one head by the position's angles: position * scale / base^(2i / n_rot), divided
/// by the pair's factor, and stretches them.
pub(super) fn rotate(rope: &Rope, pairing: Pairing, position: usize, head: &mut [f32]) {
    let half = rope.n_rot / 2;
    for i in 0..half {
        let exponent = (2 * i) as f64 / rope.n_rot as f64;
        let factor = rope.factors.as_ref().map_or(1.0, |factors| factors[i]);
        let scaled = position as f64 * f64::from(rope.scale);
        let (sin, cos) = (scaled / f64::from(rope.base).powf(exponent) / factor).sin_cos();
        let (sin, cos) = (sin * rope.magnitude, cos * rope.magnitude);
        let (a, b) = match pairing {
            Pairing::Half => (i, i + half),
            Pairing::Adjacent => (2 * i, 2 * i + 1),
        };
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        head[a] = (x * cos - y * sin) as f32;
        head[b] = (x * sin + y * cos) as f32;
    }
}

/// cap * tanh(x / cap).
pub(super) fn soft_cap(x: f32, cap: f32) -> f32 {
    let cap = f64::from(cap);
    (cap * (f64::from(x) / cap).tanh()) as f32
}

/// ALiBi's slope of a head (Press et al. 2022): with P the largest power of two up to `n_head`, heads
/// below P take 2^(-max (h + 1) / P), the others every other slope of a list twice as long.
pub(super) fn alibi_slope(head: usize, n_head: usize, max: f32) -> f64 {
    let p = 1 << n_head.ilog2();
    let step = match head < p {
        true => (head + 1) as f64 / p as f64,
        false => (2 * (head - p) + 1) as f64 / (2 * p) as f64,
    };
    (-f64::from(max) * step).exp2()
}

/// How scores become weights.
pub(super) struct Scores {
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
    /// By head: what each position of distance takes from a score; empty for nothing.
    pub slopes: Vec<f64>,
}

/// Causal attention: query heads `[n, n_head * dim]` over key and value heads, each shared by as many
/// adjacent query heads.
pub(super) fn attend(q: &Rows, k: &Rows, v: &Rows, dim: usize, scores: &Scores) -> Rows {
    let (n_head, n_kv) = (q.width / dim, k.width / dim);
    let mut out = Rows { width: q.width, values: vec![0.0; q.values.len()] };
    for (t, out) in out.iter_mut().enumerate() {
        let first = scores.window.map_or(0, |window| (t + 1).saturating_sub(window));
        for (head, out) in out.chunks_exact_mut(dim).enumerate() {
            let shared = head / (n_head / n_kv);
            let at = |rows: &'_ Rows, t: usize| rows.row(t)[shared * dim..][..dim].to_vec();
            let query = &q.row(t)[head * dim..][..dim];
            let score = |j: usize| {
                let key = at(k, j);
                let pairs = query.iter().zip(&key);
                let dot: f64 = pairs.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                let mut score = dot * f64::from(scores.scale);
                if let Some(cap) = scores.softcap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                }
                score - scores.slopes.get(head).map_or(0.0, |slope| slope * (t - j) as f64)
            };
            let all: Vec<f64> = (first..=t).map(score).collect();
            let max = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = all.iter().map(|score| (score - max).exp()).sum();
            let mut mix = vec![0.0; dim];
            for (j, score) in (first..=t).zip(&all) {
                let weight = (score - max).exp() / sum;
                mix.iter_mut().zip(at(v, j)).for_each(|(mix, v)| *mix += weight * f64::from(v));
            }
            out.iter_mut().zip(mix).for_each(|(out, mix)| *out = mix as f32);
        }
    }
    out
}

/// The activation.
pub(super) fn activate(act: Act, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match act {
        Act::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Act::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Act::Relu => x.max(0.0),
        Act::Silu => x / (1.0 + (-x).exp()),
    };
    y as f32
}

/// The error function by its series of positive terms (Abramowitz & Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() < 1e-17 * sum.abs() {
            break;
        }
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_known_values() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (-1.0, -0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (4.0, 0.999_999_984_582_742_1),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - y).abs() < 1e-14, "{x}");
        }
    }

    #[test]
    fn slopes_are_those_of_the_paper() {
        let slopes = |n| -> Vec<f64> { (0..n).map(|h| alibi_slope(h, n, 8.0)).collect() };
        assert_eq!(slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(slopes(6)[4..], [0.5, 0.125]);
    }
}
