//! What keys say of attention that isn't a number of its own in GGUF.

use super::{Config, Number};
use pith::{Error, Result};
use pith_models::{Hp, ScoreKey};
use serde_json::Value;

/// What the keys say, until all of them are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attention {
    multi_query: Option<bool>,
    without_alibi: bool,
    unscaled: bool,
    by_layer: bool,
    /// The factor itself and its key.
    factor: Option<(f64, String)>,
    /// Optional tensors that are there, or not, with the key that says so.
    has: Vec<(&'static str, bool, String)>,
}

impl Attention {
    pub(super) fn multi_query(&mut self, key: &str, value: &Value) -> Result<()> {
        self.multi_query = Some(flag(key, value)?);
        Ok(())
    }

    pub(super) fn alibi(&mut self, key: &str, value: &Value) -> Result<()> {
        self.without_alibi = !flag(key, value)?;
        Ok(())
    }

    pub(super) fn has(&mut self, key: &str, value: &Value, tensor: &'static str) -> Result<()> {
        let there = match value.as_u64() {
            Some(count) => count > 1,
            None => flag(key, value)?,
        };
        self.has.push((tensor, there, key.to_owned()));
        Ok(())
    }

    pub(super) fn scores(&mut self, key: &str, value: &Value, scores: ScoreKey) -> Result<()> {
        match scores {
            ScoreKey::Scaled => self.unscaled = !flag(key, value)?,
            ScoreKey::ByLayer => self.by_layer = flag(key, value)?,
            ScoreKey::Factor => {
                let factor = value.as_f64().filter(|&factor| {
                    let narrow = factor as f32;
                    narrow.is_finite() && narrow > 0.0
                });
                let factor = factor.ok_or_else(|| super::wrong(key, "a positive number", value))?;
                self.factor = Some((factor, key.to_owned()));
            }
        }
        Ok(())
    }
}

fn flag(key: &str, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| super::wrong(key, "a flag", value))
}

impl Config {
    /// Numbers that follow from flags; before the row's defaults.
    pub(super) fn finish_attention(&mut self) -> Result<()> {
        if let (Some(one), None) = (self.attention.multi_query, self.get(Hp::NHeadKv)) {
            let heads = if one { Some(Number::U32(1)) } else { self.get(Hp::NHead) };
            self.numbers.extend(heads.map(|heads| (Hp::NHeadKv, heads)));
        }
        if self.attention.without_alibi {
            self.numbers.retain(|(hp, _)| *hp != Hp::AlibiMax);
            self.numbers.push((Hp::AlibiMax, Number::F32(0.0)));
        }
        let normed = self
            .attention
            .has
            .iter()
            .any(|(to, there, _)| *there && to.ends_with("_q_norm.weight"));
        match &self.attention.factor {
            Some((_, key)) if normed || self.clamps() => Err(Error::Unsupported(format!(
                "config.json: `{key}` beside norms or a bound of q and k: pith folds it into the \
                 queries' rows, which these would undo"
            ))),
            _ => Ok(()),
        }
    }

    fn clamps(&self) -> bool {
        matches!(self.get(Hp::ClampKqv), Some(Number::F32(bound)) if bound != 0.0)
    }

    /// What the rows of the queries in layer `il` are multiplied with, so that scores scaled by
    /// 1/sqrt(head_dim) are what the configuration says.
    pub(crate) fn query_factor(&self, il: usize) -> f32 {
        let attention = &self.attention;
        let root = (self.head_dim() as f64).sqrt();
        let mut factor = match attention.factor {
            Some((factor, _)) => factor * root,
            None if attention.unscaled => root,
            None => 1.0,
        };
        if attention.by_layer {
            factor /= (il + 1) as f64;
        }
        factor as f32
    }

    /// Whether there is ALiBi.
    pub(crate) fn alibi(&self) -> bool {
        !matches!(self.get(Hp::AlibiMax), None | Some(Number::F32(0.0)))
    }

    /// Optional tensors, by GGUF name, that a key says are there, or not, and the key.
    pub(crate) fn has(&self) -> impl Iterator<Item = (&'static str, bool, &str)> {
        self.attention.has.iter().map(|(tensor, there, key)| (*tensor, *there, key.as_str()))
    }
}
