//! PEFT adapters: a folder of `adapter_config.json` and `adapter_model.safetensors` (or `.bin`),
//! as `PeftModel.save_pretrained` writes it. It is merged into a checkpoint (`merge`), or becomes
//! a file of its own that a model is run with (`alone`).
//!
//! Names are those of the base's tensors behind `base_model.model.`, with an ending that says what
//! the tensor is (huggingface/peft, `src/peft/utils/save_and_load.py`).

mod alone;
mod changed;
mod merge;
mod pattern;
mod settings;

pub(crate) use alone::jobs;

use crate::{
    config::Config,
    source::{Source, Tensor, read_json},
    types::Target,
};
use pith::{Error, Result};
use pith_models::{Family, HEAD_SOURCES, TensorRow};
use serde_json::Value;
use settings::{Settings, names_module};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What every name begins with.
const PREFIX: &str = "base_model.model.";

/// An adapter's configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Its weight files, in the order in which PEFT looks for them.
const FILES: &[&str] = &["adapter_model.safetensors", "adapter_model.bin"];

/// An open adapter.
pub struct Adapter {
    source: Arc<Source>,
    settings: Settings,
    /// Modules with low-rank changes, by their name in the base.
    modules: BTreeMap<String, Module>,
    /// Tensors that take the place of the base's: the base's name, the adapter's tensor, and
    /// whether PEFT puts it into the base's own parameter, which a tied head shares.
    whole: Vec<(String, String, bool)>,
    /// What is in it and changes nothing, with the reason.
    ignored: Vec<(String, String)>,
}

/// The tensors of a module's low-rank change.
type Slot = fn(&mut Module) -> &mut Option<String>;

/// Endings of their names.
const ENDS: &[(&str, Slot)] = &[
    (".lora_A.weight", |module| &mut module.a),
    (".lora_B.weight", |module| &mut module.b),
    (EMBEDDING_A, |module| &mut module.a),
    (EMBEDDING_B, |module| &mut module.b),
    (".lora_B.bias", |module| &mut module.bias),
    (".lora_magnitude_vector", |module| &mut module.magnitude),
];
const EMBEDDING_A: &str = ".lora_embedding_A";
const EMBEDDING_B: &str = ".lora_embedding_B";

/// A module's low-rank change: names of its tensors.
#[derive(Default)]
struct Module {
    /// `[rank, n_in]`; of an embedding `[rank, n_rows]`.
    a: Option<String>,
    /// `[n_out, rank]`.
    b: Option<String>,
    /// `[n_out]`, added to the module's bias.
    bias: Option<String>,
    /// `[n_out]`: DoRA's lengths.
    magnitude: Option<String>,
}

impl Module {
    /// Whether the factors are those of an embedding.
    fn is_embedding(&self) -> bool {
        self.a.as_ref().is_some_and(|name| name.ends_with(EMBEDDING_A))
    }

    /// Whether both are of one kind.
    fn is_even(&self) -> bool {
        let b = self.b.as_ref().is_some_and(|name| name.ends_with(EMBEDDING_B));
        self.is_embedding() == b
    }
}

/// A module's low-rank change, checked.
struct LowRank<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    rank: usize,
    scale: f64,
}

/// Whether the folder `path` is an adapter's.
pub(crate) fn is_adapter(path: &Path) -> bool {
    path.join(CONFIG).is_file()
}

impl Adapter {
    /// Opens the adapter in the folder `path`. Configuration keys in `allow` pass even if unknown.
    ///
    /// # Errors
    /// Files that are absent or malformed; what pith doesn't read, by its key or its tensor.
    pub fn open(path: &Path, allow: &[String]) -> Result<Adapter> {
        let files: Vec<PathBuf> = FILES.iter().map(|file| path.join(file)).collect();
        let (config, weights) = (path.join(CONFIG), files.iter().find(|file| file.exists()));
        let (true, Some(weights)) = (config.is_file(), weights) else {
            return Err(Error::Invalid(format!(
                "no adapter in {}: it holds {CONFIG} and {}",
                path.display(),
                FILES.join(" or ")
            )));
        };
        Adapter::new(Source::open(weights)?, &read_json(&config)?, allow)
    }

    /// An adapter of a parsed `adapter_config.json` and a weight file that is in memory.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn from_parts(config: &Value, weights: Vec<u8>) -> Result<Adapter> {
        Adapter::new(Source::from_bytes(weights)?, config, &[])
    }

    fn new(source: Source, config: &Value, allow: &[String]) -> Result<Adapter> {
        let settings = Settings::read(config, allow)?;
        if let Some(left) = source.leftovers().first() {
            return Err(Error::Unsupported(format!(
                "the adapter holds `{}`, {}; it should hold tensors only",
                left.name, left.what
            )));
        }
        let mut adapter = Adapter {
            source: Arc::new(Source::default()),
            settings,
            modules: BTreeMap::new(),
            whole: Vec::new(),
            ignored: Vec::new(),
        };
        for Tensor { entry, .. } in source.tensors() {
            adapter.place(&entry.name)?;
        }
        adapter.source = Arc::new(source);
        adapter.check()?;
        Ok(adapter)
    }

    /// Makes a language model's configuration that of the classifier which the adapter was trained as.
    /// PEFT keeps the head's weights alone: labels have names only where the base gives as many.
    ///
    /// # Errors
    /// A classifier without a head; a base whose class has no classifier.
    pub(crate) fn classify(&self, json: &mut Value) -> Result<()> {
        let class = json["architectures"][0].as_str().unwrap_or_default();
        let is_head = pith_models::by_head_class(class, |_| false).is_some();
        let Some(kind) = self.settings.head.filter(|_| !is_head) else { return Ok(()) };
        let names = HEAD_SOURCES.iter().map(|stem| format!("{stem}.weight"));
        let names: Vec<String> = names.collect();
        let saved = self.whole.iter().find(|(name, ..)| names.contains(name));
        let head = saved.and_then(|(_, tensor, _)| self.source.tensor(tensor));
        let class = pith_models::head_class(class, kind).map(|(base, end)| format!("{base}{end}"));
        let (Some(class), Some(&[n_labels, _])) = (class, head.map(|head| &head.entry.shape[..]))
        else {
            return Err(Error::Unsupported(format!(
                "the adapter was trained as a classifier (`task_type`), but holds no {}, or the \
                 base's class has no classifier: {}",
                names.join(" or "),
                json["architectures"]
            )));
        };
        json["architectures"] = serde_json::json!([class]);
        let labels = json["id2label"].as_object();
        if labels.is_none_or(|labels| labels.len() != n_labels)
            && let Some(keys) = json.as_object_mut()
        {
            let named = ["id2label", "label2id", "_num_labels"];
            keys.retain(|key, _| !named.contains(&key.as_str()));
            keys.insert("num_labels".into(), n_labels.into());
        }
        Ok(())
    }

    /// Says of a tensor what it is, by its name.
    fn place(&mut self, tensor: &str) -> Result<()> {
        let unknown = || {
            Error::Unsupported(format!(
                "the adapter's tensor `{tensor}` is none that pith knows: a name is \
                 `{PREFIX}MODULE` with .lora_A.weight, .lora_B.weight, .lora_B.bias, \
                 .lora_embedding_A, .lora_embedding_B, .lora_magnitude_vector, .weight or .bias"
            ))
        };
        let name = tensor.strip_prefix(PREFIX).ok_or_else(unknown)?;
        for (end, slot) in ENDS {
            let Some(module) = name.strip_suffix(end) else { continue };
            let module = self.modules.entry(module.to_owned()).or_default();
            return match slot(module).replace(tensor.to_owned()) {
                None => Ok(()),
                Some(other) => Err(Error::Unsupported(format!(
                    "the adapter holds `{tensor}` beside `{other}`"
                ))),
            };
        }
        let (module, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
        // A module that is adapted lies one step deeper in PEFT's model.
        let (module, inner) = match module.strip_suffix(".base_layer") {
            Some(module) => (module, true),
            None => (module, false),
        };
        let strange = ["lora_", "base_layer", "modules_to_save", "token_adapter"];
        if !matches!(kind, "weight" | "bias") || strange.iter().any(|word| module.contains(word)) {
            return Err(unknown());
        }
        let is_saved = self.settings.saved.iter().any(|saved| is_saved(saved, name));
        if kind == "bias" && !self.settings.biases && !is_saved {
            return Err(Error::Unsupported(format!(
                "the adapter holds `{tensor}`, but adapter_config.json has neither `bias` all or \
                 lora_only nor the module in `modules_to_save`"
            )));
        }
        let shared = inner || !is_saved;
        self.whole.push((format!("{module}.{kind}"), tensor.to_owned(), shared));
        Ok(())
    }

    /// Every module is whole, and what the configuration promises is there.
    fn check(&mut self) -> Result<()> {
        let settings = &self.settings;
        let lacks = |module: &str, what: &str| {
            Err(Error::Invalid(format!("the adapter lacks {what} of `{module}`")))
        };
        for (name, module) in &self.modules {
            match module {
                Module { a: None, .. } => return lacks(name, "lora_A"),
                Module { b: None, .. } => return lacks(name, "lora_B"),
                Module { magnitude: None, .. } if settings.dora => {
                    return lacks(name, "lora_magnitude_vector");
                }
                Module { magnitude: Some(tensor), .. } if !settings.dora => {
                    return Err(Error::Unsupported(format!(
                        "the adapter holds `{tensor}`, but adapter_config.json doesn't say \
                         `use_dora`"
                    )));
                }
                Module { bias: Some(tensor), .. } if !settings.lora_bias => {
                    return Err(Error::Unsupported(format!(
                        "the adapter holds `{tensor}`, but adapter_config.json doesn't say \
                         `lora_bias`"
                    )));
                }
                module if !module.is_even() => {
                    return lacks(name, "one of lora_embedding_A and lora_embedding_B");
                }
                Module { bias: None, .. } if settings.lora_bias && !module.is_embedding() => {
                    return lacks(name, "lora_B.bias");
                }
                _ => {}
            }
            // PEFT would leave the module alone, and the tensors unread.
            if !settings.targets.is_empty()
                && !settings.ties
                && !names_module(&settings.targets, name)
            {
                return Err(Error::Unsupported(format!(
                    "the adapter changes `{name}`, which `target_modules` doesn't name"
                )));
            }
        }
        for saved in &settings.saved {
            let saved_too = |(tensor, ..): &(String, String, bool)| is_saved(saved, tensor);
            if !self.whole.iter().any(saved_too) {
                self.ignored.push((
                    format!("modules_to_save `{saved}`"),
                    "the adapter has no tensor of it".into(),
                ));
            }
        }
        if self.modules.is_empty() && self.whole.is_empty() {
            return Err(Error::Invalid("the adapter holds no tensors".into()));
        }
        let modules: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        for (key, pattern) in settings.idle(&modules) {
            let what = format!("{key} `{pattern}`");
            self.ignored.push((what, "it names no module of the adapter".into()));
        }
        Ok(())
    }

    /// The row and layer of a base's tensor, which the adapter's tensor `by` is for.
    fn row(
        &self,
        family: &'static Family,
        name: &str,
        by: &str,
    ) -> Result<(&'static TensorRow, Option<usize>)> {
        let found = family.source_row(name).map(|(row, il)| (row, il.map(|il| il as usize)));
        found.ok_or_else(|| {
            Error::Unsupported(format!(
                "the adapter's tensor `{by}` is for `{name}`, which {} doesn't have",
                family.title
            ))
        })
    }

    /// A module's change, whose shapes must be those of a matrix `[n_out, n_in]`, and rank that of
    /// the configuration.
    fn low_rank(&self, name: &str, n_out: usize, n_in: usize) -> Result<LowRank<'_>> {
        let module = &self.modules[name];
        let tensor = |name: &Option<String>| {
            let found = name.as_deref().and_then(|name| self.source.tensor(name));
            found.ok_or_else(|| Error::Invalid("the adapter lacks a factor".into()))
        };
        let (a, b) = (tensor(&module.a)?, tensor(&module.b)?);
        let (rank, scale) = self.settings.of(name);
        let rank = rank as usize;
        for (tensor, wanted) in [(a, [rank, n_in]), (b, [n_out, rank])] {
            if tensor.entry.shape != wanted {
                return Err(Error::Unsupported(format!(
                    "the adapter's tensor `{}` has shape {:?}; rank {rank} and the base want \
                     {wanted:?}",
                    tensor.entry.name, tensor.entry.shape
                )));
            }
            self.source.view(tensor)?;
        }
        Ok(LowRank { a, b, rank, scale })
    }

    /// A vector of the adapter, which must be of this length.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.source.tensor(name);
        let tensor = tensor.ok_or_else(|| Error::Invalid(format!("the adapter lacks `{name}`")))?;
        if tensor.entry.shape != [len] {
            return Err(Error::Unsupported(format!(
                "the adapter's tensor `{name}` has shape {:?}, the base wants [{len}]",
                tensor.entry.shape
            )));
        }
        finite(&self.source, tensor)
    }

    /// GGUF names of the tensors that a file of its own holds.
    ///
    /// # Errors
    /// What such a file can't hold, by name; factors of other shapes than the base wants.
    pub fn tensors(&self, config: &Config) -> Result<Vec<String>> {
        let (jobs, _) = jobs(self, config, Target::Source)?;
        Ok(jobs.into_iter().map(|job| job.mapped.name).collect())
    }

    /// Keys that are ignored on the caller's word.
    pub(crate) fn allowed(&self) -> &[String] {
        &self.settings.allowed
    }

    /// What is in it and changes nothing, with the reason.
    pub(crate) fn ignored(&self) -> &[(String, String)] {
        &self.ignored
    }

    /// The base's own matrices, which PEFT writes beside a changed embedding or head: a file of the
    /// adapter alone leaves them out.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &str> {
        let tensors = self.whole.iter().map(|(_, tensor, _)| tensor.as_str());
        tensors.filter(|tensor| is_copy(tensor))
    }

    /// The tensors.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

/// Whether the tensor is the matrix of a changed module itself.
fn is_copy(tensor: &str) -> bool {
    tensor.ends_with(".base_layer.weight")
}

/// Whether the module of a tensor, or one around it, is called `saved`.
fn is_saved(saved: &str, tensor: &str) -> bool {
    format!(".{tensor}").contains(&format!(".{saved}."))
}

/// All values of an adapter's tensor, which must be finite: the product of a bad one with the
/// base's would be told as the base's fault.
fn finite(source: &Source, tensor: &Tensor) -> Result<Vec<f32>> {
    let values = source.values(tensor)?;
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(values),
        Some(value) => Err(Error::Unsupported(format!(
            "the adapter's tensor `{}` holds the value {value}: it is damaged or diverged",
            tensor.entry.name
        ))),
    }
}
