//! `rope_scaling` and `rope_parameters`: how rope is stretched beyond its first context.

use super::{Config, MAX_WIDTH, Number, wrong};
use pith::{Error, Result};
use pith_models::Hp;
use serde_json::{Map, Value};

/// How rope is stretched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// Positions are divided by `Hp::RopeFactor`.
    Linear,
    /// Llama 3: low frequencies are divided, high ones kept, those between interpolated.
    Llama3(Llama3),
    /// YaRN: the same by other numbers, and longer queries and keys.
    Yarn(Yarn),
    /// LongRoPE: divisors of the frequencies one by one, and longer queries and keys.
    Long(Long),
}

/// Llama 3's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    n_ctx_orig: f32,
}

/// YaRN's numbers that aren't `Hp`s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Yarn {
    factor: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
}

/// LongRoPE's numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Long {
    factor: Option<f64>,
    attention_factor: Option<f64>,
    short: Vec<f32>,
    long: Vec<f32>,
}

/// Whoever adds the older key to a file that has the newer one means both; `transformers` then reads
/// the older one alone and loses the base.
pub(super) fn check_once(json: &Map<String, Value>) -> Result<()> {
    let object = |key: &str| json.get(key).filter(|value| !value.is_null());
    match (object("rope_scaling"), object("rope_parameters")) {
        (Some(old), Some(new)) if old != new => Err(Error::Unsupported(
            "config.json has `rope_scaling` and `rope_parameters`: put all into one of them".into(),
        )),
        _ => Ok(()),
    }
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
    let fields = Fields { key, kind: kind(key, object)?, object };
    let known: &[&str] = match fields.kind {
        "default" => &[],
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
        "yarn" => &[
            "factor",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "beta_fast",
            "beta_slow",
            "truncate",
            "finetuned", // a note
        ],
        "longrope" | "su" => &["factor", "attention_factor", "short_factor", "long_factor"],
        other => {
            return Err(Error::Unsupported(format!(
                "config.json: `{key}` has type `{other}`; pith runs default, linear, llama3, yarn \
                 and longrope"
            )));
        }
    };
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let key = format!("{key}.{name}");
        match name.as_str() {
            // Alone, the context before rope was stretched says nothing.
            "rope_type" | "type" | "original_max_position_embeddings" => {}
            "rope_theta" => {
                let theta = super::number(&key, value, base)?;
                config.set(base, theta, &key)?;
            }
            "partial_rotary_factor" => {
                fractions.push((Hp::RopeDim, "partial_rotary_factor", value));
            }
            name if known.contains(&name) => {}
            _ => {
                let wanted = format!("absent: pith doesn't know it in type {}", fields.kind);
                return Err(wrong(&key, &wanted, value));
            }
        }
    }
    let scaling = fields.scaling(config)?;
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

/// `rope_type`, else `type`.
fn kind<'j>(key: &str, object: &'j Map<String, Value>) -> Result<&'j str> {
    for name in ["rope_type", "type"] {
        if let Some(kind) = object.get(name).filter(|kind| !kind.is_null()) {
            return kind.as_str().ok_or_else(|| wrong(&format!("{key}.{name}"), "a name", kind));
        }
    }
    Ok("default")
}

/// One object of rope's parameters.
struct Fields<'j> {
    key: &'j str,
    kind: &'j str,
    object: &'j Map<String, Value>,
}

impl Fields<'_> {
    /// A positive number, if it is there.
    fn float(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.object.get(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        // As f32, as it is written.
        let float = value.as_f64().filter(|value| (*value as f32).is_normal() && *value > 0.0);
        float.map(Some).ok_or_else(|| self.fault(name))
    }

    fn required(&self, name: &str) -> Result<f64> {
        self.float(name)?.ok_or_else(|| self.fault(name))
    }

    fn fault(&self, name: &str) -> Error {
        let Fields { key, kind, .. } = self;
        Error::Invalid(format!("config.json: `{key}` of type {kind} needs a positive `{name}`"))
    }

    /// As [`Fields::float`]; 0 means "none", as `transformers` reads it.
    fn nonzero(&self, name: &str) -> Result<Option<f64>> {
        match self.object.get(name).and_then(Value::as_f64) {
            Some(0.0) => Ok(None),
            _ => self.float(name),
        }
    }

    /// One divisor per pair of dimensions.
    fn divisors(&self, name: &str) -> Result<Vec<f32>> {
        let divisor = |value: &Value| {
            let value = value.as_f64().map(|value| value as f32);
            value.filter(|value| value.is_normal() && *value > 0.0)
        };
        let list = self.object.get(name).and_then(Value::as_array);
        let list = list.and_then(|list| list.iter().map(divisor).collect());
        list.ok_or_else(|| {
            let Fields { key, kind, .. } = self;
            Error::Invalid(format!(
                "config.json: `{key}` of type {kind} needs a list of positive numbers `{name}`"
            ))
        })
    }

    fn scaling(&self, config: &mut Config) -> Result<Scaling> {
        Ok(match self.kind {
            "default" => Scaling::None,
            "linear" => {
                let factor = Number::F32(self.required("factor")? as f32);
                config.set(Hp::RopeFactor, factor, self.key)?;
                Scaling::Linear
            }
            "llama3" => Scaling::Llama3(self.llama3()?),
            "yarn" => {
                self.set_context(config)?;
                self.set_yarn(config)?;
                Scaling::Yarn(Yarn {
                    factor: self.float("factor")?,
                    attention_factor: self.float("attention_factor")?,
                    mscale: self.nonzero("mscale")?,
                    mscale_all_dim: self.nonzero("mscale_all_dim")?,
                })
            }
            _ => {
                self.set_context(config)?;
                Scaling::Long(Long {
                    factor: self.float("factor")?,
                    attention_factor: self.float("attention_factor")?,
                    short: self.divisors("short_factor")?,
                    long: self.divisors("long_factor")?,
                })
            }
        })
    }

    fn llama3(&self) -> Result<Llama3> {
        let float = |name: &str| self.required(name).map(|value| value as f32);
        let numbers = Llama3 {
            factor: float("factor")?,
            low: float("low_freq_factor")?,
            high: float("high_freq_factor")?,
            n_ctx_orig: float("original_max_position_embeddings")?,
        };
        if numbers.high <= numbers.low {
            return Err(Error::Invalid(format!(
                "config.json: `{}` has high_freq_factor {} up to low_freq_factor {}",
                self.key, numbers.high, numbers.low
            )));
        }
        Ok(numbers)
    }

    fn set_context(&self, config: &mut Config) -> Result<()> {
        let name = "original_max_position_embeddings";
        match self.object.get(name).filter(|value| !value.is_null()) {
            None => Ok(()),
            Some(value) => {
                let key = format!("{}.{name}", self.key);
                let n_ctx = super::number(&key, value, Hp::NCtxOrig)?;
                config.set(Hp::NCtxOrig, n_ctx, &key)
            }
        }
    }

    /// What differs from YaRN's defaults.
    fn set_yarn(&self, config: &mut Config) -> Result<()> {
        let (fast, slow) = (self.nonzero("beta_fast")?, self.nonzero("beta_slow")?);
        if fast.unwrap_or(32.0) <= slow.unwrap_or(1.0) {
            return Err(Error::Invalid(format!(
                "config.json: `{}` has beta_fast up to beta_slow",
                self.key
            )));
        }
        for (hp, beta, default) in [(Hp::YarnBetaFast, fast, 32.0), (Hp::YarnBetaSlow, slow, 1.0)] {
            if let Some(beta) = beta.filter(|beta| *beta != default) {
                config.set(hp, Number::F32(beta as f32), self.key)?;
            }
        }
        match self.object.get("truncate").filter(|value| !value.is_null()) {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(Value::Bool(false)) => config.set(Hp::YarnExact, Number::Bool(true), self.key),
            Some(value) => Err(wrong(&format!("{}.truncate", self.key), "a flag", value)),
        }
    }
}

/// The length of queries and keys that YaRN gives by itself, with its `mscale`.
fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl Scaling {
    /// llama.cpp's name of it, under `rope.scaling.type`.
    pub(crate) fn name(&self) -> Option<&'static str> {
        match self {
            Scaling::None | Scaling::Llama3(_) => None,
            Scaling::Linear => Some("linear"),
            Scaling::Yarn(_) => Some("yarn"),
            Scaling::Long(_) => Some("longrope"),
        }
    }
}

impl Config {
    /// A list of the layers that have rope must agree with the row's period.
    pub(super) fn check_rope_layers(&self) -> Result<()> {
        let Some(ropes) = &self.ropes else { return Ok(()) };
        let every = self.family.block.no_rope_every as usize;
        let has_rope = |il: usize| every == 0 || !(il + 1).is_multiple_of(every);
        match (0..self.size(Hp::NLayer)).find(|&il| ropes.get(il) != Some(&has_rope(il))) {
            None => Ok(()),
            Some(il) => Err(Error::Unsupported(format!(
                "config.json: layer {il} must {}have rope in {}: one layer of {every} has none",
                if has_rope(il) { "" } else { "not " },
                self.family.title,
            ))),
        }
    }

    /// What YaRN and LongRoPE leave to other numbers: the formulas of `transformers`
    /// (`modeling_rope_utils.py`).
    pub(super) fn finish_scaling(&mut self) -> Result<()> {
        let scaling = self.scaling.clone();
        let factor = match &scaling {
            Scaling::Yarn(yarn) => yarn.factor,
            Scaling::Long(long) => long.factor,
            _ => return Ok(()),
        };
        let n_ctx = self.size(Hp::NCtx);
        if self.get(Hp::NCtxOrig).is_none() {
            self.numbers.push((Hp::NCtxOrig, Number::U32(n_ctx as u32)));
        }
        let n_ctx_orig = self.size(Hp::NCtxOrig);
        if n_ctx_orig == 0 {
            return Err(Error::Invalid(
                "config.json: rope is stretched from a context of 0".into(),
            ));
        }
        let factor = factor.unwrap_or(n_ctx as f64 / n_ctx_orig as f64);
        match scaling {
            Scaling::Yarn(yarn) => self.finish_yarn(yarn, factor, n_ctx_orig),
            Scaling::Long(long) => self.finish_long(&long, factor, n_ctx_orig),
            _ => Ok(()),
        }
    }

    fn finish_yarn(&mut self, yarn: Yarn, factor: f64, n_ctx_orig: usize) -> Result<()> {
        self.set(Hp::RopeFactor, Number::F32(factor as f32), "rope's factor")?;
        let own = yarn_magnitude(factor, 1.0);
        let magnitude = match yarn {
            Yarn { attention_factor: Some(magnitude), .. } => magnitude,
            Yarn { mscale: Some(mscale), mscale_all_dim: Some(all), .. } => {
                yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all)
            }
            _ => own,
        };
        self.set_magnitude(magnitude / own)?;
        // Who switches YaRN on by hand, as Qwen's documentation says, leaves
        // max_position_embeddings as it was.
        let stretched = ((n_ctx_orig as f64 * factor) as usize).min(MAX_WIDTH);
        if stretched > self.size(Hp::NCtx) {
            self.numbers.retain(|(hp, _)| *hp != Hp::NCtx);
            self.numbers.push((Hp::NCtx, Number::U32(stretched as u32)));
        }
        Ok(())
    }

    fn finish_long(&mut self, long: &Long, factor: f64, n_ctx_orig: usize) -> Result<()> {
        let n_pairs = self.size(Hp::RopeDim) / 2;
        for (name, list) in [("short_factor", &long.short), ("long_factor", &long.long)] {
            if list.len() != n_pairs {
                return Err(Error::Invalid(format!(
                    "config.json: rope's `{name}` has {} numbers for {n_pairs} pairs of dimensions",
                    list.len()
                )));
            }
        }
        let magnitude = match long.attention_factor {
            Some(magnitude) => magnitude,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (n_ctx_orig as f64).ln()).sqrt(),
        };
        self.set_magnitude(magnitude)
    }

    /// The factor on cosines and sines, where it changes something.
    fn set_magnitude(&mut self, magnitude: f64) -> Result<()> {
        let magnitude = magnitude as f32;
        if !magnitude.is_normal() || magnitude <= 0.0 {
            return Err(Error::Invalid(format!("config.json: rope's magnitude is {magnitude}")));
        }
        match magnitude == 1.0 {
            true => Ok(()),
            false => self.set(Hp::RopeAttnFactor, Number::F32(magnitude), "rope's magnitude"),
        }
    }

    /// Whether llama.cpp reads all of it: not every graph has tensors of divisors (a file with others
    /// is refused), and only factor, first context and `attn_factor` of YaRN's numbers are read.
    pub(crate) fn is_stock_rope(&self) -> bool {
        let arch = self.family.arch;
        match self.scaling {
            Scaling::None | Scaling::Linear => true,
            Scaling::Llama3(_) => arch == "llama",
            Scaling::Long(_) => arch == "llama" || arch == "phi3",
            Scaling::Yarn(_) => {
                let own = [Hp::YarnBetaFast, Hp::YarnBetaSlow, Hp::YarnExact];
                own.iter().all(|&hp| self.get(hp).is_none())
            }
        }
    }

    /// The tensors of divisors of the frequencies, `[n_rot / 2]`.
    pub(crate) fn rope_factors(&self) -> Vec<(&'static str, Vec<f32>)> {
        match &self.scaling {
            Scaling::Llama3(numbers) => vec![("rope_freqs.weight", self.llama3_factors(*numbers))],
            Scaling::Long(Long { short, long, .. }) => vec![
                ("rope_factors_short.weight", short.clone()),
                ("rope_factors_long.weight", long.clone()),
            ],
            Scaling::None | Scaling::Linear | Scaling::Yarn(_) => Vec::new(),
        }
    }

    /// In f32 as llama.cpp's converter computes it.
    fn llama3_factors(&self, Llama3 { factor, low, high, n_ctx_orig }: Llama3) -> Vec<f32> {
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
        (0..n_rot / 2).map(factor_of).collect()
    }
}
