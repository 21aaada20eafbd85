//! Every row is consistent with itself, with the schema and with the names that llama.cpp knows.

use pith_models::*;
use std::collections::HashSet;

/// Tensor names of llama.cpp (`LLM_TENSOR_NAMES`) that our families use, and pith's own two for
/// OPT-350m's projections.
const GGUF_STEMS: &[&str] = &[
    "token_embd",
    "token_embd_norm",
    "position_embd",
    "output_norm",
    "output",
    "blk.{}.attn_norm",
    "blk.{}.attn_norm_2",
    "blk.{}.attn_qkv",
    "blk.{}.attn_q",
    "blk.{}.attn_k",
    "blk.{}.attn_v",
    "blk.{}.attn_q_norm",
    "blk.{}.attn_k_norm",
    "blk.{}.attn_output",
    "blk.{}.post_attention_norm",
    "blk.{}.ffn_norm",
    "blk.{}.ffn_gate",
    "blk.{}.ffn_up",
    "blk.{}.ffn_down",
    "blk.{}.post_ffw_norm",
    "project_in",
    "project_out",
];

fn assert_unique<'a>(what: &str, names: impl IntoIterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    for name in names {
        assert!(seen.insert(name), "{what}: {name} is there twice");
    }
}

/// The numbers that a configuration key can set.
fn sets(means: Means) -> Vec<Hp> {
    match means {
        Means::Set(hp)
        | Means::SetInClass(_, hp)
        | Means::SetWith(_, hp)
        | Means::SetRsqrt(hp)
        | Means::SetFractionOfHead(hp)
        | Means::SetNot(hp) => vec![hp],
        Means::RopeScaling => vec![Hp::RopeBase],
        _ => vec![],
    }
}

fn given(family: &Family, hp: Hp) -> bool {
    family.default(hp).is_some()
        || family.config.iter().chain(COMMON).any(|k| sets(k.means).contains(&hp))
}

#[test]
fn families_are_told_apart() {
    assert_unique("arch", FAMILIES.iter().map(|f| f.arch));
    let refused = REFUSED.iter().map(|(class, _)| *class);
    let flag = |arch| BY_FLAG.iter().find(|(_, f)| f.arch == arch).map(|&(flag, _)| flag);
    let plain = FAMILIES.iter().filter(|f| flag(f.arch).is_none());
    assert_unique("class", plain.flat_map(|f| f.classes).copied().chain(refused));
    for family in FAMILIES {
        assert_eq!(by_arch(family.arch).unwrap().arch, family.arch);
        for class in family.classes {
            let found = by_config(class, |key| Some(key) == flag(family.arch)).unwrap();
            assert_eq!(found.arch, family.arch);
            assert!(flag(family.arch).is_none() == (by_class(class).unwrap().arch == family.arch));
        }
    }
    assert!(by_arch("bert").is_none() && by_class("BertModel").is_none());
}

#[test]
fn every_family_has_its_classifiers() {
    for family in FAMILIES {
        let flag = |name: &str| BY_FLAG.iter().any(|(f, by)| (*f, by.arch) == (name, family.arch));
        let arch =
            |class: &str| by_head_class(class, flag).map(|head| (head.family.arch, head.kind));
        let bases = family.classes.iter().filter_map(|class| {
            class.strip_suffix("ForCausalLM").or(class.strip_suffix("LMHeadModel"))
        });
        for base in bases {
            let wanted = |kind| Some((family.arch, kind));
            let sequence = arch(&format!("{base}ForSequenceClassification"));
            assert!(sequence == wanted(ClassifierKind::Sequence), "{base}: {sequence:?}");
            let token = arch(&format!("{base}ForTokenClassification"));
            assert!(token == wanted(ClassifierKind::Token), "{base}: {token:?}");
        }
    }
    let by_head_class = |class: &str| by_head_class(class, |_| false);
    let text = by_head_class("Gemma3TextForSequenceClassification").unwrap();
    assert_eq!((text.family.arch, text.lm_class), ("gemma3", "Gemma3ForCausalLM"));
    assert_eq!(by_head_class("OPTForSequenceClassification").unwrap().pad, Some(1));
    assert_eq!(by_head_class("LlamaForSequenceClassification").unwrap().pad, None);
    assert!(by_class("GPT2ForSequenceClassification").is_none());
    for other in ["BertForSequenceClassification", "ForTokenClassification", "GPT2LMHeadModel"] {
        assert!(by_head_class(other).is_none(), "{other}");
    }
}

#[test]
fn tensors_go_to_names_that_exist() {
    for family in FAMILIES {
        let whole = family.tensors.iter().filter(|r| r.fold != Fold::OneOfQkv);
        assert_unique(family.arch, whole.map(|r| r.source));
        // Names of different programs for one tensor lie side by side, so that files are equal.
        let mut places: Vec<_> = family.tensors.iter().map(|r| (r.to, r.need)).collect();
        places.dedup();
        assert_unique(family.arch, places.into_iter().map(|(to, _)| to));
        for row in family.tensors {
            let (stem, leaf) = row.to.rsplit_once('.').unwrap();
            assert!(GGUF_STEMS.contains(&stem), "{}: {}", family.arch, row.to);
            assert_eq!(row.source.rsplit_once('.').unwrap().1, leaf, "{}: {}", family.arch, row.to);
            let heads = row.source.matches("[]").count();
            assert_eq!(heads, usize::from(row.fold == Fold::StackHeads), "{}", row.source);
            let layers = (row.source.matches("{}").count(), row.to.matches("{}").count());
            assert!(layers == (0, 0) || layers == (1, 1), "{}: {}", family.arch, row.source);
            assert_eq!(row.need == Need::Head, row.to == "output.weight", "{}", family.arch);
        }
        for (source, why) in family.ignored {
            assert!(!why.is_empty());
            assert!(family.tensors.iter().all(|r| r.source != *source), "{source}");
        }
    }
}

#[test]
fn only_stock_names_in_stock_families() {
    for family in FAMILIES.iter().filter(|f| f.stock) {
        for row in family.tensors {
            assert!(!row.to.starts_with("project_"), "{}: {}", family.arch, row.to);
        }
        for (hp, _) in family.defaults {
            assert!(!hp.key().0.starts_with("pith."), "{}: {hp:?}", family.arch);
        }
    }
}

#[test]
fn the_planner_finds_every_number() {
    for family in FAMILIES {
        let mut needed =
            vec![Hp::NCtx, Hp::NEmbd, Hp::NLayer, Hp::NFf, Hp::NHead, Hp::NHeadKv, Hp::NVocab];
        needed.push(match family.block.norm {
            Norm::Layer => Hp::LayerNormEps,
            Norm::Rms => Hp::RmsNormEps,
        });
        match family.block.position {
            Position::Rope(_) => needed.push(Hp::RopeBase),
            Position::Alibi | Position::AlibiThenScale => needed.push(Hp::AlibiMax),
            Position::Learned | Position::None => {}
        }
        match family.block.join {
            Join::ByKey => needed.push(Hp::ParallelResidual),
            Join::PostByKey => needed.push(Hp::PostNorm),
            Join::ByNorm => needed.push(Hp::ParallelResidual),
            _ => {}
        }
        if family.block.window != WindowPattern::None {
            needed.push(Hp::Window);
        }
        for hp in needed {
            assert!(given(family, hp), "{}: nothing gives {hp:?}", family.arch);
        }
        for (hp, value) in family.defaults {
            if let Value::Same(of) | Value::Times(of, _) = value {
                assert!(given(family, *of), "{}: {hp:?} rests on {of:?}", family.arch);
            }
        }
    }
}

#[test]
fn every_tensor_of_a_block_has_a_home() {
    for family in FAMILIES {
        let has = |name: &str| family.gguf_row(name).is_some();
        let weight = |stem: &str| has(&format!("blk.0.{stem}.weight"));
        let f = family.arch;
        assert!(has("token_embd.weight") && has("output.weight"), "{f}");
        // OLMo's norms have no weights.
        let norms = has("output_norm.weight");
        let after = family.block.join == Join::After;
        assert!(norms || family.block.norm == Norm::Layer, "{f}");
        assert_eq!(weight("attn_norm"), norms && !after, "{f}");
        assert!(weight("attn_qkv") != (weight("attn_q") && weight("attn_k") && weight("attn_v")));
        assert!(weight("attn_output") && weight("ffn_up") && weight("ffn_down"), "{f}");
        assert_eq!(weight("ffn_gate"), family.block.ffn == Ffn::Gated, "{f}");
        let parallel = family.block.join == Join::Parallel;
        assert_eq!(weight("ffn_norm"), norms && !after && !parallel, "{f}");
        let behind = after || family.block.join == Join::Sandwich;
        assert_eq!(weight("post_attention_norm"), behind, "{f}");
        assert_eq!(weight("post_ffw_norm"), behind, "{f}");
        assert_eq!(weight("attn_q_norm"), family.block.qk_norm != QkNorm::None, "{f}");
        let table = family.tensors.iter().find(|r| r.to == "position_embd.weight");
        match (family.block.position, table.map(|r| r.need)) {
            (Position::Learned, Some(Need::Required)) => {}
            (Position::Alibi, None | Some(Need::WithoutAlibi)) => {}
            (position, table) => {
                assert!(position != Position::Learned && table.is_none(), "{f}: {table:?}");
            }
        }
    }
}

#[test]
fn keys_mean_one_thing() {
    assert_unique("HARMLESS", HARMLESS.iter().map(|(k, _)| *k));
    for family in FAMILIES {
        let common = COMMON.iter().map(|k| k.name).chain(HARMLESS.iter().map(|(k, _)| *k));
        assert_unique(family.arch, family.config.iter().map(|k| k.name).chain(common));
        let nested = |k: &&ConfigKey| k.name.contains('.');
        for key in family.config.iter().filter(nested) {
            let (object, _) = key.name.split_once('.').unwrap();
            assert!(matches!(family.means(object), Some(Means::Nested)), "{}", key.name);
        }
        assert!(family.means("quantization_config").is_none());
        for key in ["mup_width_scale", "width_scale", "embeddings_scale", "mup_embeddings_scale"] {
            assert!(family.means(key).is_none(), "{}: {key}", family.arch);
        }
    }
}

#[test]
fn names_with_layers() {
    assert_eq!(match_layer("a.{}.b", "a.17.b"), Some(Some(17)));
    assert_eq!(match_layer("a.{}.b", "a.0.b"), Some(Some(0)));
    assert_eq!(match_layer("a.b", "a.b"), Some(None));
    for bad in ["a..b", "a.+1.b", "a.01.b", "a.1.2.b", "a.99999999999.b", "a.x.b", "a.1.c", "a.b"] {
        assert_eq!(match_layer("a.{}.b", bad), None, "{bad}");
    }
    let (row, layer) = GPT2.source_row("transformer.h.3.ln_1.bias").unwrap();
    assert_eq!((row.to, layer), ("blk.{}.attn_norm.bias", Some(3)));
    assert_eq!(GPT2.source_row("h.3.ln_1.bias").unwrap().1, Some(3));
    assert!(GPT2.source_row("h.3.attn.bias").is_none() && GPT2.ignores("h.3.attn.bias").is_some());
    let (row, layer) =
        STABLELM.source_row("model.layers.7.self_attn.q_layernorm.norms.31.weight").unwrap();
    assert_eq!((row.to, layer), ("blk.{}.attn_q_norm.weight", Some(7)));
    for bad in
        ["norms..weight", "norms.01.weight", "norms.x.weight", "norms.1.bias", "norms1.weight"]
    {
        assert!(STABLELM.source_row(&format!("layers.7.self_attn.q_layernorm.{bad}")).is_none());
    }
    assert_eq!(LLAMA.gguf_row("blk.2.attn_q.weight").unwrap().0.fold, Fold::PermuteQ);
}

/// Keys of well-known files on the Hugging Face hub, so that strictness doesn't refuse them.
/// tests/goldens has whole files of version 5.
const HUB: &[(&str, &str)] = &[
    // PretrainedConfig().to_dict() of version 4.46
    (
        "LlamaForCausalLM",
        "_attn_implementation_autoset _name_or_path add_cross_attention architectures \
         bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward \
         cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample \
         early_stopping encoder_no_repeat_ngram_size eos_token_id \
         exponential_decay_length_penalty finetuning_task forced_bos_token_id \
         forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty \
         max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams \
         num_return_sequences output_attentions output_hidden_states output_scores pad_token_id \
         prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict \
         return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature \
         tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p \
         torch_dtype torchscript transformers_version typical_p use_bfloat16",
    ),
    // openai-community/gpt2
    (
        "GPT2LMHeadModel",
        "activation_function architectures attn_pdrop bos_token_id embd_pdrop eos_token_id \
         initializer_range layer_norm_epsilon model_type n_ctx n_embd n_head n_layer n_positions \
         resid_pdrop summary_activation summary_first_dropout summary_proj_to_labels summary_type \
         summary_use_proj task_specific_params vocab_size",
    ),
    // rugpt3 and other files of version 2
    (
        "GPT2LMHeadModel",
        "finetuning_task id2label is_decoder label2id n_special num_labels output_attentions \
         output_hidden_states output_past predict_special_tokens pruned_heads torchscript \
         use_bfloat16 hidden_size gradient_checkpointing n_inner scale_attn_weights \
         reorder_and_upcast_attn scale_attn_by_inverse_layer_idx torch_dtype use_cache",
    ),
    // distilbert/distilgpt2
    ("GPT2LMHeadModel", "_num_labels id2label label2id task_specific_params"),
    // EleutherAI/gpt-neo-125m
    (
        "GPTNeoForCausalLM",
        "activation_function attention_dropout attention_layers attention_types embed_dropout \
         gradient_checkpointing hidden_size intermediate_size layer_norm_epsilon \
         max_position_embeddings num_heads num_layers resid_dropout summary_activation \
         summary_first_dropout summary_proj_to_labels summary_type summary_use_proj vocab_size \
         window_size classifier_dropout",
    ),
    // EleutherAI/gpt-j-6b
    (
        "GPTJForCausalLM",
        "activation_function attn_pdrop embd_pdrop gradient_checkpointing initializer_range \
         layer_norm_epsilon n_embd n_head n_inner n_layer n_positions resid_pdrop rotary \
         rotary_dim scale_attn_weights summary_activation summary_first_dropout \
         summary_proj_to_labels summary_type summary_use_proj task_specific_params \
         tie_word_embeddings tokenizer_class use_cache vocab_size",
    ),
    // EleutherAI/gpt-neox-20b, EleutherAI/pythia-70m, and version 4.46's own
    (
        "GPTNeoXForCausalLM",
        "attention_probs_dropout_prob hidden_act hidden_dropout_prob hidden_size \
         intermediate_size layer_norm_eps max_position_embeddings num_attention_heads \
         num_hidden_layers rotary_emb_base rotary_pct tie_word_embeddings use_cache \
         use_parallel_residual vocab_size partial_rotary_factor rope_theta rope_scaling \
         attention_bias attention_dropout hidden_dropout classifier_dropout",
    ),
    // facebook/opt-350m and opt-13b
    (
        "OPTForCausalLM",
        "_remove_final_layer_norm activation_dropout activation_function attention_dropout \
         bos_token_id do_layer_norm_before dropout eos_token_id ffn_dim hidden_size init_std \
         layerdrop max_position_embeddings num_attention_heads num_hidden_layers \
         output_projection pad_token_id prefix torch_dtype use_cache vocab_size \
         word_embed_proj_dim enable_bias layer_norm_elementwise_affine",
    ),
    // bigscience/bloom-560m
    (
        "BloomForCausalLM",
        "apply_residual_connection_post_layernorm attention_dropout attention_softmax_in_fp32 \
         bias_dropout_fusion hidden_dropout hidden_size initializer_range layer_norm_epsilon \
         masked_softmax_fusion n_embed n_head n_inner n_layer num_attention_heads offset_alibi \
         pad_token_id pretraining_tp seq_length skip_bias_add skip_bias_add_qkv slow_but_exact \
         unk_token_id use_cache vocab_size",
    ),
    // Salesforce/codegen-350M-mono
    (
        "CodeGenForCausalLM",
        "_name_or_path activation_function attn_pdrop embd_pdrop gradient_checkpointing \
         initializer_range layer_norm_epsilon n_ctx n_embd n_head n_inner n_layer n_positions \
         resid_pdrop rotary_dim scale_attn_weights summary_activation summary_first_dropout \
         summary_proj_to_labels summary_type summary_use_proj task_specific_params \
         tie_word_embeddings tokenizer_class use_cache vocab_size",
    ),
    // tiiuae/falcon-7b, falcon-40b and falcon-11B
    (
        "FalconForCausalLM",
        "activation alibi apply_residual_connection_post_layernorm attention_dropout auto_map bias \
         ff_factor ffn_hidden_size hidden_dropout hidden_size initializer_range \
         layer_norm_epsilon max_position_embeddings multi_query n_head n_head_kv n_layer \
         new_decoder_architecture num_attention_heads num_hidden_layers num_kv_heads \
         num_ln_in_parallel_attn parallel_attn rope_scaling rope_theta tie_word_embeddings",
    ),
    // mosaicml/mpt-7b, and llm-foundry's defaults of later versions
    (
        "MPTForCausalLM",
        "attn_config attn_config.alibi attn_config.alibi_bias_max attn_config.attn_impl \
         attn_config.attn_pdrop attn_config.attn_type attn_config.attn_uses_sequence_id \
         attn_config.clip_qkv attn_config.fused_qkv attn_config.prefix_lm attn_config.qk_gn \
         attn_config.qk_ln attn_config.rope attn_config.rope_dail_config \
         attn_config.rope_hf_config attn_config.rope_impl attn_config.rope_theta \
         attn_config.sliding_window_size attn_config.softmax_scale auto_map d_model emb_pdrop \
         embedding_fraction expansion_ratio fc_type ffn_config ffn_config.ffn_type init_config \
         init_device learned_pos_emb logit_scale max_seq_len n_heads n_layers no_bias norm_type \
         resid_pdrop tokenizer_name use_pad_tok_in_ffn verbose",
    ),
    // bigcode/starcoder and gpt_bigcode-santacoder
    (
        "GPTBigCodeForCausalLM",
        "activation_function attention_softmax_in_fp32 attn_pdrop embd_pdrop inference_runner \
         initializer_range layer_norm_epsilon max_batch_size max_sequence_length multi_query \
         n_embd n_head n_inner n_layer n_positions pad_key_length pre_allocate_kv_cache \
         resid_pdrop scale_attention_softmax_in_fp32 scale_attn_weights summary_activation \
         summary_first_dropout summary_proj_to_labels summary_type summary_use_proj \
         validate_runner_input",
    ),
    // bigcode/starcoder2-3b
    (
        "Starcoder2ForCausalLM",
        "attention_dropout embedding_dropout hidden_act hidden_size initializer_range \
         intermediate_size max_position_embeddings mlp_type norm_epsilon norm_type \
         num_attention_heads num_hidden_layers num_key_value_heads residual_dropout rope_theta \
         sliding_window use_bias",
    ),
    // microsoft/phi-2, today's and its first one
    (
        "PhiForCausalLM",
        "attention_dropout embd_pdrop hidden_act hidden_size initializer_range intermediate_size \
         layer_norm_eps max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads partial_rotary_factor qk_layernorm resid_pdrop rope_scaling \
         rope_theta activation_function attn_pdrop auto_map flash_attn flash_rotary fused_dense \
         layer_norm_epsilon n_embd n_head n_head_kv n_inner n_layer n_positions rotary_dim",
    ),
    // HuggingFaceTB/SmolLM2-135M
    (
        "LlamaForCausalLM",
        "attention_bias attention_dropout head_dim hidden_act hidden_size initializer_range \
         intermediate_size is_llama_config max_position_embeddings mlp_bias num_attention_heads \
         num_hidden_layers num_key_value_heads pretraining_tp rms_norm_eps rope_interleaved \
         rope_scaling rope_theta tie_word_embeddings transformers.js_config vocab_size",
    ),
    // mistralai/Mistral-7B-v0.1
    (
        "MistralForCausalLM",
        "attention_dropout hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_theta \
         sliding_window tie_word_embeddings vocab_size head_dim",
    ),
    // Qwen/Qwen2.5-0.5B, Qwen/Qwen3-0.6B
    (
        "Qwen2ForCausalLM",
        "attention_dropout hidden_act max_window_layers rope_scaling rope_theta sliding_window \
         use_mrope use_sliding_window",
    ),
    (
        "Qwen3ForCausalLM",
        "attention_bias attention_dropout head_dim hidden_act max_window_layers rope_scaling \
         rope_theta sliding_window use_sliding_window",
    ),
    // google/gemma-2b, google/gemma-2-2b, google/gemma-3-270m
    (
        "GemmaForCausalLM",
        "attention_bias attention_dropout head_dim hidden_act hidden_activation hidden_size \
         num_key_value_heads rms_norm_eps rope_scaling rope_theta",
    ),
    (
        "Gemma2ForCausalLM",
        "attn_logit_softcapping cache_implementation final_logit_softcapping head_dim hidden_act \
         hidden_activation query_pre_attn_scalar rope_theta sliding_window sliding_window_size",
    ),
    (
        "Gemma3ForCausalLM",
        "_sliding_window_pattern attn_logit_softcapping cache_implementation \
         final_logit_softcapping head_dim hidden_activation layer_types query_pre_attn_scalar \
         rope_local_base_freq rope_scaling rope_theta sliding_window sliding_window_pattern \
         use_bidirectional_attention",
    ),
    // microsoft/Phi-3-mini-128k-instruct, microsoft/phi-4, microsoft/Phi-4-mini-instruct
    (
        "Phi3ForCausalLM",
        "attention_bias attention_dropout auto_map bos_token_id embd_pdrop eos_token_id \
         full_attn_mod hidden_act hidden_size initializer_range intermediate_size \
         interpolate_factor lm_head_bias max_position_embeddings mlp_bias num_attention_heads \
         num_hidden_layers num_key_value_heads original_max_position_embeddings pad_token_id \
         partial_rotary_factor resid_pdrop rms_norm_eps rope_scaling rope_theta sliding_window \
         tie_word_embeddings vocab_size",
    ),
    // HuggingFaceTB/SmolLM3-3B
    (
        "SmolLM3ForCausalLM",
        "attention_bias attention_dropout hidden_act layer_types max_window_layers mlp_bias \
         no_rope_layer_interval no_rope_layers pretraining_tp rms_norm_eps rope_scaling rope_theta \
         sliding_window use_sliding_window",
    ),
    // stabilityai/stablelm-3b-4e1t, stablelm-2-1_6b and stablelm-2-12b
    (
        "StableLmForCausalLM",
        "attention_dropout hidden_act hidden_dropout layer_norm_eps num_key_value_heads \
         partial_rotary_factor qk_layernorm rope_scaling rope_theta use_parallel_residual \
         use_qkv_bias",
    ),
    (
        "StableLMEpochForCausalLM",
        "auto_map norm_eps rope_pct rope_theta rotary_scaling_factor use_qkv_bias",
    ),
    // allenai/OLMo-1B-hf, allenai/OLMo-2-1124-7B, allenai/Olmo-3-7B-Instruct
    (
        "OlmoForCausalLM",
        "attention_bias attention_dropout clip_qkv hidden_act num_key_value_heads pretraining_tp \
         rope_scaling rope_theta",
    ),
    ("Olmo2ForCausalLM", "attention_bias attention_dropout hidden_act rms_norm_eps rope_theta"),
    ("Olmo3ForCausalLM", "layer_types rope_scaling rope_theta rms_norm_eps sliding_window"),
];

#[test]
fn hub_files_are_understood() {
    for (class, keys) in HUB {
        let family = by_class(class).unwrap();
        for key in keys.split_whitespace() {
            assert!(family.means(key).is_some(), "{class}: {key}");
        }
    }
}
