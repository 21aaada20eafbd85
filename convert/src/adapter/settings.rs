//! `adapter_config.json`: every key is consumed, harmless for a stated reason, or stops the
//! conversion. The keys are those of `LoraConfig` and `PeftConfig` in PEFT (huggingface/peft,
//! `src/peft/tuners/lora/config.py`, `src/peft/config.py`; 0.3 to 0.21).

use super::pattern::Pattern;
use pith::{Error, Result};
use pith_models::ClassifierKind;
use serde_json::{Map, Value};

/// More than the widest matrix of these families has rows.
const MAX_RANK: u64 = 1 << 16;
/// The most modules that a dictionary of patterns or a list names.
const MAX_NAMES: usize = 1 << 16;

/// What the next step is where an adapter can't be read.
const MERGE_IN_PEFT: &str =
    "merge it with PEFT (merge_and_unload, save_pretrained) and convert the result";

/// What an adapter's configuration says.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    rank: u64,
    alpha: f64,
    ranks: Vec<(Pattern, String, u64)>,
    alphas: Vec<(Pattern, String, f64)>,
    /// Whether the scale is alpha / sqrt(rank).
    rs: bool,
    /// Whether every module has a magnitude.
    pub dora: bool,
    /// Whether the adapter holds biases: all of the base's, or those of its modules.
    pub biases: bool,
    /// Whether B has a bias too.
    pub lora_bias: bool,
    /// The ends of the names of its modules, where they are given as a list.
    pub targets: Vec<String>,
    /// Whether all layers' modules of those names are adapted.
    pub everywhere: bool,
    /// The ends of the names of modules that it holds whole.
    pub saved: Vec<String>,
    /// Whether PEFT adapts a tied head beside the embedding, though `targets` doesn't say so.
    pub ties: bool,
    /// What it labels, if it was trained as a classifier.
    pub head: Option<ClassifierKind>,
    /// Keys that are ignored on the caller's word.
    pub allowed: Vec<String>,
}

/// What is done with a key.
enum Rule {
    /// Read by [`Settings::read`].
    Consumed,
    /// Changes nothing.
    Harmless,
    /// Must be null, false, empty or absent.
    Off,
}

use Rule::{Consumed, Harmless, Off};

/// Every key, and why it is harmless, or what it would be if it were on.
const KEYS: &[(&str, Rule, &str)] = &[
    ("peft_type", Consumed, ""),
    ("r", Consumed, ""),
    ("lora_alpha", Consumed, ""),
    ("use_rslora", Consumed, ""),
    ("use_dora", Consumed, ""),
    ("rank_pattern", Consumed, ""),
    ("alpha_pattern", Consumed, ""),
    ("bias", Consumed, ""),
    ("lora_bias", Consumed, ""),
    ("modules_to_save", Consumed, ""),
    ("target_modules", Consumed, ""),
    ("exclude_modules", Consumed, ""),
    ("layers_to_transform", Consumed, ""),
    ("init_lora_weights", Consumed, ""),
    ("task_type", Consumed, ""),
    ("ensure_weight_tying", Consumed, ""),
    ("fan_in_fan_out", Harmless, "the module's class decides, in PEFT too"),
    ("layers_pattern", Harmless, "how layers_to_transform finds layers: the tensors decide"),
    ("lora_dropout", Harmless, "training only"),
    ("inference_mode", Harmless, "whether it is to be trained"),
    ("base_model_name_or_path", Harmless, "the caller names the base"),
    ("revision", Harmless, "of the base's name"),
    ("auto_mapping", Harmless, "how PEFT finds the base's class"),
    ("peft_version", Harmless, "who wrote it"),
    ("megatron_core", Harmless, "a module's name, read only beside megatron_config"),
    ("megatron_config", Off, "layers of Megatron"),
    ("loftq_config", Harmless, "how the start was found: init_lora_weights decides"),
    ("eva_config", Harmless, "how the start was found: init_lora_weights decides"),
    ("corda_config", Harmless, "how the start was found: init_lora_weights decides"),
    ("lora_ga_config", Harmless, "how the start was found: init_lora_weights decides"),
    ("qalora_group_size", Harmless, "read only beside use_qalora"),
    ("runtime_config", Harmless, "where PEFT computes"),
    ("velora_config", Harmless, "how gradients are stored in training"),
    ("trainable_token_indices", Off, "rows of the embedding by token"),
    ("alora_invocation_tokens", Off, "an adapter that begins in the middle of a text"),
    ("invocation_string", Off, "an adapter that begins in the middle of a text"),
    ("use_qalora", Off, "QA-LoRA: inputs pooled before A"),
    ("monteclora_config", Off, "samples of weights"),
    ("layer_replication", Off, "a base whose layers are repeated"),
    ("target_parameters", Off, "parameters that are no module's weight"),
    ("use_bdlora", Off, "block-diagonal factors"),
    ("arrow_config", Off, "routing among adapters"),
    ("kasa_config", Off, "KaSA: a base without its least singular values"),
];

impl Settings {
    /// Reads a parsed `adapter_config.json`. Keys in `allow` pass even if unknown.
    pub fn read(json: &Value, allow: &[String]) -> Result<Settings> {
        let json = json
            .as_object()
            .ok_or_else(|| Error::malformed("JSON", "adapter_config.json holds no object"))?;
        // Said first: another kind of adapter has keys of its own, which would hide the reason.
        match json.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(kind) => {
                return Err(Error::Unsupported(format!(
                    "adapter_config.json: the adapter is of the kind {kind:?}, pith reads LORA; \
                     {MERGE_IN_PEFT}"
                )));
            }
            None => return Err(wrong(json, "peft_type", "\"LORA\"")),
        }
        let allowed = check_keys(json, allow)?;
        check_start(json)?;
        let biases = match json.get("bias").and_then(Value::as_str) {
            None if is_off(json, "bias") => false,
            Some("none") => false,
            Some("all" | "lora_only") => true,
            _ => return Err(wrong(json, "bias", "none, all or lora_only")),
        };
        let target = json.get("target_modules");
        Ok(Settings {
            rank: rank(json.get("r")).ok_or_else(|| wrong(json, "r", "a rank from 1 on"))?,
            alpha: alpha(json.get("lora_alpha"))
                .ok_or_else(|| wrong(json, "lora_alpha", "a finite number"))?,
            ranks: patterns(json, "rank_pattern", rank)?,
            alphas: patterns(json, "alpha_pattern", alpha)?,
            rs: flag(json, "use_rslora")?,
            dora: flag(json, "use_dora")?,
            biases,
            lora_bias: flag(json, "lora_bias")?,
            // A text is a pattern or "all-linear": the tensors say what it came to.
            targets: match target {
                Some(Value::String(_)) => Vec::new(),
                _ => names(json, "target_modules")?,
            },
            everywhere: is_off(json, "layers_to_transform") && is_off(json, "exclude_modules"),
            saved: names(json, "modules_to_save")?,
            ties: flag(json, "ensure_weight_tying")?,
            head: head(json)?,
            allowed,
        })
    }

    /// Rank and scale of the module with this name in the base.
    pub fn of(&self, module: &str) -> (u64, f64) {
        let rank = find(&self.ranks, module).map_or(self.rank, |(_, rank)| rank);
        let alpha = find(&self.alphas, module).map_or(self.alpha, |(_, alpha)| alpha);
        let by = if self.rs { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / by)
    }

    /// `lora_alpha`.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The patterns that name none of the modules, which changes nothing in PEFT either.
    pub fn idle<'s>(&'s self, modules: &[&str]) -> Vec<(&'static str, &'s str)> {
        fn idle<'p, T>(patterns: &'p [(Pattern, String, T)], modules: &[&str]) -> Vec<&'p str> {
            let idle = patterns
                .iter()
                .filter(|(pattern, ..)| !modules.iter().any(|module| pattern.matches(module)));
            idle.map(|(_, text, _)| text.as_str()).collect()
        }
        let ranks = idle(&self.ranks, modules).into_iter().map(|text| ("rank_pattern", text));
        let alphas = idle(&self.alphas, modules).into_iter().map(|text| ("alpha_pattern", text));
        ranks.chain(alphas).collect()
    }
}

/// Whether one of the names is the module's, or an end of it behind a dot.
pub(super) fn names_module(names: &[String], module: &str) -> bool {
    names.iter().any(|name| {
        module
            .strip_suffix(name.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// The first pattern that names the module. PEFT writes the dictionary sorted and takes the first
/// too.
fn find<'p, T: Copy>(patterns: &'p [(Pattern, String, T)], module: &str) -> Option<(&'p str, T)> {
    let found = patterns.iter().find(|(pattern, ..)| pattern.matches(module));
    found.map(|(_, text, value)| (text.as_str(), *value))
}

/// Every key is known, and none that must be off is on. Returns those that the caller allows.
fn check_keys(json: &Map<String, Value>, allow: &[String]) -> Result<Vec<String>> {
    let mut allowed = Vec::new();
    let mut unknown = Vec::new();
    for (key, value) in json {
        match KEYS.iter().find(|(known, ..)| known == key) {
            Some((_, Off, what)) if !is_off(json, key) => {
                return Err(Error::Unsupported(format!(
                    "adapter_config.json: `{key}` is {}: {what}; {MERGE_IN_PEFT}, if it can be \
                     merged",
                    shown(value)
                )));
            }
            Some(_) => {}
            None if value.is_null() => {}
            None if allow.contains(key) => allowed.push(key.clone()),
            None => unknown.push(format!("`{key}`: {}", shown(value))),
        }
    }
    if unknown.is_empty() {
        return Ok(allowed);
    }
    Err(Error::Unsupported(format!(
        "adapter_config.json has keys that pith doesn't know: {}. If they don't change what the \
         model computes, pass --allow-unknown KEY for each",
        unknown.join(", ")
    )))
}

/// Starts that leave the base as it is. Others take from the base what they put into A and B: such
/// an adapter belongs to a base that PEFT makes anew each time it loads it.
fn check_start(json: &Map<String, Value>) -> Result<()> {
    match json.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(start))
            if matches!(start.as_str(), "gaussian" | "eva" | "orthogonal" | "mica") =>
        {
            Ok(())
        }
        Some(start) => Err(Error::Unsupported(format!(
            "adapter_config.json: `init_lora_weights` is {}, a start that changes the base's \
             weights; {MERGE_IN_PEFT}, or save the adapter with \
             path_initial_model_for_weight_conversion",
            shown(start)
        ))),
    }
}

/// The head that the adapter was trained with, if it classifies.
fn head(json: &Map<String, Value>) -> Result<Option<ClassifierKind>> {
    match json.get("task_type").unwrap_or(&Value::Null) {
        Value::Null => Ok(None),
        task => match task.as_str() {
            Some("CAUSAL_LM" | "FEATURE_EXTRACTION") => Ok(None),
            Some("SEQ_CLS") => Ok(Some(ClassifierKind::Sequence)),
            Some("TOKEN_CLS") => Ok(Some(ClassifierKind::Token)),
            _ => {
                Err(wrong(json, "task_type", "CAUSAL_LM, SEQ_CLS, TOKEN_CLS or FEATURE_EXTRACTION"))
            }
        },
    }
}

fn is_off(json: &Map<String, Value>, key: &str) -> bool {
    match json.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(items)) => items.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

fn flag(json: &Map<String, Value>, key: &str) -> Result<bool> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(wrong(json, key, "a flag")),
    }
}

fn rank(value: Option<&Value>) -> Option<u64> {
    value?.as_u64().filter(|rank| (1..=MAX_RANK).contains(rank))
}

fn alpha(value: Option<&Value>) -> Option<f64> {
    value?.as_f64().filter(|&alpha| (alpha as f32).is_finite())
}

/// A list of names, one name, or nothing.
fn names(json: &Map<String, Value>, key: &str) -> Result<Vec<String>> {
    let name = |name: &Value| name.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names = match json.get(key) {
        _ if is_off(json, key) => Some(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_NAMES => items.iter().map(name).collect(),
        Some(value) => name(value).map(|name| vec![name]),
        None => None,
    };
    names.ok_or_else(|| wrong(json, key, "a list of names"))
}

fn patterns<T>(
    json: &Map<String, Value>,
    key: &str,
    read: impl Fn(Option<&Value>) -> Option<T>,
) -> Result<Vec<(Pattern, String, T)>> {
    let entries = match json.get(key) {
        _ if is_off(json, key) => return Ok(Vec::new()),
        Some(Value::Object(entries)) if entries.len() <= MAX_NAMES => entries,
        _ => return Err(wrong(json, key, "an object of names")),
    };
    let pattern = |(text, value): (&String, &Value)| {
        let value = read(Some(value)).ok_or_else(|| wrong(json, key, "an object of numbers"))?;
        Ok((Pattern::new(text, key)?, text.clone(), value))
    };
    entries.iter().map(pattern).collect()
}

fn wrong(json: &Map<String, Value>, key: &str, wanted: &str) -> Error {
    let got = json.get(key).map_or_else(|| "absent".into(), shown);
    Error::Unsupported(format!("adapter_config.json: `{key}` must be {wanted}, it is {got}"))
}

fn shown(value: &Value) -> String {
    let mut shown = value.to_string();
    if shown.len() > 100 {
        shown.truncate(shown.floor_char_boundary(100));
        shown.push_str("...");
    }
    shown
}
