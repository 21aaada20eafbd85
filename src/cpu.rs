//! Runs a plan on the CPU: one parallel region per step, each op split into tiles that any thread
//! may take. Knows no file and no family. Nothing here allocates during a step.

mod attend;
mod logits;

use std::{ops::Range, sync::Mutex};

use pith_models::Norm;

use crate::{
    Result,
    cache::Cache,
    kernel::{A8, Acts, Input, Kernels, PANEL, Pack, Panel, RopeAngles, STRIP, acts},
    model::{Model, Weight},
    plan::{Buf, BufKind, Limits, LowRank, NormSpec, Op, Part, Plan, RopeSpec},
    team::{Mat, Region, Team, Tile},
    zeros::zeros,
};

pub use logits::{Ask, Score, Scores};

/// Values of a tile of an elementwise op; smaller ops run on one thread.
const ELEMENTS: usize = 8 * 1024;

/// Columns to which an adapter's change is added at once.
const CHANGED: usize = 2 * STRIP;

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which sequence it extends.
    pub seq: usize,
    /// Its absolute position.
    pub position: usize,
    /// The token.
    pub id: u32,
    /// Whether its logits are wanted.
    pub wanted: bool,
}

/// What a step is to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The logits of wanted rows.
    Logits,
    /// No logits are written: those of each wanted row are summed, the best kept, questions answered.
    Scores,
    /// The final hidden states of wanted rows.
    Hidden,
}

/// A CPU with everything that its steps need.
pub struct Cpu {
    kernels: &'static Kernels,
    team: Team,
    buffers: Vec<Buffer>,
    ropes: Vec<RopeBuffer>,
    scratch: Vec<Mutex<Scratch>>,
    parts: attend::Parts,
    scores: logits::Scores,
}

/// Memory of one of the plan's buffers.
enum Buffer {
    F32 { data: Vec<f32>, width: usize },
    Acts { panels: Vec<Panel>, rows: Vec<A8>, n_groups: usize },
}

/// Cosines and sines of a step's rows, `[n, n_rot / 2]` each.
struct RopeBuffer {
    angles: RopeAngles,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// What one thread needs beside the buffers.
struct Scratch {
    attend: attend::Scratch,
    /// A row before its norm.
    row: Vec<f32>,
    /// Unpacked weights.
    packs: Vec<Pack>,
    /// What an adapter adds, `[n, CHANGED]`.
    change: Vec<f32>,
    score: logits::Scratch,
}

impl Cpu {
    /// Memory for steps within the limits.
    ///
    /// # Errors
    /// The threads can't be started, or the system has no more memory.
    pub fn new(
        model: &Model,
        plan: &Plan,
        kernels: &'static Kernels,
        limits: &Limits,
    ) -> Result<Cpu> {
        let team = Team::new(limits.n_threads)?;
        let buffers = plan.buffers.iter().enumerate().map(|(i, spec)| {
            let rows = plan.n_rows(Buf(i), limits);
            Ok(match spec.kind {
                BufKind::F32 => Buffer::F32 { data: zeros(rows * spec.width)?, width: spec.width },
                BufKind::Acts => {
                    let n_groups = spec.width.div_ceil(256);
                    let (n_panels, n_rows) = acts::most(rows);
                    Buffer::Acts {
                        panels: zeros(n_panels * n_groups)?,
                        rows: zeros(n_rows * n_groups)?,
                        n_groups,
                    }
                }
            })
        });
        let ropes = plan.ropes.iter().map(|rope| {
            let half = limits.n_batch * rope.n_rot / 2;
            let RopeSpec { n_rot, base, scale, ref factors, magnitude } = *rope;
            let angles = RopeAngles::new(n_rot, base, scale, factors.as_deref(), magnitude);
            Ok(RopeBuffer { angles, cos: zeros(half)?, sin: zeros(half)? })
        });
        let sizes = Sizes::new(model, plan, limits);
        let scratch = (0..team.n_threads()).map(|_| Scratch::new(&sizes).map(Mutex::new));
        let parts = attend::Parts::new(model.hparams(), limits.n_ctx, team.n_threads())?;
        Ok(Cpu {
            parts,
            scores: logits::Scores::new(plan, limits)?,
            kernels,
            buffers: buffers.collect::<Result<_>>()?,
            ropes: ropes.collect::<Result<_>>()?,
            scratch: scratch.collect::<Result<_>>()?,
            team,
        })
    }

    /// Bytes beside the plan's buffers.
    pub fn scratch_bytes(model: &Model, plan: &Plan, limits: &Limits) -> usize {
        let Limits { n_ctx, n_threads, .. } = *limits;
        let sizes = Sizes::new(model, plan, limits);
        let parts = attend::Parts::bytes(model.hparams(), n_ctx, n_threads);
        let scores = logits::Scores::bytes(plan, limits);
        sizes.bytes().saturating_mul(n_threads).saturating_add(parts).saturating_add(scores)
    }

    /// The instruction set in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Threads of a step.
    pub fn n_threads(&self) -> usize {
        self.team.n_threads()
    }

    /// Runs the plan over `rows`, which extend their sequences in `cache`: rows of one sequence
    /// are adjacent and their positions ascend from the sequence's length without a gap. Between ops it
    /// asks `stop` whether to end here: it then says false, and no sequence has grown. The caller
    /// (session) has checked rows and questions.
    #[allow(clippy::too_many_arguments)]
    pub fn step(
        &mut self,
        model: &Model,
        plan: &Plan,
        cache: &mut Cache,
        rows: &[Row],
        goal: Goal,
        asks: &[Ask],
        stop: impl Fn() -> bool,
    ) -> bool {
        if goal == Goal::Scores {
            self.scores.ask(asks);
        }
        let Cpu { kernels, team, buffers, ropes, scratch, parts, scores } = self;
        let n_wanted = rows.iter().filter(|r| r.wanted).count();
        let done = team.step(|region| {
            let mut step = Step {
                kernels,
                region,
                buffers,
                ropes,
                scratch,
                parts,
                model,
                plan,
                rows,
                n_wanted,
            };
            for op in &plan.ops {
                if stop() {
                    return false;
                }
                if goal == Goal::Logits || op.writes() != Some(plan.logits) {
                    step.run(op, cache);
                }
            }
            if goal == Goal::Scores {
                step.score(scores);
            }
            true
        });
        for row in rows.iter().filter(|_| done) {
            cache.grow(row.seq, row.position + 1);
        }
        done
    }

    /// The first `n` rows of an f32 buffer.
    pub fn rows(&self, buf: Buf, n: usize) -> &[f32] {
        match &self.buffers[buf.0] {
            Buffer::F32 { data, width } => &data[..n * width],
            Buffer::Acts { .. } => &[],
        }
    }

    /// What came of the last step for [`Goal::Scores`].
    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// As [`Cpu::rows`], to be changed in place by a sampler.
    pub fn rows_mut(&mut self, buf: Buf, n: usize) -> &mut [f32] {
        match &mut self.buffers[buf.0] {
            Buffer::F32 { data, width } => &mut data[..n * *width],
            Buffer::Acts { .. } => &mut [],
        }
    }
}

/// Lengths of a thread's scratch.
struct Sizes {
    head_dim: usize,
    group: usize,
    row: usize,
    packs: usize,
    change: usize,
    score: logits::Sizes,
}

impl Sizes {
    fn new(model: &Model, plan: &Plan, limits: &Limits) -> Sizes {
        let hp = model.hparams();
        Sizes {
            head_dim: hp.head_dim,
            group: hp.n_head / hp.n_head_kv,
            row: hp.n_embd.max(hp.n_head * hp.head_dim),
            packs: plan.scratch_packs(limits.n_batch.max(limits.n_logits)),
            change: match plan.has_low_rank() {
                true => limits.n_batch.max(limits.n_logits).saturating_mul(CHANGED),
                false => 0,
            },
            score: logits::Sizes::new(limits),
        }
    }

    fn bytes(&self) -> usize {
        attend::Scratch::bytes(self.head_dim, self.group)
            + self.row * size_of::<f32>()
            + self.packs * size_of::<Pack>()
            + self.change.saturating_mul(size_of::<f32>())
            + self.score.bytes()
    }
}

impl Scratch {
    fn new(sizes: &Sizes) -> Result<Scratch> {
        Ok(Scratch {
            attend: attend::Scratch::new(sizes.head_dim, sizes.group)?,
            row: zeros(sizes.row)?,
            packs: zeros(sizes.packs)?,
            change: zeros(sizes.change)?,
            score: logits::Scratch::new(&sizes.score)?,
        })
    }
}

/// One step in progress.
struct Step<'a> {
    kernels: &'static Kernels,
    region: &'a Region<'a>,
    buffers: &'a mut [Buffer],
    ropes: &'a mut [RopeBuffer],
    scratch: &'a [Mutex<Scratch>],
    parts: &'a mut attend::Parts,
    model: &'a Model,
    plan: &'a Plan,
    rows: &'a [Row],
    n_wanted: usize,
}

impl Step<'_> {
    fn run(&mut self, op: &Op, cache: &mut Cache) {
        match op {
            Op::Embed { table, scale, out } => self.embed(table, *scale, *out),
            Op::Positions { table, out } => self.positions(table, *out),
            Op::RopeTable { table } => self.rope_table(*table),
            Op::Norm { norm, input, out } => self.norm(norm, *input, *out),
            Op::NormHeads { norm, buf, col, n_groups, width } => {
                self.norm_heads(norm, *buf, *col, *n_groups, *width);
            }
            Op::Quantize { input, out } => self.quantize(*input, *out),
            Op::Linear { parts, input, out, col } => self.linear(parts, *input, *out, *col),
            Op::LowRank { low, out, col } => self.low_rank(low, *out, *col),
            Op::Clamp { buf, limit } => {
                let limit = *limit;
                self.each(*buf, |x| x.iter_mut().for_each(|v| *v = v.clamp(-limit, limit)));
            }
            Op::Rope { table, pairing, buf, col, n_heads } => {
                self.rope(*table, *pairing, *buf, *col, *n_heads);
            }
            Op::WriteKv { layer, buf, k_col, v_col } => {
                self.write_kv(cache, *layer, *buf, *k_col, *v_col);
            }
            Op::Attend(attend) => self.attend(cache, attend),
            Op::Activate { act, buf } => {
                let kernels = self.kernels;
                self.each(*buf, |x| kernels.activate(*act, x));
            }
            Op::Gate { act, buf, out } => self.gate(*act, *buf, *out),
            Op::Add { into, from } => self.add(*into, *from),
            Op::Select { input, out } => self.select(*input, *out),
            Op::Softcap { buf, cap } => {
                let kernels = self.kernels;
                self.each(*buf, |x| kernels.softcap(x, *cap));
            }
        }
    }

    /// Rows that an op over this buffer has in this step.
    fn n_rows(&self, buf: Buf) -> usize {
        if self.plan.buffers[buf.0].per_logit { self.n_wanted } else { self.rows.len() }
    }

    fn width(&self, buf: Buf) -> usize {
        self.plan.buffers[buf.0].width
    }

    fn input(&self, buf: Buf) -> &[f32] {
        match &self.buffers[buf.0] {
            Buffer::F32 { data, .. } => data,
            Buffer::Acts { .. } => unreachable!("the plan reads f32 from a buffer of codes"),
        }
    }

    /// Takes an output buffer out, so that others can be read while it is written.
    fn take(&mut self, buf: Buf) -> Vec<f32> {
        match &mut self.buffers[buf.0] {
            Buffer::F32 { data, .. } => std::mem::take(data),
            Buffer::Acts { .. } => unreachable!("the plan writes f32 to a buffer of codes"),
        }
    }

    fn put(&mut self, buf: Buf, filled: Vec<f32>) {
        match &mut self.buffers[buf.0] {
            Buffer::F32 { data, .. } => *data = filled,
            Buffer::Acts { .. } => unreachable!("the plan writes f32 to a buffer of codes"),
        }
    }

    /// Runs `f` over tiles of whole rows of `out`: as many rows as make a tile worth a thread.
    fn by_rows(&mut self, out: Buf, f: impl Fn(&Self, usize, Tile<'_, f32>) + Sync) {
        let (n, width) = (self.n_rows(out), self.width(out));
        let mut data = self.take(out);
        let tile_rows = (ELEMENTS / width.max(1)).max(1);
        let this = &*self;
        let mat = Mat::new(&mut data, n, width, width);
        self.region.tiles(mat, tile_rows, width, |worker, tile| f(this, worker, tile));
        self.put(out, data);
    }

    /// An elementwise op in place.
    fn each(&mut self, buf: Buf, f: impl Fn(&mut [f32]) + Sync) {
        let (n, width) = (self.n_rows(buf), self.width(buf));
        let mut data = self.take(buf);
        let mat = Mat::new(&mut data, 1, n * width, n * width);
        self.region.tiles(mat, 1, ELEMENTS, |_, mut tile| f(tile.row_mut(0)));
        self.put(buf, data);
    }

    fn table_row(&self, table: &Weight, row: usize, out: &mut [f32]) {
        let data = self.model.data(table);
        let bytes = data.len() / table.n_out;
        table.format.decode(&data[row * bytes..][..bytes], out);
    }

    fn embed(&mut self, table: &Weight, scale: f32, out: Buf) {
        self.by_rows(out, |step, _, mut tile| {
            for i in 0..tile.n_rows() {
                let id = step.rows[tile.row0() + i].id as usize;
                let x = tile.row_mut(i);
                step.table_row(table, id, x);
                if scale != 1.0 {
                    x.iter_mut().for_each(|v| *v *= scale);
                }
            }
        });
    }

    fn positions(&mut self, table: &Weight, out: Buf) {
        self.by_rows(out, |step, worker, mut tile| {
            let mut scratch = lock(&step.scratch[worker]);
            for i in 0..tile.n_rows() {
                let row = &mut scratch.row[..table.n_in];
                step.table_row(table, step.rows[tile.row0() + i].position, row);
                step.kernels.add(tile.row_mut(i), row);
            }
        });
    }

    fn rope_table(&mut self, table: usize) {
        let RopeBuffer { angles, cos, sin } = &mut self.ropes[table];
        let half = angles.n_rot() / 2;
        for (i, row) in self.rows.iter().enumerate() {
            let span = i * half..(i + 1) * half;
            angles.fill(row.position, &mut cos[span.clone()], &mut sin[span]);
        }
    }

    fn norm(&mut self, norm: &NormSpec, input: Buf, out: Buf) {
        self.by_rows(out, |step, _, mut tile| {
            let width = tile.n_cols();
            for i in 0..tile.n_rows() {
                let x = &step.input(input)[(tile.row0() + i) * width..][..width];
                step.norm_row(norm, 0, x, tile.row_mut(i));
            }
        });
    }

    /// Norm of span `group` of a row.
    fn norm_row(&self, norm: &NormSpec, group: usize, x: &[f32], out: &mut [f32]) {
        let vector = |name: &Option<String>| {
            let all = name.as_deref().and_then(|n| self.model.vector(n))?;
            // One span's weights serve all.
            Some(all.chunks_exact(x.len()).nth(group).unwrap_or(all))
        };
        let (weight, bias) = (vector(&norm.weight), vector(&norm.bias));
        match norm.kind {
            Norm::Rms => self.kernels.rms_norm(x, weight, norm.eps, out),
            Norm::Layer => self.kernels.layer_norm(x, weight, bias, norm.eps, out),
        }
    }

    fn norm_heads(&mut self, norm: &NormSpec, buf: Buf, col: usize, n_groups: usize, width: usize) {
        self.by_rows(buf, |step, worker, mut tile| {
            let mut scratch = lock(&step.scratch[worker]);
            for i in 0..tile.n_rows() {
                let spans = tile.row_mut(i)[col..][..n_groups * width].chunks_exact_mut(width);
                for (group, span) in spans.enumerate() {
                    let row = &mut scratch.row[..width];
                    row.copy_from_slice(span);
                    step.norm_row(norm, group, row, span);
                }
            }
        });
    }

    fn quantize(&mut self, input: Buf, out: Buf) {
        let (n, width) = (self.n_rows(input), self.width(input));
        let taken = Buffer::F32 { data: Vec::new(), width: 0 };
        let Buffer::Acts { mut panels, mut rows, n_groups } =
            std::mem::replace(&mut self.buffers[out.0], taken)
        else {
            unreachable!("the plan quantizes into a buffer of f32")
        };
        let (x, kernels) = (&self.input(input)[..n * width], self.kernels);
        let (n_panels, n_rows) = kernels.split(n);
        let mat = Mat::new(&mut panels, n_panels, n_groups, n_groups);
        let tiles_of_panel = (2 * self.region.n_threads()).div_ceil(n_panels.max(1));
        self.region.tiles(mat, 1, n_groups.div_ceil(tiles_of_panel), |_, mut tile| {
            let first = tile.row0() * PANEL;
            let x = &x[first * width..(first + PANEL).min(n) * width];
            kernels.quantize_panel(x, width, tile.col0(), tile.row_mut(0));
        });
        let mat = Mat::new(&mut rows, n_rows, n_groups, n_groups);
        self.region.tiles(mat, (ELEMENTS / width).max(1), n_groups, |_, mut tile| {
            for i in 0..tile.n_rows() {
                let token = n_panels * PANEL + tile.row0() + i;
                kernels.quantize(&x[token * width..][..width], tile.row_mut(i));
            }
        });
        self.buffers[out.0] = Buffer::Acts { panels, rows, n_groups };
    }

    fn linear(&mut self, parts: &[Part], input: Buf, out: Buf, col: usize) {
        let (n, stride) = (self.n_rows(out), self.width(out));
        let mut data = self.take(out);
        let x = self.activations(input, n);
        let n_out: usize = parts.iter().map(|part| part.weight.n_out).sum();
        // All tokens of the step share one tile, so that a weight is unpacked once for all.
        let tile_cols =
            (n_out / (8 * self.region.n_threads()) / STRIP * STRIP).clamp(STRIP, 2 * STRIP);
        let this = &*self;
        let mat = Mat::window(&mut data, n, col, n_out, stride);
        self.region.tiles(mat, n.max(1), tile_cols, |worker, mut tile| {
            let packs = &mut lock(&this.scratch[worker]).packs;
            let (start, end) = (tile.col0(), tile.col0() + tile.n_cols());
            let mut first = 0;
            for part in parts {
                let last = first + part.weight.n_out;
                let (from, to) = (start.max(first), end.min(last));
                if from < to {
                    let mut tile = tile.columns(from - start..to - start);
                    this.product(part, x, packs, from - first..to - first, &mut tile);
                }
                first = last;
            }
        });
        self.put(out, data);
    }

    fn low_rank(&mut self, low: &LowRank, out: Buf, col: usize) {
        let (n, stride) = (self.n_rows(out), self.width(out));
        let mut data = self.take(out);
        let this = &*self;
        let mat = Mat::window(&mut data, n, col, low.b.weight.n_out, stride);
        self.region.tiles(mat, n.max(1), CHANGED, |worker, mut tile| {
            let first = tile.col0();
            this.change(low, first, &mut lock(&this.scratch[worker]).change, &mut tile);
        });
        self.put(out, data);
    }

    /// out += scale * mid * b^T, for the columns from `first` on that the tile has.
    fn change(&self, low: &LowRank, first: usize, change: &mut [f32], out: &mut Tile<'_, f32>) {
        let n = out.n_rows();
        let mid = self.activations(low.mid, n);
        for start in (0..out.n_cols()).step_by(CHANGED) {
            let end = out.n_cols().min(start + CHANGED);
            let mut out = out.columns(start..end);
            let mut product = Mat::new(change, n, end - start, end - start);
            self.product(&low.b, mid, &mut [], first + start..first + end, &mut product.tile());
            for (i, change) in change.chunks_exact(end - start).take(n).enumerate() {
                let row = out.row_mut(i).iter_mut().zip(change);
                row.for_each(|(out, change)| *out += low.scale * change);
            }
        }
    }

    /// The first `n` rows of a buffer, as products read them.
    fn activations(&self, buf: Buf, n: usize) -> Input<'_> {
        match &self.buffers[buf.0] {
            Buffer::F32 { data, width } => Input::F32(&data[..n * width]),
            Buffer::Acts { panels, rows, n_groups } => {
                let (n_panels, n_rows) = self.kernels.split(n);
                Input::Acts(Acts {
                    panels: &panels[..n_panels * n_groups],
                    rows: &rows[..n_rows * n_groups],
                })
            }
        }
    }

    /// out = x * rows^T + bias, for some rows of a matrix.
    fn product(
        &self,
        part: &Part,
        x: Input<'_>,
        scratch: &mut [Pack],
        rows: Range<usize>,
        out: &mut Tile<'_, f32>,
    ) {
        let Part { weight, bias } = part;
        let stored = self.model.data(weight);
        let row_bytes = stored.len() / weight.n_out;
        let stored = &stored[rows.start * row_bytes..rows.end * row_bytes];
        self.kernels.matmul(weight.format, stored, weight.n_in, x, scratch, out);
        if let Some(bias) = bias.as_deref().and_then(|name| self.model.vector(name)) {
            for i in 0..out.n_rows() {
                self.kernels.add(out.row_mut(i), &bias[rows.clone()]);
            }
        }
    }

    fn rope(
        &mut self,
        table: usize,
        pairing: pith_models::Pairing,
        buf: Buf,
        col: usize,
        n_heads: usize,
    ) {
        let head_dim = self.model.hparams().head_dim;
        self.by_rows(buf, |step, _, mut tile| {
            let RopeBuffer { angles, cos, sin } = &step.ropes[table];
            let half = angles.n_rot() / 2;
            for i in 0..tile.n_rows() {
                let span = (tile.row0() + i) * half..(tile.row0() + i + 1) * half;
                let (cos, sin) = (&cos[span.clone()], &sin[span]);
                for head in tile.row_mut(i)[col..][..n_heads * head_dim].chunks_exact_mut(head_dim)
                {
                    step.kernels.rope(pairing, &mut head[..2 * half], cos, sin);
                }
            }
        });
    }

    fn gate(&mut self, act: pith_models::Act, buf: Buf, out: Buf) {
        self.by_rows(out, |step, _, mut tile| {
            let width = tile.n_cols();
            for i in 0..tile.n_rows() {
                let x = &step.input(buf)[(tile.row0() + i) * 2 * width..][..2 * width];
                let (gate, up) = x.split_at(width);
                step.kernels.gate(act, gate, up, tile.row_mut(i));
            }
        });
    }

    fn add(&mut self, into: Buf, from: Buf) {
        self.by_rows(into, |step, _, mut tile| {
            let width = tile.n_cols();
            for i in 0..tile.n_rows() {
                let y = &step.input(from)[(tile.row0() + i) * width..][..width];
                step.kernels.add(tile.row_mut(i), y);
            }
        });
    }

    fn select(&mut self, input: Buf, out: Buf) {
        let width = self.width(out);
        let mut data = self.take(out);
        let wanted = self.rows.iter().enumerate().filter(|(_, row)| row.wanted);
        for (out, (i, _)) in data.chunks_exact_mut(width).zip(wanted) {
            out.copy_from_slice(&self.input(input)[i * width..][..width]);
        }
        self.put(out, data);
    }
}

/// Scratch of the calling worker: never contended, and plain numbers can't be left half-written.
fn lock(scratch: &Mutex<Scratch>) -> std::sync::MutexGuard<'_, Scratch> {
    scratch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
