//! `params.json`: the fields of `ModelArgs` in Meta's `model.py` that were given, made Hugging Face's
//! `config.json` as transformers' `convert_llama_weights_to_hf.py` does.

use pith::{Error, Result};
use serde_json::{Map, Value, json};

/// Bound on every size, so that products of two fit.
const MAX_SIZE: u64 = 1 << 24;
/// `apply_scaling` in `model.py`.
const N_CTX_ORIG: u32 = 8192;

/// A parsed `params.json`.
pub(super) struct Params {
    /// Where it was read, for errors.
    pub place: &'static str,
    /// Width of the residual stream.
    pub dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    n_vocab: Option<usize>,
    multiple_of: usize,
    ffn_dim_multiplier: Option<f64>,
    norm_eps: f64,
    rope_theta: f64,
    use_scaled_rope: bool,
    n_ctx: Option<usize>,
}

impl Params {
    /// Takes every key of `json`, which `place` names.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for unknown keys and wrong values.
    pub fn read(json: &Value, place: &'static str) -> Result<Params> {
        let object = json.get("model").unwrap_or(json).as_object();
        let object = object.ok_or_else(|| Error::Unsupported(format!("{place} is no object")))?;
        let mut keys = Keys { place, keys: object.clone() };
        keys.keys.retain(|_, value| !value.is_null());
        let n_heads = keys.require("n_heads")?;
        let params = Params {
            place,
            dim: keys.require("dim")?,
            n_layers: keys.require("n_layers")?,
            n_heads,
            n_kv_heads: keys.size("n_kv_heads")?.unwrap_or(n_heads),
            n_vocab: keys.vocab()?,
            multiple_of: keys.size("multiple_of")?.unwrap_or(256),
            ffn_dim_multiplier: keys.number("ffn_dim_multiplier")?,
            norm_eps: keys.number("norm_eps")?.unwrap_or(1e-5),
            rope_theta: keys.number("rope_theta")?.unwrap_or(10_000.0),
            use_scaled_rope: keys.flag("use_scaled_rope")?,
            n_ctx: keys.size("max_seq_len")?,
        };
        for harmless in ["max_batch_size", "dropout"] {
            keys.keys.remove(harmless);
        }
        if let Some((key, value)) = keys.keys.iter().next() {
            return Err(Error::Unsupported(format!(
                "{place}: `{key}`: {value}, which a Llama of text doesn't have; convert the Hugging \
                 Face version of the model"
            )));
        }
        if !params.n_heads.is_multiple_of(params.n_kv_heads)
            || !params.dim.is_multiple_of(params.n_heads)
        {
            return Err(Error::Invalid(format!(
                "{place}: dim {}, n_heads {n_heads} and n_kv_heads {} don't fit together",
                params.dim, params.n_kv_heads
            )));
        }
        Ok(params)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    /// Rows of q.
    pub fn n_q(&self) -> usize {
        self.dim
    }

    /// Rows of k.
    pub fn n_kv(&self) -> usize {
        self.n_kv_heads * self.head_dim()
    }

    /// Rows of w1 by `FeedForward` in `model.py`.
    fn n_ff(&self) -> usize {
        let hidden = 2 * (4 * self.dim) / 3;
        let hidden = match self.ffn_dim_multiplier {
            Some(factor) => (factor * hidden as f64) as usize,
            None => hidden,
        };
        hidden.div_ceil(self.multiple_of).saturating_mul(self.multiple_of)
    }

    /// The configuration in Hugging Face's words, for tensors of these sizes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the tensors contradict it; [`Error::Invalid`] where the context's
    /// length can't be told.
    pub fn config(&self, n_vocab: usize, n_ff: usize) -> Result<Value> {
        if n_ff != self.n_ff() {
            return Err(Error::Unsupported(format!(
                "`layers.0.feed_forward.w1.weight` has {n_ff} rows, {} gives {}: is a \
                 consolidated.NN.pth missing?",
                self.place,
                self.n_ff()
            )));
        }
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim(),
            "intermediate_size": n_ff,
            "vocab_size": self.n_vocab.unwrap_or(n_vocab),
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.n_ctx()?,
        });
        if self.use_scaled_rope {
            // The code has 8, which is wrong for the two sizes of Llama 3.2: llama-models issue 241.
            let factor = if matches!(self.dim, 2048 | 3072) { 32.0 } else { 8.0 };
            config["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": N_CTX_ORIG,
            });
        }
        Ok(config)
    }

    /// The context's length, which Meta's files leave to the program; told by what changed with it.
    fn n_ctx(&self) -> Result<usize> {
        if let Some(n_ctx) = self.n_ctx {
            return Ok(n_ctx);
        }
        let theta = self.rope_theta;
        Ok(match () {
            () if self.use_scaled_rope => 131_072, // Llama 3.1 and later
            () if theta == 500_000.0 => N_CTX_ORIG as usize, // Llama 3
            () if theta == 1_000_000.0 => 16_384,  // Code Llama
            () if theta == 10_000.0 && self.norm_eps == 1e-5 => 4096, // Llama 2
            () if theta == 10_000.0 => 2048,       // Llama 1
            () => {
                return Err(Error::Invalid(format!(
                    "{} has rope_theta {theta}, as no model of Meta's does; add \"max_seq_len\" to it",
                    self.place
                )));
            }
        })
    }
}

/// Keys that are still to be taken.
struct Keys {
    place: &'static str,
    keys: Map<String, Value>,
}

impl Keys {
    fn wrong(&self, key: &str, wanted: &str, got: &Value) -> Error {
        Error::Unsupported(format!("{}: `{key}` must be {wanted}, it is {got}", self.place))
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.keys.remove(key) else {
            return Ok(None);
        };
        match value.as_u64().filter(|size| (1..=MAX_SIZE).contains(size)) {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.wrong(key, "a whole number up to 2^24", &value)),
        }
    }

    fn require(&mut self, key: &str) -> Result<usize> {
        let size = self.size(key)?;
        size.ok_or_else(|| Error::Invalid(format!("{} doesn't give `{key}`", self.place)))
    }

    /// `vocab_size`, for which -1 says that it is the tokenizer's.
    fn vocab(&mut self) -> Result<Option<usize>> {
        if self.keys.get("vocab_size").and_then(Value::as_i64) == Some(-1) {
            self.keys.remove("vocab_size");
        }
        self.size("vocab_size")
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.keys.remove(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| number.is_finite() && *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "a positive number", &value)),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool> {
        match self.keys.remove(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "a flag", &value)),
        }
    }
}
