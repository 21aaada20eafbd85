//! Gemma: Llama with a scaled embedding, norms that multiply with 1 + w, and GELU in the gate.

use crate::{
    Fold::*,
    Hp::*,
    Means::*,
    Need::*,
    gpt::{DROPOUT, row},
    keys::key,
    llama::LLAMA_BLOCK,
    *,
};

/// Gemma's first block; the later ones change a field or two.
const GEMMA_BLOCK: Block = Block {
    position: Position::Rope(Pairing::Half),
    act: Act::GeluTanh,
    embed_scale: EmbedScale::SqrtEmbd,
    window: WindowPattern::None,
    ..LLAMA_BLOCK
};

/// The tanh form under all names: early files say `gelu` and mean this one, as the library does.
const GELU: Means = MustBeOneOf(&["gelu_pytorch_tanh", "gelu", "gelu_new"]);
/// Where the key was introduced together with this name, the name is taken at its word.
const GELU_TANH: Means = MustBeOneOf(&["gelu_pytorch_tanh", "gelu_new"]);

/// Gemma (Gemma Team 2024).
pub const GEMMA: Family = Family {
    arch: "gemma",
    title: "Gemma",
    classes: &["GemmaForCausalLM"],
    stock: true,
    block: GEMMA_BLOCK,
    config: &[
        key("max_position_embeddings", Set(NCtx)),
        key("hidden_size", Set(NEmbd)),
        key("num_hidden_layers", Set(NLayer)),
        key("intermediate_size", Set(NFf)),
        key("num_attention_heads", Set(NHead)),
        key("num_key_value_heads", Set(NHeadKv)),
        key("head_dim", Set(HeadDim)),
        key("rms_norm_eps", Set(RmsNormEps)),
        key("rope_theta", Set(RopeBase)),
        key("rope_scaling", RopeScaling),
        key("rope_parameters", RopeScaling),
        key("hidden_act", GELU),
        key("hidden_activation", GELU_TANH),
        key("attention_bias", MustBe(false)),
        key("use_bidirectional_attention", MustBe(false)),
        key("attention_dropout", DROPOUT),
    ],
    defaults: &[
        (NHeadKv, Value::Same(NHead)),
        (HeadDimV, Value::Same(HeadDim)),
        (RmsNormEps, Value::F32(1e-6)),
        (RopeBase, Value::F32(10000.0)),
    ],
    prefixes: &["model.", ""],
    tensors: &[
        row("embed_tokens.weight", "token_embd.weight", Keep, Required),
        row("layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", AddOne, Required),
        row("layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", Keep, Required),
        row("layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", Keep, Required),
        row("layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", Keep, Required),
        row("layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", Keep, Required),
        row(
            "layers.{}.post_attention_layernorm.weight",
            "blk.{}.ffn_norm.weight",
            AddOne,
            Required,
        ),
        row("layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", Keep, Required),
        row("layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", Keep, Required),
        row("layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", Keep, Required),
        row("norm.weight", "output_norm.weight", AddOne, Required),
        row("lm_head.weight", "output.weight", Keep, Head),
    ],
    ignored: &[("layers.{}.self_attn.rotary_emb.inv_freq", "computed from the rope base")],
};

/// Gemma 2 (Gemma Team 2024): norms on both sides, windows in even layers, capped scores and logits.
pub const GEMMA2: Family = Family {
    arch: "gemma2",
    title: "Gemma 2",
    classes: &["Gemma2ForCausalLM"],
    stock: true,
    block: Block {
        join: Join::Sandwich,
        score_scale: ScoreScale::HeadDimUnlessLayers(46),
        window: WindowPattern::AllBut { every: 2, global: 1 },
        ..GEMMA_BLOCK
    },
    config: &[
        key("max_position_embeddings", Set(NCtx)),
        key("hidden_size", Set(NEmbd)),
        key("num_hidden_layers", Set(NLayer)),
        key("intermediate_size", Set(NFf)),
        key("num_attention_heads", Set(NHead)),
        key("num_key_value_heads", Set(NHeadKv)),
        key("head_dim", Set(HeadDim)),
        key("rms_norm_eps", Set(RmsNormEps)),
        key("rope_theta", Set(RopeBase)),
        key("rope_scaling", RopeScaling),
        key("rope_parameters", RopeScaling),
        key("hidden_act", GELU),
        key("hidden_activation", GELU_TANH),
        key("query_pre_attn_scalar", SetRsqrt(AttnScale)),
        key("attn_logit_softcapping", Set(AttnSoftcap)),
        key("final_logit_softcapping", Set(LogitSoftcap)),
        key("sliding_window", Set(Window)),
        key("sliding_window_size", Set(Window)),
        key("layer_types", LayerTypes),
        key("attention_bias", MustBe(false)),
        key("use_bidirectional_attention", MustBe(false)),
        key("attention_dropout", DROPOUT),
    ],
    defaults: &[
        (NHeadKv, Value::Same(NHead)),
        (HeadDimV, Value::Same(HeadDim)),
        (RmsNormEps, Value::F32(1e-6)),
        (RopeBase, Value::F32(10000.0)),
    ],
    prefixes: &["model.", ""],
    tensors: &[
        row("embed_tokens.weight", "token_embd.weight", Keep, Required),
        row("layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", AddOne, Required),
        row("layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", Keep, Required),
        row("layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", Keep, Required),
        row("layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", Keep, Required),
        row("layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", Keep, Required),
        row(
            "layers.{}.post_attention_layernorm.weight",
            "blk.{}.post_attention_norm.weight",
            AddOne,
            Required,
        ),
        row(
            "layers.{}.pre_feedforward_layernorm.weight",
            "blk.{}.ffn_norm.weight",
            AddOne,
            Required,
        ),
        row("layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", Keep, Required),
        row("layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", Keep, Required),
        row("layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", Keep, Required),
        row(
            "layers.{}.post_feedforward_layernorm.weight",
            "blk.{}.post_ffw_norm.weight",
            AddOne,
            Required,
        ),
        row("norm.weight", "output_norm.weight", AddOne, Required),
        row("lm_head.weight", "output.weight", Keep, Head),
    ],
    ignored: &[("layers.{}.self_attn.rotary_emb.inv_freq", "computed from the rope base")],
};

/// Gemma 3, text (Gemma Team 2025): norms on q and k, five window layers to a global one, each kind
/// with its own rope.
pub const GEMMA3: Family = Family {
    arch: "gemma3",
    title: "Gemma 3 (text)",
    classes: &["Gemma3ForCausalLM"],
    stock: true,
    block: Block {
        join: Join::Sandwich,
        score_scale: ScoreScale::HeadDimUnlessLayers(62),
        window: WindowPattern::AllBut { every: 6, global: 5 },
        qk_norm: QkNorm::Head,
        ..GEMMA_BLOCK
    },
    config: &[
        key("max_position_embeddings", Set(NCtx)),
        key("hidden_size", Set(NEmbd)),
        key("num_hidden_layers", Set(NLayer)),
        key("intermediate_size", Set(NFf)),
        key("num_attention_heads", Set(NHead)),
        key("num_key_value_heads", Set(NHeadKv)),
        key("head_dim", Set(HeadDim)),
        key("rms_norm_eps", Set(RmsNormEps)),
        key("rope_theta", Set(RopeBase)),
        key("rope_scaling", RopeScaling),
        key("rope_parameters", RopeScaling),
        key("rope_local_base_freq", Set(RopeBaseLocal)),
        key("hidden_act", GELU),
        key("hidden_activation", GELU_TANH),
        key("query_pre_attn_scalar", SetRsqrt(AttnScale)),
        key("attn_logit_softcapping", Set(AttnSoftcap)),
        key("final_logit_softcapping", Set(LogitSoftcap)),
        key("sliding_window", Set(Window)),
        key("layer_types", LayerTypes),
        key("sliding_window_pattern", WindowEvery),
        key("_sliding_window_pattern", WindowEvery),
        key("attention_bias", MustBe(false)),
        key("use_bidirectional_attention", MustBe(false)),
        key("attention_dropout", DROPOUT),
    ],
    defaults: &[
        (NHeadKv, Value::Same(NHead)),
        (HeadDimV, Value::Same(HeadDim)),
        (RmsNormEps, Value::F32(1e-6)),
        (RopeBase, Value::F32(1e6)),
        (RopeBaseLocal, Value::F32(10000.0)),
    ],
    // The later ones in checkpoints that see images too.
    prefixes: &["model.", "", "language_model.model.", "language_model.", "model.language_model."],
    tensors: &[
        row("embed_tokens.weight", "token_embd.weight", Keep, Required),
        row("layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", AddOne, Required),
        row("layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", Keep, Required),
        row("layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", Keep, Required),
        row("layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", Keep, Required),
        row("layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", Keep, Required),
        row("layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", AddOne, Required),
        row("layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", AddOne, Required),
        row(
            "layers.{}.post_attention_layernorm.weight",
            "blk.{}.post_attention_norm.weight",
            AddOne,
            Required,
        ),
        row(
            "layers.{}.pre_feedforward_layernorm.weight",
            "blk.{}.ffn_norm.weight",
            AddOne,
            Required,
        ),
        row("layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", Keep, Required),
        row("layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", Keep, Required),
        row("layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", Keep, Required),
        row(
            "layers.{}.post_feedforward_layernorm.weight",
            "blk.{}.post_ffw_norm.weight",
            AddOne,
            Required,
        ),
        row("norm.weight", "output_norm.weight", AddOne, Required),
        row("lm_head.weight", "output.weight", Keep, Head),
    ],
    ignored: &[("layers.{}.self_attn.rotary_emb.inv_freq", "computed from the rope base")],
};
