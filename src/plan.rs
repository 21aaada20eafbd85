//! A model as a plan: a flat list of ops, in the order in which they run, over numbered buffers
//! whose sizes are known before the first token. The CPU runs the list as it is. This is the only
//! place that reads a family's switches; the code that runs ops knows no family.

use std::fmt;

use pith_models::{Act, Ffn, Join, Norm, Pairing, Position};

use crate::{
    Result,
    kernel::{A8, Kernels, Panel, acts},
    model::{Model, Weight, in_window, missing, qk_norm_width},
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
    /// Norm of each of `n_groups` spans of `width` columns from `col` on, in place.
    NormHeads { norm: NormSpec, buf: Buf, col: usize, n_groups: usize, width: usize },
    /// int8 codes of the rows, once for all products that read them.
    Quantize { input: Buf, out: Buf },
    /// out[n, col..col + n_out] = input * weight^T (+ bias), for matrices whose results lie side by
    /// side from column `col` on.
    Linear { parts: Vec<Part>, input: Buf, out: Buf, col: usize },
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
    pub factors: Option<Vec<f32>>,
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
    /// Where the logits are after a step, `[n_wanted, n_vocab]`.
    pub logits: Buf,
    /// Where the final hidden states are, `[n_wanted, n_embd]`.
    pub hidden: Buf,
    /// How logits are made.
    pub head: Head,
}

/// What the ops that write [`Plan::logits`] do, for those who make logits a few ids at a time:
/// `softcap * tanh((input * weight^T + bias) / softcap)`.
#[derive(Clone, Debug)]
pub struct Head {
    /// Weight `[n_vocab, n_in]` and bias.
    pub part: Part,
    /// What the weight multiplies, as it wants it.
    pub input: Buf,
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
    /// The plan of a model.
    ///
    /// # Errors
    /// A tensor that the family needs is missing, or its shape disagrees with the model's numbers.
    pub fn new(model: &Model) -> Result<Plan> {
        let mut planner = Planner::new(model);
        planner.embed()?;
        for il in 0..model.hparams().n_layer {
            planner.block(il)?;
        }
        planner.head()
    }
}

/// Builds a plan. `x` is the residual stream, `n` the normed copy, `y` a sublayer's output.
struct Planner<'m> {
    model: &'m Model,
    ops: Vec<Op>,
    buffers: Vec<BufSpec>,
    ropes: Vec<RopeSpec>,
    x: Buf,
    n: Buf,
    y: Buf,
    qkv: Buf,
    mix: Buf,
    up: Buf,
}

impl<'m> Planner<'m> {
    fn new(model: &'m Model) -> Self {
        let hp = model.hparams();
        let mut buffers = Vec::new();
        let mut buffer = |name, width| {
            buffers.push(BufSpec { name, width, kind: BufKind::F32, per_logit: false });
            Buf(buffers.len() - 1)
        };
        let gated = model.family().block.ffn != Ffn::Plain;
        let x = buffer("x", hp.n_embd);
        let n = buffer("normed", hp.n_embd);
        let y = buffer("y", hp.n_embd);
        let qkv = buffer("qkv", (hp.n_head + 2 * hp.n_head_kv) * hp.head_dim);
        let mix = buffer("mix", hp.n_head * hp.head_dim);
        let up = buffer("up", if gated { 2 * hp.n_ff } else { hp.n_ff });
        Planner { model, ops: Vec::new(), buffers, ropes: Vec::new(), x, n, y, qkv, mix, up }
    }

    /// A buffer with this name, width and kind: the one that is there, or a new one.
    fn buffer(&mut self, name: &'static str, width: usize, kind: BufKind, per_logit: bool) -> Buf {
        let spec = BufSpec { name, width, kind, per_logit };
        let found = self.buffers.iter().position(|b| *b == spec);
        Buf(found.unwrap_or_else(|| {
            self.buffers.push(spec);
            self.buffers.len() - 1
        }))
    }

    fn weight(&self, name: &str, n_out: usize, n_in: usize) -> Result<Weight> {
        let weight = self.model.weight(name).ok_or_else(|| missing(name))?;
        if (weight.n_out, weight.n_in) != (n_out, n_in) {
            return Err(wrong_shape(name, (n_out, n_in), (weight.n_out, weight.n_in)));
        }
        Ok(weight.clone())
    }

    /// The name of an optional vector, if the file has it.
    fn vector(&self, name: String, len: usize) -> Result<Option<String>> {
        match self.model.vector(&name) {
            None => Ok(None),
            Some(v) if v.len() == len => Ok(Some(name)),
            Some(v) => Err(wrong_shape(&name, (1, len), (1, v.len()))),
        }
    }

    fn norm_spec(&self, name: &str, width: usize) -> Result<NormSpec> {
        Ok(NormSpec {
            kind: self.model.family().block.norm,
            weight: self.vector(format!("{name}.weight"), width)?,
            bias: self.vector(format!("{name}.bias"), width)?,
            eps: self.model.hparams().eps,
        })
    }

    /// out = norm(input); RMS norms must have a weight, LayerNorms may have none (OLMo).
    fn norm(&mut self, name: &str, input: Buf, out: Buf) -> Result<()> {
        let norm = self.norm_spec(name, self.buffers[input.0].width)?;
        if norm.kind == Norm::Rms && norm.weight.is_none() {
            return Err(missing(&format!("{name}.weight")));
        }
        self.ops.push(Op::Norm { norm, input, out });
        Ok(())
    }

    /// out[.., col..] = input * weight^T + bias, with the input quantized as the weight wants it.
    /// Joins the product before it where both read the same and write side by side.
    fn linear(&mut self, name: &str, n_out: usize, input: Buf, out: Buf, col: usize) -> Result<()> {
        let (part, input) = self.part(name, n_out, input)?;
        if let Some(Op::Linear { parts, input: i, out: o, col: first }) = self.ops.last_mut() {
            let end = *first + parts.iter().map(|p| p.weight.n_out).sum::<usize>();
            if (*i, *o, end) == (input, out, col) {
                parts.push(part);
                return Ok(());
            }
        }
        self.ops.push(Op::Linear { parts: vec![part], input, out, col });
        Ok(())
    }

    /// A matrix, and its input as it wants it.
    fn part(&mut self, name: &str, n_out: usize, input: Buf) -> Result<(Part, Buf)> {
        let BufSpec { width, per_logit, .. } = self.buffers[input.0];
        let weight = self.weight(&format!("{name}.weight"), n_out, width)?;
        let bias = self.vector(format!("{name}.bias"), n_out)?;
        let input = match weight.format.is_float() {
            true => input,
            false => self.quantized(input, width, per_logit),
        };
        Ok((Part { weight, bias }, input))
    }

    /// The quantized form of a buffer: shared by all products since the buffer last changed.
    fn quantized(&mut self, input: Buf, width: usize, per_logit: bool) -> Buf {
        let out = self.buffer("codes", width, BufKind::Acts, per_logit);
        let fresh = self.ops.iter().rev().find_map(|op| match op {
            Op::Quantize { input: i, out: o } if *o == out => Some(*i == input),
            op if op.writes() == Some(input) => Some(false),
            _ => None,
        });
        if fresh != Some(true) {
            self.ops.push(Op::Quantize { input, out });
        }
        out
    }

    fn embed(&mut self) -> Result<()> {
        let hp = self.model.hparams();
        let block = &self.model.family().block;
        let table = self.model.weight("token_embd.weight").cloned();
        let table = table.ok_or_else(|| missing("token_embd.weight"))?;
        // OPT-350m embeds in a narrower space and projects.
        let narrow = (table.n_in != hp.n_embd)
            .then(|| self.buffer("embedding", table.n_in, BufKind::F32, false));
        let out = narrow.unwrap_or(self.x);
        self.ops.push(Op::Embed { table, scale: hp.embed_scale, out });
        if let Some(narrow) = narrow {
            self.linear("project_in", hp.n_embd, narrow, self.x, 0)?;
        }
        if block.position == Position::Learned {
            let table = self.weight("position_embd.weight", hp.n_ctx, hp.n_embd)?;
            self.ops.push(Op::Positions { table, out: self.x });
        }
        if self.model.vector("token_embd_norm.weight").is_some() {
            self.norm("token_embd_norm", self.x, self.n)?;
            std::mem::swap(&mut self.x, &mut self.n);
        }
        self.rope_tables();
        Ok(())
    }

    fn rope_tables(&mut self) {
        let Some(rope) = self.model.hparams().rope.clone() else { return };
        let global = RopeSpec {
            n_rot: rope.n_rot,
            base: rope.base,
            scale: rope.scale,
            factors: rope.factors,
        };
        let n_layer = self.model.hparams().n_layer;
        let windows = (0..n_layer).any(|il| self.window(il).is_some());
        let local = rope.base_local.filter(|_| windows);
        let local =
            local.map(|base| RopeSpec { base, scale: 1.0, factors: None, ..global.clone() });
        self.ropes = [Some(global), local].into_iter().flatten().collect();
        self.ops.extend((0..self.ropes.len()).map(|table| Op::RopeTable { table }));
    }

    fn window(&self, il: usize) -> Option<usize> {
        self.model.hparams().window.filter(|_| in_window(self.model.family(), il))
    }

    fn block(&mut self, il: usize) -> Result<()> {
        let at = |name: &str| format!("blk.{il}.{name}");
        let join = self.model.hparams().join;
        match join {
            Join::Sequential | Join::Sandwich => {
                self.norm(&at("attn_norm"), self.x, self.n)?;
                self.attention(il, self.n)?;
                self.join(join, &at("post_attention_norm"))?;
                self.norm(&at("ffn_norm"), self.x, self.n)?;
                self.feed_forward(il, self.n, self.y)?;
                self.join(join, &at("post_ffw_norm"))
            }
            Join::After => {
                self.attention(il, self.x)?;
                self.join(join, &at("post_attention_norm"))?;
                self.feed_forward(il, self.x, self.y)?;
                self.join(join, &at("post_ffw_norm"))
            }
            Join::PostByKey if self.model.hparams().post_norm => {
                self.attention(il, self.x)?;
                self.join_then_norm(&at("attn_norm"))?;
                self.feed_forward(il, self.x, self.y)?;
                self.join_then_norm(&at("ffn_norm"))
            }
            Join::PostByKey => {
                self.norm(&at("attn_norm"), self.x, self.n)?;
                self.attention(il, self.n)?;
                self.join(Join::Sequential, "")?;
                self.norm(&at("ffn_norm"), self.x, self.n)?;
                self.feed_forward(il, self.n, self.y)?;
                self.join(Join::Sequential, "")
            }
            Join::Parallel | Join::ByKey | Join::ByNorm => self.parallel_block(il),
        }
    }

    /// Both sublayers read the same x; it changes only after both.
    fn parallel_block(&mut self, il: usize) -> Result<()> {
        let at = |name: &str| format!("blk.{il}.{name}");
        let there = |name: &str| self.model.vector(&at(&format!("{name}.weight"))).is_some();
        let (first, second) = match (there("attn_norm_2"), there("ffn_norm")) {
            (true, _) => ("attn_norm_2", Some("attn_norm")), // Falcon-40B: attention reads the 2nd
            (false, true) => ("attn_norm", Some("ffn_norm")),
            (false, false) => ("attn_norm", None),
        };
        self.norm(&at(first), self.x, self.n)?;
        self.attention(il, self.n)?;
        if let Some(second) = second {
            self.norm(&at(second), self.x, self.n)?;
        }
        let z = self.buffer("z", self.model.hparams().n_embd, BufKind::F32, false);
        self.feed_forward(il, self.n, z)?;
        self.ops.push(Op::Add { into: self.x, from: self.y });
        self.ops.push(Op::Add { into: self.x, from: z });
        Ok(())
    }

    /// x += y, with a norm on y where the join has one.
    fn join(&mut self, join: Join, norm: &str) -> Result<()> {
        let mut from = self.y;
        if matches!(join, Join::Sandwich | Join::After) {
            self.norm(norm, self.y, self.n)?;
            from = self.n;
        }
        self.ops.push(Op::Add { into: self.x, from });
        Ok(())
    }

    /// x = norm(x + y).
    fn join_then_norm(&mut self, norm: &str) -> Result<()> {
        self.ops.push(Op::Add { into: self.x, from: self.y });
        self.norm(norm, self.x, self.n)?;
        std::mem::swap(&mut self.x, &mut self.n);
        Ok(())
    }

    fn attention(&mut self, il: usize, input: Buf) -> Result<()> {
        let hp = self.model.hparams();
        let block = &self.model.family().block;
        let (n_q, n_kv) = (hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim);
        let at = |name: &str| format!("blk.{il}.{name}");
        let (qkv, k_col, v_col) = (self.qkv, n_q, n_q + n_kv);
        if self.model.weight(&at("attn_qkv.weight")).is_some() {
            self.linear(&at("attn_qkv"), n_q + 2 * n_kv, input, qkv, 0)?;
        } else {
            self.linear(&at("attn_q"), n_q, input, qkv, 0)?;
            self.linear(&at("attn_k"), n_kv, input, qkv, k_col)?;
            self.linear(&at("attn_v"), n_kv, input, qkv, v_col)?;
        }
        if let Some(limit) = hp.clamp_kqv {
            self.ops.push(Op::Clamp { buf: qkv, limit });
        }
        self.norm_heads(&at("attn_q_norm"), 0, hp.n_head)?;
        self.norm_heads(&at("attn_k_norm"), k_col, hp.n_head_kv)?;
        if let Some(pairing) = self.rope_pairing(il) {
            let table = if self.window(il).is_some() { self.ropes.len() - 1 } else { 0 };
            for (col, n_heads) in [(0, hp.n_head), (k_col, hp.n_head_kv)] {
                self.ops.push(Op::Rope { table, pairing, buf: qkv, col, n_heads });
            }
        }
        self.ops.push(Op::WriteKv { layer: il, buf: qkv, k_col, v_col });
        let slopes = match block.position {
            Position::Alibi => alibi_slopes(hp.n_head, hp.alibi_max, 1.0),
            Position::AlibiThenScale => alibi_slopes(hp.n_head, hp.alibi_max, hp.score_scale),
            _ => Vec::new(),
        };
        self.ops.push(Op::Attend(Attend {
            layer: il,
            q: qkv,
            out: self.mix,
            scale: hp.score_scale,
            softcap: hp.attn_softcap.unwrap_or(0.0),
            window: self.window(il),
            slopes,
        }));
        self.linear(&at("attn_output"), hp.n_embd, self.mix, self.y, 0)
    }

    fn rope_pairing(&self, il: usize) -> Option<Pairing> {
        let block = &self.model.family().block;
        let every = block.no_rope_every as usize;
        match block.position {
            Position::Rope(_) if every > 0 && (il + 1).is_multiple_of(every) => None,
            Position::Rope(pairing) => Some(pairing),
            _ => None,
        }
    }

    fn norm_heads(&mut self, name: &str, col: usize, n_heads: usize) -> Result<()> {
        let head_dim = self.model.hparams().head_dim;
        let kind = self.model.family().block.qk_norm;
        let Some(width) = qk_norm_width(kind, n_heads, head_dim) else { return Ok(()) };
        let norm = self.norm_spec(name, width)?;
        if norm.weight.is_none() {
            return Err(missing(&format!("{name}.weight")));
        }
        let n_groups = n_heads * head_dim / width;
        self.ops.push(Op::NormHeads { norm, buf: self.qkv, col, n_groups, width });
        Ok(())
    }

    fn feed_forward(&mut self, il: usize, input: Buf, out: Buf) -> Result<()> {
        let hp = self.model.hparams();
        let at = |name: &str| format!("blk.{il}.{name}");
        let up = self.up;
        let inner = match self.model.family().block.ffn {
            Ffn::Plain => {
                self.linear(&at("ffn_up"), hp.n_ff, input, up, 0)?;
                self.ops.push(Op::Activate { act: hp.act, buf: up });
                up
            }
            gated => {
                if gated == Ffn::GatedFused {
                    self.linear(&at("ffn_up"), 2 * hp.n_ff, input, up, 0)?;
                } else {
                    self.linear(&at("ffn_gate"), hp.n_ff, input, up, 0)?;
                    self.linear(&at("ffn_up"), hp.n_ff, input, up, hp.n_ff)?;
                }
                let inner = self.buffer("gated", hp.n_ff, BufKind::F32, false);
                self.ops.push(Op::Gate { act: hp.act, buf: up, out: inner });
                inner
            }
        };
        self.linear(&at("ffn_down"), hp.n_embd, inner, out, 0)
    }

    fn head(mut self) -> Result<Plan> {
        let hp = self.model.hparams();
        let wanted = self.buffer("wanted", hp.n_embd, BufKind::F32, true);
        self.ops.push(Op::Select { input: self.x, out: wanted });
        let mut hidden = wanted;
        // OPT-350m normalizes after its last join and has no final norm.
        if !hp.post_norm || self.model.vector("output_norm.weight").is_some() {
            hidden = self.buffer("hidden", hp.n_embd, BufKind::F32, true);
            self.norm("output_norm", wanted, hidden)?;
        }
        let head = match self.model.weight("output.weight") {
            Some(_) => "output",
            None => "token_embd",
        };
        let width = self.model.weight("token_embd.weight").map_or(hp.n_embd, |w| w.n_in);
        let mut input = hidden;
        if width != hp.n_embd {
            input = self.buffer("projected", width, BufKind::F32, true);
            self.linear("project_out", width, hidden, input, 0)?;
        }
        let logits = self.buffer("logits", hp.n_vocab, BufKind::F32, true);
        let (part, input) = self.part(head, hp.n_vocab, input)?;
        let head = Head { part: part.clone(), input, softcap: hp.logit_softcap };
        self.ops.push(Op::Linear { parts: vec![part], input, out: logits, col: 0 });
        if let Some(cap) = hp.logit_softcap {
            self.ops.push(Op::Softcap { buf: logits, cap });
        }
        Ok(Plan { ops: self.ops, buffers: self.buffers, ropes: self.ropes, logits, hidden, head })
    }
}

fn wrong_shape(name: &str, wanted: (usize, usize), got: (usize, usize)) -> crate::Error {
    crate::Error::malformed(
        "GGUF",
        format!("tensor {name}: wanted {}x{} values, got {}x{}", wanted.0, wanted.1, got.0, got.1),
    )
}

/// ALiBi slopes (Press et al. 2022): with P the largest power of two up to n_head, heads below P
/// take 2^(-max (h+1) / P), the rest take every other slope of a list twice as long.
fn alibi_slopes(n_head: usize, max: f32, scale: f32) -> Vec<f32> {
    let p = 1usize << n_head.ilog2();
    let slope = |exponent: f64| scale * crate::kernel::math::exp2(exponent) as f32;
    (0..n_head)
        .map(|h| match h {
            h if h < p => slope(-f64::from(max) * (h + 1) as f64 / p as f64),
            h => slope(-f64::from(max) * (2 * (h - p) + 1) as f64 / (2 * p) as f64),
        })
        .collect()
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
            _ => 0,
        }
    }
}

impl Plan {
    /// Bytes of weights that a step of one row reads.
    pub fn weight_bytes(&self) -> usize {
        self.ops.iter().map(Op::weight_bytes).sum()
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
            Op::Embed { table, .. } | Op::Positions { table, .. } => Some(matrix(table)),
            Op::Norm { norm, .. } | Op::NormHeads { norm, .. } => norm.weight.clone(),
            Op::WriteKv { layer, .. } | Op::Attend(Attend { layer, .. }) => {
                Some(format!("layer {layer}"))
            }
            _ => None,
        }
    }
}
