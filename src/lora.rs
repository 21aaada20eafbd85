//! An adapter's file (Hu et al. 2022): pairs of factors, whose product is added to a model's
//! matrices while it runs. The file is llama.cpp's (ggml-org/llama.cpp, `src/llama-adapter.cpp`):
//! `NAME.lora_a` `[rank, n_in]` and `NAME.lora_b` `[n_out, rank]`, scaled by alpha / rank. Of the
//! embedding, `lora_a` has a row for each token, `[n_vocab, rank]`.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use crate::{
    Error, Result,
    bytes::Bytes,
    gguf::{Gguf, Tensor},
    memory::enough,
    model::{Model, Weight, weight},
};

/// More than the widest matrix of these families has rows.
const MAX_RANK: usize = 1 << 16;

/// The one matrix whose change is looked up by token.
const TABLE: &str = "token_embd.weight";

/// An adapter's file. Any number of sessions may share it.
pub struct Lora {
    arch: String,
    pairs: BTreeMap<String, Pair>,
}

/// An adapter in use: its file, and a factor on all that it adds.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The file.
    pub lora: Arc<Lora>,
    /// 1 to use it as it was trained.
    pub scale: f32,
}

/// The change of one matrix.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// `[rank, n_in]`; of the embedding `[n_vocab, rank]`.
    pub a: Weight,
    /// `[n_out, rank]`.
    pub b: Weight,
    /// Factor on the product.
    pub scale: f32,
}

impl Pair {
    pub fn rank(&self) -> usize {
        self.b.n_in
    }
}

impl Lora {
    /// Maps an adapter's file.
    ///
    /// # Errors
    /// The file can't be read, is malformed, or is no such adapter; the error names the key or
    /// tensor.
    pub fn open(path: &Path) -> Result<Lora> {
        Lora::from_bytes(Bytes::map(path)?)
    }

    /// [`Lora::open`] over bytes that are already in memory.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Lora> {
        let bytes = Arc::new(bytes);
        let gguf = Gguf::parse(&bytes)?;
        check_kind(&gguf)?;
        let arch = gguf.require_str("general.architecture")?.to_owned();
        let alpha = match gguf.get("adapter.lora.alpha") {
            None => 0.0,
            Some(_) => gguf.require_f32("adapter.lora.alpha")?,
        };
        if !alpha.is_finite() {
            return Err(Error::malformed("GGUF", format!("adapter.lora.alpha is {alpha}")));
        }
        let mut pairs = BTreeMap::new();
        for (name, half) in halves(&gguf)? {
            enough()?;
            let [Some(a), Some(b)] = half else {
                let lacking = if half[0].is_none() { "lora_a" } else { "lora_b" };
                let fault = format!("tensor {name}.{lacking} is missing");
                return Err(Error::malformed("GGUF", fault));
            };
            let file = Some(bytes.clone());
            let (a, b) =
                (Weight { file: file.clone(), ..factor(a)? }, Weight { file, ..factor(b)? });
            let rank = if name == TABLE { a.n_in } else { a.n_out };
            if rank != b.n_in || rank > MAX_RANK {
                return Err(Error::malformed(
                    "GGUF",
                    format!(
                        "{}: wanted rank {rank} as in {}, at most {MAX_RANK}, got {}",
                        b.name, a.name, b.n_in
                    ),
                ));
            }
            // Readers take an alpha of 0 for none, as llama.cpp does.
            let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
            pairs.insert(name.to_owned(), Pair { a, b, scale });
        }
        if pairs.is_empty() {
            return Err(Error::malformed("GGUF", "the adapter holds no tensors"));
        }
        Ok(Lora { arch, pairs })
    }

    /// The names of the matrices that it changes, with the rank of the change.
    pub fn changes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.pairs.iter().map(|(name, pair)| (name.as_str(), pair.rank()))
    }
}

impl fmt::Debug for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lora of {} with {} matrices", self.arch, self.pairs.len())
    }
}

/// Whether the file is an adapter that applies to whole texts.
fn check_kind(gguf: &Gguf<'_>) -> Result<()> {
    let text = |key: &str| gguf.get(key).and_then(|value| value.as_str());
    if gguf.get("general.type").is_none() {
        return Err(Error::Invalid(
            "this is no adapter but a model: the file has no general.type".into(),
        ));
    }
    for (key, wanted) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let got = text(key);
        if got != Some(wanted) {
            let got = got.map_or_else(|| "no text".into(), |got| format!("{got:?}"));
            return Err(Error::Unsupported(format!(
                "{key} must be `{wanted}` in an adapter's file, it is {got}"
            )));
        }
    }
    let later = "adapter.alora.invocation_tokens";
    match gguf.get(later) {
        None => Ok(()),
        Some(_) => Err(Error::Unsupported(format!(
            "the adapter begins in the middle of a text ({later}); pith applies adapters to all of it"
        ))),
    }
}

/// `lora_a` and `lora_b` of each matrix, as far as they are there.
fn halves<'g>(gguf: &'g Gguf<'_>) -> Result<BTreeMap<&'g str, [Option<&'g Tensor<'g>>; 2]>> {
    let mut halves: BTreeMap<&str, [Option<&Tensor<'_>>; 2]> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let a = tensor.name.strip_suffix(".lora_a").map(|name| (name, 0));
        let half = a.or_else(|| tensor.name.strip_suffix(".lora_b").map(|name| (name, 1)));
        let Some((name, half)) = half else {
            return Err(Error::Unsupported(format!(
                "the adapter holds {}, which is no .lora_a or .lora_b; merge it into its base",
                tensor.name
            )));
        };
        halves.entry(name).or_default()[half] = Some(tensor);
    }
    Ok(halves)
}

/// One factor: a matrix of finite floats. One bad value would spoil every output without a word.
fn factor(tensor: &Tensor<'_>) -> Result<Weight> {
    if !tensor.format.is_float() {
        return Err(Error::Unsupported(format!(
            "{} is {}; an adapter's factors are F32, F16 or BF16: convert it again",
            tensor.name,
            tensor.format.name()
        )));
    }
    if tensor.dims[2..].iter().any(|&dim| dim != 1) {
        return Err(Error::malformed("GGUF", format!("tensor {} is no matrix", tensor.name)));
    }
    let mut row = vec![0.0; tensor.n_in()];
    for stored in tensor.data.chunks_exact(tensor.data.len() / tensor.n_rows()) {
        tensor.format.decode(stored, &mut row);
        if let Some(value) = row.iter().find(|value| !value.is_finite()) {
            let fault = format!("tensor {} holds the value {value}", tensor.name);
            return Err(Error::malformed("GGUF", fault));
        }
    }
    weight(tensor)
}

/// The adapters of a model that is being planned.
pub(crate) struct Bound<'a> {
    adapters: &'a [Adapter],
    /// Matrices that the plan has asked for.
    planned: Vec<String>,
}

impl<'a> Bound<'a> {
    /// Adapters for this model.
    pub fn new(adapters: &'a [Adapter], model: &Model) -> Result<Bound<'a>> {
        let arch = model.family().arch;
        for Adapter { lora, scale } in adapters {
            if lora.arch != arch {
                return Err(Error::Invalid(format!(
                    "the adapter is for a model of {}, this one is of {arch}",
                    lora.arch
                )));
            }
            if !scale.is_finite() {
                return Err(Error::Invalid(format!("an adapter's scale of {scale}")));
            }
        }
        Ok(Bound { adapters, planned: Vec::new() })
    }

    /// The changes of the matrix `name` of this shape, `[n_out, n_in]`; the embedding's n_out is the
    /// width of its rows.
    pub fn take(&mut self, name: &str, (n_out, n_in): (usize, usize)) -> Result<Vec<Pair>> {
        self.planned.push(name.to_owned());
        let mut pairs = Vec::new();
        for Adapter { lora, scale } in self.adapters {
            let Some(pair) = lora.pairs.get(name) else { continue };
            let got = (pair.b.n_out, if name == TABLE { pair.a.n_out } else { pair.a.n_in });
            if got != (n_out, n_in) {
                return Err(Error::Invalid(format!(
                    "the adapter changes {name} of {}x{} values, the model's has {n_out}x{n_in}: \
                     it is for another model",
                    got.0, got.1
                )));
            }
            let scale = pair.scale * scale;
            if !scale.is_finite() {
                return Err(Error::Invalid(format!("an adapter's scale of {scale} for {name}")));
            }
            pairs.push(Pair { scale, ..pair.clone() });
        }
        Ok(pairs)
    }

    /// Every change has found its matrix.
    pub fn finish(&self) -> Result<()> {
        let mut names = self.adapters.iter().flat_map(|adapter| adapter.lora.pairs.keys());
        match names.find(|name| !self.planned.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Invalid(format!(
                "the adapter changes {name}, which the model doesn't multiply with: it is for \
                 another model"
            ))),
        }
    }
}
