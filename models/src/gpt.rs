//! The families that grew from GPT-2: LayerNorm, biases, a plain feed-forward network.

use crate::{Hp::*, Means::*, Need::*, *};

/// A configuration key and what it means.
pub(crate) const fn key(name: &'static str, means: Means) -> ConfigKey {
    ConfigKey { name, means }
}

/// A source tensor and where it goes.
pub(crate) const fn row(
    source: &'static str,
    to: &'static str,
    fold: Fold,
    need: Need,
) -> TensorRow {
    TensorRow { source, to, fold, need }
}

/// A pre-norm LayerNorm block with learned positions: GPT-2; others change a field or two.
const GPT2_BLOCK: Block = Block {
    norm: Norm::Layer,
    join: Join::Sequential,
    position: Position::Learned,
    ffn: Ffn::Plain,
    act: Act::GeluTanh,
    embed_scale: EmbedScale::One,
    score_scale: ScoreScale::HeadDim,
    window: WindowPattern::None,
    qk_norm: QkNorm::None,
    no_rope_every: 0,
};

/// GPT-2 (Radford et al. 2019).
pub const GPT2: Family = Family {
    arch: "gpt2",
    title: "GPT-2 (DistilGPT2, DialoGPT)",
    classes: &["GPT2LMHeadModel", "GPT2Model"],
    stock: true,
    block: GPT2_BLOCK,
    config: &[
        key("n_positions", Set(NCtx)),
        key("n_ctx", Ignored("an old copy of n_positions")),
        key("n_embd", Set(NEmbd)),
        key("n_layer", Set(NLayer)),
        key("n_head", Set(NHead)),
        key("n_inner", Set(NFf)),
        key("vocab_size", Set(NVocab)),
        key("layer_norm_epsilon", Set(LayerNormEps)),
        key("activation_function", Activation),
        key("tie_word_embeddings", Tied),
        key("scale_attn_weights", MustBe(true)),
        key("scale_attn_by_inverse_layer_idx", MustBe(false)),
        key("reorder_and_upcast_attn", Ignored("numerics of one library, the same function")),
        key("add_cross_attention", MustBe(false)),
        key("bos_token_id", SpecialToken),
        key("eos_token_id", SpecialToken),
        key("pad_token_id", SpecialToken),
        key("attn_pdrop", Ignored("dropout: training only")),
        key("embd_pdrop", Ignored("dropout: training only")),
        key("resid_pdrop", Ignored("dropout: training only")),
        key("summary_activation", Ignored("head of another class")),
        key("summary_first_dropout", Ignored("head of another class")),
        key("summary_proj_to_labels", Ignored("head of another class")),
        key("summary_type", Ignored("head of another class")),
        key("summary_use_proj", Ignored("head of another class")),
    ],
    defaults: &[
        (NCtx, Value::U32(1024)),
        (NFf, Value::Times(NEmbd, 4)),
        (NHeadKv, Value::Same(NHead)),
        (LayerNormEps, Value::F32(1e-5)),
    ],
    prefixes: &["transformer.", ""],
    tensors: &[
        row("wte.weight", "token_embd.weight", Fold::Keep, Required),
        row("wpe.weight", "position_embd.weight", Fold::Keep, Required),
        row("h.{}.ln_1.weight", "blk.{}.attn_norm.weight", Fold::Keep, Required),
        row("h.{}.ln_1.bias", "blk.{}.attn_norm.bias", Fold::Keep, Required),
        row("h.{}.attn.c_attn.weight", "blk.{}.attn_qkv.weight", Fold::Transpose, Required),
        row("h.{}.attn.c_attn.bias", "blk.{}.attn_qkv.bias", Fold::Keep, Required),
        row("h.{}.attn.c_proj.weight", "blk.{}.attn_output.weight", Fold::Transpose, Required),
        row("h.{}.attn.c_proj.bias", "blk.{}.attn_output.bias", Fold::Keep, Required),
        row("h.{}.ln_2.weight", "blk.{}.ffn_norm.weight", Fold::Keep, Required),
        row("h.{}.ln_2.bias", "blk.{}.ffn_norm.bias", Fold::Keep, Required),
        row("h.{}.mlp.c_fc.weight", "blk.{}.ffn_up.weight", Fold::Transpose, Required),
        row("h.{}.mlp.c_fc.bias", "blk.{}.ffn_up.bias", Fold::Keep, Required),
        row("h.{}.mlp.c_proj.weight", "blk.{}.ffn_down.weight", Fold::Transpose, Required),
        row("h.{}.mlp.c_proj.bias", "blk.{}.ffn_down.bias", Fold::Keep, Required),
        row("ln_f.weight", "output_norm.weight", Fold::Keep, Required),
        row("ln_f.bias", "output_norm.bias", Fold::Keep, Required),
        row("lm_head.weight", "output.weight", Fold::Keep, Head),
    ],
    ignored: &[
        ("h.{}.attn.bias", "the causal mask, not a bias"),
        ("h.{}.attn.masked_bias", "a constant of the causal mask"),
    ],
};
