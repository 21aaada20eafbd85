//! A model's numbers by its configuration and the family's row, to be compared with what the runtime
//! reads from the written file.

use super::weights::Weights;
use crate::config::{Config, Number, Scaling};
use pith::model::{Hparams, Rope};
use pith_models::{EmbedScale, Hp, Join, Position, ScoreScale};

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
        rope: matches!(block.position, Position::Rope(_)).then(|| Rope {
            n_rot: size(Hp::RopeDim),
            base: float(Hp::RopeBase).unwrap_or(10_000.0),
            base_local: float(Hp::RopeBaseLocal),
            scale: match config.scaling {
                Scaling::None | Scaling::Llama3(_) => 1.0,
                Scaling::Linear => float(Hp::RopeFactor).map_or(f32::NAN, |factor| 1.0 / factor),
            },
            factors: config.rope_factors(),
        }),
    }
}

/// What differs, one line for each number.
pub(super) fn differences(wanted: &Hparams, got: &Hparams) -> Vec<String> {
    if wanted == got {
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
