//! `rope_scaling` and `rope_parameters`: how rope is stretched beyond its first context.

use super::{Config, Number, wrong};
use pith::{Error, Result};
use pith_models::Hp;
use serde_json::{Map, Value};

/// How rope is stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// Positions are divided by `Hp::RopeFactor`.
    Linear,
    /// Llama 3: low frequencies are divided, high ones kept, those between interpolated.
    Llama3(Llama3),
}

/// Llama 3's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    n_ctx_orig: f32,
}

/// Takes the object under `key`; for Gemma 3 it nests one for full and one for sliding attention.
pub(super) fn consume<'j>(
    config: &mut Config,
    key: &str,
    value: &'j Value,
    fractions: &mut Vec<(Hp, &'j str, &'j Value)>,
) -> Result<()> {
    let object = value.as_object().ok_or_else(|| wrong(key, "an object", value))?;
    let nested = |kind: &str| object.get(kind).and_then(Value::as_object);
    match (nested("full_attention"), nested("sliding_attention")) {
        (Some(full), sliding) => {
            if object.len() > 1 + usize::from(sliding.is_some()) {
                return Err(wrong(key, "full_attention and sliding_attention only", value));
            }
            consume_flat(config, key, full, fractions, Hp::RopeBase)?;
            match sliding {
                Some(sliding) => consume_flat(config, key, sliding, fractions, Hp::RopeBaseLocal),
                None => Ok(()),
            }
        }
        _ => consume_flat(config, key, object, fractions, Hp::RopeBase),
    }
}

fn consume_flat<'j>(
    config: &mut Config,
    key: &str,
    object: &'j Map<String, Value>,
    fractions: &mut Vec<(Hp, &'j str, &'j Value)>,
    base: Hp,
) -> Result<()> {
    let mut kind = "default";
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let key = format!("{key}.{name}");
        match name.as_str() {
            "rope_type" | "type" => {
                kind = value.as_str().ok_or_else(|| wrong(&key, "a name", value))?;
            }
            "rope_theta" => {
                let theta = super::number(&key, value, base)?;
                config.set(base, theta, &key)?;
            }
            "partial_rotary_factor" => {
                fractions.push((Hp::RopeDim, "partial_rotary_factor", value));
            }
            // Read below, by the types that have them.
            "factor"
            | "low_freq_factor"
            | "high_freq_factor"
            | "original_max_position_embeddings" => {}
            _ => return Err(wrong(&key, "absent: pith doesn't know it", value)),
        }
    }
    let float = |name: &str| {
        let value = object.get(name).and_then(Value::as_f64).map(|value| value as f32);
        value.filter(|value| value.is_finite() && *value > 0.0).ok_or_else(|| {
            Error::Invalid(format!("config.json: `{key}` of type {kind} needs a positive `{name}`"))
        })
    };
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => {
            config.set(Hp::RopeFactor, Number::F32(float("factor")?), key)?;
            Scaling::Linear
        }
        "llama3" => {
            let numbers = Llama3 {
                factor: float("factor")?,
                low: float("low_freq_factor")?,
                high: float("high_freq_factor")?,
                n_ctx_orig: float("original_max_position_embeddings")?,
            };
            if numbers.high <= numbers.low {
                return Err(Error::Invalid(format!(
                    "config.json: `{key}` has high_freq_factor {} up to low_freq_factor {}",
                    numbers.high, numbers.low
                )));
            }
            Scaling::Llama3(numbers)
        }
        other => {
            return Err(Error::Unsupported(format!(
                "config.json: `{key}` has type `{other}`; pith runs default, linear and llama3"
            )));
        }
    };
    if base == Hp::RopeBaseLocal {
        if scaling != Scaling::None {
            return Err(Error::Unsupported(format!(
                "config.json: `{key}` scales sliding attention"
            )));
        }
    } else if scaling != Scaling::None {
        config.scaling = scaling;
    }
    Ok(())
}

impl Config {
    /// The tensor `rope_freqs.weight`, `[n_rot / 2]`: by what each frequency is divided. In f32 as
    /// llama.cpp's converter computes it.
    pub(crate) fn rope_factors(&self) -> Option<Vec<f32>> {
        let Scaling::Llama3(Llama3 { factor, low, high, n_ctx_orig }) = self.scaling else {
            return None;
        };
        let base = match self.get(Hp::RopeBase) {
            Some(Number::F32(base)) => base,
            _ => 10_000.0,
        };
        let n_rot = self.size(Hp::RopeDim);
        let factor_of = |i: usize| {
            let exponent = (2 * i) as f32 / n_rot as f32;
            let frequency = 1.0 / f64::from(base).powf(f64::from(exponent)) as f32;
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength < n_ctx_orig / high {
                1.0
            } else if wavelength > n_ctx_orig / low {
                factor
            } else {
                let smooth = (n_ctx_orig / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..n_rot / 2).map(factor_of).collect())
    }
}
