//! Names, and the few things that a state dict builds by them: dicts, storages, tensors. Nothing here
//! calls anything: a name chooses what its arguments mean.

use super::{MAX_NAME, MAX_NODES, Machine, Node, Ref, Storage, Symbol, Tensor};
use crate::source::view_end;
use pith::{Error, Result};

/// Dimensions that a tensor may have.
const MAX_DIMS: usize = 8;
/// What a tensor or a storage counts: it takes several times the memory of a plain value.
const BOXED: usize = 8;
/// The answer to `torch.save(model)`, which can't be read without the program that wrote it.
const WHOLE_MODULE: &str = "the file holds a whole module, whose code would have to run; load it \
                            with its own program and save the weights alone, with \
                            torch.save(model.state_dict(), ...)";

impl<'a> Machine<'a> {
    pub(super) fn global(&mut self) -> Result<()> {
        let module = self.line()?;
        let name = self.line()?;
        self.push_symbol(module, name)
    }

    pub(super) fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (self.node(module), self.node(name)) {
            (&Node::Str(module), &Node::Str(name)) if module.len().max(name.len()) <= MAX_NAME => {
                self.push_symbol(module, name)
            }
            (Node::Str(_), Node::Str(_)) => Err(self.fault("a global whose name is too long")),
            _ => Err(self.fault("a global whose name is no string")),
        }
    }

    fn push_symbol(&mut self, module: &str, name: &str) -> Result<()> {
        match Symbol::find(module, name) {
            Some(symbol) => self.push(Node::Symbol(symbol)),
            None if module.starts_with("torch.nn.modules") => {
                Err(Error::Unsupported(format!("{WHOLE_MODULE}; it names `{module}.{name}`")))
            }
            None => Err(Error::Unsupported(format!(
                "the pickle names `{module}.{name}` at byte {}, which weights don't need; nothing \
                 was run. If you trust the file, load it with its own program and save the weights \
                 alone: as safetensors, or with torch.save(model.state_dict(), ...)",
                self.op_at
            ))),
        }
    }

    pub(super) fn reduce(&mut self) -> Result<()> {
        let args = self.pop()?;
        let callee = self.pop()?;
        let (&Node::Symbol(symbol), Node::Tuple(args)) = (self.node(callee), self.node(args))
        else {
            return Err(self.fault("a call of what is no allowed name"));
        };
        if args.len() > MAX_DIMS {
            return Err(self.fault(format!("{symbol:?} with {} arguments", args.len())));
        }
        let args = args.clone();
        self.build_symbol(symbol, &args)
    }

    fn build_symbol(&mut self, symbol: Symbol, args: &[Ref]) -> Result<()> {
        match (symbol, args) {
            (Symbol::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Symbol::OrderedDict, &[pairs]) => self.dict_of_pairs(pairs),
            (Symbol::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.charge(BOXED)?;
                self.push(Node::Tensor(Box::new(tensor)))
            }
            (Symbol::RebuildParameter, &[data, ..]) => match self.node(data) {
                Node::Tensor(_) => {
                    self.stack.push(data);
                    Ok(())
                }
                _ => Err(self.fault("a parameter that is no tensor")),
            },
            (Symbol::RebuildFromType, &[function, class, args, _state]) => {
                match (self.node(function), self.node(class), self.node(args)) {
                    (
                        Node::Symbol(Symbol::RebuildTensor),
                        Node::Symbol(Symbol::TensorClass),
                        Node::Tuple(args),
                    ) if args.len() <= MAX_DIMS => {
                        let args = args.clone();
                        self.build_symbol(Symbol::RebuildTensor, &args)
                    }
                    _ => Err(self.fault("a tensor of an unknown class")),
                }
            }
            (Symbol::Size, &[dims]) => match self.node(dims) {
                Node::Tuple(_) => {
                    self.stack.push(dims);
                    Ok(())
                }
                _ => Err(self.fault("a torch.Size of what is no tuple")),
            },
            (Symbol::Device | Symbol::Encode | Symbol::NumpyType | Symbol::NumpyScalar, _) => {
                self.push(Node::Opaque(symbol))
            }
            _ => Err(self.fault(format!("{symbol:?} with {} arguments", args.len()))),
        }
    }

    fn dict_of_pairs(&mut self, pairs: Ref) -> Result<()> {
        let Node::List(list) = self.node(pairs) else {
            return Err(self.fault("an OrderedDict of what is no list"));
        };
        let mut items = Vec::new();
        for &pair in list.iter().take(MAX_NODES) {
            match self.node(pair) {
                Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => {
                    items.extend_from_slice(pair)
                }
                _ => return Err(self.fault("an OrderedDict of what are no pairs")),
            }
        }
        self.push(Node::Dict(Vec::new()))?;
        self.set_items(items)
    }

    /// BUILD gives an object attributes. The objects here that have any are the `OrderedDict` of a
    /// state dict, with `_metadata` (versions of modules), and a numpy type.
    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (self.top()?, self.node(state)) {
            (Node::Dict(_), Node::Dict(_)) => Ok(()),
            (Node::Opaque(Symbol::NumpyType), Node::Tuple(_)) => Ok(()),
            _ => Err(self.fault("attributes of what is no OrderedDict")),
        }
    }

    /// A persistent id: `("storage", class, key, location, elements)`. Legacy streams add `None`, or
    /// `(key, offset, elements)` of a storage that is a part of this one.
    pub(super) fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts = match self.node(id) {
            Node::Tuple(parts) => parts.as_slice(),
            _ => &[],
        };
        if parts.first().is_some_and(|&kind| *self.node(kind) == Node::Str("module")) {
            return Err(Error::Unsupported(WHOLE_MODULE.into()));
        }
        if !matches!(parts.len(), 5 | 6) {
            return Err(self.fault("a persistent id that is no storage"));
        }
        let [kind, class, key, location, len] = [0, 1, 2, 3, 4].map(|i| self.node(parts[i]));
        let part = parts.get(5).map_or(&Node::None, |&part| self.node(part));
        match (kind, class, key, location, len) {
            (
                Node::Str("storage"),
                &Node::Symbol(Symbol::StorageClass(dtype)),
                &Node::Str(key),
                Node::Str(_),
                &Node::Int(len),
            ) if key.len() <= MAX_NAME => {
                let whole = usize::try_from(len)
                    .map_err(|_| self.fault(format!("a storage of {len} elements")))?;
                let (start, len) = self.part(part, whole)?;
                self.charge(BOXED)?;
                self.push(Node::Storage(Box::new(Storage { dtype, key, whole, start, len })))
            }
            _ => Err(self.fault("a persistent id that is no storage")),
        }
    }

    /// First element and length of the part of a storage that a persistent id means.
    fn part(&self, part: &Node<'a>, whole: usize) -> Result<(usize, usize)> {
        let parts = match part {
            Node::None => return Ok((0, whole)),
            Node::Tuple(parts) if parts.len() == 3 => parts,
            _ => return Err(self.fault("a part of a storage that is no triple")),
        };
        let size = |i: usize| match self.node(parts[i]) {
            &Node::Int(size) => usize::try_from(size).ok(),
            _ => None,
        };
        match (self.node(parts[0]), size(1), size(2)) {
            (Node::Str(_), Some(start), Some(len))
                if start.checked_add(len).is_some_and(|end| end <= whole) =>
            {
                Ok((start, len))
            }
            _ => Err(self.fault(format!("a part that leaves its storage of {whole} elements"))),
        }
    }

    fn sizes(&self, at: Ref, what: &str) -> Result<Vec<usize>> {
        let Node::Tuple(items) = self.node(at) else {
            return Err(self.fault(format!("a tensor whose {what} is no tuple")));
        };
        if items.len() > MAX_DIMS {
            return Err(self.fault(format!("a tensor of {} dimensions", items.len())));
        }
        let size = |&item: &Ref| match self.node(item) {
            &Node::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let sizes: Option<Vec<_>> = items.iter().map(size).collect();
        sizes.ok_or_else(|| self.fault(format!("a tensor with a negative or odd {what}")))
    }

    fn tensor(&self, storage: Ref, offset: Ref, shape: Ref, strides: Ref) -> Result<Tensor<'a>> {
        let (Node::Storage(storage), &Node::Int(offset)) = (self.node(storage), self.node(offset))
        else {
            return Err(self.fault("a tensor without a storage or an offset"));
        };
        let storage = (**storage).clone();
        let offset = usize::try_from(offset)
            .map_err(|_| self.fault(format!("a tensor that begins at element {offset}")))?;
        let shape = self.sizes(shape, "shape")?;
        let strides = self.sizes(strides, "stride")?;
        if shape.len() != strides.len() {
            return Err(self.fault(format!("a shape {shape:?} with strides {strides:?}")));
        }
        let end = view_end(offset, &shape, &strides);
        if end.is_none_or(|end| end > storage.len) {
            return Err(self.fault(format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} leaves its \
                 storage of {} elements",
                storage.len
            )));
        }
        let offset = storage.start.saturating_add(offset);
        Ok(Tensor { storage, offset, shape, strides })
    }
}
