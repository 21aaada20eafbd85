//! The text model of a checkpoint that sees images too, where the caller asks for it alone.

use pith::{Error, Result};
use serde_json::{Value, json};

/// A class whose text model is one of ours.
struct Composite {
    class: &'static str,
    /// The class of the text model.
    text: &'static str,
    /// Keys of the configuration that belong to the other parts.
    keys: &'static [&'static str],
    /// Prefixes of the other parts' tensors.
    tensors: &'static [&'static str],
    /// What `transformers` has for numbers that `text_config` leaves out, as files on the hub do.
    defaults: &'static [(&'static str, u32)],
}

const COMPOSITES: &[Composite] = &[Composite {
    class: "Gemma3ForConditionalGeneration",
    text: "Gemma3ForCausalLM",
    keys: &[
        "vision_config",
        "mm_tokens_per_image",
        "boi_token_index",
        "boi_token_id",
        "eoi_token_index",
        "eoi_token_id",
        "image_token_index",
        "image_token_id",
    ],
    tensors: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
    defaults: &[
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", 131_072),
        ("query_pre_attn_scalar", 256),
        ("sliding_window", 4096),
    ],
}];

/// The configuration of the text model, and the prefixes of the tensors that aren't its. Keys beside
/// `text_config` that belong to no other part are taken over where it lacks them.
///
/// # Errors
/// [`Error::Invalid`]: the class has no other parts; [`Error::Unsupported`]: no `text_config`.
pub(crate) fn only(mut json: Value) -> Result<(Value, &'static [&'static str])> {
    let class = json["architectures"][0].as_str().unwrap_or_default();
    let composite = COMPOSITES.iter().find(|composite| composite.class == class);
    let composite = composite.ok_or_else(|| {
        let known: Vec<_> = COMPOSITES.iter().map(|composite| composite.class).collect();
        Error::Invalid(format!(
            "only {} has a text model beside others, this is `{class}`: leave --text-only out",
            known.join(", ")
        ))
    })?;
    let mut text = match json["text_config"].take() {
        Value::Object(text) => text,
        other => {
            return Err(Error::Unsupported(format!(
                "config.json: `text_config` must be an object, it is {other}"
            )));
        }
    };
    text.insert("architectures".into(), json!([composite.text]));
    for (key, value) in json.as_object().into_iter().flatten() {
        if !composite.keys.contains(&key.as_str()) && !text.contains_key(key) {
            text.insert(key.clone(), value.clone());
        }
    }
    text.remove("text_config");
    for (key, value) in composite.defaults {
        text.entry(*key).or_insert(json!(value));
    }
    Ok((Value::Object(text), composite.tensors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Number};
    use pith_models::Hp::{self, *};

    /// google/gemma-3-4b-it leaves out what its class has as defaults.
    #[test]
    fn what_text_config_leaves_out_is_the_classes_default() {
        let json = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255_999,
            "eoi_token_index": 256_000, "eos_token_id": [1, 106], "image_token_index": 262_144,
            "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
        });
        let (text, others) = only(json).unwrap();
        let config = Config::read(&text, &[]).unwrap();
        let wanted: [(Hp, Number); 11] = [
            (NCtx, Number::U32(131_072)),
            (NEmbd, Number::U32(2560)),
            (NLayer, Number::U32(34)),
            (NHead, Number::U32(8)),
            (NHeadKv, Number::U32(4)),
            (HeadDim, Number::U32(256)),
            (AttnScale, Number::F32(0.0625)),
            (Window, Number::U32(1024)),
            (RopeBase, Number::F32(1e6)),
            (RopeBaseLocal, Number::F32(1e4)),
            (RopeFactor, Number::F32(8.0)),
        ];
        for (hp, wanted) in wanted {
            assert_eq!(config.get(hp), Some(wanted), "{hp:?}");
        }
        assert_eq!(config.special, [("eos_token_id", vec![1, 106])]);
        assert!(others.contains(&"vision_tower."));
    }

    #[test]
    fn anything_else_is_refused() {
        for json in [json!(null), json!([]), json!({}), json!({"architectures": "x"})] {
            assert!(only(json).unwrap_err().to_string().contains("--text-only"));
        }
    }
}
