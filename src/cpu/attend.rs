//! Attention on the CPU: rows by key/value head, and where that makes too few tiles for the threads,
//! chunk by chunk with the chunks' results merged afterwards. Both give the same bits, since chunks
//! are independent of each other.

use std::ops::Range;

use super::{Row, Step, lock};
use crate::{
    Result,
    cache::{Cache, Place},
    kernel::{CHUNK, Chunk, HEADS, Kernels, Query, Results, SIDE, Softmax, Stored},
    model::Hparams,
    plan::{Attend, Buf},
    team::{Mat, Tile},
    zeros::zeros,
};

/// Most rows of a tile.
const ROWS: usize = 16;

/// Query heads of a tile from which on a chunk is widened to f32 once for all of them: widening is
/// a sixth of the work where each four queries do it for themselves.
const WIDEN: usize = 8;

/// What one thread needs.
pub struct Scratch {
    scores: Box<[[f32; CHUNK]; HEADS]>,
    /// A chunk's mixed values, `[HEADS, value width]`.
    mixed: Vec<f32>,
    /// The state of each row and head of a tile, `[ROWS, group]`.
    softmax: Vec<Softmax>,
    /// A chunk's keys and values as f32, laid out as the cache has them.
    wide: [Vec<f32>; 2],
}

impl Scratch {
    pub fn new(head_dim: usize, group: usize) -> Result<Scratch> {
        let width = head_dim.next_multiple_of(SIDE);
        Ok(Scratch {
            scores: Box::new([[0.0; CHUNK]; HEADS]),
            mixed: zeros(HEADS * width)?,
            softmax: zeros(ROWS * group)?,
            wide: [zeros(CHUNK * head_dim)?, zeros(CHUNK * width)?],
        })
    }

    pub fn bytes(head_dim: usize, group: usize) -> usize {
        let width = head_dim.next_multiple_of(SIDE);
        4 * (HEADS * (CHUNK + width) + CHUNK * (head_dim + width))
            + ROWS * group * size_of::<Softmax>()
    }
}

/// Chunks' results where chunks are spread over threads: for each row and key/value head, for each
/// chunk, for each query head of the group: max, sum, and mixed values.
pub struct Parts {
    data: Vec<f32>,
}

impl Parts {
    pub fn new(hp: &Hparams, n_ctx: usize, n_threads: usize) -> Result<Parts> {
        Ok(Parts { data: zeros(Parts::bytes(hp, n_ctx, n_threads) / size_of::<f32>())? })
    }

    pub fn bytes(hp: &Hparams, n_ctx: usize, n_threads: usize) -> usize {
        let units = max_units(n_threads, hp.n_head_kv);
        let part = (hp.n_head / hp.n_head_kv) * (2 + hp.head_dim);
        units.saturating_mul(n_ctx.div_ceil(CHUNK)).saturating_mul(part * size_of::<f32>())
    }
}

/// Rows times key/value heads up to which chunks are spread over threads: beyond it there are tiles
/// enough without.
fn max_units(n_threads: usize, n_head_kv: usize) -> usize {
    match n_threads {
        1 => 0,
        n => (4 * n).next_multiple_of(n_head_kv),
    }
}

impl Step<'_> {
    /// By one thread: it is a small part of a step, and the cache stays a plain `&mut`.
    pub(super) fn write_kv(
        &self,
        cache: &mut Cache,
        layer: usize,
        buf: Buf,
        k_col: usize,
        v_col: usize,
    ) {
        let (x, width) = (self.input(buf), self.width(buf));
        let (n_head_kv, head_dim) = (cache.shape().n_head_kv, cache.shape().head_dim);
        for (row, x) in self.rows.iter().zip(x.chunks_exact(width)) {
            for head in 0..n_head_kv {
                let key = &x[k_col + head * head_dim..][..head_dim];
                let value = &x[v_col + head * head_dim..][..head_dim];
                cache.write(self.kernels, (layer, row.seq, head), row.position, (key, value));
            }
        }
    }

    pub(super) fn attend(&mut self, cache: &Cache, attend: &Attend) {
        let n_head_kv = cache.shape().n_head_kv;
        let (n, n_threads) = (self.rows.len(), self.region.n_threads());
        let last = self.rows.iter().map(|row| row.position).max().unwrap_or(0);
        if n * n_head_kv <= max_units(n_threads, n_head_kv) && last >= CHUNK {
            return self.attend_by_chunks(cache, attend, last / CHUNK + 1);
        }
        let width = self.width(attend.out);
        let group_width = width / n_head_kv;
        let tile_rows = (n * n_head_kv / (4 * n_threads)).clamp(1, ROWS);
        let mut data = self.take(attend.out);
        let this = &*self;
        let mat = Mat::new(&mut data, n, width, width);
        self.region.tiles(mat, tile_rows, group_width, |worker, mut tile| {
            let scratch = &mut lock(&this.scratch[worker]).attend;
            // Rows of one sequence are adjacent: each run of them shares its chunks of keys.
            let mut done = 0;
            let rows = &this.rows[tile.row0()..][..tile.n_rows()];
            for run in rows.chunk_by(|a, b| a.seq == b.seq) {
                this.attend_run(cache, attend, scratch, &mut tile, done..done + run.len());
                done += run.len();
            }
        });
        self.put(attend.out, data);
    }

    /// Attention of rows `run` of a tile, all of one sequence, for one key/value head.
    fn attend_run(
        &self,
        cache: &Cache,
        attend: &Attend,
        scratch: &mut Scratch,
        tile: &mut Tile<'_, f32>,
        run: Range<usize>,
    ) {
        let head_dim = cache.shape().head_dim;
        let group = tile.n_cols() / head_dim;
        let kv_head = tile.col0() / tile.n_cols();
        let row0 = tile.row0();
        let Scratch { scores, mixed, softmax, wide } = scratch;
        let rows = &self.rows[row0 + run.start..row0 + run.end];
        softmax[..rows.len() * group].fill(Softmax::NONE);
        let first = seen(attend, &rows[0]).start;
        let end = rows[rows.len() - 1].position + 1;
        for c in first / CHUNK..end.div_ceil(CHUNK) {
            let place = (attend.layer, rows[0].seq, kv_head);
            let mut chunk = attend_chunk(cache, attend, place, c, end);
            if rows.len() * group >= WIDEN && !matches!(chunk.keys, Stored::F32(_)) {
                chunk = widened(self.kernels, chunk, wide);
            }
            // Heads of one row follow each other, so that neighbours see nearly the same.
            let mut heads = (0..rows.len() * group)
                .filter(|i| !seen_of(attend, &rows[i / group], c).is_empty())
                .peekable();
            while let Some(&next) = heads.peek() {
                let mut queries =
                    [self.query(attend, row0 + run.start, kv_head, group, next, c); HEADS];
                let mut of = [next; HEADS];
                let mut n = 0;
                for i in heads.by_ref().take(HEADS) {
                    queries[n] = self.query(attend, row0 + run.start, kv_head, group, i, c);
                    of[n] = i;
                    n += 1;
                }
                let mut new = [Softmax::NONE; HEADS];
                let out = Results { scores, softmax: &mut new, mixed };
                self.kernels.attend(&chunk, &queries[..n], out);
                for ((&i, new), mixed) in of[..n].iter().zip(new).zip(mixed.chunks(chunk.width)) {
                    let out = &mut tile.row_mut(run.start + i / group)[i % group * head_dim..];
                    self.kernels.merge(&mut softmax[i], &mut out[..head_dim], new, mixed);
                }
            }
        }
        for (i, softmax) in softmax[..rows.len() * group].iter().enumerate() {
            let out = &mut tile.row_mut(run.start + i / group)[i % group * head_dim..];
            out[..head_dim].iter_mut().for_each(|v| *v /= softmax.sum);
        }
    }

    /// Query head `i` of the group of `kv_head`, rows counted from `row0`, before chunk `c`.
    fn query(
        &self,
        attend: &Attend,
        row0: usize,
        kv_head: usize,
        group: usize,
        i: usize,
        c: usize,
    ) -> Query<'_> {
        let (row, head) = (row0 + i / group, kv_head * group + i % group);
        let head_dim = self.model.hparams().head_dim;
        let q = &self.input(attend.q)[row * self.width(attend.q) + head * head_dim..][..head_dim];
        let row = &self.rows[row];
        let seen = seen_of(attend, row, c);
        Query {
            q,
            first: seen.start,
            end: seen.end,
            position: row.position - c * CHUNK,
            slope: attend.slopes.get(head).copied().unwrap_or(0.0),
        }
    }

    /// Few rows over many chunks: first each chunk alone, then their merge.
    fn attend_by_chunks(&mut self, cache: &Cache, attend: &Attend, n_chunks: usize) {
        let (n, head_dim) = (self.rows.len(), cache.shape().head_dim);
        let n_head_kv = cache.shape().n_head_kv;
        let group = self.width(attend.out) / head_dim / n_head_kv;
        let part = group * (2 + head_dim);
        let mut parts = std::mem::take(&mut self.parts.data);
        let this = &*self;
        let mat = Mat::new(&mut parts, n * n_head_kv, n_chunks * part, n_chunks * part);
        self.region.tiles(mat, 1, part, |worker, mut tile| {
            let (row, kv_head) = (tile.row0() / n_head_kv, tile.row0() % n_head_kv);
            let scratch = &mut lock(&this.scratch[worker]).attend;
            let c = tile.col0() / part;
            this.attend_part(cache, attend, scratch, (row, kv_head, c), tile.row_mut(0));
        });
        let mut data = self.take(attend.out);
        for (i, (out, parts)) in data
            .chunks_exact_mut(group * head_dim)
            .zip(parts.chunks_exact(n_chunks * part))
            .enumerate()
            .take(n * n_head_kv)
        {
            let row = &self.rows[i / n_head_kv];
            for (h, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let mut state = Softmax::NONE;
                for (c, part) in parts.chunks_exact(part).enumerate() {
                    if seen_of(attend, row, c).is_empty() {
                        continue;
                    }
                    let part = &part[h * (2 + head_dim)..][..2 + head_dim];
                    let new = Softmax { max: part[0], sum: part[1] };
                    self.kernels.merge(&mut state, out, new, &part[2..]);
                }
                out.iter_mut().for_each(|v| *v /= state.sum);
            }
        }
        self.put(attend.out, data);
        self.parts.data = parts;
    }

    /// The query heads of one row and key/value head over one chunk.
    fn attend_part(
        &self,
        cache: &Cache,
        attend: &Attend,
        scratch: &mut Scratch,
        (row, kv_head, c): (usize, usize, usize),
        out: &mut [f32],
    ) {
        let head_dim = cache.shape().head_dim;
        let part = 2 + head_dim;
        let (at, group) = (&self.rows[row], out.len() / part);
        if seen_of(attend, at, c).is_empty() {
            return;
        }
        let place = (attend.layer, at.seq, kv_head);
        let chunk = attend_chunk(cache, attend, place, c, at.position + 1);
        let Scratch { scores, mixed, .. } = scratch;
        for first in (0..group).step_by(HEADS) {
            let n = HEADS.min(group - first);
            let mut queries = [self.query(attend, row, kv_head, group, first, c); HEADS];
            for (i, query) in queries.iter_mut().enumerate().take(n) {
                *query = self.query(attend, row, kv_head, group, first + i, c);
            }
            let mut new = [Softmax::NONE; HEADS];
            let results = Results { scores, softmax: &mut new, mixed };
            self.kernels.attend(&chunk, &queries[..n], results);
            let parts = out.chunks_exact_mut(part).skip(first);
            for ((out, new), mixed) in parts.zip(&new[..n]).zip(mixed.chunks(chunk.width)) {
                (out[0], out[1]) = (new.max, new.sum);
                out[2..].copy_from_slice(&mixed[..head_dim]);
            }
        }
    }
}

/// The positions that a row sees.
fn seen(attend: &Attend, row: &Row) -> Range<usize> {
    let first = attend.window.map_or(0, |w| (row.position + 1).saturating_sub(w));
    first..row.position + 1
}

/// What of chunk `c` a row sees, counted from the chunk's start.
fn seen_of(attend: &Attend, row: &Row, c: usize) -> Range<usize> {
    let (seen, start) = (seen(attend, row), c * CHUNK);
    let inside = |at: usize| at.saturating_sub(start).min(CHUNK);
    inside(seen.start)..inside(seen.end)
}

/// Keys and values of chunk `c` up to position `end`.
fn attend_chunk<'a>(
    cache: &'a Cache,
    attend: &Attend,
    place: Place,
    c: usize,
    end: usize,
) -> Chunk<'a> {
    let (keys, values) = cache.get(place, c * CHUNK..((c + 1) * CHUNK).min(end));
    Chunk {
        keys,
        values,
        head_dim: cache.shape().head_dim,
        width: cache.shape().value_width(),
        scale: attend.scale,
        softcap: attend.softcap,
    }
}

/// The same chunk in f32.
fn widened<'a>(kernels: &Kernels, chunk: Chunk<'a>, wide: &'a mut [Vec<f32>; 2]) -> Chunk<'a> {
    let [keys, values] = wide;
    let (keys, values) = (&mut keys[..chunk.keys.len()], &mut values[..chunk.values.len()]);
    kernels.widen(&chunk, keys, values);
    Chunk { keys: Stored::F32(keys), values: Stored::F32(values), ..chunk }
}
