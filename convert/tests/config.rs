//! Configurations of models that people bring, with the numbers that come of them; and those whose
//! keys and tensors disagree.
#![allow(missing_docs)]

use std::{fs, ops::ControlFlow, path::Path};

use pith_convert::config::{
    Config,
    Number::{self, F32, U32},
};
use pith_models::Hp::{self, *};
use serde_json::{Value, json};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

/// What all of them have, as versions 4 of transformers wrote it.
fn config(class: &str, rest: Value) -> Value {
    let mut config = json!({
        "architectures": [class], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true,
    });
    let config_map = config.as_object_mut().unwrap();
    config_map.extend(rest.as_object().unwrap().clone());
    config_map.retain(|_, value| *value != json!("absent"));
    config
}

/// Layers, width, feed-forward width, heads, key/value heads, context.
fn sizes(n: [u32; 6], rest: Value) -> Value {
    let mut sizes = json!({
        "num_hidden_layers": n[0], "hidden_size": n[1], "intermediate_size": n[2],
        "num_attention_heads": n[3], "num_key_value_heads": n[4], "max_position_embeddings": n[5],
    });
    sizes.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    sizes
}

fn check(class: &str, json: Value, wanted: &[(Hp, Number)], absent: &[Hp]) {
    let read = Config::read(&config(class, json), &[]).unwrap_or_else(|e| panic!("{class}: {e}"));
    for (hp, wanted) in wanted {
        assert_eq!(read.get(*hp), Some(*wanted), "{class}: {hp:?}");
    }
    for hp in absent {
        assert_eq!(read.get(*hp), None, "{class}: {hp:?}");
    }
}

#[test]
fn llama_and_mistral() {
    // meta-llama/Llama-3.2-1B-Instruct; 3.1 differs in the factor, and isn't tied.
    let llama = |factor: f32, tied: bool| {
        json!({
            "attention_bias": false, "mlp_bias": false, "head_dim": 64, "pretraining_tp": 1,
            "eos_token_id": [128_001, 128_008, 128_009], "rope_theta": 500_000.0,
            "rope_scaling": {
                "factor": factor, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "tie_word_embeddings": tied, "vocab_size": 128_256,
        })
    };
    for (factor, tied) in [(32.0, true), (8.0, false)] {
        let json = sizes([16, 2048, 8192, 32, 8, 131_072], llama(factor, tied));
        let wanted = [(HeadDim, U32(64)), (RopeBase, F32(5e5)), (NCtx, U32(131_072))];
        check("LlamaForCausalLM", json, &wanted, &[RopeFactor, RopeAttnFactor, Window]);
    }
    // mistralai/Mistral-7B-v0.1, v0.3 and Nemo, whose heads are narrower than width / heads.
    for (window, wanted, absent) in [
        (json!(4096), vec![(Window, U32(4096))], vec![HeadDim]),
        (json!(null), vec![], vec![HeadDim, Window]),
    ] {
        let json = json!({"sliding_window": window, "rope_theta": 10_000.0});
        let json = sizes([32, 4096, 14_336, 32, 8, 32_768], json);
        check("MistralForCausalLM", json, &wanted, &absent);
    }
    let nemo = json!({"sliding_window": null, "rope_theta": 1e6, "head_dim": 128});
    let nemo = sizes([40, 5120, 14_336, 32, 8, 131_072], nemo);
    check("MistralForCausalLM", nemo, &[(HeadDim, U32(128)), (RopeDim, U32(128))], &[Window]);
}

#[test]
fn qwen_with_yarn() {
    // As the model cards of Qwen2.5-7B-Instruct and Qwen3-8B say.
    for (class, key, head_dim, n_ctx) in [
        ("Qwen2ForCausalLM", "type", json!("absent"), 32_768),
        ("Qwen3ForCausalLM", "rope_type", json!(128), 40_960),
    ] {
        let json = json!({
            "head_dim": head_dim, "max_window_layers": 28, "rope_theta": 1e6,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32_768, key: "yarn"},
            "sliding_window": 131_072, "use_sliding_window": false, "tie_word_embeddings": false,
        });
        let json = sizes([28, 3584, 18_944, 28, 4, n_ctx], json);
        let wanted = [(RopeFactor, F32(4.0)), (NCtxOrig, U32(32_768)), (NCtx, U32(131_072))];
        check(class, json, &wanted, &[RopeAttnFactor, YarnBetaFast, YarnExact, Window]);
    }
}

#[test]
fn gemma_3_text() {
    // The text part of google/gemma-3-4b-it, saved as a class of its own.
    let json = json!({
        "attention_bias": false, "attn_logit_softcapping": null, "cache_implementation": "hybrid",
        "final_logit_softcapping": null, "head_dim": 256, "hidden_act": "absent",
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_local_base_freq": 10_000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1e6,
        "sliding_window": 1024, "sliding_window_pattern": 6, "vocab_size": 262_208,
    });
    let json = sizes([34, 2560, 10_240, 8, 4, 131_072], json);
    let wanted = [
        (AttnScale, F32(0.0625)),
        (RopeFactor, F32(8.0)),
        (RopeBase, F32(1e6)),
        (RopeBaseLocal, F32(1e4)),
        (Window, U32(1024)),
    ];
    check("Gemma3ForCausalLM", json, &wanted, &[AttnSoftcap, LogitSoftcap]);
}

#[test]
fn phi_3_and_4() {
    let phi = |rest: Value| {
        let mut json = json!({
            "attention_bias": false, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
            "embd_pdrop": 0.0, "resid_pdrop": 0.0, "original_max_position_embeddings": 4096,
            "rope_theta": 10_000.0, "pad_token_id": 2,
        });
        json.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json
    };
    // microsoft/Phi-3-mini-4k-instruct
    let json = phi(json!({"rope_scaling": null, "sliding_window": 2047}));
    let json = sizes([32, 3072, 8192, 32, 32, 4096], json);
    let wanted = [(Window, U32(2047)), (RopeDim, U32(96)), (NCtxOrig, U32(4096))];
    check("Phi3ForCausalLM", json, &wanted, &[RopeFactor, RopeAttnFactor]);
    // Phi-3-mini-128k-instruct: sqrt(1 + ln 32 / ln 4096).
    let factors = vec![1.5; 48];
    for kind in ["su", "longrope"] {
        let json = phi(json!({
            "rope_scaling": {"type": kind, "short_factor": factors, "long_factor": factors},
            "sliding_window": 262_144,
        }));
        let json = sizes([32, 3072, 8192, 32, 32, 131_072], json);
        let wanted = [(RopeAttnFactor, F32((17f64 / 12.0).sqrt() as f32)), (NCtx, U32(131_072))];
        check("Phi3ForCausalLM", json, &wanted, &[RopeFactor]);
    }
    // Phi-4-mini-instruct turns three quarters of a head.
    let json = phi(json!({
        "rope_scaling": {"type": "longrope", "short_factor": factors, "long_factor": factors},
        "partial_rotary_factor": 0.75, "sliding_window": 262_144, "tie_word_embeddings": true,
        "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "mlp_bias": false,
    }));
    let json = sizes([32, 3072, 8192, 24, 8, 131_072], json);
    check("Phi3ForCausalLM", json, &[(RopeDim, U32(96))], &[HeadDim]);
    // microsoft/phi-4
    let json = phi(json!({"rope_scaling": null, "sliding_window": null, "rope_theta": 250_000}));
    let json = sizes([40, 5120, 17_920, 40, 10, 16_384], json);
    check("Phi3ForCausalLM", json, &[(RopeBase, F32(250_000.0))], &[Window]);
}

#[test]
fn smollm3_and_olmo() {
    let ropes: Vec<u32> = (1..=36).map(|il| u32::from(il % 4 != 0)).collect();
    let json = json!({
        "attention_bias": false, "layer_types": vec!["full_attention"; 36], "mlp_bias": false,
        "max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": ropes,
        "pretraining_tp": 2, "rope_scaling": null, "rope_theta": 5e6, "sliding_window": null,
        "use_sliding_window": false,
    });
    let json = sizes([36, 2048, 11_008, 16, 4, 65_536], json);
    check("SmolLM3ForCausalLM", json, &[(RopeBase, F32(5e6)), (NHeadKv, U32(4))], &[Window]);
    // allenai/OLMo-7B-0424-hf and OLMo-2-1124-7B
    let json = json!({
        "attention_bias": false, "clip_qkv": 8.0, "pretraining_tp": 1, "rope_scaling": null,
        "rope_theta": 10_000.0, "rms_norm_eps": "absent",
    });
    let json = sizes([32, 4096, 11_008, 32, 32, 4096], json);
    check("OlmoForCausalLM", json, &[(ClampKqv, F32(8.0)), (LayerNormEps, F32(1e-5))], &[]);
    let json = json!({"attention_bias": false, "rope_scaling": null, "rope_theta": 500_000});
    let json = sizes([32, 4096, 11_008, 32, 32, 4096], json);
    check("Olmo2ForCausalLM", json, &[(RopeBase, F32(5e5))], &[Window, RopeBaseLocal]);
    // allenai/Olmo-3-7B-Instruct: what YaRN gives by itself is written out.
    let kinds = |il: u32| if il % 4 == 3 { "full_attention" } else { "sliding_attention" };
    let json = json!({
        "attention_bias": false, "layer_types": (0..32).map(kinds).collect::<Vec<_>>(),
        "rope_scaling": {
            "attention_factor": 1.207_944_154_167_983_6, "beta_fast": 32.0, "beta_slow": 1.0,
            "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn",
        },
        "rope_theta": 500_000, "sliding_window": 4096,
    });
    let json = sizes([32, 4096, 11_008, 32, 32, 65_536], json);
    let wanted = [(Window, U32(4096)), (RopeBaseLocal, F32(5e5)), (RopeFactor, F32(8.0))];
    check("Olmo3ForCausalLM", json, &wanted, &[RopeAttnFactor, YarnBetaFast, YarnBetaSlow]);
}

#[test]
fn stablelm() {
    // stabilityai/stablelm-2-12b, and stablelm-3b-4e1t as it came at first.
    let json = json!({
        "hidden_dropout": 0.0, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25,
        "qk_layernorm": true, "rms_norm_eps": "absent", "rope_scaling": null, "rope_theta": 10_000,
        "use_parallel_residual": true, "use_qkv_bias": false,
    });
    let json = sizes([40, 5120, 13_824, 32, 8, 4096], json);
    let wanted = [(RopeDim, U32(40)), (ParallelResidual, Number::Bool(true))];
    check("StableLmForCausalLM", json, &wanted, &[]);
    let json = json!({
        "norm_eps": 1e-5, "rope_pct": 0.25, "rms_norm_eps": "absent", "rope_theta": 10_000,
        "rotary_scaling_factor": 1.0, "attention_dropout": "absent",
    });
    let json = sizes([32, 2560, 6912, 32, 32, 4096], json);
    let wanted = [(RopeDim, U32(20)), (ParallelResidual, Number::Bool(false))];
    check("StableLMEpochForCausalLM", json, &wanted, &[]);
}

/// The error of a golden's checkpoint after `edit`.
fn error(variant: &str, edit: impl Fn(&mut Value, &mut Checkpoint)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::open(variant);
    let mut config = checkpoint.config();
    edit(&mut config, &mut checkpoint);
    checkpoint.write(folder.path(), Layout::PLAIN);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let out = folder.path().join("out.gguf");
    let options = pith_convert::Options::default();
    let result =
        pith_convert::convert(folder.path(), &out, &options, &mut |_| ControlFlow::Continue(()));
    assert!(!out.exists());
    result.expect_err(variant).to_string()
}

#[test]
fn keys_against_the_familys_structure_stop_by_name() {
    for (variant, key, value, wanted) in [
        ("smollm3", "no_rope_layers", json!([1, 1, 0, 1]), "layer 2 must have rope"),
        ("smollm3", "no_rope_layers", json!([1, 1, 1, 1]), "layer 3 must not have rope"),
        ("smollm3", "no_rope_layers", json!([1, 1, 1]), "layer 3"),
        ("smollm3", "no_rope_layers", json!([1, 2, 1, 0]), "no_rope_layers"),
        ("smollm3", "no_rope_layers", json!(true), "no_rope_layers"),
        ("smollm3", "no_rope_layer_interval", json!(3), "no_rope_layer_interval"),
        ("smollm3", "use_sliding_window", json!(true), "use_sliding_window"),
        ("olmo", "clip_qkv", json!("8"), "clip_qkv"),
        ("olmo2", "sliding_window", json!(4096), "sliding_window"),
        ("olmo3", "sliding_window", json!(null), "windows without their size"),
        ("olmo3", "layer_types", json!(["full_attention"]), "kinds for 1 layers"),
        ("phi3", "lm_head_bias", json!(true), "lm_head_bias"),
        ("phi3", "full_attn_mod", json!(2), "full_attn_mod"),
        ("stablelm", "rotary_scaling_factor", json!(2.0), "rotary_scaling_factor"),
        ("stablelm", "use_parallel_residual", json!(true), "post_attention_layernorm"),
        ("stablelm-parallel", "use_parallel_residual", json!(false), "ffn_norm"),
    ] {
        let error = error(variant, |config, _| config[key] = value.clone());
        assert!(error.contains(wanted), "{variant} {key}: {error}");
    }
}

#[test]
fn the_norms_of_heads_are_whole_or_stop_by_name() {
    let norm = "model.layers.1.self_attn.q_layernorm.norms.2.weight";
    let parallel = |edit: &dyn Fn(&mut Checkpoint)| error("stablelm-parallel", |_, c| edit(c));
    let lost = parallel(&|c| c.tensors.retain(|tensor| tensor.name != norm));
    assert!(lost.contains("self_attn.q_layernorm.norms.2.weight"), "{lost}");
    let one_layer = parallel(&|c| c.tensors.retain(|t| !t.name.contains("layers.1.self_attn.k_l")));
    assert!(one_layer.contains("layers.1.self_attn.k_layernorm"), "{one_layer}");
    let all_keys = parallel(&|c| c.tensors.retain(|t| !t.name.contains("k_layernorm")));
    assert!(all_keys.contains("attn_k_norm"), "{all_keys}");
    let more = parallel(&|c| {
        let mut tensor = c.tensors.iter().find(|tensor| tensor.name == norm).unwrap().clone();
        tensor.name = tensor.name.replace("norms.2", "norms.4");
        c.tensors.push(tensor);
    });
    assert!(more.contains("q_layernorm.norms.4.weight"), "{more}");
    let wide = parallel(&|c| {
        c.tensors.iter_mut().find(|tensor| tensor.name == norm).unwrap().shape = vec![32];
    });
    assert!(wide.contains(norm) && wide.contains("[32]"), "{wide}");
}

/// gemma3 as `Gemma3ForConditionalGeneration` saves it, by version 5 or by version 4.5x, with a part
/// of its vision tower.
fn with_images(folder: &Path, prefix: &str, head: &str, tower: &str) -> Value {
    let mut checkpoint = Checkpoint::open("gemma3");
    let spare = checkpoint.tensors[0].clone();
    for tensor in &mut checkpoint.tensors {
        let name = &tensor.name;
        tensor.name = match name.strip_prefix("model.") {
            Some(rest) => format!("{prefix}{rest}"),
            None => format!("{head}{name}"),
        };
    }
    for part in
        ["vision_tower.post_layernorm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"]
    {
        let mut tensor = spare.clone();
        tensor.name = format!("{tower}{part}");
        checkpoint.tensors.push(tensor);
    }
    checkpoint.write(folder, Layout::PLAIN);
    let mut text = checkpoint.config();
    let text = text.as_object_mut().unwrap();
    text.remove("architectures");
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255_999,
        "eoi_token_index": 256_000, "image_token_index": 262_144, "initializer_range": 0.02,
        "mm_tokens_per_image": 4, "model_type": "gemma3", "text_config": text,
        "tie_word_embeddings": true, "vision_config": {"hidden_size": 32},
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    config
}

#[test]
fn the_text_model_of_a_checkpoint_with_images_is_converted_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    Checkpoint::open("gemma3").write(&plain, Layout::PLAIN);
    let convert = |from: &Path, text_only| {
        let out = folder.path().join("out.gguf");
        let name = Some("test".into());
        let options = pith_convert::Options { text_only, name, ..Default::default() };
        pith_convert::convert(from, &out, &options, &mut |_| ControlFlow::Continue(()))
            .map(|report| (fs::read(&out).unwrap(), report))
            .map_err(|error| error.to_string())
    };
    let (wanted, _) = convert(&plain, false).unwrap();
    assert!(convert(&plain, true).unwrap_err().contains("--text-only"));
    for (i, (prefix, head, tower)) in
        [("language_model.model.", "language_model.", ""), ("model.language_model.", "", "model.")]
            .into_iter()
            .enumerate()
    {
        let images = folder.path().join(format!("images-{i}"));
        fs::create_dir(&images).unwrap();
        let config = with_images(&images, prefix, head, tower);
        assert!(convert(&images, false).unwrap_err().contains("--text-only"));
        let (file, report) = convert(&images, true).unwrap();
        assert!(file == wanted, "{prefix}");
        let dropped = report.ignored.iter().filter(|(_, why)| why.contains("as you asked"));
        assert_eq!(dropped.count(), 2);
        for (key, value, wanted) in [
            ("text_config", json!(null), "text_config"),
            ("audio_config", json!({}), "audio_config"),
        ] {
            let mut config = config.clone();
            config[key] = value;
            fs::write(images.join("config.json"), config.to_string()).unwrap();
            let error = convert(&images, true).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
