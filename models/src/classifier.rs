//! Heads that classify: what Hugging Face's `*ForSequenceClassification` and
//! `*ForTokenClassification` have in the place of the output matrix. Their classes follow from those
//! of the language models: a family needs no row of its own for them.

use crate::{FAMILIES, Family, by_config};

/// What a head labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassifierKind {
    /// A whole text, by its last token.
    Sequence,
    /// Each token.
    Token,
}

impl ClassifierKind {
    /// All kinds.
    pub const ALL: [ClassifierKind; 2] = [ClassifierKind::Sequence, ClassifierKind::Token];

    /// What the names of such classes end with.
    const fn class_suffix(self) -> &'static str {
        match self {
            ClassifierKind::Sequence => "ForSequenceClassification",
            ClassifierKind::Token => "ForTokenClassification",
        }
    }

    /// The name under [`KIND_KEY`].
    pub const fn name(self) -> &'static str {
        match self {
            ClassifierKind::Sequence => "sequence",
            ClassifierKind::Token => "token",
        }
    }

    /// The kind with this name.
    pub fn by_name(name: &str) -> Option<ClassifierKind> {
        ClassifierKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// llama.cpp's pooling type (`LLAMA_POOLING_TYPE_*`), under [`POOLING_KEY`]: RANK where a head
    /// gives one answer for a text, NONE where each token keeps its own.
    pub const fn pooling(self) -> u32 {
        match self {
            ClassifierKind::Sequence => 4,
            ClassifierKind::Token => 0,
        }
    }
}

/// What a head's logits mean: `problem_type` of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// They are the values.
    Regression,
    /// One label is right: softmax.
    SingleLabel,
    /// Each label is right or not: sigmoid.
    MultiLabel,
}

impl Problem {
    /// All of them.
    pub const ALL: [Problem; 3] = [Problem::Regression, Problem::SingleLabel, Problem::MultiLabel];

    /// The name in configurations and under [`PROBLEM_KEY`].
    pub const fn name(self) -> &'static str {
        match self {
            Problem::Regression => "regression",
            Problem::SingleLabel => "single_label_classification",
            Problem::MultiLabel => "multi_label_classification",
        }
    }

    /// The problem with this name.
    pub fn by_name(name: &str) -> Option<Problem> {
        Problem::ALL.into_iter().find(|problem| problem.name() == name)
    }

    /// The problem where nothing names it.
    pub const fn of_labels(n: usize) -> Problem {
        if n == 1 { Problem::Regression } else { Problem::SingleLabel }
    }
}

/// Stems of a checkpoint's head, `.weight` and, where there is one, `.bias`. No prefix comes before
/// them.
pub const HEAD_SOURCES: &[&str] = &["score", "classifier"];
/// Stem of the head in GGUF: llama.cpp's name for a product that follows pooling at once (its `cls`
/// is a hidden layer before it).
pub const HEAD_TENSOR: &str = "cls.output";
/// GGUF key of the labels, behind `<arch>.`: llama.cpp's.
pub const LABELS_KEY: &str = "classifier.output_labels";
/// GGUF key of the pooling, behind `<arch>.`: llama.cpp's.
pub const POOLING_KEY: &str = "pooling_type";
/// GGUF key of the [`ClassifierKind`].
pub const KIND_KEY: &str = "pith.classifier.kind";
/// GGUF key of the [`Problem`].
pub const PROBLEM_KEY: &str = "pith.classifier.problem_type";
/// GGUF key of the token that a text's end is found before, where there is one.
pub const PAD_KEY: &str = "pith.classifier.pad_token_id";
/// Most labels.
pub const MAX_LABELS: usize = 1 << 16;

/// Bases of class names that heads have and language models have not, with those that they have.
const BASES: &[(&str, &str)] = &[("Gemma3Text", "Gemma3")];

/// `pad_token_id` of configurations that don't name the key (transformers 5.23), by class base;
/// elsewhere there is none.
const PADS: &[(&str, u32)] = &[
    ("BioGpt", 1),
    ("Gemma", 0),
    ("Gemma2", 0),
    ("Gemma3", 0),
    ("OPT", 1),
    ("Olmo", 1),
    ("Olmo2", 1),
    ("Phi3", 32000),
    ("SmolLM3", 128_004),
];

/// A class that classifies.
#[derive(Clone, Copy, Debug)]
pub struct HeadClass {
    /// Its family.
    pub family: &'static Family,
    /// The class of the language model with the same blocks.
    pub lm_class: &'static str,
    /// What it labels.
    pub kind: ClassifierKind,
    /// `pad_token_id` where the configuration doesn't name it.
    pub pad: Option<u32>,
}

/// The class that classifies with this name; `is_set` as in [`by_config`].
pub fn by_head_class(class: &str, is_set: impl Fn(&str) -> bool) -> Option<HeadClass> {
    let (base, kind) = ClassifierKind::ALL
        .into_iter()
        .find_map(|kind| Some((class.strip_suffix(kind.class_suffix())?, kind)))?;
    let base = BASES.iter().find(|(head, _)| *head == base).map_or(base, |&(_, base)| base);
    let pad = PADS.iter().find(|(of, _)| *of == base).map(|&(_, pad)| pad);
    let mut classes = FAMILIES.iter().flat_map(|family| family.classes);
    let lm_class = *classes.find(|class| lm_base(class) == Some(base))?;
    Some(HeadClass { family: by_config(lm_class, is_set)?, lm_class, kind, pad })
}

/// The class that classifies with the blocks of a language model's class: two parts of its name.
pub fn head_class(lm_class: &str, kind: ClassifierKind) -> Option<(&str, &'static str)> {
    let base = lm_base(lm_class)?;
    let base = BASES.iter().find(|(_, of)| *of == base).map_or(base, |&(head, _)| head);
    Some((base, kind.class_suffix()))
}

/// `GPT2LMHeadModel` is GPT2's, `LlamaForCausalLM` Llama's.
fn lm_base(class: &str) -> Option<&str> {
    ["LMHeadModel", "ForCausalLM", "Model"].iter().find_map(|suffix| class.strip_suffix(suffix))
}
