//! A pickle machine that builds data and can do nothing else.
//!
//! Pickle is a program for a stack machine; Python runs whatever function it names. This machine
//! knows the opcodes that protocols 2 to 5 use for data and the handful of names that a state dict
//! consists of ([`Symbol`]). Any other name is an error that says it; nothing is ever called.
//!
//! Values live in an arena and refer to each other by index, so shared values stay shared and
//! nothing is copied out of proportion to the pickle's length.

mod build;
mod value;

pub use value::{Node, Ref, Storage, Symbol, Tensor};

use pith::{Error, Result};

/// The longest pickle that is read; a state dict takes about 250 bytes a tensor.
const MAX_LEN: usize = 64 << 20;
/// Values that a pickle may make, and items that it may copy; a state dict makes about 25 a tensor,
/// and all of them take less than 64 MB.
pub(super) const MAX_NODES: usize = 1 << 19;
/// Containers that may be open at once.
const MAX_MARKS: usize = 1000;
/// Bytes that a name may have: a module's, a function's, a storage's key.
const MAX_NAME: usize = 256;

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
        let (pickle, end) = Pickle::parse_at(bytes, 0, MAX_NODES)?;
        if end != bytes.len() {
            return Err(fault(end, "bytes follow the end of the pickle"));
        }
        Ok(pickle)
    }

    /// Runs the pickle that begins at `start` of `file`, where more may follow, and makes at most
    /// `limit` values; gives the offset of its end, too.
    ///
    /// # Errors
    /// As [`Pickle::parse`], with offsets in `file`.
    pub fn parse_at(file: &'a [u8], start: usize, limit: usize) -> Result<(Pickle<'a>, usize)> {
        let bytes = &file[..file.len().min(start.saturating_add(MAX_LEN))];
        let limit = limit.min(MAX_NODES);
        Machine { bytes, start, at: start, limit, ..Machine::default() }.run()
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
    /// Values that it may make.
    limit: usize,
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
            b'i' => self.global().and_then(|()| self.refuse(op)),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.storage(),
            _ => self.refuse(op),
        }
    }

    fn refuse(&self, op: u8) -> Result<()> {
        Err(Error::Unsupported(format!(
            "pickle opcode {op:#04x} at byte {}, which no state dict needs; save the weights alone, \
             with torch.save(model.state_dict(), ...)",
            self.op_at
        )))
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
        let Some(end) = rest.iter().take(MAX_NAME).position(|&byte| byte == b'\n') else {
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
        if self.nodes.len() + self.copied >= self.limit {
            return Err(self.fault(format!("more than {} values", self.limit)));
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
}
