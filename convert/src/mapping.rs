//! From source tensors to GGUF tensors by the family's row: every tensor of the checkpoint is
//! consumed or ignored for a stated reason, every tensor that the model needs is there, and each
//! has the shape that the numbers say.

use crate::{
    config::Config,
    shapes::{self, Embedding},
    source::{Source, Tensor, View},
};
use pith::{Error, Result, quant::Format};
use pith_models::{Fold, Hp, Need, TensorRow};
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
        /// Its rows in their new order, one view behind the other.
        parts: Vec<View>,
        /// What is added to each value.
        add: f32,
        /// What was done to it.
        fold: Fold,
    },
    /// Computed from the configuration.
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
                let n_in = parts[0].n_in();
                let mut skip = first / n_in;
                let mut rest = out;
                for part in parts {
                    let here = part.n_rows().saturating_sub(skip).min(rest.len() / n_in);
                    let (now, later) = rest.split_at_mut(here * n_in);
                    part.read(data, skip, now);
                    skip = skip.saturating_sub(part.n_rows());
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
    for row in family.tensors.iter().filter(|row| !row.source.contains("{}")) {
        mapper.place(row, None)?;
    }
    for il in 0..mapper.config.size(Hp::NLayer) {
        for row in family.tensors.iter().filter(|row| row.source.contains("{}")) {
            mapper.place(row, Some(il))?;
        }
    }
    mapper.check_complete()?;
    if let Some(factors) = mapper.config.rope_factors() {
        let dims = vec![factors.len() as u64];
        let values = Values::Computed(factors);
        mapper.tensors.push(Mapped { name: "rope_freqs.weight".into(), dims, values });
    }
    let Mapper { tensors, ignored, tied, .. } = mapper;
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
        let row = |to: &str| config.family.tensors.iter().find(|row| row.to == to);
        let find = |to: &str| row(to).and_then(|row| find(source, config, row, None));
        let table = find("token_embd.weight").ok_or_else(|| {
            let name = row("token_embd.weight").map_or("", |row| row.source);
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
        let to = fill(row.to, il);
        let Some(tensor) = find(self.source, self.config, row, il) else {
            match row.need {
                Need::Required => self.missing.push((to, fill(row.source, il))),
                Need::Head if self.config.tied == Some(false) => {
                    self.missing.push((to, fill(row.source, il)));
                }
                Need::Head | Need::Optional => {}
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
        let mapped = self.fold(tensor, row.fold, to)?;
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

    /// Applies a fold as a change of sizes and strides, and checks the shape.
    fn fold(&self, tensor: &'a Tensor, fold: Fold, to: String) -> Result<Mapped<'a>> {
        let entry = &tensor.entry;
        let wanted = shapes::wanted(self.config, self.embedding, &to).ok_or_else(|| {
            Error::Unsupported(format!("tensor {to} has no shape in pith's table of shapes"))
        })?;
        let mut stored = wanted.clone();
        match fold {
            Fold::Transpose => stored.reverse(),
            Fold::DropRows(n) => stored[0] = stored[0].saturating_add(n as usize),
            _ => {}
        }
        if entry.shape != stored {
            return Err(Error::Unsupported(format!(
                "tensor `{}` has shape {:?}, {to} needs {stored:?} with these numbers in config.json",
                entry.name, entry.shape
            )));
        }
        if stored.contains(&0) {
            return Err(Error::Unsupported(format!("tensor `{}` is empty", entry.name)));
        }
        let view = self.source.view(tensor)?;
        let head = self.config.head_dim();
        let (n_head, n_kv) = (self.config.size(Hp::NHead), self.config.size(Hp::NHeadKv));
        // Half-split pairs become adjacent ones: old row s * head/2 + i is new row 2 i + s.
        let permute = |view: View, heads: usize| {
            check_even(head, &entry.name)?;
            Ok::<_, Error>(vec![view.split(0, &[heads, 2, head / 2]).swap(1, 2)])
        };
        let parts = match fold {
            Fold::Keep | Fold::AddOne => vec![view],
            Fold::Transpose => vec![view.swap(0, 1)],
            Fold::PermuteQ => permute(view, n_head)?,
            Fold::PermuteK => permute(view, n_kv)?,
            Fold::SplitHeads => {
                if n_head != n_kv {
                    return Err(Error::Unsupported(format!(
                        "tensor `{}` is split by heads, but {n_head} heads share {n_kv}",
                        entry.name
                    )));
                }
                vec![view.split(0, &[n_head, 3, head]).swap(0, 1)]
            }
            Fold::SplitGroups => {
                let queries = n_head / n_kv;
                let view = view.split(0, &[n_kv, queries + 2, head]);
                let take = |start, len| view.clone().narrow(1, start, len);
                vec![take(0, queries), take(queries, 1), take(queries + 1, 1)]
            }
            Fold::DropRows(n) => vec![view.narrow(0, n as usize, wanted[0])],
        };
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

    /// Everything needed is there, and nothing is left.
    fn check_complete(&mut self) -> Result<()> {
        let filled = &self.filled;
        self.missing.retain(|(to, _)| !filled.contains_key(to));
        if !self.missing.is_empty() {
            return Err(missing_error(&self.missing));
        }
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
        let mut left = Vec::new();
        for Tensor { entry, .. } in self.source.tensors() {
            if self.consumed.contains(entry.name.as_str()) {
                continue;
            }
            match self.config.family.ignores(&entry.name) {
                Some(why) => self.ignored.push((entry.name.clone(), why.into())),
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

fn check_even(head: usize, name: &str) -> Result<()> {
    if head.is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::Unsupported(format!("tensor `{name}` has rope on heads of odd width {head}")))
}

/// The tensor of a row in layer `il`, under the first of the family's prefixes that has it.
fn find<'a>(
    source: &'a Source,
    config: &Config,
    row: &TensorRow,
    il: Option<usize>,
) -> Option<&'a Tensor> {
    let name = fill(row.source, il);
    config.family.prefixes.iter().find_map(|prefix| source.tensor(&format!("{prefix}{name}")))
}

fn fill(pattern: &str, il: Option<usize>) -> String {
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
