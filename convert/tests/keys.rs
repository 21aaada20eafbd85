//! Configuration keys and tensor names of other versions and programs, for the families whose
//! checkpoints have several: the same file comes of them, or they stop the conversion by name.
#![allow(missing_docs)]

mod support;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod goldens;

use pith::gguf::Gguf;
use serde_json::{Value, json};
use support::{Checkpoint, Weights, converted};

/// A golden's checkpoint, to be changed.
fn golden(variant: &str) -> Checkpoint {
    let golden = goldens::Checkpoint::open(variant);
    let tensors = golden.tensors.iter().map(|tensor| Weights {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        values: tensor.values(),
    });
    Checkpoint { config: golden.config(), tensors: tensors.collect() }
}

/// A golden with this configuration instead of its own.
fn configured(variant: &str, config: Value) -> Checkpoint {
    Checkpoint { config, ..golden(variant) }
}

/// A golden with some keys changed; `attn_config.x` lies in an object, `null` means absent.
fn changed(variant: &str, keys: &[(&str, Value)]) -> Checkpoint {
    let mut checkpoint = golden(variant);
    for (key, value) in keys {
        let place = match key.split_once('.') {
            Some((object, key)) => &mut checkpoint.config[object][key],
            None => &mut checkpoint.config[key],
        };
        *place = value.clone();
    }
    checkpoint
}

fn file(checkpoint: &Checkpoint) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    converted(folder.path(), "f32")
}

fn tensor(file: &[u8], name: &str) -> Vec<f32> {
    let gguf = Gguf::parse(file).unwrap();
    let tensor = gguf.tensor(name).expect(name);
    let mut values = vec![0.0; tensor.n_in() * tensor.n_rows()];
    tensor.format.decode(tensor.data, &mut values);
    values
}

/// Configurations as they were on the hub before today's keys.
#[test]
fn old_keys_give_the_same_file() {
    let special = json!({"bos_token_id": 257, "eos_token_id": 256});
    let old = [
        // Falcon 7B, 40B and RW of 2023, with their own code.
        (
            "falcon-7b",
            json!({
                "architectures": ["RWForCausalLM"], "model_type": "RefinedWebModel", "alibi": false,
                "apply_residual_connection_post_layernorm": false, "auto_map": {"AutoConfig": "x.Y"},
                "bias": false, "hidden_size": 64, "n_layer": 2, "n_head": 4, "multi_query": true,
                "parallel_attn": true, "layer_norm_epsilon": 1e-5, "vocab_size": 264,
                "max_position_embeddings": 64, "ffn_hidden_size": 96,
            }),
        ),
        (
            "falcon-40b",
            json!({
                "architectures": ["RWForCausalLM"], "model_type": "RefinedWeb", "alibi": false,
                "bias": false, "hidden_size": 64, "n_layer": 2, "n_head": 4, "n_head_kv": 2,
                "layer_norm_epsilon": 1e-5, "vocab_size": 264, "max_position_embeddings": 64,
                "ffn_hidden_size": 96, "rope_theta": 10000.0,
            }),
        ),
        (
            "falcon-rw",
            json!({
                "architectures": ["FalconForCausalLM"], "alibi": true, "bias": true, "n_embed": 96,
                "num_hidden_layers": 2, "num_attention_heads": 6, "multi_query": false,
                "parallel_attn": false, "vocab_size": 264, "max_position_embeddings": 64,
                "ffn_hidden_size": 96,
            }),
        ),
        // mosaicml/mpt-7b, as its own program wrote it.
        (
            "mpt-6-heads",
            json!({
                "architectures": ["MPTForCausalLM"], "d_model": 48, "n_heads": 6, "n_layers": 2,
                "attn_config": {
                    "alibi": true, "alibi_bias_max": 8, "attn_impl": "triton", "attn_pdrop": 0,
                    "attn_type": "multihead_attention", "attn_uses_sequence_id": false,
                    "clip_qkv": 1.5, "prefix_lm": false, "qk_ln": false, "softmax_scale": null,
                    "fused_qkv": true, "rope": false, "rope_theta": 10000, "sliding_window_size": -1,
                },
                "ffn_config": {"ffn_type": "mptmlp", "fc_type": "torch"}, "fc_type": "torch",
                "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4,
                "init_config": {"name": "kaiming_normal_"}, "init_device": "cpu",
                "learned_pos_emb": true, "logit_scale": null, "max_seq_len": 64, "no_bias": true,
                "norm_type": "low_precision_layernorm", "resid_pdrop": 0, "verbose": 0,
                "tokenizer_name": "EleutherAI/gpt-neox-20b", "vocab_size": 264,
            }),
        ),
        // bigcode/starcoder and starcoder2-3b.
        (
            "starcoder",
            json!({
                "architectures": ["GPTBigCodeForCausalLM"], "activation_function": "gelu_pytorch_tanh",
                "attention_softmax_in_fp32": true, "hidden_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4, "max_position_embeddings": 64, "n_inner": 96,
                "inference_runner": 0, "multi_query": true, "pad_key_length": true,
                "pre_allocate_kv_cache": false, "validate_runner_input": true,
                "scale_attn_weights": true, "vocab_size": 264,
            }),
        ),
        (
            "starcoder2",
            json!({
                "architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 64,
                "mlp_type": "default", "norm_epsilon": 1e-5, "norm_type": "layer_norm",
                "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
                "rope_theta": 10000.0, "sliding_window": null, "use_bias": true, "vocab_size": 264,
            }),
        ),
        // microsoft/phi-2.
        (
            "phi",
            json!({
                "architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "hidden_size": 64,
                "intermediate_size": 96, "layer_norm_eps": 1e-5, "max_position_embeddings": 64,
                "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
                "partial_rotary_factor": 0.5, "qk_layernorm": false, "rope_scaling": null,
                "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 264,
            }),
        ),
        // Salesforce/codegen-350M-mono.
        (
            "codegen",
            json!({
                "architectures": ["CodeGenForCausalLM"], "activation_function": "gelu_new",
                "n_ctx": 64, "n_embd": 64, "n_head": 4, "n_inner": 96, "n_layer": 2,
                "n_positions": 64, "rotary_dim": 8, "scale_attn_weights": true,
                "summary_type": "cls_index", "tie_word_embeddings": false, "vocab_size": 264,
            }),
        ),
    ];
    for (variant, mut config) in old {
        let keys = config.as_object_mut().unwrap();
        keys.extend(special.as_object().unwrap().clone());
        assert!(file(&configured(variant, config)) == file(&golden(variant)), "{variant}");
    }
    let cerebras = changed("gpt2-erf-untied", &[("reorder_and_upcast_attn", json!(true))]);
    assert!(file(&cerebras) == file(&golden("gpt2-erf-untied")));
}

#[test]
fn keys_that_change_the_function_stop_by_name() {
    type Case<'a> = (&'a str, &'a [(&'a str, Value)], &'a str);
    let cases: &[Case<'_>] = &[
        ("gpt2-erf-untied", &[("mup_width_scale", json!(0.5))], "`mup_width_scale`"),
        ("gpt2-erf-untied", &[("width_scale", json!(1.0))], "`width_scale`"),
        ("gpt2-erf-untied", &[("mup_embeddings_scale", json!(1.0))], "`mup_embeddings_scale`"),
        ("gpt2-erf-untied", &[("embeddings_scale", json!(1.0))], "`embeddings_scale`"),
        ("gpt2-erf-untied", &[("mup_output_alpha", json!(1.0))], "`mup_output_alpha`"),
        ("gpt2-erf-untied", &[("mup_scale_qk_dot_by_d", json!(true))], "`mup_scale_qk_dot_by_d`"),
        ("gpt2-scores", &[("add_cross_attention", json!(true))], "`add_cross_attention`"),
        ("gpt2-scores", &[("scale_attn_weights", json!(1))], "`scale_attn_weights`"),
        ("starcoder", &[("add_cross_attention", json!(true))], "`add_cross_attention`"),
        ("starcoder", &[("multi_query", json!("yes"))], "`multi_query`"),
        // One group of query heads against a matrix for four.
        (
            "starcoder",
            &[("multi_query", json!(false)), ("num_key_value_heads", json!(null))],
            "`transformer.h.0.attn.c_attn.weight` has shape [96, 64]",
        ),
        ("starcoder2", &[("norm_type", json!("rms_norm"))], "`norm_type`"),
        ("starcoder2", &[("mlp_type", json!("gated"))], "`mlp_type`"),
        ("codegen", &[("scale_attn_weights", json!(false))], "`scale_attn_weights`"),
        ("codegen", &[("n_head", json!(2))], "4 slices of heads, but there are 2"),
        ("falcon-7b", &[("parallel_attn", json!(false))], "`parallel_attn`"),
        (
            "falcon-7b",
            &[("apply_residual_connection_post_layernorm", json!(true))],
            "`apply_residual_connection_post_layernorm`",
        ),
        (
            "falcon-7b",
            &[("new_decoder_architecture", json!(true))],
            "`transformer.h.0.self_attention.query_key_value.weight` has shape [96, 64]",
        ),
        (
            "falcon-7b",
            &[("alibi", json!(true)), ("parallel_attn", json!(false))],
            "`h.0.post_attention_layernorm.weight`",
        ),
        ("falcon-40b", &[("num_ln_in_parallel_attn", json!(1))], "a tensor for blk.0.attn_norm_2"),
        ("falcon-11b", &[("num_ln_in_parallel_attn", json!(2))], "no tensor for blk.0.attn_norm_2"),
        ("falcon-rw", &[("parallel_attn", json!(true))], "`parallel_attn`"),
        ("falcon-rw", &[("new_decoder_architecture", json!(true))], "`new_decoder_architecture`"),
        ("falcon-rw", &[("alibi", json!(false))], "`parallel_attn`"),
        ("mpt", &[("attn_config", json!([]))], "`attn_config` must be an object"),
        ("mpt", &[("attn_config.prefix_lm", json!(true))], "`attn_config.prefix_lm`"),
        ("mpt", &[("attn_config.rope", json!(true))], "`attn_config.rope`"),
        ("mpt", &[("attn_config.qk_gn", json!(true))], "`attn_config.qk_gn`"),
        (
            "mpt-6-heads",
            &[("attn_config.qk_ln", json!(true))],
            "no tensor for blk.0.attn_q_norm.weight",
        ),
        (
            "mpt",
            &[("attn_config.attn_uses_sequence_id", json!(true))],
            "`attn_config.attn_uses_sequence_id`",
        ),
        (
            "mpt",
            &[("attn_config.sliding_window_size", json!(8))],
            "`attn_config.sliding_window_size`",
        ),
        (
            "mpt",
            &[("attn_config.attn_type", json!("multiquery_attention"))],
            "`attn_config.attn_type`",
        ),
        ("mpt", &[("attn_config.kv_n_heads", json!(2))], "unless the class is MPTForCausalLM"),
        ("mpt", &[("attn_config.alibi_bias_max", json!(16))], "unless the class is MPTForCausalLM"),
        ("mpt", &[("attn_config.alibi", json!(false))], "`wpe.weight` (position_embd.weight)"),
        ("mpt", &[("attn_config.clip_qkv", json!(4.0))], "`attn_config.softmax_scale` beside"),
        ("mpt", &[("attn_config.softmax_scale", json!(-1.0))], "`attn_config.softmax_scale`"),
        (
            "mpt",
            &[("attn_config.attn_logit_softcapping", json!(30.0))],
            "`attn_config.attn_logit_softcapping`",
        ),
        ("mpt", &[("expansion_ratio", json!(2))], "`expansion_ratio`"),
        ("mpt", &[("logit_scale", json!("inv_sqrt_d_model"))], "`logit_scale`"),
        ("mpt", &[("norm_type", json!("rmsnorm"))], "`norm_type`"),
        ("mpt", &[("ffn_config", json!({"ffn_type": "mptglu"}))], "`ffn_config.ffn_type`"),
        (
            "mpt",
            &[("ffn_config", json!({"ffn_act_fn": {"name": "silu"}}))],
            "`ffn_config.ffn_act_fn`",
        ),
        ("mpt", &[("residual_modification", json!("layer"))], "`residual_modification`"),
        (
            "mpt-foundry",
            &[("attn_config.qk_ln", json!(false))],
            "a tensor for blk.0.attn_q_norm.weight",
        ),
        (
            "mpt-foundry-positions",
            &[("attn_config.alibi", json!(true))],
            "`transformer.wpe.weight`",
        ),
        ("phi", &[("qk_layernorm", json!(true))], "no tensor for blk.0.attn_q_norm.weight"),
        ("phi", &[("rotary_dim", json!(4))], "rotary"),
        ("phi-qk-norm", &[("qk_layernorm", json!(false))], "a tensor for blk.0.attn_q_norm.weight"),
    ];
    for (variant, keys, wanted) in cases {
        let error = changed(variant, keys).error();
        assert!(error.contains(wanted), "{variant}, {keys:?}: {error}");
    }
}

#[test]
fn tensors_that_belong_together_are_missed() {
    for (variant, lost, wanted) in [
        ("falcon-40b", "transformer.h.1.ln_attn.weight", "`h.1.ln_attn.weight`"),
        ("falcon-40b", "transformer.h.1.ln_mlp.weight", "`h.1.ln_mlp.weight`"),
        ("falcon-11b", "transformer.h.0.input_layernorm.bias", "`h.0.input_layernorm.bias`"),
        ("mpt-foundry", "transformer.blocks.1.attn.k_ln.weight", "`blocks.1.attn.k_ln.weight`"),
        ("mpt-foundry", "transformer.blocks.1.attn.q_ln.weight", "attn.q_ln.weight"),
        (
            "phi-qk-norm",
            "model.layers.0.self_attn.k_layernorm.bias",
            "`layers.0.self_attn.k_layernorm",
        ),
        ("phi", "model.layers.0.self_attn.q_proj.bias", "`layers.0.self_attn.q_proj.bias`"),
    ] {
        let mut checkpoint = golden(variant);
        checkpoint.remove(lost);
        let error = checkpoint.error();
        assert!(error.contains(wanted), "{variant} without {lost}: {error}");
    }
    let mut both = golden("falcon-11b");
    for name in ["ln_attn.weight", "ln_attn.bias"] {
        both.tensors.push(support::weights(&format!("transformer.h.0.{name}"), &[64]));
    }
    assert!(both.error().contains("`transformer.h.0.ln_attn.weight`"));
}

/// Microsoft's own names for Phi, with q, k and v in one matrix.
#[test]
fn phi_under_its_old_names_gives_the_same_file() {
    let new = changed("phi", &[("num_key_value_heads", json!(2))]);
    let mut old = new.clone();
    old.config = json!({
        "architectures": ["PhiForCausalLM"], "model_type": "phi-msft", "n_positions": 64,
        "n_embd": 64, "n_layer": 2, "n_head": 4, "n_head_kv": 2, "n_inner": 96, "rotary_dim": 8,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "flash_attn": false,
        "flash_rotary": false, "fused_dense": false, "img_processor": null, "vocab_size": 264,
        "tie_word_embeddings": false, "bos_token_id": 257, "eos_token_id": 256,
    });
    for il in 0..2 {
        for leaf in ["weight", "bias"] {
            let mut fused = Weights { name: String::new(), shape: vec![0], values: Vec::new() };
            for part in ["q", "k", "v"] {
                let name = format!("model.layers.{il}.self_attn.{part}_proj.{leaf}");
                let part = old.tensor(&name).clone();
                fused.shape = [&[fused.shape[0] + part.shape[0]], &part.shape[1..]].concat();
                fused.values.extend(part.values);
                old.remove(&name);
            }
            fused.name = format!("transformer.h.{il}.mixer.Wqkv.{leaf}");
            old.tensors.push(fused);
        }
    }
    for tensor in &mut old.tensors {
        for (new, old) in [
            ("model.layers.", "transformer.h."),
            ("self_attn.dense", "mixer.out_proj"),
            ("input_layernorm", "ln"),
            ("model.embed_tokens", "transformer.embd.wte"),
            ("lm_head.", "lm_head.linear."),
            ("model.final_layernorm", "lm_head.ln"),
        ] {
            tensor.name = tensor.name.replace(new, old);
        }
    }
    assert!(file(&old) == file(&new));
    old.remove("transformer.h.1.mixer.Wqkv.bias");
    assert!(old.error().contains("`h.1.mixer.Wqkv.bias`"));
}

/// Layer i divides by i + 1, and the scale that is left out comes back as a factor: in the queries'
/// rows and nowhere else.
#[test]
fn factors_of_the_scores_go_into_the_queries() {
    let with = file(&golden("gpt2-scores"));
    let plain = file(&changed(
        "gpt2-scores",
        &[("scale_attn_weights", json!(true)), ("scale_attn_by_inverse_layer_idx", json!(false))],
    ));
    for il in 0..3 {
        for (name, n_in) in [("attn_qkv.weight", 64), ("attn_qkv.bias", 1)] {
            let name = format!("blk.{il}.{name}");
            let (with, plain) = (tensor(&with, &name), tensor(&plain, &name));
            let (q, kv) = plain.split_at(64 * n_in);
            let factor = (4.0 / (il + 1) as f64) as f32; // heads of 16
            let wanted: Vec<f32> = q.iter().map(|q| q * factor).chain(kv.iter().copied()).collect();
            assert_eq!(with, wanted, "{name}");
        }
    }
}

/// Slice s of four holds the heads 2 s and 2 s + 1, as q, then v, then k.
#[test]
fn codegen_slices_are_taken_apart() {
    let mut checkpoint = golden("codegen-8-heads");
    let name = "transformer.h.1.attn.qkv_proj.weight";
    let source = checkpoint.tensor(name).values.clone();
    let got = tensor(&file(&checkpoint), "blk.1.attn_qkv.weight");
    for (part, place) in [(0, 0), (1, 2), (2, 1)] {
        for row in 0..64 {
            let (slice, within) = (row / 16, row % 16);
            let old = (slice * 3 + place) * 16 + within;
            assert_eq!(got[(part * 64 + row) * 64..][..64], source[old * 64..][..64]);
        }
    }
}
