//! SmolLM3: Llama where every fourth layer has no rope.

use crate::{
    Hp::*,
    Means::*,
    gpt::{BIASES, DROPOUT},
    keys::key,
    llama::LLAMA_BLOCK,
    *,
};

/// SmolLM3 (Bakouch et al. 2025). The period is llama.cpp's constant, which no key of a file says.
pub const SMOLLM3: Family = Family {
    arch: "smollm3",
    title: "SmolLM3",
    classes: &["SmolLM3ForCausalLM"],
    stock: true,
    block: Block { window: WindowPattern::None, no_rope_every: 4, ..LLAMA_BLOCK },
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
        key("no_rope_layers", RopeLayers),
        key("no_rope_layer_interval", MustBeNumber(4.0)),
        key("hidden_act", Activation),
        key("use_sliding_window", MustBe(false)),
        key("sliding_window", Ignored("unused without use_sliding_window")),
        key("max_window_layers", Ignored("unused without use_sliding_window")),
        key("layer_types", LayerTypes),
        key("attention_bias", BIASES),
        key("mlp_bias", BIASES),
        key("pretraining_tp", Ignored("how a library slices its products")),
        key("attention_dropout", DROPOUT),
    ],
    defaults: &[
        (NHeadKv, Value::Same(NHead)),
        (HeadDimV, Value::Same(HeadDim)),
        (RmsNormEps, Value::F32(1e-6)),
        (RopeBase, Value::F32(2e6)),
    ],
    prefixes: LLAMA.prefixes,
    tensors: LLAMA.tensors,
    ignored: LLAMA.ignored,
};
