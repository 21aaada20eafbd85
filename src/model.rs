//! A mapped file bound to its family row: the numbers, checked once, and the weights, as views of
//! the map. Everything after this file works with a [`Model`] and trusts it.

mod classifier;
mod rope;

pub use classifier::Classifier;
pub use rope::Rope;

use std::{
    collections::HashMap,
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

use pith_models::{Act, EmbedScale, Family, Hp, Join, Kind, QkNorm, ScoreScale, Value as Default};

use crate::{
    Error, Result,
    bytes::{Bytes, FNV, fnv},
    gguf::{Gguf, Tensor},
    memory::enough,
    quant::Format,
    tokenizer::Tokenizer,
    zeros::{map, zeros},
};

/// More layers than any model of these families has; a larger count is a damaged file.
const MAX_LAYERS: usize = 1024;
/// Bound on every width, so that products of two of them fit in u64 with room to spare.
const MAX_WIDTH: usize = 1 << 24;

/// An immutable model: shared by any number of sessions.
pub struct Model {
    bytes: Arc<Bytes>,
    family: &'static Family,
    hparams: Hparams,
    weights: HashMap<String, Weight>,
    vectors: HashMap<String, Vec<f32>>,
    tokenizer: Tokenizer,
    classifier: Option<Classifier>,
}

/// A model that a session holds: borrowed, or shared, so that the session can outlive its maker.
#[derive(Clone)]
pub enum Held<'m> {
    /// Somebody else keeps it.
    Borrowed(&'m Model),
    /// Whoever holds it last frees it.
    Shared(Arc<Model>),
}

impl Deref for Held<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        match self {
            Held::Borrowed(model) => model,
            Held::Shared(model) => model,
        }
    }
}

impl<'m> From<&'m Model> for Held<'m> {
    fn from(model: &'m Model) -> Held<'m> {
        Held::Borrowed(model)
    }
}

impl From<Arc<Model>> for Held<'_> {
    fn from(model: Arc<Model>) -> Self {
        Held::Shared(model)
    }
}

/// A matrix `[n_out, n_in]` in the map.
#[derive(Clone, Debug)]
pub struct Weight {
    /// GGUF name.
    pub name: String,
    /// How its rows are stored.
    pub format: Format,
    /// Length of a row.
    pub n_in: usize,
    /// Number of rows.
    pub n_out: usize,
    /// Place in the file.
    pub(crate) bytes: Range<usize>,
    /// The file, where it isn't the model's: an adapter's.
    pub(crate) file: Option<Arc<Bytes>>,
}

impl Weight {
    /// Size in the file.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The numbers of one model, read from the file or taken from the family's defaults, and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// Longest context that the model was made for.
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub n_vocab: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Activation of the feed-forward network.
    pub act: Act,
    /// Factor on q.k.
    pub score_scale: f32,
    /// Factor on the token embedding.
    pub embed_scale: f32,
    /// Sliding window in tokens, for the layers that the family's pattern names.
    pub window: Option<usize>,
    /// Cap of attention scores.
    pub attn_softcap: Option<f32>,
    /// Cap of logits.
    pub logit_softcap: Option<f32>,
    /// Bound on q, k and v.
    pub clamp_kqv: Option<f32>,
    /// Largest ALiBi bias.
    pub alibi_max: f32,
    /// How attention and feed-forward join the residual stream: `ByKey` forms are resolved.
    pub join: Join,
    /// Whether the joins' norms come after them (OPT-350m).
    pub post_norm: bool,
    /// Rope, for families that have it.
    pub rope: Option<Rope>,
}

impl Model {
    /// Maps a GGUF file and binds it to its family.
    ///
    /// # Errors
    /// The file can't be read, is malformed, is of an unknown family, or lacks a number or tensor
    /// that the family needs; the error names it.
    pub fn open(path: &Path) -> Result<Model> {
        Model::from_bytes(Bytes::map(path)?)
    }

    /// [`Model::open`] over bytes that are already in memory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Model> {
        let bytes = Arc::new(bytes);
        let gguf = Gguf::parse(&bytes)?;
        let family = family_of(&gguf)?;
        let n_vectors = gguf.tensors().iter().filter(|tensor| is_vector(tensor)).count();
        let mut weights = map(gguf.tensors().len() - n_vectors)?;
        let mut vectors = map(n_vectors)?;
        for tensor in gguf.tensors() {
            enough()?;
            if is_vector(tensor) {
                vectors.insert(tensor.name.to_string(), floats(tensor)?);
            } else {
                weights.insert(tensor.name.to_string(), weight(tensor)?);
            }
        }
        let hparams = read_hparams(&gguf, family, &weights, &vectors)?;
        let classifier = Classifier::read(&gguf, family.arch, &weights)?;
        // `pith convert --no-tokenizer` says so, and llama.cpp knows the word too.
        let has_none = gguf.get("tokenizer.ggml.model").and_then(|v| v.as_str()) == Some("none");
        let tokenizer = match has_none {
            true => Tokenizer::none(hparams.n_vocab)?,
            false => Tokenizer::from_gguf(&gguf)?,
        };
        if tokenizer.n_vocab() != hparams.n_vocab {
            return Err(Error::malformed(
                "GGUF",
                format!(
                    "tokenizer.ggml.tokens has {} entries, token_embd.weight has {} rows",
                    tokenizer.n_vocab(),
                    hparams.n_vocab
                ),
            ));
        }
        drop(gguf);
        Ok(Model { bytes, family, hparams, weights, vectors, tokenizer, classifier })
    }

    /// The family row that the model follows.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The model's numbers.
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The classification head, if the model ends in one; else it is a language model.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }

    /// The classification head.
    ///
    /// # Errors
    /// The model is a language model.
    pub fn require_classifier(&self) -> Result<&Classifier> {
        self.classifier().ok_or_else(|| {
            Error::Unsupported(
                "the model has no classification head: it continues texts (`pith run`). A checkpoint \
                 of a ForSequenceClassification or ForTokenClassification class has one"
                    .into(),
            )
        })
    }

    /// Whether the model continues texts.
    ///
    /// # Errors
    /// It ends in a classification head.
    pub fn require_language_model(&self) -> Result<()> {
        match self.classifier() {
            None => Ok(()),
            Some(head) => Err(Error::Unsupported(format!(
                "the model ends in a classification head of {} labels: it can't continue a text; \
                 `pith classify` says what it makes of one",
                head.labels().len()
            ))),
        }
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What tells this model from others, nearly always: a hash of the file's length and of 1024 pieces of it.
    pub(crate) fn identity(&self) -> u64 {
        let bytes: &[u8] = &self.bytes;
        let pieces = bytes.chunks(bytes.len().div_ceil(1024).max(64));
        pieces.fold(fnv(FNV, &(bytes.len() as u64).to_le_bytes()), |hash, piece| {
            fnv(hash, &piece[..piece.len().min(64)])
        })
    }

    /// A matrix by its GGUF name.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name)
    }

    /// A vector (norm, bias) by its GGUF name, as f32.
    pub fn vector(&self, name: &str) -> Option<&[f32]> {
        self.vectors.get(name).map(Vec::as_slice)
    }

    /// The stored rows of a matrix.
    pub fn data<'a>(&'a self, weight: &'a Weight) -> &'a [u8] {
        &weight.file.as_ref().unwrap_or(&self.bytes)[weight.bytes.clone()]
    }
}

fn family_of(gguf: &Gguf) -> Result<&'static Family> {
    let arch = gguf.require_str("general.architecture")?;
    pith_models::by_arch(arch).ok_or_else(|| {
        let known: Vec<_> = pith_models::FAMILIES.iter().map(|f| f.arch).collect();
        Error::Unsupported(format!(
            "general.architecture is `{arch}`, pith runs {}",
            known.join(", ")
        ))
    })
}

/// Norms, biases and rope factors are copied out as f32: they are small, and the map promises no
/// alignment. One-dimensional tensors in a block format (never written by pith) count too, and norms
/// with a row per head, but not matrices of one row, whose second dimension some programs drop.
fn is_vector(tensor: &Tensor) -> bool {
    let matrix = tensor.name.ends_with("_embd.weight") || tensor.name == "cls.output.weight";
    let vector = tensor.n_rows() == 1 && tensor.n_dims == 1;
    vector && !matrix || tensor.name.ends_with("_norm.weight")
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut out = zeros(tensor.n_in() * tensor.n_rows())?;
    tensor.format.decode(tensor.data, &mut out);
    Ok(out)
}

/// The matrix that a tensor of the model's file is.
pub(crate) fn weight(tensor: &Tensor) -> Result<Weight> {
    let start = usize::try_from(tensor.offset)
        .map_err(|_| Error::malformed("GGUF", format!("offset of {} overflows", tensor.name)))?;
    Ok(Weight {
        name: tensor.name.to_string(),
        format: tensor.format,
        n_in: tensor.n_in(),
        n_out: tensor.n_rows(),
        bytes: start..start + tensor.data.len(),
        file: None,
    })
}

/// Reads one family's numbers with their defaults.
struct Numbers<'a> {
    gguf: &'a Gguf<'a>,
    family: &'static Family,
}

impl Numbers<'_> {
    fn key(&self, hp: Hp) -> String {
        match hp.key().0 {
            own if own.starts_with("pith.") => own.to_string(),
            suffix => format!("{}.{suffix}", self.family.arch),
        }
    }

    fn default(&self, hp: Hp) -> Option<Default> {
        self.family.defaults.iter().find(|(d, _)| *d == hp).map(|&(_, v)| v)
    }

    fn wrong(&self, hp: Hp, wanted: &str) -> Error {
        let got = self.gguf.get(&self.key(hp)).map(|v| format!("{v:?}"));
        let got = got.unwrap_or_else(|| "absent".into());
        Error::malformed("GGUF", format!("{}: wanted {wanted}, got {got}", self.key(hp)))
    }

    fn integer(&self, hp: Hp) -> Result<Option<usize>> {
        debug_assert_eq!(hp.key().1, Kind::U32);
        if let Some(value) = self.gguf.get(&self.key(hp)) {
            let number = value.as_u64().and_then(|v| usize::try_from(v).ok());
            let number = number.filter(|&v| v <= MAX_WIDTH);
            return number.map(Some).ok_or_else(|| self.wrong(hp, "a whole number up to 2^24"));
        }
        match self.default(hp) {
            Some(Default::U32(v)) => Ok(Some(v as usize)),
            Some(Default::Same(of)) => self.integer(of),
            Some(Default::Times(of, n)) => Ok(self.integer(of)?.map(|v| v * n as usize)),
            Some(Default::OfHead(part)) => Ok(self.head_dim()?.map(|v| (v as f32 * part) as usize)),
            _ => Ok(None),
        }
    }

    /// The width of a head, where the numbers say one.
    fn head_dim(&self) -> Result<Option<usize>> {
        if let Some(width) = self.integer(Hp::HeadDim)? {
            return Ok(Some(width));
        }
        let (n_embd, n_head) = (self.positive(Hp::NEmbd)?, self.positive(Hp::NHead)?);
        Ok((n_embd % n_head == 0).then_some(n_embd / n_head))
    }

    fn positive(&self, hp: Hp) -> Result<usize> {
        self.integer(hp)?.filter(|&v| v > 0).ok_or_else(|| self.wrong(hp, "a positive number"))
    }

    fn float(&self, hp: Hp) -> Result<Option<f32>> {
        if let Some(value) = self.gguf.get(&self.key(hp)) {
            let number = value.as_f32().filter(|v| v.is_finite());
            return number.map(Some).ok_or_else(|| self.wrong(hp, "a finite float"));
        }
        match self.default(hp) {
            Some(Default::F32(v)) => Ok(Some(v)),
            Some(Default::Same(of)) => self.float(of),
            _ => Ok(None),
        }
    }

    /// A float where zero means "none", as files of other programs write it.
    fn nonzero(&self, hp: Hp) -> Result<Option<f32>> {
        Ok(self.float(hp)?.filter(|&v| v != 0.0))
    }

    fn flag(&self, hp: Hp) -> Result<bool> {
        match (self.gguf.get(&self.key(hp)), self.default(hp)) {
            (Some(value), _) => value.as_bool().ok_or_else(|| self.wrong(hp, "a flag")),
            (None, Some(Default::Bool(v))) => Ok(v),
            (None, _) => Ok(false),
        }
    }
}

fn read_hparams(
    gguf: &Gguf,
    family: &'static Family,
    weights: &HashMap<String, Weight>,
    vectors: &HashMap<String, Vec<f32>>,
) -> Result<Hparams> {
    let numbers = Numbers { gguf, family };
    let block = &family.block;
    let n_embd = numbers.positive(Hp::NEmbd)?;
    let n_head = numbers.positive(Hp::NHead)?;
    let n_head_kv = numbers.positive(Hp::NHeadKv)?;
    let head_dim = numbers
        .head_dim()?
        .ok_or_else(|| numbers.wrong(Hp::NHead, &format!("a divisor of n_embd {n_embd}")))?;
    if head_dim == 0 || n_head % n_head_kv != 0 || n_head > MAX_WIDTH / head_dim {
        return Err(Error::malformed(
            "GGUF",
            format!(
                "heads don't fit together: n_head {n_head}, n_head_kv {n_head_kv}, head_dim {head_dim}"
            ),
        ));
    }
    if numbers.integer(Hp::HeadDimV)?.is_some_and(|v| v != head_dim) {
        return Err(numbers.wrong(Hp::HeadDimV, &format!("the key length, {head_dim}")));
    }
    let n_layer = numbers.positive(Hp::NLayer)?;
    if n_layer > MAX_LAYERS {
        return Err(numbers.wrong(Hp::NLayer, &format!("at most {MAX_LAYERS}")));
    }
    let embedding = weights.get("token_embd.weight").ok_or_else(|| missing("token_embd.weight"))?;
    let eps_key = match block.norm {
        pith_models::Norm::Layer => Hp::LayerNormEps,
        pith_models::Norm::Rms => Hp::RmsNormEps,
    };
    let join = match block.join {
        Join::ByKey if numbers.flag(Hp::ParallelResidual)? => Join::Parallel,
        Join::ByKey => Join::Sequential,
        Join::ByNorm if vectors.contains_key("blk.0.ffn_norm.weight") => Join::Sequential,
        Join::ByNorm => Join::Parallel,
        join => join,
    };
    let scale = match block.score_scale {
        ScoreScale::HeadDim => 1.0 / (head_dim as f32).sqrt(),
        ScoreScale::HeadDimUnlessLayers(n) if n as usize == n_layer => {
            1.0 / (n_embd as f32 / n_head as f32).sqrt()
        }
        ScoreScale::HeadDimUnlessLayers(_) => 1.0 / (head_dim as f32).sqrt(),
        ScoreScale::One => 1.0,
    };
    Ok(Hparams {
        n_ctx: numbers.positive(Hp::NCtx)?,
        n_embd,
        n_layer,
        n_ff: numbers.positive(Hp::NFf)?,
        n_head,
        n_head_kv,
        head_dim,
        n_vocab: embedding.n_out,
        eps: numbers.float(eps_key)?.ok_or_else(|| numbers.wrong(eps_key, "a float"))?,
        act: read_act(gguf, block.act)?,
        score_scale: numbers.nonzero(Hp::AttnScale)?.unwrap_or(scale),
        embed_scale: match block.embed_scale {
            EmbedScale::One => 1.0,
            EmbedScale::SqrtEmbd => (n_embd as f32).sqrt(),
        },
        window: numbers.integer(Hp::Window)?.filter(|&w| w > 0),
        attn_softcap: numbers.nonzero(Hp::AttnSoftcap)?,
        logit_softcap: numbers.nonzero(Hp::LogitSoftcap)?,
        clamp_kqv: numbers.nonzero(Hp::ClampKqv)?,
        alibi_max: numbers.float(Hp::AlibiMax)?.unwrap_or(8.0),
        join,
        post_norm: block.join == Join::PostByKey && numbers.flag(Hp::PostNorm)?,
        rope: rope::read(&numbers, head_dim, vectors)?,
    })
}

fn read_act(gguf: &Gguf, default: Act) -> Result<Act> {
    let Some(value) = gguf.get("pith.activation") else { return Ok(default) };
    value.as_str().and_then(Act::by_name).ok_or_else(|| {
        Error::Unsupported(format!("pith.activation is {value:?}, which names no activation"))
    })
}

/// The error for a tensor that the family needs and the file lacks.
pub(crate) fn missing(name: &str) -> Error {
    Error::malformed("GGUF", format!("tensor {name} is missing; convert the model again"))
}

/// Whether layer `il` of the family attends in the window.
pub(crate) fn in_window(family: &Family, il: usize) -> bool {
    use pith_models::WindowPattern::{All, AllBut, None};
    match family.block.window {
        None => false,
        All => true,
        AllBut { every, global } => il as u32 % every != global,
    }
}

/// The width that q/k norms of the family cover: a head, or the whole projection.
pub(crate) fn qk_norm_width(kind: QkNorm, n_heads: usize, head_dim: usize) -> Option<usize> {
    match kind {
        QkNorm::None => None,
        QkNorm::Head | QkNorm::EachHead => Some(head_dim),
        QkNorm::Full => Some(n_heads * head_dim),
    }
}
