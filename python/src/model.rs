//! The class `Model`: what Python calls.

use std::{path::PathBuf, sync::Arc};

use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};
use runtime::{
    Error, Lora, batch,
    cache::Type,
    lora::Adapter,
    sampler,
    session::{self, Options},
    tokenizer::Encode,
};

use crate::{
    classify,
    error::{OrRaise, invalid},
    generate::{Generation, Prompt, Settings, random_seed},
    score::{Score, Texts},
    sessions::Sessions,
    vectors,
};

// Python shows what it can read of a signature: a number, but no constant of Rust's.
const _: () = assert!(batch::N_SEQ == 16, "Model.load's n_seq");

/// More threads than any machine that pith runs on has cores.
const MOST_THREADS: usize = 4096;

/// A model from one GGUF file. It never changes, and threads may share it.
#[pyclass(frozen, module = "pith")]
pub struct Model {
    model: Arc<runtime::Model>,
    sessions: Arc<Sessions>,
    path: PathBuf,
}

/// What a model is.
#[pyclass(frozen, module = "pith", get_all)]
pub struct Info {
    /// The family's name in GGUF files: "llama".
    family: &'static str,
    /// Longest context that the model was made for, in tokens.
    n_ctx: usize,
    /// Tokens of the vocabulary.
    n_vocab: usize,
    /// Width of hidden states and embeddings.
    n_embd: usize,
    /// Blocks.
    n_layer: usize,
    /// Labels of the classification head; None for a language model.
    labels: Option<Vec<String>>,
    /// Bytes of the file, which is mapped.
    file_bytes: usize,
}

/// Memory of a session in bytes; the file's weights are mapped, and not counted.
#[pyclass(frozen, module = "pith", get_all)]
pub struct Memory {
    /// Keys and values of the context.
    kv: u64,
    /// Buffers of a step.
    buffers: u64,
    /// All threads' scratch.
    scratch: u64,
    /// The sum.
    total: u64,
}

#[pymethods]
impl Info {
    fn __repr__(&self) -> String {
        let Info { family, n_ctx, n_vocab, n_embd, n_layer, file_bytes, .. } = self;
        format!(
            "Info(family='{family}', n_ctx={n_ctx}, n_vocab={n_vocab}, n_embd={n_embd}, \
             n_layer={n_layer}, file_bytes={file_bytes})"
        )
    }
}

#[pymethods]
impl Memory {
    fn __repr__(&self) -> String {
        let Memory { kv, buffers, scratch, total } = self;
        format!("Memory(kv={kv}, buffers={buffers}, scratch={scratch}, total={total})")
    }
}

#[pymethods]
impl Model {
    /// Maps a GGUF file. What is needed beside it is planned now, and allocated at the first use.
    #[staticmethod]
    #[pyo3(signature = (path, *, adapters = Vec::new(), n_ctx = 0, n_seq = 16,
                        n_threads = 0, cache = None, max_memory = None))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        adapters: Vec<(PathBuf, f32)>,
        n_ctx: usize,
        n_seq: usize,
        n_threads: usize,
        cache: Option<&str>,
        max_memory: Option<u64>,
    ) -> PyResult<Model> {
        let cache = match cache {
            None => None,
            Some(name) => Some(Type::by_name(name).ok_or_else(|| {
                let names: Vec<_> = Type::ALL.iter().map(|of| of.name()).collect();
                invalid(py, format!("cache={name:?}; wanted one of {}", names.join(", ")))
            })?),
        };
        if n_threads > MOST_THREADS {
            return Err(invalid(py, format!("n_threads={n_threads}; at most {MOST_THREADS}")));
        }
        let loaded = py.detach(|| {
            let model = Arc::new(runtime::Model::open(&path)?);
            let adapter = |(path, scale): &(PathBuf, f32)| {
                Ok(Adapter { lora: Arc::new(Lora::open(path)?), scale: *scale })
            };
            let adapters = adapters.iter().map(adapter).collect::<runtime::Result<_>>()?;
            let options =
                Options { n_ctx, n_seq, n_threads, adapters, max_memory, ..Options::default() };
            let sessions = Sessions::new(model.clone(), &options, cache)?;
            Ok((model, Arc::new(sessions)))
        });
        let (model, sessions) = loaded.or_raise(py)?;
        Ok(Model { model, sessions, path })
    }

    /// What the model is.
    #[getter]
    fn info(&self) -> Info {
        let hp = self.model.hparams();
        Info {
            family: self.model.family().arch,
            n_ctx: hp.n_ctx,
            n_vocab: hp.n_vocab,
            n_embd: hp.n_embd,
            n_layer: hp.n_layer,
            labels: self.model.classifier().map(|head| head.labels().to_vec()),
            file_bytes: self.model.bytes().len(),
        }
    }

    /// Tokens that a text may have, with what is written behind it.
    #[getter]
    fn n_ctx(&self) -> usize {
        self.sessions.n_ctx()
    }

    /// Bytes of memory that sessions take now; max_memory is a ceiling on it.
    #[getter]
    fn memory(&self) -> u64 {
        self.sessions.used()
    }

    /// What the session of a task takes: "generate", "logits", "score", "classify" or "embed". Nothing is
    /// allocated.
    #[pyo3(signature = (task = "generate"))]
    fn plan(&self, py: Python<'_>, task: &str) -> PyResult<Memory> {
        let sessions = &self.sessions;
        let memory = match task {
            "generate" => sessions.plan(&sessions.write),
            "logits" => sessions.plan(&sessions.logits),
            "embed" => sessions.plan(&sessions.embed),
            "score" => sessions.plan(&sessions.score),
            "classify" if self.model.classifier().is_some() => sessions.plan(&sessions.heads),
            "classify" => sessions.plan(&sessions.score),
            _ => {
                let wanted = "generate, logits, score, classify or embed";
                return Err(invalid(py, format!("task={task:?}; wanted {wanted}")));
            }
        };
        let memory = memory.or_raise(py)?;
        let session::Memory { kv, buffers, scratch } = memory;
        Ok(Memory { kv, buffers, scratch, total: memory.total() })
    }

    /// Token ids of a text. add_special puts the tokens before and behind it that the model wants;
    /// parse_special lets the text hold control tokens such as <|im_end|>: not for text that isn't
    /// trusted.
    #[pyo3(signature = (text, add_special = true, parse_special = false))]
    fn tokenize(
        &self,
        py: Python<'_>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Vec<u32> {
        let encode = Encode { add_special, parse_special };
        py.detach(|| self.model.tokenizer().encode(text, encode))
    }

    /// The text of token ids; control tokens are left out unless show_special. Bytes that are no UTF-8
    /// become U+FFFD.
    #[pyo3(signature = (ids, show_special = false))]
    fn detokenize(&self, py: Python<'_>, ids: Vec<u32>, show_special: bool) -> PyResult<String> {
        self.check_ids(py, &ids)?;
        Ok(py.detach(|| self.model.tokenizer().decode_with(&ids, show_special)))
    }

    /// Continues a prompt, a text or token ids: an iterator over pieces of text.
    ///
    /// At temperature 0 the text is that of `pith run --temp 0`. Nothing runs before the first piece is
    /// asked for.
    #[pyo3(signature = (prompt, *, max_tokens = 256, temperature = 0.8, top_k = 40, top_p = 0.95,
                        min_p = 0.05, repeat_penalty = 1.0, seed = None, stop = Vec::new(),
                        parse_special = true))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: Prompt,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repeat_penalty: f32,
        seed: Option<u64>,
        stop: Vec<String>,
        parse_special: bool,
    ) -> PyResult<Generation> {
        self.model.require_language_model().or_raise(py)?;
        let is_part = |x: f32| (0.0..=1.0).contains(&x);
        for (name, x, fits, wanted) in [
            ("temperature", temperature, temperature >= 0.0, "a number from 0 on"),
            ("top_p", top_p, is_part(top_p), "a number from 0 to 1"),
            ("min_p", min_p, is_part(min_p), "a number from 0 to 1"),
            ("repeat_penalty", repeat_penalty, repeat_penalty > 0.0, "a number above 0"),
        ] {
            if !x.is_finite() || !fits {
                return Err(invalid(py, format!("{name}={x}; wanted {wanted}")));
            }
        }
        if let Prompt::Text(_) = prompt {
            self.require_tokenizer(py)?;
        }
        let ids = py.detach(|| prompt.ids(&self.model, parse_special));
        if ids.is_empty() {
            return Err(invalid(py, "the prompt is empty"));
        }
        self.check_ids(py, &ids)?;
        let sampler = sampler::Options {
            repeat_penalty,
            top_k,
            top_p,
            min_p,
            temp: temperature,
            seed: seed.unwrap_or_else(random_seed),
            ..sampler::Options::default()
        };
        let settings = Settings { max_tokens, sampler, stop };
        Ok(Generation::new(self.model.clone(), self.sessions.clone(), ids, settings))
    }

    /// All of what `generate` gives by the same arguments, as one text.
    #[pyo3(signature = (prompt, **options))]
    fn complete(
        this: &Bound<'_, Self>,
        prompt: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let generation = this.call_method("generate", (prompt,), options)?;
        let generation = generation.cast::<Generation>()?.get();
        let mut text = String::new();
        while let Some(piece) = generation.next(this.py())? {
            text.push_str(&piece);
        }
        Ok(text)
    }

    /// How probable texts are, each as a whole or behind its context. What texts begin with in common is
    /// run once.
    #[pyo3(signature = (texts, contexts = None, *, parse_special = false))]
    fn score(
        &self,
        py: Python<'_>,
        texts: Vec<String>,
        contexts: Option<Vec<String>>,
        parse_special: bool,
    ) -> PyResult<Vec<Score>> {
        self.require_tokenizer(py)?;
        if let Some(n) = contexts.as_ref().map(Vec::len).filter(|&n| n != texts.len()) {
            return Err(invalid(py, format!("{n} contexts for {} texts", texts.len())));
        }
        let context = |at: usize| contexts.as_ref().map(|contexts| contexts[at].as_str());
        let pairs: Vec<_> =
            texts.iter().enumerate().map(|(at, text)| (context(at), text.as_str())).collect();
        let mut scorer = Texts::new(py, &self.model, &self.sessions, parse_special)?;
        let sequences = scorer.read(py, &pairs, 1)?;
        let scored = scorer.score(py, &sequences)?;
        sequences.iter().zip(&scored).map(|(ids, scored)| Score::new(py, ids, scored)).collect()
    }

    /// Labels texts: by the model's classification head, or of a language model by how probable each of
    /// `labels` is behind the text and the delimiter.
    ///
    /// One Classification for each text; where the head labels tokens, a list of one for each token.
    #[pyo3(signature = (texts, *, labels = None, delimiter = " ", parse_special = false))]
    fn classify<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<String>,
        labels: Option<Vec<String>>,
        delimiter: &str,
        parse_special: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        self.require_tokenizer(py)?;
        let (model, sessions) = (&self.model, &self.sessions);
        match (model.classifier().is_some(), labels) {
            (true, None) => classify::by_head(py, model, sessions, &texts, parse_special),
            (true, Some(_)) => Err(invalid(
                py,
                "the model ends in a classification head, which has its own labels",
            )),
            (false, Some(labels)) if !labels.is_empty() => {
                classify::by_labels(py, model, sessions, &texts, &labels, delimiter, parse_special)
            }
            (false, _) => {
                Err(invalid(py, "the model has no classification head: give labels to compare"))
            }
        }
    }

    /// Embeddings of texts: the model's last hidden states, their mean or the last token's, of length 1
    /// if normalize. A numpy array of float32 [n_texts, n_embd].
    #[pyo3(signature = (texts, *, pooling = "mean", normalize = true, parse_special = false))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<String>,
        pooling: &str,
        normalize: bool,
        parse_special: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.require_tokenizer(py)?;
        vectors::embed(py, &self.model, &self.sessions, &texts, pooling, normalize, parse_special)
    }

    /// Logits after the last of some tokens, a numpy array of float32 [n_vocab]; with all=True after each,
    /// [n_ids, n_vocab]. The array is the caller's own.
    #[pyo3(signature = (ids, *, all = false))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: Vec<u32>,
        all: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.model.require_language_model().or_raise(py)?;
        self.check_ids(py, &ids)?;
        match all {
            true => vectors::all_logits(py, &self.model, &self.sessions, &ids),
            false => vectors::last_logits(py, &self.model, &self.sessions, &ids),
        }
    }

    fn __repr__(&self) -> String {
        format!("Model({:?}, family={:?})", self.path.display().to_string(), self.info().family)
    }
}

impl Model {
    fn check_ids(&self, py: Python<'_>, ids: &[u32]) -> PyResult<()> {
        let n_vocab = self.model.hparams().n_vocab;
        match ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(id) => Err(invalid(py, format!("token {id} of a vocabulary of {n_vocab}"))),
            None => Ok(()),
        }
    }

    fn require_tokenizer(&self, py: Python<'_>) -> PyResult<()> {
        match self.model.tokenizer().is_none() {
            true => Err(Error::Unsupported("the model has no tokenizer: give token ids".into()))
                .or_raise(py),
            false => Ok(()),
        }
    }
}
