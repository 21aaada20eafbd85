//! Merges an adapter into a checkpoint: tensors that it holds whole take the place of the base's,
//! and a matrix with a low-rank change is computed when it is asked for, one at a time, as f32 and
//! in Hugging Face's orientation, so that what comes after finds a checkpoint like any other.
//!
//! The formulas are those of PEFT (huggingface/peft, `src/peft/tuners/lora/layer.py` and
//! `dora.py`): W + scale B A, and for DoRA (Liu et al. 2024) m (W + scale B A) / |W + scale B A|
//! with the length of what belongs to one output.

use super::{
    Adapter, LowRank,
    changed::{Change, Changed, Magnitude},
    finite,
    settings::names_module,
};
use crate::{
    config::Config,
    mapping,
    source::{Data, Dtype, Entry, Packed, Source, Tensor, contiguous},
};
use pith::{Error, Result};
use pith_models::{Fold, Need, TensorRow};
use std::{collections::HashSet, fmt, sync::Arc};

/// A tensor of the adapter in the place of the base's.
struct Whole {
    adapter: Arc<Source>,
    tensor: String,
}

impl Adapter {
    /// Changes `base` as the adapter says. Returns how many tensors that were.
    ///
    /// # Errors
    /// Tensors for what the base doesn't have, or of other shapes than it wants; a module that the
    /// configuration names and the adapter has in some layers only.
    pub fn merge(&self, base: &mut Source, config: &Config) -> Result<usize> {
        self.check_layers(config)?;
        let (whole, low) = (HashSet::new(), HashSet::new());
        let mut merge = Merge { adapter: self, base, config, whole, low };
        merge.keep_tied_head()?;
        for (name, tensor, _) in &self.whole {
            merge.whole(name, tensor)?;
        }
        for name in self.modules.keys() {
            merge.low_rank(name)?;
        }
        Ok(merge.whole.union(&merge.low).count())
    }

    /// Where a list names the modules, each is there in every layer: half an adapter is none.
    pub(super) fn check_layers(&self, config: &Config) -> Result<()> {
        let settings = &self.settings;
        if !settings.everywhere {
            return Ok(());
        }
        let family = config.family;
        // By row, since the base's names may lack the prefix of the adapter's.
        let mut have = HashSet::new();
        for name in self.modules.keys() {
            let (row, il) = self.row(family, &format!("{name}.weight"), name)?;
            have.insert((row.source, il));
        }
        let of_adapter =
            |prefix: &&&str| self.modules.keys().any(|name| name.starts_with(**prefix));
        let prefix = family.prefixes.iter().find(of_adapter).unwrap_or(&"");
        for row in family.tensors.iter().filter(|row| row.need == Need::Required) {
            let Some(stem) = row.source.strip_suffix(".weight") else { continue };
            if !stem.contains("{}") || row.to.ends_with("_norm.weight") {
                continue;
            }
            for il in 0..config.size(pith_models::Hp::NLayer) {
                let module = format!("{prefix}{}", mapping::fill(stem, Some(il)));
                if names_module(&settings.targets, &module)
                    && !names_module(&settings.saved, &module)
                    && !have.contains(&(row.source, Some(il)))
                {
                    return Err(Error::Invalid(format!(
                        "the adapter lacks lora_A and lora_B of `{module}`, which \
                         `target_modules` names"
                    )));
                }
            }
        }
        Ok(())
    }
}

struct Merge<'m> {
    adapter: &'m Adapter,
    base: &'m mut Source,
    config: &'m Config,
    /// Names of the base's tensors that were replaced.
    whole: HashSet<String>,
    /// Names of those that were changed.
    low: HashSet<String>,
}

impl Merge<'_> {
    /// The name of the base's tensor of a row, if it has it.
    fn find(&self, row: &TensorRow, il: Option<usize>) -> Option<String> {
        let found = mapping::find(self.base, self.config, row.source, il);
        found.map(|tensor| tensor.entry.name.clone())
    }

    /// A head that is the embedding is a tensor of its own from here on if the adapter changes one
    /// of the two: in PEFT, too, the other keeps the base's values.
    fn keep_tied_head(&mut self) -> Result<()> {
        let family = self.config.family;
        let by_need = |need: Need| family.tensors.iter().find(|row| row.need == need);
        let embedding = family.tensors.iter().find(|row| row.to == "token_embd.weight");
        let (Some(head), Some(embedding)) = (by_need(Need::Head), embedding) else {
            return Ok(());
        };
        let Some(table) = self.find(embedding, None) else { return Ok(()) };
        if self.find(head, None).is_some() {
            return Ok(());
        }
        let is = |name: &str, row: &TensorRow| {
            family.source_row(name).is_some_and(|(found, _)| found.to == row.to)
        };
        // What PEFT puts into the shared parameter changes both.
        for (name, tensor, _) in self.adapter.whole.iter().filter(|(.., shared)| *shared) {
            if is(name, head) || is(name, embedding) {
                let entry = self.adapter.entry(tensor, &table)?;
                self.base.put(entry, &table);
            }
        }
        let low = self.adapter.modules.keys().map(|module| format!("{module}.weight"));
        let own = self.adapter.whole.iter().filter(|(.., shared)| !shared);
        let mut names = low.chain(own.map(|(name, ..)| name.clone()));
        if names.any(|name| is(&name, head) || is(&name, embedding)) {
            let table = self.base.tensor(&table).map(|tensor| tensor.entry.clone());
            let table = table.ok_or_else(|| Error::Invalid("no embedding".into()))?;
            let like = table.name.clone();
            self.base.put(Entry { name: head.source.into(), ..table }, &like);
        }
        Ok(())
    }

    /// Puts a tensor of the adapter in the place of the base's, or, if the base lacks it (the head
    /// of a classifier), beside them.
    fn whole(&mut self, name: &str, tensor: &str) -> Result<()> {
        // What no row knows stays under its name: the mapping says what becomes of it.
        let row = self.config.family.source_row(name);
        let found = row.and_then(|(row, il)| self.find(row, il.map(|il| il as usize)));
        let name = found.unwrap_or_else(|| name.to_owned());
        let entry = self.adapter.entry(tensor, &name)?;
        self.put(entry)?;
        check_once(&mut self.whole, name)
    }

    fn put(&mut self, entry: Entry) -> Result<()> {
        // The data are the adapter's: the file of any tensor will do.
        let like = self.base.tensors().first().map(|tensor| tensor.entry.name.clone());
        let like = like.ok_or_else(|| Error::Invalid("the checkpoint has no tensors".into()))?;
        let like = if self.base.tensor(&entry.name).is_some() { entry.name.clone() } else { like };
        self.base.put(entry, &like);
        Ok(())
    }

    fn low_rank(&mut self, module: &str) -> Result<()> {
        let parts = &self.adapter.modules[module];
        let by = parts.a.as_deref().unwrap_or(module);
        let (row, il) = self.adapter.row(self.config.family, &format!("{module}.weight"), by)?;
        let name = self.find(row, il).ok_or_else(|| missing(&format!("{module}.weight")))?;
        let tensor = self.base.tensor(&name).ok_or_else(|| missing(&name))?;
        let &[n_rows, n_cols] = tensor.entry.shape.as_slice() else {
            return Err(Error::Unsupported(format!(
                "the adapter changes `{name}`, which is no matrix but has shape {:?}",
                tensor.entry.shape
            )));
        };
        // Conv1D and embeddings are stored with an output in a column.
        let columns = parts.is_embedding() || row.fold == Fold::Transpose;
        let (n_out, n_in) = if columns { (n_cols, n_rows) } else { (n_rows, n_cols) };
        let LowRank { a, b, rank, scale } = self.adapter.low_rank(module, n_out, n_in)?;
        let is_table = matches!(row.to, "token_embd.weight" | "position_embd.weight");
        if parts.is_embedding() != is_table {
            return Err(Error::Unsupported(format!(
                "the adapter's tensor `{by}` is not what PEFT has for `{module}`: {}",
                if is_table { "an embedding" } else { "no embedding" }
            )));
        }
        let magnitude = parts.magnitude.as_deref();
        let magnitude = magnitude.map(|name| self.adapter.vector(name, n_out)).transpose()?;
        let (a, b) = (a.entry.name.clone(), b.entry.name.clone());
        let (left, right) = if columns { ((a, true), (b, true)) } else { ((b, false), (a, false)) };
        let change = Change::LowRank {
            left,
            right,
            rank,
            scale: scale as f32,
            magnitude: magnitude.map(|values| Magnitude { values, columns }),
        };
        let entry = self.change(tensor, change)?;
        self.put(entry)?;
        check_once(&mut self.low, name)?;
        match &parts.bias {
            Some(bias) => self.bias(module, bias, n_out, scale),
            None => Ok(()),
        }
    }

    /// Adds the bias of B, times the scale, to the module's.
    fn bias(&mut self, module: &str, bias: &str, n_out: usize, scale: f64) -> Result<()> {
        let (row, il) = self.adapter.row(self.config.family, &format!("{module}.bias"), bias)?;
        let name = self.find(row, il).ok_or_else(|| missing(&format!("{module}.bias")))?;
        let tensor = self.base.tensor(&name).ok_or_else(|| missing(&name))?;
        self.adapter.vector(bias, n_out)?;
        if tensor.entry.shape != [n_out] {
            return Err(Error::Unsupported(format!(
                "tensor `{name}` has shape {:?}, not [{n_out}]",
                tensor.entry.shape
            )));
        }
        let change = Change::Bias { tensor: bias.to_owned(), scale: scale as f32 };
        let entry = self.change(tensor, change)?;
        self.put(entry)?;
        check_once(&mut self.low, name)
    }

    /// The base's tensor with a change: f32, without gaps.
    fn change(&self, tensor: &Tensor, change: Change) -> Result<Entry> {
        let Entry { name, shape, data, .. } = &tensor.entry;
        let changed = Changed {
            base: data.clone(),
            view: self.base.view(tensor)?,
            adapter: self.adapter.source.clone(),
            change,
        };
        Ok(Entry {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
            strides: contiguous(shape),
            offset: 0,
            data: Data::Packed(Arc::new(changed)),
        })
    }
}

fn missing(name: &str) -> Error {
    Error::Invalid(format!("the adapter changes `{name}`, which the base lacks"))
}

/// Names with and without the base's prefix are of one tensor.
fn check_once(changed: &mut HashSet<String>, name: String) -> Result<()> {
    match changed.replace(name) {
        None => Ok(()),
        Some(name) => Err(Error::Unsupported(format!("the adapter changes `{name}` twice"))),
    }
}

impl Adapter {
    /// A tensor of the adapter as an entry `name` of another source.
    fn entry(&self, tensor: &str, name: &str) -> Result<Entry> {
        let found = self.source.tensor(tensor);
        let found = found.ok_or_else(|| Error::Invalid(format!("the adapter lacks `{tensor}`")))?;
        let whole = Whole { adapter: self.source.clone(), tensor: tensor.to_owned() };
        let data = Data::Packed(Arc::new(whole));
        Ok(Entry { name: name.to_owned(), data, ..found.entry.clone() })
    }
}

impl Packed for Whole {
    fn unpack(&self, _base: &[u8]) -> Result<Vec<u8>> {
        let tensor = self.adapter.tensor(&self.tensor);
        let tensor = tensor.ok_or_else(|| Error::Invalid(format!("no `{}`", self.tensor)))?;
        finite(&self.adapter, tensor)?;
        Ok(self.adapter.load(tensor)?.into_owned())
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the adapter's {}", self.tensor)
    }
}
