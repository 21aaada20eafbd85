//! What a model family *is*, as const data. The converter reads a row to turn a checkpoint into
//! GGUF; the runtime reads the same row to turn the GGUF into a plan. A new family is a new row; if
//! a row can't say it, the schema here grows one field.
//!
//! Every switch that is a *number* of one model (n_layer, eps, window, ...) is an [`Hp`]: the row
//! says which configuration key it comes from, and the `Hp` says which GGUF key it goes to.
#![no_std]

mod bigcode;
mod classifier;
mod codegen;
mod falcon;
mod gemma;
mod gpt;
mod keys;
mod llama;
mod lookup;
mod mpt;
mod olmo;
mod phi;
mod phi3;
mod smollm3;
mod stablelm;

pub use bigcode::*;
pub use classifier::*;
pub use codegen::*;
pub use falcon::*;
pub use gemma::*;
pub use gpt::*;
pub use keys::*;
pub use llama::*;
pub use lookup::*;
pub use mpt::*;
pub use olmo::*;
pub use phi::*;
pub use phi3::*;
pub use smollm3::*;
pub use stablelm::*;

/// Every family, in the order in which `--list-families` prints them.
pub const FAMILIES: &[&Family] = &[
    &GPT2,
    &GPT_NEO,
    &GPT_J,
    &CODEGEN,
    &GPT_NEOX,
    &OPT,
    &BLOOM,
    &FALCON,
    &FALCON_RW,
    &MPT,
    &STARCODER,
    &STARCODER2,
    &PHI,
    &PHI3,
    &LLAMA,
    &SMOLLM3,
    &QWEN2,
    &QWEN3,
    &GEMMA,
    &GEMMA2,
    &GEMMA3,
    &STABLELM,
    &OLMO,
    &OLMO2,
];

/// Rows that share their classes with one before them: theirs are the checkpoints whose
/// configuration sets this flag.
pub const BY_FLAG: &[(&str, &Family)] = &[("alibi", &FALCON_RW)];

/// Classes that look like one of ours but are refused, with the reason and the next step.
pub const REFUSED: &[(&str, &str)] = &[
    (
        "Gemma3ForConditionalGeneration",
        "it sees images too; --text-only converts its text model and drops the rest",
    ),
    (
        "Gemma3ForSequenceClassification",
        "it holds a vision tower and nests the text model; save its text part as \
         Gemma3TextForSequenceClassification and convert that",
    ),
    ("GPT2DoubleHeadsModel", "it has a multiple-choice head; save it as GPT2LMHeadModel"),
    ("LlamaModel", "it has no head and isn't tied; save it as LlamaForCausalLM"),
    ("MistralModel", "it has no head and isn't tied; save it as MistralForCausalLM"),
    ("GPTNeoXModel", "it has no head and isn't tied; save it as GPTNeoXForCausalLM"),
    ("GPTJModel", "it has no head and isn't tied; save it as GPTJForCausalLM"),
    ("CodeGenModel", "it has no head and isn't tied; save it as CodeGenForCausalLM"),
    ("PhiModel", "it has no head and isn't tied; save it as PhiForCausalLM"),
    ("FalconModel", "it has no head; save it as FalconForCausalLM"),
    ("MptModel", "it has no head; save it as MptForCausalLM"),
    ("GPTBigCodeModel", "it has no head; save it as GPTBigCodeForCausalLM"),
    ("Starcoder2Model", "it has no head; save it as Starcoder2ForCausalLM"),
    (
        "GPT2LMHeadCustomModel",
        "SantaCoder's first code keeps q apart from k and v; bigcode/gpt_bigcode-santacoder has the \
         same weights as GPTBigCodeForCausalLM",
    ),
    (
        "MixFormerSequentialForCausalLM",
        "Phi-1.5's first code numbers embedding and head as layers; its repository has the same \
         weights as PhiForCausalLM",
    ),
    ("Qwen2Model", "it has no head; save it as Qwen2ForCausalLM"),
    ("Qwen3Model", "it has no head; save it as Qwen3ForCausalLM"),
];

/// One model family.
#[derive(Debug)]
pub struct Family {
    /// GGUF `general.architecture`: llama.cpp's name where it has one.
    pub arch: &'static str,
    /// For people: "GPT-2 (DistilGPT2, DialoGPT)".
    pub title: &'static str,
    /// Hugging Face class names in `architectures`.
    pub classes: &'static [&'static str],
    /// Whether llama.cpp runs files of this architecture.
    pub stock: bool,
    /// The blocks and what surrounds them.
    pub block: Block,
    /// Configuration keys: each is consumed by a row here or stops the conversion.
    pub config: &'static [ConfigKey],
    /// Values for numbers that the configuration, or a GGUF of another program, may leave out.
    /// A `Same` of a number that is absent is absent.
    pub defaults: &'static [(Hp, Value)],
    /// Prefixes that a checkpoint may put before every source name; tried in this order.
    pub prefixes: &'static [&'static str],
    /// Source tensors and where they go.
    pub tensors: &'static [TensorRow],
    /// Source tensors that carry nothing, with the reason. `{}` stands for a layer number.
    pub ignored: &'static [(&'static str, &'static str)],
}

/// The structure of a family's network.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Which normalization.
    pub norm: Norm,
    /// Where the norms and joins are.
    pub join: Join,
    /// How positions enter.
    pub position: Position,
    /// The feed-forward network.
    pub ffn: Ffn,
    /// Its activation, unless the model's own key says another.
    pub act: Act,
    /// Factor on the token embedding.
    pub embed_scale: EmbedScale,
    /// What queries times keys are multiplied with.
    pub score_scale: ScoreScale,
    /// Which layers attend in a sliding window, if the model has one (`Hp::Window`).
    pub window: WindowPattern,
    /// Norm of q and k before rope, of the same kind as `norm`.
    pub qk_norm: QkNorm,
    /// Which layers have rope (`Position::Rope` only): all, or all but every nth.
    pub no_rope_every: u32,
}

/// Kinds of normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// (x - mean) / sqrt(var + eps) * w + b. A file may lack b, or both (OLMo, Galactica): the
    /// norm is still there.
    Layer,
    /// x / sqrt(mean(x^2) + eps) * w (Zhang & Sennrich 2019).
    Rms,
}

/// How attention and feed-forward join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// x += attn(norm(x)); x += ffn(norm2(x)).
    Sequential,
    /// x += attn(n) + ffn(n) with one shared n = norm(x) (GPT-J, Phi-2, Falcon-7B). Where the
    /// file has `attn_norm_2`, attention reads that and only ffn reads `attn_norm` (Falcon-40B).
    Parallel,
    /// x += attn(norm(x)) + ffn(norm2(x)) if `Hp::ParallelResidual`, else `Sequential` (GPT-NeoX).
    ByKey,
    /// `Parallel` where the file has no `ffn_norm`, else `Sequential` (StableLM, whose 12B is the
    /// parallel one; what its files say under `Hp::ParallelResidual` can't be trusted).
    ByNorm,
    /// x = norm(x + attn(x)); x = norm2(x + ffn(x)) and no final norm where
    /// `Hp::PostNorm` is set (OPT-350m), else `Sequential`.
    PostByKey,
    /// x += post(attn(norm(x))); x += post2(ffn(norm2(x))) (Gemma 2 and 3).
    Sandwich,
    /// x += norm(attn(x)); x += norm2(ffn(x)) (OLMo 2).
    After,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A table `position_embd` is added to the embedding.
    Learned,
    /// Rotary embedding of q and k on the first `Hp::RopeDim` of each head.
    Rope(Pairing),
    /// A slope per head times the distance is added to the scaled scores (BLOOM, MPT), none where
    /// `Hp::AlibiMax` is 0; a file that has a table `position_embd` adds that (MPT without ALiBi).
    Alibi,
    /// The same, added before the scores are scaled (Falcon-RW).
    AlibiThenScale,
    /// None.
    None,
}

/// Which two dimensions rope turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// i with i + n/2 ("NEOX", half-split).
    Half,
    /// 2i with 2i + 1 ("NORM", adjacent).
    Adjacent,
}

/// Feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffn {
    /// down(act(up(x))).
    Plain,
    /// down(act(gate(x)) * up(x)).
    Gated,
    /// `Gated` with gate and up stacked in `ffn_up`, gate first (Phi-3).
    GatedFused,
}

/// Activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The tanh form of GELU.
    GeluTanh,
    /// GELU with erf, exact.
    GeluErf,
    /// max(x, 0).
    Relu,
    /// x * sigmoid(x).
    Silu,
}

impl Act {
    /// Names that configurations use (`gelu` is the exact form in Hugging Face code).
    pub const NAMES: &'static [(&'static str, Act)] = &[
        ("gelu_new", Act::GeluTanh),
        ("gelu_pytorch_tanh", Act::GeluTanh),
        ("gelu_fast", Act::GeluTanh),
        ("gelu_tanh", Act::GeluTanh),
        ("gelu", Act::GeluErf),
        ("gelu_erf", Act::GeluErf),
        ("relu", Act::Relu),
        ("silu", Act::Silu),
        ("swish", Act::Silu),
    ];

    /// The activation with this configuration name.
    pub fn by_name(name: &str) -> Option<Act> {
        Act::NAMES.iter().find(|(n, _)| *n == name).map(|&(_, a)| a)
    }

    /// The name that pith writes under `pith.activation`.
    pub const fn name(self) -> &'static str {
        match self {
            Act::GeluTanh => "gelu_tanh",
            Act::GeluErf => "gelu_erf",
            Act::Relu => "relu",
            Act::Silu => "silu",
        }
    }
}

/// Factor on the token embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedScale {
    /// 1.
    One,
    /// sqrt(n_embd) (Gemma).
    SqrtEmbd,
}

/// Factor on q.k. `Hp::AttnScale`, where the file has it, wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreScale {
    /// 1/sqrt(head_dim).
    HeadDim,
    /// 1/sqrt(head_dim), but 1/sqrt(n_embd / n_head) in a model of this many layers: the 27B of
    /// Gemma 2 (46) and 3 (62), whose files by llama.cpp say nothing about the scale.
    HeadDimUnlessLayers(u32),
    /// 1 (GPT-Neo).
    One,
}

/// Which layers attend in the window: a query at position p sees the keys from p - window + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowPattern {
    /// No layer, whatever the keys say.
    None,
    /// Every layer.
    All,
    /// Layers whose number is not `global` modulo `every`: Gemma 2 (every 2, global 1) and Gemma 3
    /// (every 6, global 5) have their global layer last; GPT-Neo (every 2, global 0) has it first.
    AllBut {
        /// Period in layers.
        every: u32,
        /// The one global layer of each period.
        global: u32,
    },
}

/// Norm of q and k; where the rows say that its tensors are optional, a layer without them has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head (Qwen3, Gemma 3, Phi).
    Head,
    /// Over each head, whose weights are a row of its own; in files that have them (StableLM 12B).
    EachHead,
    /// Over the whole projection (OLMo 2, MPT).
    Full,
}

/// A number or flag of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hp {
    /// Longest context that the model was made for.
    NCtx,
    /// Width of the residual stream.
    NEmbd,
    /// Number of blocks.
    NLayer,
    /// Width of the feed-forward network.
    NFf,
    /// Query heads.
    NHead,
    /// Key/value heads.
    NHeadKv,
    /// Width of a query or key head, where it isn't n_embd / n_head.
    HeadDim,
    /// Width of a value head (equal to `HeadDim` in all families so far).
    HeadDimV,
    /// LayerNorm's epsilon.
    LayerNormEps,
    /// RMS norm's epsilon.
    RmsNormEps,
    /// Dimensions of a head that rope turns.
    RopeDim,
    /// Rope's base, theta.
    RopeBase,
    /// Rope's base in window layers, which then have no rope scaling (Gemma 3).
    RopeBaseLocal,
    /// Rope scaling: positions are divided by it; in YaRN those of slow dimensions.
    RopeFactor,
    /// Context before rope was stretched (YaRN, LongRoPE).
    NCtxOrig,
    /// Factor on rope's cosines and sines, beside YaRN's own: 1 + 0.1 ln(`RopeFactor`).
    RopeAttnFactor,
    /// YaRN: dimensions with more turns than this in `NCtxOrig` positions are kept (default 32).
    YarnBetaFast,
    /// YaRN: dimensions with fewer turns than this are slow (default 1).
    YarnBetaSlow,
    /// YaRN: the bounds between such dimensions are not rounded outwards (`truncate: false`).
    YarnExact,
    /// Sliding window in tokens.
    Window,
    /// Cap of attention scores: c * tanh(s / c).
    AttnSoftcap,
    /// Cap of logits.
    LogitSoftcap,
    /// Factor on q.k.
    AttnScale,
    /// Bound on q, k and v after their projection.
    ClampKqv,
    /// Largest ALiBi bias.
    AlibiMax,
    /// GPT-NeoX: attention and feed-forward read the same input.
    ParallelResidual,
    /// OPT-350m: norms come after the joins.
    PostNorm,
    /// Rows of the embedding.
    NVocab,
}

/// Types of a number in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// u32.
    U32,
    /// f32.
    F32,
    /// bool.
    Bool,
}

impl Hp {
    /// GGUF key (behind `<arch>.`, or whole if it begins with `pith.`) and type.
    pub const fn key(self) -> (&'static str, Kind) {
        use Kind::*;
        match self {
            Hp::NCtx => ("context_length", U32),
            Hp::NEmbd => ("embedding_length", U32),
            Hp::NLayer => ("block_count", U32),
            Hp::NFf => ("feed_forward_length", U32),
            Hp::NHead => ("attention.head_count", U32),
            Hp::NHeadKv => ("attention.head_count_kv", U32),
            Hp::HeadDim => ("attention.key_length", U32),
            Hp::HeadDimV => ("attention.value_length", U32),
            Hp::LayerNormEps => ("attention.layer_norm_epsilon", F32),
            Hp::RmsNormEps => ("attention.layer_norm_rms_epsilon", F32),
            Hp::RopeDim => ("rope.dimension_count", U32),
            Hp::RopeBase => ("rope.freq_base", F32),
            Hp::RopeBaseLocal => ("rope.freq_base_swa", F32),
            Hp::RopeFactor => ("rope.scaling.factor", F32),
            Hp::NCtxOrig => ("rope.scaling.original_context_length", U32),
            Hp::RopeAttnFactor => ("rope.scaling.attn_factor", F32),
            Hp::YarnBetaFast => ("rope.scaling.yarn_beta_fast", F32),
            Hp::YarnBetaSlow => ("rope.scaling.yarn_beta_slow", F32),
            Hp::YarnExact => ("pith.rope.yarn_exact", Bool),
            Hp::Window => ("attention.sliding_window", U32),
            Hp::AttnSoftcap => ("attn_logit_softcapping", F32),
            Hp::LogitSoftcap => ("final_logit_softcapping", F32),
            Hp::AttnScale => ("attention.scale", F32),
            Hp::ClampKqv => ("attention.clamp_kqv", F32),
            Hp::AlibiMax => ("attention.max_alibi_bias", F32),
            Hp::ParallelResidual => ("use_parallel_residual", Bool),
            Hp::PostNorm => ("pith.post_norm", Bool),
            Hp::NVocab => ("vocab_size", U32),
        }
    }
}

/// A constant value of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    U32(u32),
    /// A float.
    F32(f32),
    /// A flag.
    Bool(bool),
    /// The value of another number (`NHeadKv` defaults to `NHead`).
    Same(Hp),
    /// Another number times a factor (`NFf` defaults to 4 `NEmbd` in GPT-2).
    Times(Hp, u32),
    /// A fraction of the head width, rounded down (`RopeDim` in GPT-NeoX).
    OfHead(f32),
}

/// One key of `config.json` and what it means. Keys that neither the family's row names nor
/// [`COMMON`] nor [`HARMLESS`] stop the conversion. Two keys that set one number must agree.
#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    /// The key.
    pub name: &'static str,
    /// What it means.
    pub means: Means,
}

/// What a configuration key means. `null` counts as absent everywhere.
#[derive(Clone, Copy, Debug)]
pub enum Means {
    /// The value of this number.
    Set(Hp),
    /// The same for checkpoints of this class; in those of another class it must be absent or the
    /// row's default, as their code would not read it.
    SetInClass(&'static str, Hp),
    /// The value of this number where another key, a flag, is set; else it says nothing (Falcon).
    SetWith(&'static str, Hp),
    /// The reciprocal square root of the value (Gemma's `query_pre_attn_scalar`).
    SetRsqrt(Hp),
    /// A fraction of the head width, rounded down (GPT-NeoX `rotary_pct`).
    SetFractionOfHead(Hp),
    /// The negation of the value: `do_layer_norm_before` sets `PostNorm`.
    SetNot(Hp),
    /// Whether there is one key/value head (`true`) or one for each query head (`false`), where
    /// no key gives their number.
    MultiQuery,
    /// Whether there is ALiBi: where not, `AlibiMax` is 0, whatever its own key says.
    Alibi,
    /// A factor on the scores that no key of llama.cpp has: it goes into the queries' rows.
    Scores(ScoreKey),
    /// Whether the checkpoint has this optional tensor, by its GGUF name: a flag, or a count that is
    /// more than one with it.
    Has(&'static str),
    /// An object whose keys mean what the row says of `object.key`.
    Nested,
    /// The name of the activation.
    Activation,
    /// Whether the head is the embedding. Tensors decide; the key only explains.
    Tied,
    /// `rope_scaling` or `rope_parameters`: `rope_theta` sets `RopeBase`, `partial_rotary_factor`
    /// sets `RopeDim`; `rope_type` (older: `type`) is `default`, `linear` (`factor` sets
    /// `RopeFactor`), `llama3` (its four numbers become the tensor `rope_freqs.weight`), `yarn`
    /// (the numbers above) or `longrope` (older: `su`; its lists become `rope_factors_short.weight`
    /// and `rope_factors_long.weight`); other types stop the conversion. Gemma 3 nests two of
    /// these: `full_attention`, and `sliding_attention`, whose base is `RopeBaseLocal` and whose
    /// type must be `default`.
    RopeScaling,
    /// A list of `full_attention` and `sliding_attention`, of `global` and `local`, or GPT-Neo's
    /// `[[["global", "local"], 12]]`: must agree with the row's [`WindowPattern`], or name no
    /// window layer at all: then `Window` is not written. Where it names one, `Window` must be set.
    LayerTypes,
    /// The period of the pattern: must agree with the row's [`WindowPattern`].
    WindowEvery,
    /// A list of 1 and 0, a layer with rope and one without: must agree with `no_rope_every`.
    RopeLayers,
    /// The special token ids: `bos_token_id`, `eos_token_id`, `pad_token_id`.
    SpecialToken,
    /// Must be this flag, else the model is of a kind that pith doesn't run.
    MustBe(bool),
    /// Must be this number.
    MustBeNumber(f64),
    /// Must be an empty list or object.
    MustBeEmpty,
    /// Must be one of these strings.
    MustBeOneOf(&'static [&'static str]),
    /// Harmless: why.
    Ignored(&'static str),
}

/// What a key says of the factor on the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreKey {
    /// A flag: without it they are not scaled by 1/sqrt(head_dim) (GPT-2's `scale_attn_weights`).
    Scaled,
    /// A flag: layer i divides them by i + 1 (GPT-2's `scale_attn_by_inverse_layer_idx`).
    ByLayer,
    /// The factor itself, instead of 1/sqrt(head_dim) (MPT's `softmax_scale`).
    Factor,
}

/// One source tensor and where it goes. Rows that go to one place are different programs' names
/// for it: a checkpoint has one of them.
#[derive(Clone, Copy, Debug)]
pub struct TensorRow {
    /// Source name behind the family's prefix; `{}` stands for the layer number.
    pub source: &'static str,
    /// GGUF name; `{}` stands for the layer number.
    pub to: &'static str,
    /// What is done on the way.
    pub fold: Fold,
    /// Whether a checkpoint may lack it.
    pub need: Need,
}

/// Whether a checkpoint may lack a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Always there.
    Required,
    /// May be absent (biases, optional norms): in every layer or in none.
    Optional,
    /// There exactly where this other source tensor is.
    Beside(&'static str),
    /// There exactly where `Hp::AlibiMax` is 0: a table of positions (MPT).
    WithoutAlibi,
    /// The output matrix: written only if present and different from the embedding. Absent where
    /// `tie_word_embeddings` is false, it stops the conversion.
    Head,
}

/// What happens to a tensor between checkpoint and GGUF. Shapes are PyTorch's: `[n_out, n_in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Nothing.
    Keep,
    /// `[n_in, n_out]` becomes `[n_out, n_in]` (GPT-2's Conv1D).
    Transpose,
    /// Rows of each query head from half-split to adjacent pairs.
    PermuteQ,
    /// Rows of each key head from half-split to adjacent pairs.
    PermuteK,
    /// Rows `[n_head, 3, head_dim]` become q | k | v (GPT-NeoX, BLOOM); weights and biases.
    SplitHeads,
    /// Rows `[n_kv, n_head / n_kv + 2, head_dim]` become q | k | v (Falcon, GPT-BigCode).
    SplitGroups,
    /// Rows `[n, 3, n_head / n, head_dim]`, in each of the n slices q | v | k, become q | k | v
    /// (CodeGen).
    SplitSlices(u32),
    /// Of rows q | k | v only those of the part that the GGUF name says (Phi's old `Wqkv`).
    OneOfQkv,
    /// The vectors of all heads become the rows of one tensor (StableLM's norms of q and k); `[]` in
    /// the source name stands for a head's number.
    StackHeads,
    /// 1 is added to each value (Gemma's norms).
    AddOne,
    /// The first n rows are dropped (OPT's positions).
    DropRows(u32),
}
