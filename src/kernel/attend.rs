//! Attention of some query heads over one chunk of positions.
//!
//! Sixteen positions are the lanes of the scores, as the cache stores keys sixteen side by side; a
//! head's dimensions are the lanes of the mix of values. So no sum runs across lanes: a score is one
//! chain over the dimensions, a mixed value one chain over the positions.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{lanes, math, vector::Floats};

/// Positions of a chunk; chunks begin at multiples of it.
pub const CHUNK: usize = 256;

/// Positions whose keys lie side by side.
pub const SIDE: usize = 16;

/// Query heads of one call, at most.
pub const HEADS: usize = 4;

/// Keys or values as the cache stores them.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// binary16.
    F16(&'a [u16]),
    /// f32.
    F32(&'a [f32]),
    /// Codes, each of which counts as its scale (binary16) times itself. [`SHARE`] dimensions of a
    /// position share a scale: scales lie as codes do, with these shares for dimensions.
    Q8_0 {
        /// -127..=127.
        codes: &'a [i8],
        /// One for each share, the last of which may be shorter.
        scales: &'a [u16],
    },
}

/// Dimensions that share a scale.
pub const SHARE: usize = 32;

impl Stored<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Stored::F16(x) => x.len(),
            Stored::F32(x) => x.len(),
            Stored::Q8_0 { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are scales for `n` positions of `head_dim` dimensions, or none are needed.
    pub(super) fn has_scales(&self, n: usize, head_dim: usize) -> bool {
        match self {
            Stored::F16(_) | Stored::F32(_) => true,
            Stored::Q8_0 { scales, .. } => scales.len() >= n * head_dim.div_ceil(SHARE),
        }
    }

    /// Value `i`, whose scale is number `share`.
    fn get(&self, i: usize, share: usize) -> f32 {
        let widen = |half: u16| half::f16::from_bits(half).to_f32();
        match self {
            Stored::F16(x) => widen(x[i]),
            Stored::F32(x) => x[i],
            Stored::Q8_0 { codes, scales } => widen(scales[share]) * f32::from(codes[i]),
        }
    }

    /// Dimension `d` of position `j`'s key.
    fn key(&self, head_dim: usize, j: usize, d: usize) -> f32 {
        let at = |width: usize, d: usize| (j / SIDE * width + d) * SIDE + j % SIDE;
        self.get(at(head_dim, d), at(head_dim.div_ceil(SHARE), d / SHARE))
    }

    /// Dimension `d` of position `j`'s value.
    fn value(&self, head_dim: usize, width: usize, j: usize, d: usize) -> f32 {
        self.get(j * width + d, j * head_dim.div_ceil(SHARE) + d / SHARE)
    }
}

/// Keys and values of one head over a chunk, and how scores are made.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// `[n_positions / SIDE, head_dim, SIDE]`, scales `[n_positions / SIDE, n_shares, SIDE]`.
    pub keys: Stored<'a>,
    /// `[n_positions, width]`, scales `[n_positions, n_shares]`.
    pub values: Stored<'a>,
    /// Dimensions of a key.
    pub head_dim: usize,
    /// Stored dimensions of a value: `head_dim` and zeros up to a multiple of [`SIDE`].
    pub width: usize,
    /// Factor on q.k.
    pub scale: f32,
    /// Cap of the scores; 0 for none.
    pub softcap: f32,
}

/// One query head.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// `[head_dim]`.
    pub q: &'a [f32],
    /// First of the chunk's positions that it sees.
    pub first: usize,
    /// End of the positions that it sees.
    pub end: usize,
    /// Its own position, counted from the chunk's start.
    pub position: usize,
    /// ALiBi slope; 0 for none.
    pub slope: f32,
}

/// What a query head gets from one chunk, or from several merged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// Largest score.
    pub max: f32,
    /// Sum of exp(score - max).
    pub sum: f32,
}

impl Softmax {
    /// Of no positions.
    pub const NONE: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Where a chunk's results go.
pub struct Results<'a> {
    /// Scratch.
    pub scores: &'a mut [[f32; CHUNK]; HEADS],
    /// One for each query.
    pub softmax: &'a mut [Softmax; HEADS],
    /// Sums of exp(score - max) * value, `[n_queries, width]`.
    pub mixed: &'a mut [f32],
}

/// The reference.
pub fn plain(chunk: &Chunk<'_>, queries: &[Query<'_>], out: Results<'_>) {
    let Chunk { head_dim, width, .. } = *chunk;
    let Results { scores, softmax, mixed } = out;
    for (i, query) in queries.iter().enumerate() {
        for j in query.first..query.end {
            let key = |d: usize| chunk.keys.key(head_dim, j, d);
            scores[i][j] = (0..head_dim).fold(0.0, |s, d| s + query.q[d] * key(d));
        }
        softmax[i] = exponentials(chunk, query, &mut scores[i]);
        for (d, mixed) in mixed[i * width..][..width].iter_mut().enumerate() {
            let value = |j: usize| chunk.values.value(head_dim, width, j, d);
            *mixed = (query.first..query.end).fold(0.0, |m, j| m + scores[i][j] * value(j));
        }
    }
}

/// The reference of [`widen`].
pub fn plain_widen(chunk: &Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
    let Chunk { head_dim, width, .. } = *chunk;
    for (i, key) in keys.iter_mut().enumerate() {
        let (j, d) = (i / SIDE / head_dim * SIDE + i % SIDE, i / SIDE % head_dim);
        *key = chunk.keys.key(head_dim, j, d);
    }
    for (i, value) in values.iter_mut().enumerate() {
        *value = chunk.values.value(head_dim, width, i / width, i % width);
    }
}

/// Raw scores to exp(score - max).
#[inline(always)]
fn exponentials(chunk: &Chunk<'_>, query: &Query<'_>, scores: &mut [f32; CHUNK]) -> Softmax {
    let Query { first, end, position, slope, .. } = *query;
    // Whole sixteens, where what the query doesn't see counts as exp(-inf) = 0; sums start at +0,
    // so that 0 more changes nothing.
    let (from, to) = (first / SIDE * SIDE, end.next_multiple_of(SIDE));
    // Not by sixteens here and below: LLVM would gather lane after lane.
    for score in &mut scores[from..to] {
        *score *= chunk.scale;
    }
    if chunk.softcap != 0.0 {
        let cap = chunk.softcap;
        for score in &mut scores[from..to] {
            *score = cap * math::tanh(*score / cap);
        }
    }
    if slope != 0.0 {
        for (j, score) in (from..).zip(&mut scores[from..to]) {
            *score -= slope * position.saturating_sub(j) as f32;
        }
    }
    let (sixteens, _) = scores[from..to].as_chunks_mut::<SIDE>();
    if let Some(scores) = sixteens.first_mut() {
        for l in 0..first - from {
            scores[l] = f32::NEG_INFINITY;
        }
    }
    if let Some(scores) = sixteens.last_mut() {
        for l in SIDE - (to - end)..SIDE {
            scores[l] = f32::NEG_INFINITY;
        }
    }
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut most = [f32::NEG_INFINITY; SIDE];
    for scores in sixteens.iter() {
        for l in 0..SIDE {
            most[l] = larger(scores[l], most[l]);
        }
    }
    let max = lanes::fold(most, larger);
    let mut sums = [0.0; SIDE];
    for scores in sixteens {
        for l in 0..SIDE {
            scores[l] = math::exp_to_0(scores[l] - max);
            sums[l] += scores[l];
        }
    }
    Softmax { max, sum: lanes::combine(sums) }
}

/// Takes a later chunk's results into those of the chunks before it.
#[inline(always)]
pub fn merge(state: &mut Softmax, out: &mut [f32], chunk: Softmax, mixed: &[f32]) {
    if state.max == f32::NEG_INFINITY {
        *state = chunk;
        out.copy_from_slice(&mixed[..out.len()]);
        return;
    }
    let max = if chunk.max > state.max { chunk.max } else { state.max };
    let (old, new) = (math::exp(state.max - max), math::exp(chunk.max - max));
    *state = Softmax { max, sum: state.sum * old + chunk.sum * new };
    for (out, mixed) in out.iter_mut().zip(mixed) {
        *out = *out * old + mixed * new;
    }
}

/// Where stored values lie, and how they are widened.
///
/// # Safety
/// Every function needs the instruction set, and an index of as many values or scales as it says.
trait Elements: Copy {
    /// Dimensions that share a scale; where there are no scales, all.
    const SHARE: usize = usize::MAX;

    /// LANES values whose scales are in `scale`.
    unsafe fn load<F: Floats>(self, at: usize, scale: F::Float) -> F::Float;

    /// LANES scales.
    #[inline(always)]
    unsafe fn scales<F: Floats>(self, _: usize) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::zero() }
    }

    /// One scale in all lanes.
    #[inline(always)]
    unsafe fn scale<F: Floats>(self, _: usize) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::zero() }
    }
}

impl Elements for *const u16 {
    #[inline(always)]
    unsafe fn load<F: Floats>(self, at: usize, _: F::Float) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::widen(self.add(at)) }
    }
}

impl Elements for *const f32 {
    #[inline(always)]
    unsafe fn load<F: Floats>(self, at: usize, _: F::Float) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::load(self.add(at)) }
    }
}

/// Codes and their scales.
#[derive(Clone, Copy)]
struct Scaled {
    codes: *const i8,
    scales: *const u16,
}

impl Elements for Scaled {
    const SHARE: usize = SHARE;

    #[inline(always)]
    unsafe fn load<F: Floats>(self, at: usize, scale: F::Float) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::mul(scale, F::widen_codes(self.codes.add(at))) }
    }
    #[inline(always)]
    unsafe fn scales<F: Floats>(self, at: usize) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::widen(self.scales.add(at)) }
    }
    #[inline(always)]
    unsafe fn scale<F: Floats>(self, at: usize) -> F::Float {
        // SAFETY: passed on.
        unsafe { F::all_halves(*self.scales.add(at)) }
    }
}

/// Keys and values as f32, where they lay.
///
/// # Safety
/// The CPU has the instruction set of `F`; lengths are as `Kernels::widen` checks.
#[inline(always)]
pub unsafe fn widen<F: Floats>(chunk: &Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
    let Chunk { head_dim, width, .. } = *chunk;
    // SAFETY: passed on.
    unsafe {
        match chunk.keys {
            Stored::F16(from) => widen_keys::<F, _>(head_dim, from.as_ptr(), keys),
            Stored::F32(from) => keys.copy_from_slice(from),
            Stored::Q8_0 { codes, scales } => {
                let from = Scaled { codes: codes.as_ptr(), scales: scales.as_ptr() };
                widen_keys::<F, _>(head_dim, from, keys);
            }
        }
        match chunk.values {
            Stored::F16(from) => widen_values::<F, _>(head_dim, width, from.as_ptr(), values),
            Stored::F32(from) => values.copy_from_slice(from),
            Stored::Q8_0 { codes, scales } => {
                let from = Scaled { codes: codes.as_ptr(), scales: scales.as_ptr() };
                widen_values::<F, _>(head_dim, width, from, values);
            }
        }
    }
}

#[inline(always)]
unsafe fn widen_keys<F: Floats, E: Elements>(head_dim: usize, from: E, to: &mut [f32]) {
    let n_scales = head_dim.div_ceil(E::SHARE);
    for (i, to) in to.chunks_exact_mut(SIDE).enumerate() {
        let share = i / head_dim * n_scales + i % head_dim / E::SHARE;
        for l in (0..SIDE).step_by(F::LANES) {
            // SAFETY: by `widen`; LANES divides SIDE.
            unsafe {
                let scales = from.scales::<F>(share * SIDE + l);
                F::store(from.load::<F>(i * SIDE + l, scales), to[l..].as_mut_ptr());
            }
        }
    }
}

#[inline(always)]
unsafe fn widen_values<F: Floats, E: Elements>(
    head_dim: usize,
    width: usize,
    from: E,
    to: &mut [f32],
) {
    let n_scales = head_dim.div_ceil(E::SHARE);
    for (j, to) in to.chunks_exact_mut(width).enumerate() {
        for d in (0..width).step_by(F::LANES) {
            // SAFETY: by `widen`; LANES divides SIDE, which divides the width.
            unsafe {
                let scale = from.scale::<F>(j * n_scales + d / E::SHARE);
                F::store(from.load::<F>(j * width + d, scale), to[d..].as_mut_ptr());
            }
        }
    }
}

/// As [`plain`], with C vectors of positions and D vectors of dimensions at a time.
///
/// # Safety
/// The CPU has the instruction set of `F`; lengths are as `Kernels::attend` checks.
#[inline(always)]
pub unsafe fn vectors<F: Floats, const C: usize, const D: usize>(
    chunk: &Chunk<'_>,
    queries: &[Query<'_>],
    out: Results<'_>,
) {
    let Results { scores, softmax, mixed } = out;
    // SAFETY: passed on.
    unsafe {
        match chunk.keys {
            Stored::F16(keys) => all_scores::<F, _, C>(chunk, keys.as_ptr(), queries, scores),
            Stored::F32(keys) => all_scores::<F, _, C>(chunk, keys.as_ptr(), queries, scores),
            Stored::Q8_0 { codes, scales } => {
                let keys = Scaled { codes: codes.as_ptr(), scales: scales.as_ptr() };
                all_scores::<F, _, C>(chunk, keys, queries, scores);
            }
        }
        for (i, query) in queries.iter().enumerate() {
            softmax[i] = exponentials(chunk, query, &mut scores[i]);
        }
        match chunk.values {
            Stored::F16(values) => mix::<F, _, D>(chunk, values.as_ptr(), queries, scores, mixed),
            Stored::F32(values) => mix::<F, _, D>(chunk, values.as_ptr(), queries, scores, mixed),
            Stored::Q8_0 { codes, scales } => {
                let values = Scaled { codes: codes.as_ptr(), scales: scales.as_ptr() };
                mix::<F, _, D>(chunk, values, queries, scores, mixed);
            }
        }
    }
}

#[inline(always)]
unsafe fn all_scores<F: Floats, E: Elements, const C: usize>(
    chunk: &Chunk<'_>,
    keys: E,
    queries: &[Query<'_>],
    scores: &mut [[f32; CHUNK]; HEADS],
) {
    let first = queries.iter().map(|q| q.first).min().unwrap_or(0) / SIDE * SIDE;
    let end = queries.iter().map(|q| q.end).max().unwrap_or(0).next_multiple_of(SIDE);
    let mut q = [queries[0].q.as_ptr(); HEADS];
    for (q, query) in q.iter_mut().zip(queries) {
        *q = query.q.as_ptr();
    }
    // SAFETY: keys reach up to `end`, which the keys' length covers in whole sixteens.
    unsafe {
        let mut j = first;
        while j < end {
            let n = if j + C * F::LANES <= end { C } else { 1 };
            match (queries.len(), n == C) {
                (4, true) => some_scores::<F, E, 4, C>(chunk.head_dim, keys, q, j, scores),
                (3, true) => some_scores::<F, E, 3, C>(chunk.head_dim, keys, q, j, scores),
                (2, true) => some_scores::<F, E, 2, C>(chunk.head_dim, keys, q, j, scores),
                (1, true) => some_scores::<F, E, 1, C>(chunk.head_dim, keys, q, j, scores),
                _ => some_scores::<F, E, HEADS, 1>(chunk.head_dim, keys, q, j, scores),
            }
            j += n * F::LANES;
        }
    }
}

/// Scores of R queries with C vectors of positions from `j` on.
#[inline(always)]
unsafe fn some_scores<F: Floats, E: Elements, const R: usize, const C: usize>(
    head_dim: usize,
    keys: E,
    q: [*const f32; HEADS],
    j: usize,
    scores: &mut [[f32; CHUNK]; HEADS],
) {
    // SAFETY: by `all_scores`; a query has head_dim values; scores of C vectors fit the chunk.
    unsafe {
        let mut sums = [[F::zero(); C]; R];
        let (mut at, mut scales_at) = ([0; C], [0; C]);
        for c in 0..C {
            let j = j + c * F::LANES;
            at[c] = j / SIDE * head_dim * SIDE + j % SIDE;
            scales_at[c] = j / SIDE * head_dim.div_ceil(E::SHARE) * SIDE + j % SIDE;
        }
        let mut d = 0;
        while d < head_dim {
            let mut scales = [F::zero(); C];
            for c in 0..C {
                scales[c] = keys.scales::<F>(scales_at[c] + d / E::SHARE * SIDE);
            }
            let end = head_dim.min(d.saturating_add(E::SHARE));
            while d < end {
                let mut k = [F::zero(); C];
                for c in 0..C {
                    k[c] = keys.load::<F>(at[c] + d * SIDE, scales[c]);
                }
                for r in 0..R {
                    let q = F::all(*q[r].add(d));
                    for c in 0..C {
                        sums[r][c] = F::add(sums[r][c], F::mul(q, k[c]));
                    }
                }
                d += 1;
            }
        }
        for r in 0..R {
            for c in 0..C {
                F::store(sums[r][c], scores[r].as_mut_ptr().add(j + c * F::LANES));
            }
        }
    }
}

/// Sums of exp(score - max) * value: what all queries see together, and before and after it what
/// only some of them see.
#[inline(always)]
unsafe fn mix<F: Floats, E: Elements, const D: usize>(
    chunk: &Chunk<'_>,
    values: E,
    queries: &[Query<'_>],
    scores: &[[f32; CHUNK]; HEADS],
    mixed: &mut [f32],
) {
    let width = chunk.width;
    let from = queries.iter().map(|q| q.first).max().unwrap_or(0);
    let to = queries.iter().map(|q| q.end).min().unwrap_or(0).max(from);
    mixed[..queries.len() * width].fill(0.0);
    // SAFETY: positions of queries are below the values' number.
    unsafe {
        for (i, query) in queries.iter().enumerate() {
            let span = query.first..from.min(query.end);
            some_mixed::<F, E, 1, D>(chunk, values, span, i, scores, mixed);
        }
        let all = from..to;
        match queries.len() {
            4 => some_mixed::<F, E, 4, D>(chunk, values, all, 0, scores, mixed),
            3 => some_mixed::<F, E, 3, D>(chunk, values, all, 0, scores, mixed),
            2 => some_mixed::<F, E, 2, D>(chunk, values, all, 0, scores, mixed),
            _ => some_mixed::<F, E, 1, D>(chunk, values, all, 0, scores, mixed),
        }
        for (i, query) in queries.iter().enumerate() {
            let span = to.max(query.first)..query.end;
            some_mixed::<F, E, 1, D>(chunk, values, span, i, scores, mixed);
        }
    }
}

/// Takes positions `span` into the sums of R queries from `first` on.
#[inline(always)]
unsafe fn some_mixed<F: Floats, E: Elements, const R: usize, const D: usize>(
    chunk: &Chunk<'_>,
    values: E,
    span: Range<usize>,
    first: usize,
    scores: &[[f32; CHUNK]; HEADS],
    mixed: &mut [f32],
) {
    let (mut d, width) = (0, chunk.width);
    // SAFETY: by `mix`; vectors of dimensions are below `width`, a multiple of SIDE.
    unsafe {
        while d + D * F::LANES <= width {
            mix_vectors::<F, E, R, D>(chunk, values, span.clone(), (first, d), scores, mixed);
            d += D * F::LANES;
        }
        while d < width {
            mix_vectors::<F, E, R, 1>(chunk, values, span.clone(), (first, d), scores, mixed);
            d += F::LANES;
        }
    }
}

#[inline(always)]
unsafe fn mix_vectors<F: Floats, E: Elements, const R: usize, const D: usize>(
    chunk: &Chunk<'_>,
    values: E,
    span: Range<usize>,
    (first, d): (usize, usize),
    scores: &[[f32; CHUNK]; HEADS],
    mixed: &mut [f32],
) {
    if span.is_empty() {
        return;
    }
    let width = chunk.width;
    let n_scales = chunk.head_dim.div_ceil(E::SHARE);
    // SAFETY: by `some_mixed`.
    unsafe {
        let mut sums = [[F::zero(); D]; R];
        let at = |r: usize, i: usize| (first + r) * width + d + i * F::LANES;
        for r in 0..R {
            for i in 0..D {
                sums[r][i] = F::load(mixed.as_ptr().add(at(r, i)));
            }
        }
        for j in span {
            let mut v = [F::zero(); D];
            let mut scale = F::zero();
            for i in 0..D {
                // d is a multiple of D * LANES, so whole vectors share scales.
                if (i * F::LANES).is_multiple_of(E::SHARE) {
                    let share = d / E::SHARE + i * F::LANES / E::SHARE;
                    scale = values.scale::<F>(j * n_scales + share);
                }
                v[i] = values.load::<F>(j * width + d + i * F::LANES, scale);
            }
            for r in 0..R {
                let p = F::all(*scores[first + r].as_ptr().add(j));
                for i in 0..D {
                    sums[r][i] = F::add(sums[r][i], F::mul(p, v[i]));
                }
            }
        }
        for r in 0..R {
            for i in 0..D {
                F::store(sums[r][i], mixed.as_mut_ptr().add(at(r, i)));
            }
        }
    }
}
