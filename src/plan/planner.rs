//! Builds a plan from a family's switches and a file's numbers.

use pith_models::{Ffn, HEAD_TENSOR, Join, Need, Norm, Pairing, Position, QkNorm, TensorRow};

use super::{Attend, Buf, BufKind, BufSpec, Head, LowRank, NormSpec, Op, Part, Plan, RopeSpec};
use crate::{
    Result,
    kernel::math,
    lora::{Adapter, Bound},
    model::{Model, Weight, in_window, missing, qk_norm_width},
};

/// The name of buffers between an adapter's two factors.
const LOW_RANK: &str = "low-rank";

/// Builds a plan. `x` is the residual stream, `n` the normed copy, `y` a sublayer's output.
pub struct Planner<'m> {
    model: &'m Model,
    adapters: Bound<'m>,
    n_ctx: usize,
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
    pub fn new(model: &'m Model, adapters: &'m [Adapter], n_ctx: usize) -> Result<Self> {
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
        let adapters = Bound::new(adapters, model)?;
        let (ops, ropes) = (Vec::new(), Vec::new());
        Ok(Planner { model, adapters, n_ctx, ops, buffers, ropes, x, n, y, qkv, mix, up })
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
        let unquantized = input;
        let (part, input) = self.part(name, n_out, input)?;
        // What adapters have added since touches other columns than this product's.
        let buffers = &self.buffers;
        let adds = |op: &Op| match op {
            Op::LowRank { .. } => true,
            Op::Linear { out, .. } => buffers[out.0].name == LOW_RANK,
            _ => false,
        };
        let last = self.ops.iter_mut().rev().find(|op| !adds(op));
        match last {
            Some(Op::Linear { parts, input: i, out: o, col: first })
                if (*i, *o) == (input, out)
                    && *first + parts.iter().map(|p| p.weight.n_out).sum::<usize>() == col =>
            {
                parts.push(part);
            }
            _ => self.ops.push(Op::Linear { parts: vec![part], input, out, col }),
        }
        let mid = |planner: &mut Self, rank| planner.buffer(LOW_RANK, rank, BufKind::F32, false);
        self.low_rank(&format!("{name}.weight"), unquantized, (out, col), n_out, mid)?;
        Ok(())
    }

    /// What adapters add to the product of the matrix `name` with `input`, whose results are the
    /// `n_out` columns from `col` on of `out`. `mid` gives the buffer of a rank.
    fn low_rank(
        &mut self,
        name: &str,
        input: Buf,
        (out, col): (Buf, usize),
        n_out: usize,
        mid: impl Fn(&mut Self, usize) -> Buf,
    ) -> Result<Vec<LowRank>> {
        let shape = (n_out, self.buffers[input.0].width);
        let mut all = Vec::new();
        for pair in self.adapters.take(name, shape)? {
            let mid = mid(self, pair.rank());
            let parts = vec![Part { weight: pair.a, bias: None }];
            self.ops.push(Op::Linear { parts, input, out: mid, col: 0 });
            let low = LowRank { b: Part { weight: pair.b, bias: None }, scale: pair.scale, mid };
            self.ops.push(Op::LowRank { low: low.clone(), out, col });
            all.push(low);
        }
        Ok(all)
    }

    /// What adapters add to the embedding: a row of `a` for each token.
    fn low_rank_rows(&mut self, table: &Weight, out: Buf) -> Result<()> {
        for pair in self.adapters.take("token_embd.weight", (table.n_in, table.n_out))? {
            let mid = self.buffer(LOW_RANK, pair.rank(), BufKind::F32, false);
            let scale = self.model.hparams().embed_scale;
            self.ops.push(Op::Embed { table: pair.a, scale, out: mid });
            let low = LowRank { b: Part { weight: pair.b, bias: None }, scale: pair.scale, mid };
            self.ops.push(Op::LowRank { low, out, col: 0 });
        }
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

    pub fn embed(&mut self) -> Result<()> {
        let hp = self.model.hparams();
        let block = &self.model.family().block;
        let table = self.model.weight("token_embd.weight").cloned();
        let table = table.ok_or_else(|| missing("token_embd.weight"))?;
        // OPT-350m embeds in a narrower space and projects.
        let narrow = (table.n_in != hp.n_embd)
            .then(|| self.buffer("embedding", table.n_in, BufKind::F32, false));
        let out = narrow.unwrap_or(self.x);
        self.ops.push(Op::Embed { table: table.clone(), scale: hp.embed_scale, out });
        self.low_rank_rows(&table, out)?;
        if let Some(narrow) = narrow {
            self.linear("project_in", hp.n_embd, narrow, self.x, 0)?;
        }
        let there = self.model.weight("position_embd.weight").is_some();
        if block.position == Position::Learned || (block.position == Position::Alibi && there) {
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
        let Some(rope) = &self.model.hparams().rope else { return };
        let global = RopeSpec {
            n_rot: rope.n_rot,
            base: rope.base,
            scale: rope.scale,
            factors: rope.factors(self.n_ctx).map(<[f64]>::to_vec),
            magnitude: rope.magnitude,
        };
        let n_layer = self.model.hparams().n_layer;
        let windows = (0..n_layer).any(|il| self.window(il).is_some());
        let local = rope.base_local.filter(|_| windows);
        let plain = |base| RopeSpec { base, scale: 1.0, factors: None, magnitude: 1.0, ..global };
        let local = local.map(plain);
        self.ropes = [Some(global), local].into_iter().flatten().collect();
        self.ops.extend((0..self.ropes.len()).map(|table| Op::RopeTable { table }));
    }

    fn window(&self, il: usize) -> Option<usize> {
        self.model.hparams().window.filter(|_| in_window(self.model.family(), il))
    }

    pub fn block(&mut self, il: usize) -> Result<()> {
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
        if self.has_qk_norm(il) {
            self.norm_heads(&at("attn_q_norm"), 0, hp.n_head)?;
            self.norm_heads(&at("attn_k_norm"), k_col, hp.n_head_kv)?;
        }
        if let Some(pairing) = self.rope_pairing(il) {
            let table = if self.window(il).is_some() { self.ropes.len() - 1 } else { 0 };
            for (col, n_heads) in [(0, hp.n_head), (k_col, hp.n_head_kv)] {
                self.ops.push(Op::Rope { table, pairing, buf: qkv, col, n_heads });
            }
        }
        self.ops.push(Op::WriteKv { layer: il, buf: qkv, k_col, v_col });
        let slopes = match block.position {
            Position::Alibi if hp.alibi_max == 0.0 => Vec::new(),
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

    /// Whether q and k of a layer are normalized. Where the family's row says that the norms are
    /// optional, a layer that has neither has none.
    fn has_qk_norm(&self, il: usize) -> bool {
        let optional =
            |row: &TensorRow| row.to == "blk.{}.attn_q_norm.weight" && row.need == Need::Optional;
        let there = |name: &str| self.model.vector(&format!("blk.{il}.{name}.weight")).is_some();
        !self.model.family().tensors.iter().any(optional)
            || there("attn_q_norm")
            || there("attn_k_norm")
    }

    fn norm_heads(&mut self, name: &str, col: usize, n_heads: usize) -> Result<()> {
        let head_dim = self.model.hparams().head_dim;
        let kind = self.model.family().block.qk_norm;
        let Some(width) = qk_norm_width(kind, n_heads, head_dim) else { return Ok(()) };
        let n_rows = if kind == QkNorm::EachHead { n_heads } else { 1 };
        let norm = self.norm_spec(name, n_rows * width)?;
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

    pub fn head(mut self) -> Result<Plan> {
        let hp = self.model.hparams();
        let wanted = self.buffer("wanted", hp.n_embd, BufKind::F32, true);
        self.ops.push(Op::Select { input: self.x, out: wanted });
        let mut hidden = wanted;
        // OPT-350m normalizes after its last join and has no final norm.
        if !hp.post_norm || self.model.vector("output_norm.weight").is_some() {
            hidden = self.buffer("hidden", hp.n_embd, BufKind::F32, true);
            self.norm("output_norm", wanted, hidden)?;
        }
        let (head, n_out, softcap) = match self.model.classifier() {
            Some(classifier) => (HEAD_TENSOR, classifier.labels().len(), None),
            None if self.model.weight("output.weight").is_some() => {
                ("output", hp.n_vocab, hp.logit_softcap)
            }
            None => ("token_embd", hp.n_vocab, hp.logit_softcap),
        };
        let width = self.model.weight("token_embd.weight").map_or(hp.n_embd, |w| w.n_in);
        let mut input = hidden;
        if width != hp.n_embd {
            input = self.buffer("projected", width, BufKind::F32, true);
            self.linear("project_out", width, hidden, input, 0)?;
        }
        let logits = self.buffer("logits", n_out, BufKind::F32, true);
        let unquantized = input;
        let (mut part, input) = self.part(head, n_out, input)?;
        // A tied head has its bias all the same (CodeGen, Phi).
        if self.model.classifier().is_none() {
            part.bias = self.vector("output.bias".into(), n_out)?;
        }
        self.ops.push(Op::Linear { parts: vec![part.clone()], input, out: logits, col: 0 });
        // Each has a buffer of its own: scores add them a few ids at a time, all at once.
        let mid = |planner: &mut Self, width| {
            let spec = BufSpec { name: LOW_RANK, width, kind: BufKind::F32, per_logit: true };
            planner.buffers.push(spec);
            Buf(planner.buffers.len() - 1)
        };
        let low_rank = match self.model.classifier() {
            Some(_) => Vec::new(),
            None => self.low_rank("output.weight", unquantized, (logits, 0), n_out, mid)?,
        };
        self.adapters.finish()?;
        let head = Head { part, input, low_rank, softcap };
        if let Some(cap) = softcap {
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
    let slope = |exponent: f64| scale * math::exp2(exponent) as f32;
    (0..n_head)
        .map(|h| match h {
            h if h < p => slope(-f64::from(max) * (h + 1) as f64 / p as f64),
            h => slope(-f64::from(max) * (2 * (h - p) + 1) as f64 / (2 * p) as f64),
        })
        .collect()
}
