//! A pickle machine that builds data and can do nothing else.
//!
//! Pickle is a program for a stack machine; Python runs whatever function it names. This machine
//! knows the opcodes that protocols 2 to 5 use for data and the handful of names that a state dict
//! consists of ([`Symbol`]). Any other name is an error that says it; nothing is ever called.
//!
//! Values live in an arena and refer to each other by index, so shared values stay shared and
//! nothing is copied out of proportion to the pickle's length.

mod value;

pub use value::{Node, Ref, Storage, Symbol, Tensor};

use pith::{Error, Result};

/// The longest pickle that is read; a state dict takes about 250 bytes a tensor.
const MAX_LEN: usize = 64 << 20;
/// Values that a pickle may make, and items that it may copy; a state dict makes about 25 a tensor,
/// and all of them take less than 64 MB.
const MAX_NODES: usize = 1 << 20;
/// What a tensor or a storage counts: it takes several times the memory of a plain value.
const BOXED: usize = 8;
/// Containers that may be open at once.
const MAX_MARKS: usize = 1000;
/// Dimensions that a tensor may have.
const MAX_DIMS: usize = 8;

/// The answer to `torch.save(model)`, which can't be read without the program that wrote it.
const WHOLE_MODULE: &str = "the file holds a whole module, whose code would have to run; load it \
                            with its own program and save the weights alone, with \
                            torch.save(model.state_dict(), ...)";

/// A whole pickle: its values and the one at the top.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Ref,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle `bytes`, which must end with its STOP.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an opcode or a name outside the allowed ones, which it names with
    /// its offset; [`Error::Malformed`] for a pickle that isn't sound or exceeds a limit.
    pub fn parse(bytes: &'a [u8]) -> Result<Pickle<'a>> {
        if bytes.len() > MAX_LEN {
            return Err(fault(0, format!("{} bytes; at most {MAX_LEN} are read", bytes.len())));
        }
        let (pickle, end) = Pickle::parse_at(bytes, 0)?;
        if end != bytes.len() {
            return Err(fault(end, "bytes follow the end of the pickle"));
        }
        Ok(pickle)
    }

    /// Runs the pickle that begins at `start` of `file`, where more may follow; gives the offset of
    /// its end, too.
    ///
    /// # Errors
    /// As [`Pickle::parse`], with offsets in `file`.
    pub fn parse_at(file: &'a [u8], start: usize) -> Result<(Pickle<'a>, usize)> {
        let bytes = &file[..file.len().min(start.saturating_add(MAX_LEN))];
        Machine { bytes, start, at: start, ..Machine::default() }.run()
    }

    /// The value at the top.
    pub fn root(&self) -> &Node<'a> {
        self.get(self.root)
    }

    /// The value behind a reference of this pickle.
    pub fn get(&self, at: Ref) -> &Node<'a> {
        &self.nodes[at as usize]
    }

    /// All storages that it names, each as often as it does.
    pub fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }
}

fn fault(at: usize, what: impl Into<String>) -> Error {
    Error::malformed_at("pickle", at as u64, what)
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    /// Where the pickle begins.
    start: usize,
    at: usize,
    /// Offset of the opcode being run, for errors.
    op_at: usize,
    nodes: Vec<Node<'a>>,
    /// Items copied between containers, which count like values.
    copied: usize,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: Vec<Option<Ref>>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<(Pickle<'a>, usize)> {
        loop {
            self.op_at = self.at;
            let [op] = self.array()?;
            if op == b'.' {
                break;
            }
            self.step(op)?;
        }
        match (&self.stack[..], &self.marks[..]) {
            (&[root], []) => Ok((Pickle { nodes: self.nodes, root }, self.at)),
            _ => Err(self.fault("the pickle doesn't end with one value")),
        }
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => self.protocol(),
            0x95 => self.take_len::<8>().map(|_| ()), // FRAME: a length, for buffering readers
            b'(' => self.mark(),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(op),
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value))
            }
            b'X' | 0x8c | 0x8d | b'T' | b'U' => self.string(op),
            b'B' | b'C' | 0x8e => self.raw_bytes(op),
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => self.short_tuple(usize::from(op - 0x84)),
            b't' => self.pop_mark().and_then(|items| self.push(Node::Tuple(items))),
            b']' => self.push(Node::List(Vec::new())),
            b'l' => self.pop_mark().and_then(|items| self.push(Node::List(items))),
            b'a' => self.pop().and_then(|item| self.append(vec![item])),
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => self.push_dict(),
            b's' => self.set_item(),
            b'u' => self.pop_mark().and_then(|items| self.set_items(items)),
            0x8f => self.push(Node::Set),
            0x90 => self.pop_mark().and_then(|_| match self.top()? {
                Node::Set => Ok(()),
                _ => Err(self.fault("items are added to what is no set")),
            }),
            0x91 => self.pop_mark().and_then(|_| self.push(Node::Set)),
            b'q' | b'r' | 0x94 => self.remember(op),
            b'h' | b'j' => self.recall(op),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.storage(),
            _ => Err(Error::Unsupported(format!(
                "pickle opcode {op:#04x} at byte {}, which no state dict needs; save the weights \
                 alone, with torch.save(model.state_dict(), ...)",
                self.op_at
            ))),
        }
    }

    // Reading operands.

    fn fault(&self, what: impl Into<String>) -> Error {
        fault(self.op_at, what)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..n) else {
            return Err(self.fault(format!("{n} bytes wanted, {} are left", rest.len())));
        };
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A little-endian length of N bytes.
    fn take_len<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        let len = u64::from_le_bytes(wide);
        usize::try_from(len).map_err(|_| self.fault(format!("a length of {len}")))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().take(256).position(|&byte| byte == b'\n') else {
            return Err(self.fault("a name without an end"));
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.fault("a name that isn't UTF-8"))
    }

    // The stack.

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        self.charge(0)?;
        // `charge` bounds the arena far below u32.
        self.stack.push(self.nodes.len() as Ref);
        self.nodes.push(node);
        Ok(())
    }

    fn charge(&mut self, copies: usize) -> Result<()> {
        self.copied += copies;
        if self.nodes.len() + self.copied >= MAX_NODES {
            return Err(self.fault(format!("more than {MAX_NODES} values")));
        }
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Ref> {
        if self.stack.len() <= self.floor() {
            return Err(self.fault("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| self.fault("the stack is empty"))
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_MARKS {
            return Err(self.fault(format!("more than {MAX_MARKS} values inside each other")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_mark(&mut self) -> Result<Vec<Ref>> {
        let mark = self.marks.pop().ok_or_else(|| self.fault("no mark is set"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top_ref(&self) -> Result<Ref> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.fault("the stack is empty")),
        }
    }

    fn top(&self) -> Result<&Node<'a>> {
        Ok(&self.nodes[self.top_ref()? as usize])
    }

    fn top_mut(&mut self) -> Result<&mut Node<'a>> {
        let top = self.top_ref()?;
        Ok(&mut self.nodes[top as usize])
    }

    fn node(&self, at: Ref) -> &Node<'a> {
        &self.nodes[at as usize]
    }

    // Plain values.

    fn protocol(&mut self) -> Result<()> {
        let [version] = self.array()?;
        if self.op_at != self.start || !(2..=5).contains(&version) {
            return Err(self.fault(format!("protocol {version} where 2 to 5 may begin a pickle")));
        }
        Ok(())
    }

    fn integer(&mut self, op: u8) -> Result<()> {
        let value = match op {
            b'J' => i64::from(i32::from_le_bytes(self.array()?)),
            b'K' => i64::from(u8::from_le_bytes(self.array()?)),
            b'M' => i64::from(u16::from_le_bytes(self.array()?)),
            _ => {
                let len = self.take_len::<1>()?;
                if len > 8 {
                    return Err(self.fault(format!("an integer of {len} bytes; 8 are read")));
                }
                let digits = self.take(len)?;
                let negative = digits.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..len].copy_from_slice(digits);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Node::Int(value))
    }

    fn string(&mut self, op: u8) -> Result<()> {
        let len = match op {
            0x8c | b'U' => self.take_len::<1>()?,
            b'X' | b'T' => self.take_len::<4>()?,
            _ => self.take_len::<8>()?,
        };
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Str(text)),
            // Python 2 wrote bytes this way.
            Err(_) if matches!(op, b'T' | b'U') => self.push(Node::Bytes),
            Err(_) => Err(self.fault("a string that isn't UTF-8")),
        }
    }

    fn raw_bytes(&mut self, op: u8) -> Result<()> {
        let len = match op {
            b'C' => self.take_len::<1>()?,
            b'B' => self.take_len::<4>()?,
            _ => self.take_len::<8>()?,
        };
        self.take(len)?;
        self.push(Node::Bytes)
    }

    // Containers.

    fn short_tuple(&mut self, len: usize) -> Result<()> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn append(&mut self, items: Vec<Ref>) -> Result<()> {
        self.charge(items.len())?;
        match self.top_mut()? {
            Node::List(list) => list.extend(items),
            _ => return Err(self.fault("an item is appended to what is no list")),
        }
        Ok(())
    }

    fn push_dict(&mut self) -> Result<()> {
        let items = self.pop_mark()?;
        self.push(Node::Dict(Vec::new()))?;
        self.set_items(items)
    }

    fn set_item(&mut self) -> Result<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.set_items(vec![key, value])
    }

    fn set_items(&mut self, items: Vec<Ref>) -> Result<()> {
        self.charge(items.len())?;
        if !items.len().is_multiple_of(2) {
            return Err(self.fault("a key without a value"));
        }
        match self.top_mut()? {
            Node::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(self.fault("an item is set in what is no dict")),
        }
        Ok(())
    }

    // The memo.

    fn remember(&mut self, op: u8) -> Result<()> {
        let slot = match op {
            b'q' => self.take_len::<1>()?,
            b'r' => self.take_len::<4>()?,
            _ => self.memo.len(),
        };
        // Writers count up from 0, so a slot far ahead is a lie about the memo's size.
        if slot > self.memo.len() + 1024 {
            return Err(self.fault(format!("memo slot {slot} after {}", self.memo.len())));
        }
        let top = self.top_ref()?;
        if slot >= self.memo.len() {
            self.charge(slot + 1 - self.memo.len())?;
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(top);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<()> {
        let slot = if op == b'h' { self.take_len::<1>()? } else { self.take_len::<4>()? };
        let Some(value) = self.memo.get(slot).copied().flatten() else {
            return Err(self.fault(format!("memo slot {slot} is empty")));
        };
        self.charge(1)?;
        self.stack.push(value);
        Ok(())
    }

    // Names and what they build.

    fn global(&mut self) -> Result<()> {
        let module = self.line()?;
        let name = self.line()?;
        self.push_symbol(module, name)
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (self.node(module), self.node(name)) {
            (&Node::Str(module), &Node::Str(name)) => self.push_symbol(module, name),
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

    fn reduce(&mut self) -> Result<()> {
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
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (self.top()?, self.node(state)) {
            (Node::Dict(_), Node::Dict(_)) => Ok(()),
            (Node::Opaque(Symbol::NumpyType), Node::Tuple(_)) => Ok(()),
            _ => Err(self.fault("attributes of what is no OrderedDict")),
        }
    }

    /// A persistent id: `("storage", class, key, location, elements)`. Legacy streams add `None`, or
    /// `(key, offset, elements)` of a storage that is a part of this one.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts = match self.node(id) {
            Node::Tuple(parts) if matches!(parts.len(), 5 | 6) => parts,
            _ => return Err(self.fault("a persistent id that is no storage")),
        };
        let [kind, class, key, location, len] = [0, 1, 2, 3, 4].map(|i| self.node(parts[i]));
        let part = parts.get(5).map_or(&Node::None, |&part| self.node(part));
        match (kind, class, key, location, len) {
            (
                Node::Str("storage"),
                &Node::Symbol(Symbol::StorageClass(dtype)),
                &Node::Str(key),
                Node::Str(_),
                &Node::Int(len),
            ) => {
                let whole = usize::try_from(len)
                    .map_err(|_| self.fault(format!("a storage of {len} elements")))?;
                let (start, len) = self.part(part, whole)?;
                self.charge(BOXED)?;
                self.push(Node::Storage(Box::new(Storage { dtype, key, whole, start, len })))
            }
            (Node::Str("module"), ..) => Err(Error::Unsupported(WHOLE_MODULE.into())),
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
        let end = super::view_end(offset, &shape, &strides);
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
