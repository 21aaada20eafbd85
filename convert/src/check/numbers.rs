//! A model's numbers by its configuration and the family's row, to be compared with what the runtime
//! reads from the written file.

use super::weights::Weights;
use crate::config::{Config, Number, Scaling};
use pith::model::{Hparams, Rope};
use pith_models::{EmbedScale, Hp, Join, Position, ScoreScale, Value};

/// The numbers that the written file must have.
pub(super) fn expected(config: &Config, weights: &Weights<'_>) -> Hparams {
    let block = &config.family.block;
    let size = |hp| config.size(hp);
    let float = |hp| match config.get(hp) {
        Some(Number::F32(value)) => Some(value),
        _ => None,
    };
    let flag = |hp| config.get(hp) == Some(Number::Bool(true));
    let nonzero = |hp| float(hp).filter(|&value| value != 0.0);
    let (n_embd, n_head, n_layer) = (size(Hp::NEmbd), size(Hp::NHead), size(Hp::NLayer));
    let head_dim = config.head_dim();
    let by_head = 1.0 / (head_dim as f32).sqrt();
    let score_scale = match block.score_scale {
        ScoreScale::HeadDim => by_head,
        ScoreScale::HeadDimUnlessLayers(n) if n as usize == n_layer => {
            1.0 / (n_embd as f32 / n_head as f32).sqrt()
        }
        ScoreScale::HeadDimUnlessLayers(_) => by_head,
        ScoreScale::One => 1.0,
    };
    let is_parallel = match block.join {
        Join::ByKey => Some(flag(Hp::ParallelResidual)),
        Join::ByNorm => Some(!weights.has("blk.0.ffn_norm.weight")),
        Join::Sequential | Join::Parallel | Join::PostByKey | Join::Sandwich | Join::After => None,
    };
    Hparams {
        n_ctx: size(Hp::NCtx),
        n_embd,
        n_layer,
        n_ff: size(Hp::NFf),
        n_head,
        n_head_kv: size(Hp::NHeadKv),
        head_dim,
        n_vocab: size(Hp::NVocab),
        eps: float(config.eps()).unwrap_or(f32::NAN),
        act: config.act,
        score_scale: nonzero(Hp::AttnScale).unwrap_or(score_scale),
        embed_scale: match block.embed_scale {
            EmbedScale::One => 1.0,
            EmbedScale::SqrtEmbd => (n_embd as f32).sqrt(),
        },
        window: Some(size(Hp::Window)).filter(|&window| window > 0),
        attn_softcap: nonzero(Hp::AttnSoftcap),
        logit_softcap: nonzero(Hp::LogitSoftcap),
        clamp_kqv: nonzero(Hp::ClampKqv),
        alibi_max: float(Hp::AlibiMax).unwrap_or(8.0),
        join: match is_parallel {
            Some(true) => Join::Parallel,
            Some(false) => Join::Sequential,
            None => block.join,
        },
        post_norm: block.join == Join::PostByKey && flag(Hp::PostNorm),
        rope: matches!(block.position, Position::Rope(_)).then(|| rope(config)),
    }
}

/// Rope's numbers by the formulas of `transformers` (`modeling_rope_utils.py`).
fn rope(config: &Config) -> Rope {
    let float = |hp| match config.get(hp) {
        Some(Number::F32(value)) => Some(value),
        _ => None,
    };
    let factor = float(Hp::RopeFactor).unwrap_or(f32::NAN);
    let (n_rot, base) = (config.size(Hp::RopeDim), float(Hp::RopeBase).unwrap_or(10_000.0));
    let listed = |name: &str| {
        let mut all = config.rope_factors().into_iter();
        let list = all.find(|(listed, _)| *listed == name).map(|(_, list)| list);
        list.map(|list| list.into_iter().map(f64::from).collect::<Vec<f64>>())
    };
    let mut rope = Rope {
        n_rot,
        base,
        // Where no layer has a window the file leaves it out, and the row says it.
        base_local: float(Hp::RopeBaseLocal).or(match config.family.default(Hp::RopeBaseLocal) {
            Some(Value::F32(base)) => Some(base),
            Some(Value::Same(of)) => float(of),
            _ => None,
        }),
        scale: 1.0,
        factors: None,
        long: None,
        magnitude: f64::from(float(Hp::RopeAttnFactor).unwrap_or(1.0)),
    };
    match config.scaling {
        Scaling::None => {}
        Scaling::Linear => rope.scale = 1.0 / factor,
        Scaling::Llama3(_) => rope.factors = listed("rope_freqs.weight"),
        Scaling::Long(_) => {
            rope.factors = listed("rope_factors_short.weight");
            let long = listed("rope_factors_long.weight");
            rope.long = long.map(|long| (config.size(Hp::NCtxOrig), long));
        }
        Scaling::Yarn(_) => {
            rope.factors = Some(yarn(config, f64::from(factor), f64::from(base), n_rot));
            rope.magnitude *= 0.1 * f64::from(factor).max(1.0).ln() + 1.0;
        }
    }
    rope
}

/// YaRN's divisors: those of interpolation and extrapolation, mixed along a ramp.
fn yarn(config: &Config, factor: f64, base: f64, n_rot: usize) -> Vec<f64> {
    let beta = |hp, default| match config.get(hp) {
        Some(Number::F32(value)) => f64::from(value),
        _ => default,
    };
    let n_ctx = config.size(Hp::NCtxOrig) as f64;
    let dim = |rotations: f64| {
        n_rot as f64 * (n_ctx / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln())
    };
    let (mut low, mut high) = (dim(beta(Hp::YarnBetaFast, 32.0)), dim(beta(Hp::YarnBetaSlow, 1.0)));
    if config.get(Hp::YarnExact) != Some(Number::Bool(true)) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(n_rot as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let inverse = |i: usize| {
        let extrapolation = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - extrapolation) / factor + extrapolation
    };
    (0..n_rot / 2).map(|i| 1.0 / inverse(i)).collect()
}

/// What differs, one line for each number.
pub(super) fn differences(mut wanted: Hparams, got: &Hparams) -> Vec<String> {
    if let (Some(wanted), Some(got)) = (&mut wanted.rope, &got.rope) {
        settle(wanted, got);
    }
    if wanted == *got {
        return Vec::new();
    }
    // The derived form has a line for each field, so that no field can be forgotten here.
    let (wanted, got) = (format!("{wanted:#?}"), format!("{got:#?}"));
    let pairs = wanted.lines().zip(got.lines()).filter(|(wanted, got)| wanted != got);
    let line = |text: &str| text.trim().trim_end_matches(',').to_owned();
    pairs
        .map(|(wanted, got)| {
            format!("the file has `{}`, the configuration `{}`", line(got), line(wanted))
        })
        .collect()
}

/// Takes the other's numbers that differ by the last bits of a logarithm alone: the runtime has its own.
fn settle(wanted: &mut Rope, got: &Rope) {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
    if near(wanted.magnitude, got.magnitude) {
        wanted.magnitude = got.magnitude;
    }
    if let (Some(wanted), Some(got)) = (&mut wanted.factors, &got.factors) {
        for (wanted, &got) in wanted.iter_mut().zip(got) {
            if near(*wanted, got) {
                *wanted = got;
            }
        }
    }
}
