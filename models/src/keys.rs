//! Configuration keys that mean the same in every family: those that `transformers` writes for any
//! model (its `PretrainedConfig`, versions 2 to 5), and notes that other programs leave there.

use crate::{
    ConfigKey,
    Means::{self, *},
};

/// A configuration key and what it means.
pub(crate) const fn key(name: &'static str, means: Means) -> ConfigKey {
    ConfigKey { name, means }
}

/// Keys that mean something in every family. A family's own row wins.
pub const COMMON: &[ConfigKey] = &[
    key("vocab_size", Set(crate::Hp::NVocab)),
    key("tie_word_embeddings", Tied),
    key("bos_token_id", SpecialToken),
    key("eos_token_id", SpecialToken),
    key("pad_token_id", SpecialToken),
    key("is_encoder_decoder", MustBe(false)),
    key("add_cross_attention", MustBe(false)),
    key("cross_attention_hidden_size", MustBeEmpty),
    key("pruned_heads", MustBeEmpty),
];

const NOTE: &str = "a note, not the model";
const NUMERICS: &str = "how a library computes: the same function";
const RETURNS: &str = "what a library returns";
const GENERATION: &str = "a default of text generation, which is the caller's choice";
const TRAINING: &str = "training only";
const TOKENIZER: &str = "the tokenizer's own files say it";
const OTHER_HEAD: &str = "describes a classification head: read where the class has one";

/// Keys that are harmless in every family, each with its reason.
pub const HARMLESS: &[(&str, &str)] = &[
    ("architectures", "chose the family"),
    ("model_type", "the class chose the family"),
    ("torch_dtype", "each tensor carries its own type"),
    ("dtype", "each tensor carries its own type"),
    ("transformers_version", NOTE),
    ("_name_or_path", NOTE),
    ("_commit_hash", NOTE),
    ("transformers.js_config", NOTE),
    ("unsloth_version", NOTE),
    ("unsloth_fixed", NOTE),
    ("use_cache", NUMERICS),
    ("chunk_size_feed_forward", NUMERICS),
    ("torchscript", NUMERICS),
    ("use_bfloat16", NUMERICS),
    ("cache_implementation", NUMERICS),
    ("_attn_implementation", NUMERICS),
    ("_attn_implementation_autoset", NUMERICS),
    ("_attn_implementation_internal", NUMERICS),
    ("_experts_implementation_internal", NUMERICS),
    ("_flash_attn_2_enabled", NUMERICS),
    ("attn_implementation", NUMERICS),
    ("is_decoder", "every family here is a decoder"),
    ("decoder_start_token_id", "encoder-decoder models only"),
    ("tie_encoder_decoder", "encoder-decoder models only"),
    ("output_attentions", RETURNS),
    ("output_hidden_states", RETURNS),
    ("output_past", RETURNS),
    ("output_scores", RETURNS),
    ("return_dict", RETURNS),
    ("return_dict_in_generate", RETURNS),
    ("initializer_range", TRAINING),
    ("gradient_checkpointing", TRAINING),
    ("tf_legacy_loss", TRAINING),
    ("xla_device", TRAINING),
    ("neftune_noise_alpha", TRAINING),
    ("line_by_line", TRAINING),
    ("prefix", "text that one program puts before a prompt"),
    ("task_specific_params", "defaults of one program"),
    ("tokenizer_class", TOKENIZER),
    ("unk_token_id", TOKENIZER),
    ("sep_token_id", TOKENIZER),
    ("cls_token_id", TOKENIZER),
    ("mask_token_id", TOKENIZER),
    ("finetuning_task", OTHER_HEAD),
    ("id2label", OTHER_HEAD),
    ("label2id", OTHER_HEAD),
    ("num_labels", OTHER_HEAD),
    ("_num_labels", OTHER_HEAD),
    ("problem_type", OTHER_HEAD),
    ("classifier_dropout", OTHER_HEAD),
    ("bad_words_ids", GENERATION),
    ("begin_suppress_tokens", GENERATION),
    ("diversity_penalty", GENERATION),
    ("do_sample", GENERATION),
    ("early_stopping", GENERATION),
    ("encoder_no_repeat_ngram_size", GENERATION),
    ("exponential_decay_length_penalty", GENERATION),
    ("forced_bos_token_id", GENERATION),
    ("forced_eos_token_id", GENERATION),
    ("length_penalty", GENERATION),
    ("max_length", GENERATION),
    ("min_length", GENERATION),
    ("no_repeat_ngram_size", GENERATION),
    ("num_beam_groups", GENERATION),
    ("num_beams", GENERATION),
    ("num_return_sequences", GENERATION),
    ("remove_invalid_values", GENERATION),
    ("repetition_penalty", GENERATION),
    ("suppress_tokens", GENERATION),
    ("temperature", GENERATION),
    ("top_k", GENERATION),
    ("top_p", GENERATION),
    ("typical_p", GENERATION),
];
