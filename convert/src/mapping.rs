//! From source tensors to GGUF tensors by the family's row: every tensor of the checkpoint is
//! consumed or ignored for a stated reason, every tensor that the model needs is there, and each
//! has the shape that the numbers say.

use crate::{
    config::{Config, Number},
    fold::{self, Part},
    shapes::{self, Embedding},
    source::{Entry, Source, Tensor},
};
use pith::{Error, Result, quant::Format};
use pith_models::{Fold, HEAD_SOURCES, HEAD_TENSOR, Hp, Join, Need, QkNorm, TensorRow};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

/// How many names an error lists.
const MAX_LISTED: usize = 20;

/// One GGUF tensor and where its values come from.
pub(crate) struct Mapped<'a> {
    /// GGUF name.
    pub name: String,
    /// Sizes in GGUF's order, fastest first.
    pub dims: Vec<u64>,
    /// Its values.
    pub values: Values<'a>,
}

/// Where the values of a GGUF tensor come from.
pub(crate) enum Values<'a> {
    /// A tensor of the checkpoint.
    Source {
        /// The tensor.
        tensor: &'a Tensor,
        /// Its rows in their new order, one part behind the other.
        parts: Vec<Part>,
        /// What is added to each value.
        add: f32,
        /// What was done to it.
        fold: Fold,
    },
    /// Computed from the configuration, or put together of small tensors.
    Computed(Vec<f32>),
    /// A tensor of a GGUF file: whole blocks.
    Encoded {
        /// How they are stored.
        format: Format,
        /// The blocks.
        data: &'a [u8],
    },
}

impl Mapped<'_> {
    /// Values in a row.
    pub fn n_in(&self) -> usize {
        self.dims[0] as usize
    }

    /// All values.
    pub fn n_values(&self) -> usize {
        self.dims.iter().product::<u64>() as usize
    }

    /// The bytes that [`Mapped::read`] decodes.
    pub fn load<'s>(&self, source: &'s Source) -> Result<Cow<'s, [u8]>> {
        match &self.values {
            Values::Source { tensor, .. } => source.load(tensor),
            Values::Computed(_) | Values::Encoded { .. } => Ok(Cow::Borrowed(&[])),
        }
    }

    /// Reads values from `first` on, which must begin a row of a matrix. `data` is what
    /// [`Mapped::load`] gave.
    pub fn read(&self, data: &[u8], first: usize, out: &mut [f32]) {
        match &self.values {
            Values::Computed(values) => out.copy_from_slice(&values[first..first + out.len()]),
            Values::Encoded { format, data } => {
                // Rows are whole blocks, so that `first` begins one.
                let bytes = |values: usize| values / format.block_len() * format.block_bytes();
                format.decode(&data[bytes(first)..bytes(first + out.len())], out);
            }
            Values::Source { parts, add, .. } => {
                // Vectors are matrices of one column here, see `View`.
                let n_in = parts[0].view.n_in();
                let mut skip = first / n_in;
                let mut rest = out;
                for Part { view, times } in parts {
                    let here = view.n_rows().saturating_sub(skip).min(rest.len() / n_in);
                    let (now, later) = rest.split_at_mut(here * n_in);
                    view.read(data, skip, now);
                    skip = skip.saturating_sub(view.n_rows());
                    if *times != 1.0 {
                        now.iter_mut().for_each(|value| *value *= times);
                    }
                    // Adding 0 would turn -0 into 0.
                    if *add != 0.0 {
                        now.iter_mut().for_each(|value| *value += add);
                    }
                    rest = later;
                }
                assert!(rest.is_empty(), "{} has fewer rows than its dims say", self.name);
            }
        }
    }
}

/// The tensors of a model, and the source tensors that none of them uses.
pub(crate) struct Mapping<'a> {
    /// In the order of the family's rows: outer tensors as listed, blocks layer by layer.
    pub tensors: Vec<Mapped<'a>>,
    /// Names with the reason.
    pub ignored: Vec<(String, String)>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// Maps `source` by the row of `config`'s family. Sets `Hp::NVocab` to the embedding's rows.
///
/// # Errors
/// [`Error::Unsupported`] naming tensors that nothing consumes, or a wrong shape with the wanted
/// one; [`Error::Invalid`] naming a missing tensor.
pub(crate) fn map<'a>(source: &'a Source, config: &mut Config) -> Result<Mapping<'a>> {
    let mut mapper = Mapper::new(source, config)?;
    let family = mapper.config.family;
    // Outer tensors in front, then the blocks, as the rows list them.
    let classifies = mapper.config.classifier.is_some();
    for row in family.tensors.iter().filter(|row| !row.source.contains("{}")) {
        if !(classifies && is_output(row)) {
            mapper.place(row, None)?;
        }
    }
    if classifies {
        mapper.place_classifier()?;
    }
    for il in 0..mapper.config.size(Hp::NLayer) {
        for row in family.tensors.iter().filter(|row| row.source.contains("{}")) {
            mapper.place(row, Some(il))?;
        }
    }
    mapper.check_complete()?;
    for (name, factors) in mapper.config.rope_factors() {
        let dims = vec![factors.len() as u64];
        let values = Values::Computed(factors);
        mapper.tensors.push(Mapped { name: name.into(), dims, values });
    }
    let Mapper { tensors, ignored, tied, .. } = mapper;
    let tied = tied && !classifies;
    Ok(Mapping { tensors, ignored, tied })
}

struct Mapper<'a, 'c> {
    source: &'a Source,
    config: &'c Config,
    embedding: Embedding,
    tensors: Vec<Mapped<'a>>,
    /// Source names that are consumed.
    consumed: HashSet<&'a str>,
    /// GGUF names with the source that filled them.
    filled: HashMap<String, String>,
    /// Required and missing: GGUF name and source name.
    missing: Vec<(String, String)>,
    /// Layers that have each optional tensor.
    optional: HashMap<&'static str, Vec<usize>>,
    ignored: Vec<(String, String)>,
    tied: bool,
}

impl<'a, 'c> Mapper<'a, 'c> {
    fn new(source: &'a Source, config: &'c mut Config) -> Result<Self> {
        let rows = |to: &'static str| config.family.tensors.iter().filter(move |row| row.to == to);
        let find = |to| rows(to).find_map(|row| find(source, config, row.source, None));
        let table = find("token_embd.weight").ok_or_else(|| {
            let name = rows("token_embd.weight").next().map_or("", |row| row.source);
            missing_error(&[("token_embd.weight".into(), name.into())])
        })?;
        let &[n_vocab, columns] = table.entry.shape.as_slice() else {
            return Err(Error::Unsupported(format!(
                "the embedding `{}` has shape {:?}, not [n_vocab, n_embd]",
                table.entry.name, table.entry.shape
            )));
        };
        let narrow = find("project_in.weight").is_some();
        let width = if narrow { columns } else { config.size(Hp::NEmbd) };
        config.set_vocab(n_vocab)?;
        Ok(Mapper {
            source,
            config,
            embedding: Embedding { n_vocab, width },
            tensors: Vec::new(),
            consumed: HashSet::new(),
            filled: HashMap::new(),
            missing: Vec::new(),
            optional: HashMap::new(),
            ignored: Vec::new(),
            tied: true,
        })
    }

    /// Puts the tensor of `row` where it goes, if the checkpoint has it.
    fn place(&mut self, row: &'static TensorRow, il: Option<usize>) -> Result<()> {
        if row.fold == Fold::StackHeads {
            return self.stack(row, il);
        }
        let to = fill(row.to, il);
        let required = match row.need {
            Need::Required => true,
            Need::Optional => false,
            Need::Head => self.config.tied == Some(false),
            Need::Beside(other) => find(self.source, self.config, other, il).is_some(),
            Need::WithoutAlibi => !self.config.alibi(),
        };
        // A tensor that must not be there isn't consumed, and so stops the conversion.
        let excluded = !required && matches!(row.need, Need::Beside(_) | Need::WithoutAlibi);
        let found = find(self.source, self.config, row.source, il).filter(|_| !excluded);
        let Some(tensor) = found else {
            if required {
                self.missing.push((to, fill(row.source, il)));
            }
            return Ok(());
        };
        if let (Need::Optional, Some(il)) = (row.need, il) {
            self.optional.entry(row.source).or_default().push(il);
        }
        let name = tensor.entry.name.as_str();
        self.consumed.insert(name);
        if let Some(other) = self.filled.insert(to.clone(), name.to_owned()) {
            return Err(Error::Unsupported(format!("both `{other}` and `{name}` are {to}")));
        }
        let mapped = self.fold(tensor, row.fold, to, il)?;
        if row.need == Need::Head {
            if self.equals_embedding(&mapped)? {
                self.ignored.push((name.to_owned(), "equal to the embedding: tied".into()));
                return Ok(());
            }
            self.tied = false;
        }
        self.tensors.push(mapped);
        Ok(())
    }

    /// Puts the vectors of all heads where they go, one below the other, if the checkpoint has them.
    fn stack(&mut self, row: &'static TensorRow, il: Option<usize>) -> Result<()> {
        let to = fill(row.to, il);
        let wanted = self.wanted(&to)?;
        let mut values = Vec::new();
        for head in 0..wanted[0] {
            let source = row.source.replace("[]", &head.to_string());
            let Some(tensor) = find(self.source, self.config, &source, il) else {
                if row.need == Need::Required || head > 0 {
                    self.missing.push((to, fill(&source, il)));
                }
                return Ok(());
            };
            check_shape(tensor, &to, &wanted[1..])?;
            self.consumed.insert(&tensor.entry.name);
            values.extend(self.source.values(tensor)?);
        }
        if let (Need::Optional, Some(il)) = (row.need, il) {
            self.optional.entry(row.source).or_default().push(il);
        }
        let dims = wanted.iter().rev().map(|&dim| dim as u64).collect();
        self.filled.insert(to.clone(), row.source.to_owned());
        self.tensors.push(Mapped { name: to, dims, values: Values::Computed(values) });
        Ok(())
    }

    /// Puts the classifier's head where it goes: the one product under either name.
    fn place_classifier(&mut self) -> Result<()> {
        let source = self.source;
        for leaf in ["weight", "bias"] {
            let to = format!("{HEAD_TENSOR}.{leaf}");
            let names = HEAD_SOURCES.iter().map(|stem| format!("{stem}.{leaf}"));
            let found: Vec<_> = names.filter_map(|name| source.tensor(&name)).collect();
            match found[..] {
                [] if leaf == "bias" => {}
                [] => self.missing.push((to, format!("{}.{leaf}", HEAD_SOURCES.join(" or ")))),
                [tensor] => {
                    self.consumed.insert(&tensor.entry.name);
                    let mapped = self.fold(tensor, Fold::Keep, to, None)?;
                    self.tensors.push(mapped);
                }
                _ => {
                    let names: Vec<_> =
                        found.iter().map(|t| format!("`{}`", t.entry.name)).collect();
                    return Err(Error::Unsupported(format!("{} are {to}", names.join(" and "))));
                }
            }
        }
        Ok(())
    }

    /// Whether a classifier's checkpoint has the tensor from the language model that it was.
    fn is_unused_output(&self, name: &str) -> bool {
        let row = self.config.family.source_row(name);
        self.config.classifier.is_some() && row.is_some_and(|(row, _)| is_output(row))
    }

    fn wanted(&self, to: &str) -> Result<shapes::Shape> {
        shapes::wanted(self.config, self.embedding, to).ok_or_else(|| {
            Error::Unsupported(format!("tensor {to} has no shape in pith's table of shapes"))
        })
    }

    /// Applies a fold as a change of sizes and strides, and checks the shape.
    fn fold(
        &self,
        tensor: &'a Tensor,
        fold: Fold,
        to: String,
        il: Option<usize>,
    ) -> Result<Mapped<'a>> {
        let entry = &tensor.entry;
        let wanted = self.wanted(&to)?;
        let head = self.config.head_dim();
        let (n_head, n_kv) = (self.config.size(Hp::NHead), self.config.size(Hp::NHeadKv));
        let mut stored = wanted.clone();
        match fold {
            Fold::Transpose => stored.reverse(),
            Fold::DropRows(n) => stored[0] = stored[0].saturating_add(n as usize),
            Fold::OneOfQkv => stored[0] = (n_head + 2 * n_kv) * head,
            _ => {}
        }
        check_shape(tensor, &to, &stored)?;
        let view = self.source.view(tensor)?;
        let parts = fold::arrange(view, fold, self.config, wanted[0], &to, &entry.name)?;
        let parts = fold::scale_queries(parts, self.config, &to, il);
        let add = if fold == Fold::AddOne { 1.0 } else { 0.0 };
        let dims = wanted.iter().rev().map(|&dim| dim as u64).collect();
        Ok(Mapped { name: to, dims, values: Values::Source { tensor, parts, add, fold } })
    }

    /// Whether a head holds the values of the embedding, bit for bit.
    fn equals_embedding(&self, head: &Mapped<'a>) -> Result<bool> {
        let table = self.tensors.iter().find(|mapped| mapped.name == "token_embd.weight");
        let Some(table) = table.filter(|table| table.dims == head.dims) else {
            return Ok(false);
        };
        let (table_data, head_data) = (table.load(self.source)?, head.load(self.source)?);
        let n_in = head.n_in();
        let (mut a, mut b) = (vec![0.0; n_in], vec![0.0; n_in]);
        for first in (0..head.n_values()).step_by(n_in) {
            table.read(&table_data, first, &mut a);
            head.read(&head_data, first, &mut b);
            if a.iter().zip(&b).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where tensors tell a model's structure, it is the one that the configuration speaks of.
    fn check_structure(&self) -> Result<()> {
        let block = &self.config.family.block;
        let source = |to: &str| self.filled.get(&format!("blk.0.{to}.weight"));
        if block.join == Join::ByNorm {
            let parallel = self.config.get(Hp::ParallelResidual) == Some(Number::Bool(true));
            match (parallel, source("ffn_norm")) {
                (true, Some(norm)) => {
                    return Err(Error::Invalid(format!(
                        "config.json: attention and feed-forward are parallel, but the checkpoint \
                         has the norm `{norm}` between them"
                    )));
                }
                (false, None) => return Err(self.missing_row("blk.{}.ffn_norm.weight")),
                _ => {}
            }
        }
        match (block.qk_norm, source("attn_q_norm"), source("attn_k_norm")) {
            (QkNorm::EachHead, Some(_), None) => Err(self.missing_row("blk.{}.attn_k_norm.weight")),
            (QkNorm::EachHead, None, Some(_)) => Err(self.missing_row("blk.{}.attn_q_norm.weight")),
            _ => Ok(()),
        }
    }

    /// The error for a tensor that may be absent, but not here.
    fn missing_row(&self, to: &str) -> Error {
        let rows = self.config.family.tensors.iter().filter(|row| row.to == to);
        let names = rows.map(|row| (fill(to, Some(0)), fill(row.source, Some(0))));
        missing_error(&names.collect::<Vec<_>>())
    }

    /// Everything needed is there, and nothing is left.
    fn check_complete(&mut self) -> Result<()> {
        let filled = &self.filled;
        self.missing.retain(|(to, _)| !filled.contains_key(to));
        if !self.missing.is_empty() {
            return Err(missing_error(&self.missing));
        }
        self.check_structure()?;
        let n_layer = self.config.size(Hp::NLayer);
        for (source, layers) in &self.optional {
            if let Some(il) = (0..n_layer).find(|il| !layers.contains(il)) {
                return Err(Error::Invalid(format!(
                    "tensor `{}` is missing; layer {} has it",
                    fill(source, Some(il)),
                    layers[0]
                )));
            }
        }
        for (to, there, key) in self.config.has() {
            let to = fill(to, Some(0));
            if self.filled.contains_key(&to) != there {
                let count = if there { "no tensor" } else { "a tensor" };
                return Err(Error::Invalid(format!(
                    "the checkpoint has {count} for {to}, against `{key}` in config.json"
                )));
            }
        }
        let mut left = Vec::new();
        for Tensor { entry, .. } in self.source.tensors() {
            if self.consumed.contains(entry.name.as_str()) {
                continue;
            }
            let is_other = self.config.others.iter().any(|other| entry.name.starts_with(other));
            let why = is_other.then_some("not the text model's: as you asked");
            match why.or_else(|| self.config.family.ignores(&entry.name)) {
                Some(why) => self.ignored.push((entry.name.clone(), why.into())),
                None if self.is_unused_output(&entry.name) => {
                    let why = "the language model's output: a classifier doesn't use it";
                    self.ignored.push((entry.name.clone(), why.into()));
                }
                None => left.push(format!("`{}` {:?}", entry.name, entry.shape)),
            }
        }
        for leftover in self.source.leftovers() {
            let (name, what) = (&leftover.name, leftover.what);
            match leftover.beside {
                true => self.ignored.push((name.clone(), format!("{what} beside the weights"))),
                false => left.push(format!("`{name}` ({what})")),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "the checkpoint has {} that {} doesn't use: {}",
            count(left.len()),
            self.config.family.title,
            listed(&left)
        )))
    }
}

fn check_shape(tensor: &Tensor, to: &str, wanted: &[usize]) -> Result<()> {
    let Entry { name, shape, .. } = &tensor.entry;
    if shape != wanted {
        return Err(Error::Unsupported(format!(
            "tensor `{name}` has shape {shape:?}, {to} needs {wanted:?} with these numbers in \
             config.json"
        )));
    }
    if wanted.contains(&0) {
        return Err(Error::Unsupported(format!("tensor `{name}` is empty")));
    }
    Ok(())
}

/// Whether a tensor belongs to the language model's output matrix.
fn is_output(row: &TensorRow) -> bool {
    row.to.starts_with("output.")
}

/// The tensor with this name in layer `il`, under the first of the family's prefixes that has it.
pub(crate) fn find<'a>(
    source: &'a Source,
    config: &Config,
    name: &str,
    il: Option<usize>,
) -> Option<&'a Tensor> {
    let name = fill(name, il);
    config.family.prefixes.iter().find_map(|prefix| source.tensor(&format!("{prefix}{name}")))
}

/// A row's name with its layer number.
pub(crate) fn fill(pattern: &str, il: Option<usize>) -> String {
    match il {
        Some(il) => pattern.replace("{}", &il.to_string()),
        None => pattern.to_owned(),
    }
}

fn missing_error(missing: &[(String, String)]) -> Error {
    let names: Vec<_> = missing.iter().map(|(to, from)| format!("`{from}` ({to})")).collect();
    Error::Invalid(format!(
        "the checkpoint lacks {}: {}. Is it a part of a sharded one, or of another class?",
        count(names.len()),
        listed(&names)
    ))
}

fn count(n: usize) -> String {
    if n == 1 { "a tensor".into() } else { format!("{n} tensors") }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let mut list = names[..names.len() - more].join(", ");
    if more > 0 {
        list += &format!(" and {more} more");
    }
    list
}
