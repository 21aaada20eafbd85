//! A model as a plan: a flat list of ops, in the order in which they run, over numbered buffers
//! whose sizes are known before the first token. The CPU runs the list as it is. `planner` is the
//! only place that reads a family's switches; the code that runs ops knows no family.

mod planner;

use std::fmt;

use pith_models::{Act, Norm, Pairing};
use planner::Planner;

use crate::{
    Result,
    kernel::{A8, Kernels, Panel, acts},
    lora::Adapter,
    memory::enough,
    model::{Model, Weight},
    quant::Format,
};

/// A buffer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf(pub usize);

/// A buffer: one row per token of a step (or per wanted row of logits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufSpec {
    /// For people.
    pub name: &'static str,
    /// Values in a row.
    pub width: usize,
    /// What a row holds.
    pub kind: BufKind,
    /// Whether there is a row for each token, or only for those whose logits are wanted.
    pub per_logit: bool,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufKind {
    /// f32 values.
    F32,
    /// Quantized activations.
    Acts,
}

/// The weights of a norm.
#[derive(Clone, Debug)]
pub struct NormSpec {
    /// Which formula.
    pub kind: Norm,
    /// GGUF name of the scale, where there is one.
    pub weight: Option<String>,
    /// GGUF name of the shift, where there is one.
    pub bias: Option<String>,
    /// Epsilon.
    pub eps: f32,
}

/// One step of the plan. `n` is the number of rows of the step.
#[allow(missing_docs)] // the comments of the variants name their fields
#[derive(Clone, Debug)]
pub enum Op {
    /// out[n, n_embd] = scale * row `token` of the table.
    Embed { table: Weight, scale: f32, out: Buf },
    /// out[n, n_embd] += row `position` of the table.
    Positions { table: Weight, out: Buf },
    /// Cosines and sines of this step's positions for one set of frequencies.
    RopeTable { table: usize },
    /// out = norm(input), row by row.
    Norm { norm: NormSpec, input: Buf, out: Buf },
    /// Norm of each of `n_groups` spans of `width` columns from `col` on, in place; the weights are
    /// those of one span, or of all.
    NormHeads { norm: NormSpec, buf: Buf, col: usize, n_groups: usize, width: usize },
    /// int8 codes of the rows, once for all products that read them.
    Quantize { input: Buf, out: Buf },
    /// out[n, col..col + n_out] = input * weight^T (+ bias), for matrices whose results lie side by
    /// side from column `col` on.
    Linear { parts: Vec<Part>, input: Buf, out: Buf, col: usize },
    /// out[n, col..col + n_out] += scale * mid * b^T: what an adapter adds to a product. What is in
    /// `low.mid` another product has made.
    LowRank { low: LowRank, out: Buf, col: usize },
    /// Values of all columns are bounded to +-limit.
    Clamp { buf: Buf, limit: f32 },
    /// Turns `n_heads` heads from column `col` on.
    Rope { table: usize, pairing: Pairing, buf: Buf, col: usize, n_heads: usize },
    /// The rows' keys and values go into the cache, in its type.
    WriteKv { layer: usize, buf: Buf, k_col: usize, v_col: usize },
    /// out[n, n_head * head_dim] = softmax(scale * q.k + ...) v over the sequence so far.
    Attend(Attend),
    /// In place.
    Activate { act: Act, buf: Buf },
    /// out[n, w] = act(buf[.., 0..w]) * buf[.., w..2w].
    Gate { act: Act, buf: Buf, out: Buf },
    /// into += from.
    Add { into: Buf, from: Buf },
    /// out = the rows of input whose logits are wanted.
    Select { input: Buf, out: Buf },
    /// cap * tanh(x / cap), in place.
    Softcap { buf: Buf, cap: f32 },
}

/// One matrix of a product.
#[derive(Clone, Debug)]
pub struct Part {
    /// `[n_out, n_in]`.
    pub weight: Weight,
    /// GGUF name of what is added, `[n_out]`, where there is one.
    pub bias: Option<String>,
}

/// The second half of an adapter's change of a matrix.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[n_out, rank]`, without a bias.
    pub b: Part,
    /// Factor on the product.
    pub scale: f32,
    /// The product with the first half, `[n, rank]`.
    pub mid: Buf,
}

/// Attention of one layer.
#[derive(Clone, Debug)]
pub struct Attend {
    /// Which layer's cache.
    pub layer: usize,
    /// Queries are its first columns.
    pub q: Buf,
    /// Where the mix of values goes.
    pub out: Buf,
    /// Factor on q.k.
    pub scale: f32,
    /// Cap of scores; 0 for none.
    pub softcap: f32,
    /// Keys further back than this are not seen.
    pub window: Option<usize>,
    /// ALiBi slopes, one per head; empty for none.
    pub slopes: Vec<f32>,
}

/// Frequencies of one set of rope tables.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Dimensions that are turned.
    pub n_rot: usize,
    /// Theta.
    pub base: f32,
    /// Factor on positions.
    pub scale: f32,
    /// Divisors of the frequencies.
    pub factors: Option<Vec<f64>>,
    /// Factor on cosines and sines.
    pub magnitude: f64,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order in which they run.
    pub ops: Vec<Op>,
    /// What the ops' numbers mean.
    pub buffers: Vec<BufSpec>,
    /// Sets of rope frequencies.
    pub ropes: Vec<RopeSpec>,
    /// Where the logits are after a step, `[n_wanted, n_vocab]`; a classifier's are
    /// `[n_wanted, n_labels]`.
    pub logits: Buf,
    /// Where the final hidden states are, `[n_wanted, n_embd]`.
    pub hidden: Buf,
    /// How logits are made.
    pub head: Head,
}

/// What the ops that write [`Plan::logits`] do, for those who make logits a few ids at a time:
/// `softcap * tanh((input * weight^T + bias + low-rank changes) / softcap)`.
#[derive(Clone, Debug)]
pub struct Head {
    /// Weight `[n_vocab, n_in]` and bias; a classifier has a row for each label.
    pub part: Part,
    /// What the weight multiplies, as it wants it.
    pub input: Buf,
    /// What adapters add, each with a buffer of its own for its first half.
    pub low_rank: Vec<LowRank>,
    /// Cap of the logits.
    pub softcap: Option<f32>,
}

/// How large steps may be: what memory is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Positions of a sequence.
    pub n_ctx: usize,
    /// Rows of a step.
    pub n_batch: usize,
    /// Rows of a step whose logits are wanted.
    pub n_logits: usize,
    /// Whether all rows of a step may be scored, and then how many of the best ids each wants.
    pub n_top: Option<usize>,
    /// Threads of a step.
    pub n_threads: usize,
}

impl Limits {
    /// Rows of a step whose final hidden states are wanted: for logits, or to be scored.
    pub fn n_wanted(&self) -> usize {
        if self.n_top.is_some() { self.n_logits.max(self.n_batch) } else { self.n_logits }
    }
}

impl Plan {
    /// The plan of a model with adapters, for sequences of up to `n_ctx` positions.
    ///
    /// # Errors
    /// A tensor that the family needs is missing, or its shape disagrees with the model's numbers;
    /// an adapter changes what the model doesn't have.
    pub fn new(model: &Model, adapters: &[Adapter], n_ctx: usize) -> Result<Plan> {
        let mut planner = Planner::new(model, adapters, n_ctx)?;
        planner.embed()?;
        for il in 0..model.hparams().n_layer {
            enough()?;
            planner.block(il)?;
        }
        planner.head()
    }
}

impl Op {
    /// The buffer that the op writes, where it is one.
    pub fn writes(&self) -> Option<Buf> {
        match *self {
            Op::Embed { out, .. }
            | Op::Positions { out, .. }
            | Op::Norm { out, .. }
            | Op::Quantize { out, .. }
            | Op::Linear { out, .. }
            | Op::LowRank { out, .. }
            | Op::Attend(Attend { out, .. })
            | Op::Gate { out, .. }
            | Op::Select { out, .. } => Some(out),
            Op::NormHeads { buf, .. }
            | Op::Clamp { buf, .. }
            | Op::Rope { buf, .. }
            | Op::Activate { buf, .. }
            | Op::Softcap { buf, .. } => Some(buf),
            Op::Add { into, .. } => Some(into),
            Op::RopeTable { .. } | Op::WriteKv { .. } => None,
        }
    }

    /// The op's name.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::Positions { .. } => "positions",
            Op::RopeTable { .. } => "rope-table",
            Op::Norm { .. } => "norm",
            Op::NormHeads { .. } => "norm-heads",
            Op::Quantize { .. } => "quantize",
            Op::Linear { .. } => "linear",
            Op::LowRank { .. } => "low-rank",
            Op::Clamp { .. } => "clamp",
            Op::Rope { .. } => "rope",
            Op::WriteKv { .. } => "write-kv",
            Op::Attend(_) => "attend",
            Op::Activate { .. } => "activate",
            Op::Gate { .. } => "gate",
            Op::Add { .. } => "add",
            Op::Select { .. } => "select",
            Op::Softcap { .. } => "softcap",
        }
    }

    /// Bytes of weights that one step reads, whatever its number of rows.
    pub fn weight_bytes(&self) -> usize {
        match self {
            Op::Linear { parts, .. } => parts.iter().map(|p| p.weight.n_bytes()).sum(),
            Op::LowRank { low, .. } => low.b.weight.n_bytes(),
            Op::Embed { table, .. } | Op::Positions { table, .. } => {
                table.format.row_bytes(table.n_in).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Multiply-adds with weights for one row.
    pub fn macs(&self) -> usize {
        match self {
            Op::Linear { parts, .. } => parts.iter().map(|p| p.weight.n_in * p.weight.n_out).sum(),
            Op::LowRank { low, .. } => low.b.weight.n_in * low.b.weight.n_out,
            _ => 0,
        }
    }
}

impl Plan {
    /// Bytes of weights that a step of one row reads.
    pub fn weight_bytes(&self) -> usize {
        self.ops.iter().map(Op::weight_bytes).sum()
    }

    /// Whether adapters change a product.
    pub fn has_low_rank(&self) -> bool {
        self.low_ranks().next().is_some()
    }

    /// What adapters add to products.
    pub fn low_ranks(&self) -> impl Iterator<Item = &LowRank> {
        self.ops.iter().filter_map(|op| match op {
            Op::LowRank { low, .. } => Some(low),
            _ => None,
        })
    }

    /// Rows that a buffer has.
    pub fn n_rows(&self, buf: Buf, limits: &Limits) -> usize {
        match self.buffers[buf.0].per_logit {
            _ if buf == self.logits => limits.n_logits,
            true => limits.n_wanted(),
            false => limits.n_batch,
        }
    }

    /// Bytes of all buffers.
    pub fn buffer_bytes(&self, limits: &Limits) -> usize {
        let bytes = |i: usize| self.buffers[i].bytes(self.n_rows(Buf(i), limits));
        (0..self.buffers.len()).map(bytes).fold(0, usize::saturating_add)
    }

    /// Packs of unpacked weights that a thread needs for steps of up to `n_batch` rows.
    pub fn scratch_packs(&self, n_batch: usize) -> usize {
        let groups = |op: &Op| match op {
            // The parts read one input, and so have one n_in and one kind of format.
            Op::Linear { parts, .. } if !parts[0].weight.format.is_float() => {
                Kernels::scratch_packs(parts[0].weight.n_in)
            }
            _ => 0,
        };
        match acts::most(n_batch).0 {
            0 => 0,
            _ => self.ops.iter().map(groups).max().unwrap_or(0),
        }
    }
}

impl BufSpec {
    /// Bytes for `n` rows.
    pub fn bytes(&self, n: usize) -> usize {
        match self.kind {
            BufKind::F32 => n.saturating_mul(self.width).saturating_mul(size_of::<f32>()),
            BufKind::Acts => {
                let (n_panels, n_rows) = acts::most(n);
                let bytes = n_panels * size_of::<Panel>() + n_rows * size_of::<A8>();
                self.width.div_ceil(256).saturating_mul(bytes)
            }
        }
    }
}

/// The plan as a table: op, what it reads, where it writes, bytes and multiply-adds per row.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, op) in self.ops.iter().enumerate() {
            let out = op.writes().map_or("", |b| self.buffers[b.0].name);
            let what = op.operand().unwrap_or_default();
            write!(f, "{i:5}  {:<10}  {what:<32} -> {out:<10}", op.name())?;
            match (op.weight_bytes(), op.macs()) {
                (0, 0) => writeln!(f)?,
                (bytes, macs) => writeln!(f, "  {bytes:>10} B  {macs:>10} MAC")?,
            }
        }
        Ok(())
    }
}

impl Op {
    /// The weights that the op reads, with their format.
    pub fn operand(&self) -> Option<String> {
        let matrix = |w: &Weight| format!("{} {}", w.name, Format::name(w.format));
        match self {
            Op::Linear { parts, .. } => {
                Some(parts.iter().map(|p| matrix(&p.weight)).collect::<Vec<_>>().join(", "))
            }
            Op::LowRank { low, .. } => Some(matrix(&low.b.weight)),
            Op::Embed { table, .. } | Op::Positions { table, .. } => Some(matrix(table)),
            Op::Norm { norm, .. } | Op::NormHeads { norm, .. } => norm.weight.clone(),
            Op::WriteKv { layer, .. } | Op::Attend(Attend { layer, .. }) => {
                Some(format!("layer {layer}"))
            }
            _ => None,
        }
    }
}
