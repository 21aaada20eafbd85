//! Rotary embedding's numbers: what a file says about frequencies and how they are stretched beyond
//! the context of the first training. Keys, tensors and formulas are llama.cpp's.

use std::collections::HashMap;

use pith_models::{Hp, Position};

use super::Numbers;
use crate::{Error, Result, kernel::math};

/// Rotary embedding's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are turned; even.
    pub n_rot: usize,
    /// Theta.
    pub base: f32,
    /// Theta in window layers, where they have their own; these are then not stretched.
    pub base_local: Option<f32>,
    /// Factor on positions (1 / the linear scaling factor).
    pub scale: f32,
    /// Divisors of the frequencies, `[n_rot / 2]` (Llama 3, YaRN, LongRoPE's short ones).
    pub factors: Option<Vec<f64>>,
    /// A first context, and the divisors of sessions with a longer one (LongRoPE).
    pub long: Option<(usize, Vec<f64>)>,
    /// Factor on cosines and sines.
    pub magnitude: f64,
}

impl Rope {
    /// The divisors of the frequencies in a session of `n_ctx` positions.
    pub fn factors(&self, n_ctx: usize) -> Option<&[f64]> {
        match &self.long {
            Some((n_ctx_orig, long)) if n_ctx > *n_ctx_orig => Some(long),
            _ => self.factors.as_deref(),
        }
    }
}

/// Reads the numbers of a family that has rope.
pub(super) fn read(
    numbers: &Numbers,
    head_dim: usize,
    vectors: &HashMap<String, Vec<f32>>,
) -> Result<Option<Rope>> {
    if !matches!(numbers.family.block.position, Position::Rope(_)) {
        return Ok(None);
    }
    let n_rot = numbers.integer(Hp::RopeDim)?.unwrap_or(head_dim);
    if n_rot == 0 || n_rot % 2 != 0 || n_rot > head_dim {
        return Err(numbers.wrong(Hp::RopeDim, &format!("an even number up to {head_dim}")));
    }
    let base = numbers.float(Hp::RopeBase)?.unwrap_or(10_000.0);
    let base_local = numbers.float(Hp::RopeBaseLocal)?;
    if base <= 0.0 || base_local.is_some_and(|b| b <= 0.0) {
        return Err(numbers.wrong(Hp::RopeBase, "a positive float"));
    }
    let magnitude = f64::from(positive(numbers, Hp::RopeAttnFactor)?.unwrap_or(1.0));
    let freqs = factors(vectors, "rope_freqs.weight", n_rot)?;
    let short = factors(vectors, "rope_factors_short.weight", n_rot)?;
    let long = factors(vectors, "rope_factors_long.weight", n_rot)?;
    if short.is_some() != long.is_some() {
        return Err(Error::malformed(
            "GGUF",
            "rope_factors_short.weight and rope_factors_long.weight: one is missing",
        ));
    }
    let n_ctx_orig = n_ctx_orig(numbers)?;
    let mut rope = Rope {
        n_rot,
        base,
        base_local,
        scale: 1.0,
        factors: freqs.or(short),
        long: long.map(|long| (n_ctx_orig, long)),
        magnitude,
    };
    let factor = positive(numbers, Hp::RopeFactor)?;
    let key = format!("{}.rope.scaling.type", numbers.family.arch);
    match (numbers.gguf.get(&key).and_then(|kind| kind.as_str()), factor) {
        (Some("none"), _) | (None | Some("longrope"), None) => {}
        (None | Some("longrope" | "linear"), Some(factor)) => rope.scale = 1.0 / factor,
        (Some("yarn"), Some(factor)) => {
            let ramp = yarn(numbers, &rope, n_ctx_orig, factor.into())?;
            rope.factors = Some(match rope.factors {
                Some(factors) => factors.iter().zip(ramp).map(|(a, b)| a * b).collect(),
                None => ramp,
            });
            rope.magnitude *= 1.0 + 0.1 * math::ln64(f64::from(factor).max(1.0));
        }
        (Some("linear" | "yarn"), None) => {
            return Err(numbers.wrong(Hp::RopeFactor, "a positive float"));
        }
        (Some(kind), _) => {
            return Err(Error::Unsupported(format!(
                "{key} is `{kind}`; pith runs none, linear, yarn and longrope"
            )));
        }
    }
    Ok(Some(rope))
}

/// The context before rope was stretched.
fn n_ctx_orig(numbers: &Numbers) -> Result<usize> {
    match numbers.integer(Hp::NCtxOrig)? {
        Some(0) => Err(numbers.wrong(Hp::NCtxOrig, "a positive number")),
        Some(n_ctx) => Ok(n_ctx),
        None => numbers.positive(Hp::NCtx),
    }
}

/// A positive float; 0 means "none", as files of other programs write it.
fn positive(numbers: &Numbers, hp: Hp) -> Result<Option<f32>> {
    match numbers.nonzero(hp)? {
        Some(value) if !value.is_normal() || value < 0.0 => {
            Err(numbers.wrong(hp, "a positive float"))
        }
        value => Ok(value),
    }
}

/// A tensor of divisors.
fn factors(
    vectors: &HashMap<String, Vec<f32>>,
    name: &str,
    n_rot: usize,
) -> Result<Option<Vec<f64>>> {
    match vectors.get(name) {
        None => Ok(None),
        Some(factors) if factors.len() == n_rot / 2 => {
            Ok(Some(factors.iter().map(|&factor| factor.into()).collect()))
        }
        Some(factors) => Err(Error::malformed(
            "GGUF",
            format!("{name}: wanted {} values, got {}", n_rot / 2, factors.len()),
        )),
    }
}

/// YaRN (Peng et al. 2023) as divisors of the frequencies: 1 for dimensions that turn often within
/// the first context, `factor` for those that turn less than once or so, and between them a
/// frequency on the line from one to the other.
fn yarn(numbers: &Numbers, rope: &Rope, n_ctx_orig: usize, factor: f64) -> Result<Vec<f64>> {
    let base = f64::from(rope.base);
    if base <= 1.0 {
        return Err(numbers.wrong(Hp::RopeBase, "a float above 1, for YaRN"));
    }
    let turns = |hp, default| Ok::<_, Error>(f64::from(positive(numbers, hp)?.unwrap_or(default)));
    // The dimension (pair) that makes so many turns in the first context.
    let pair = |turns: f64| {
        let wavelength = n_ctx_orig as f64 / turns;
        rope.n_rot as f64 * math::ln64(wavelength / std::f64::consts::TAU)
            / (2.0 * math::ln64(base))
    };
    let mut first = pair(turns(Hp::YarnBetaFast, 32.0)?);
    let mut last = pair(turns(Hp::YarnBetaSlow, 1.0)?);
    if !numbers.flag(Hp::YarnExact)? {
        (first, last) = (first.floor(), last.ceil());
    }
    (first, last) = (first.max(0.0), last.min((rope.n_rot - 1) as f64));
    let divisor = |i: usize| {
        let slow = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
        1.0 / ((1.0 - slow) + slow / factor)
    };
    Ok((0..rope.n_rot / 2).map(divisor).collect())
}
