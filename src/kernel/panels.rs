//! Products of unpacked weights with panels of tokens: the same loops for every instruction set,
//! which brings a vector of token sums ([`Vector`]) and compiles them for itself.
//!
//! The lanes of a vector are tokens. A tile is R weight rows by C vectors of tokens: its integer
//! sums stay in registers for a block of 32 weights, and so do the f32 sums that they update, which
//! are those of one of the contract's eight lanes at a time.
#![allow(unsafe_code)]

use super::{
    acts::{PANEL, Panel},
    unpack::{Class, Group, Min},
    vector::Floats,
};
use crate::team::Tile;

/// Rows of weights that are unpacked together.
pub const STRIP: usize = 32;

/// Rows of a [`Pack`].
pub const PACK: usize = 8;

/// 256 unpacked weights of each of eight rows, block beside block: a microkernel reads them in one
/// stream.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Pack {
    /// `[block][row][k % 32]`.
    pub codes: [[[i8; 32]; PACK]; 8],
    /// `[block][row]`.
    pub d: [[f32; PACK]; 8],
    /// `[block][row]`.
    pub m: [[f32; PACK]; 8],
    /// `[half][block][row]`.
    pub scales: [[[f32; PACK]; 8]; 2],
    /// `[block][row][half]`.
    pub mins: [[[i16; 2]; PACK]; 8],
}

impl Pack {
    /// Zeros.
    pub const ZERO: Pack = Pack {
        codes: [[[0; 32]; PACK]; 8],
        d: [[0.0; PACK]; 8],
        m: [[0.0; PACK]; 8],
        scales: [[[0.0; PACK]; 8]; 2],
        mins: [[[0; 2]; PACK]; 8],
    };

    /// Makes a group row `r`.
    #[inline(always)]
    pub fn put(&mut self, r: usize, group: &Group) {
        for (b, codes) in group.codes.as_chunks::<32>().0.iter().enumerate() {
            self.codes[b][r] = *codes;
            self.d[b][r] = group.d[b];
            self.m[b][r] = group.m[b];
            for (h, scales) in self.scales.iter_mut().enumerate() {
                scales[b][r] = group.scales[b][h].into();
            }
            self.mins[b][r] = group.mins[b];
        }
    }
}

/// Sums of several tokens in one instruction set.
///
/// # Safety
/// As [`Floats`].
pub trait Vector: Floats {
    /// Whether weights must have no sign.
    const UNSIGNED: bool;
    /// 32-bit sums.
    type Int: Copy;

    /// Adds to `sums` the products of R rows' codes with C vectors of activation codes, over `N`
    /// times four codes; `y` points to fours of tokens, [`PANEL`] fours apart.
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[Self::Int; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    );
    /// Pairs of activation sums times a pair of factors.
    unsafe fn pairs(sums: *const [i16; 2], factors: [i16; 2]) -> Self::Int;
    /// Zeros.
    unsafe fn none() -> Self::Int;
    /// To f32, to nearest even.
    unsafe fn float(x: Self::Int) -> Self::Float;

    /// Asks for the cache line at any address, where the CPU can be asked.
    #[inline(always)]
    fn fetch(_: *const u8) {}

    /// The first LANES columns as rows.
    #[inline(always)]
    unsafe fn transpose(from: &[[f32; PANEL]; STRIP], to: &mut [[f32; STRIP]; PANEL]) {
        for (t, to) in to.iter_mut().enumerate().take(Self::LANES) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from[t];
            }
        }
    }
}

/// Rows of unpacked weights: a part of a matrix.
#[derive(Clone, Copy)]
pub struct Strip<'a> {
    /// `[n_rows.div_ceil(8), n_groups]`.
    pub packs: &'a [Pack],
    /// Its rows.
    pub n_rows: usize,
    /// Packs of eight rows.
    pub n_groups: usize,
    /// Blocks of 32 of a row.
    pub n_blocks: usize,
    /// To be taken off each code.
    pub offset: i16,
    /// Where the rows begin among the tile's columns.
    pub first: usize,
    /// Where the stored rows begin that this thread will probably read next. They are fetched while
    /// these are multiplied: unpacking would else wait for memory half of its time.
    pub next: *const u8,
    /// Bytes of a stored row.
    pub row_bytes: usize,
}

/// Products of a strip with all panels. R rows by C vectors at a time; what is left of the vectors
/// goes one by one with R1 rows.
///
/// # Safety
/// The CPU has the instruction set of `V`; `panels` has `n_groups` panels for each sixteen of the
/// tile's first `n_tokens` rows.
#[inline(always)]
pub unsafe fn multiply<V: Vector, K: Class, const R: usize, const C: usize, const R1: usize>(
    strip: Strip<'_>,
    panels: &[Panel],
    n_tokens: usize,
    out: &mut Tile<'_, f32>,
) {
    let n_vectors = n_tokens.div_ceil(V::LANES);
    let mut by_token = [[0.0; STRIP]; PANEL];
    let mut v = 0;
    // SAFETY: passed on.
    unsafe {
        let mut several = [[[0.0; PANEL]; STRIP]; C];
        while v + C <= n_vectors {
            by_rows::<V, K, R, C>(strip, panels, v, &mut several);
            for (c, results) in several.iter().enumerate() {
                V::transpose(results, &mut by_token);
                write(&by_token, strip, (v + c) * V::LANES, V::LANES, out, n_tokens);
            }
            v += C;
        }
        let one = &mut several[0];
        while v < n_vectors {
            by_rows::<V, K, R1, 1>(strip, panels, v, std::array::from_mut(one));
            V::transpose(one, &mut by_token);
            write(&by_token, strip, v * V::LANES, V::LANES, out, n_tokens);
            v += 1;
        }
    }
}

/// Writes up to LANES tokens' results, from token `first` on.
#[inline(always)]
fn write(
    results: &[[f32; STRIP]; PANEL],
    strip: Strip<'_>,
    first: usize,
    lanes: usize,
    out: &mut Tile<'_, f32>,
    n_tokens: usize,
) {
    let n_rows = strip.n_rows;
    for (t, results) in results.iter().enumerate().take(lanes.min(n_tokens - first)) {
        let out = &mut out.row_mut(first + t)[strip.first..][..n_rows];
        // A whole strip has a length that the compiler knows.
        match out.first_chunk_mut::<STRIP>() {
            Some(out) => *out = *results,
            None => out.copy_from_slice(&results[..n_rows]),
        }
    }
}

/// All rows of a strip with C vectors from `v` on.
#[inline(always)]
unsafe fn by_rows<V: Vector, K: Class, const R: usize, const C: usize>(
    strip: Strip<'_>,
    panels: &[Panel],
    v: usize,
    results: &mut [[[f32; PANEL]; STRIP]; C],
) {
    const { assert!(PACK.is_multiple_of(R)) };
    let mut tokens = [(panels.as_ptr(), 0); C];
    for (c, column) in tokens.iter_mut().enumerate() {
        let token = (v + c) * V::LANES;
        *column = (panels[token / PANEL * strip.n_groups..].as_ptr(), token % PANEL);
    }
    for first in (0..strip.n_rows).step_by(R) {
        let next = match v {
            0 => Next::new(&strip, first * strip.row_bytes, R * strip.row_bytes),
            _ => Next::new(&strip, 0, 0),
        };
        // Rows that a pack has beyond the last are multiplied too, whatever they hold.
        let rows = (strip.packs[first / PACK * strip.n_groups..].as_ptr(), first % PACK);
        // SAFETY: there are n_groups packs and panels from these pointers on, by the slicing above
        // and this function's contract.
        unsafe { tile::<V, K, R, C>(strip, rows, tokens, first, next, results) };
    }
}

/// What is fetched while rows are multiplied: a few lines with each block, as many at once would make
/// loads wait.
struct Next {
    at: *const u8,
    bytes: usize,
}

impl Next {
    /// `bytes` from byte `from` of the next strip on.
    fn new(strip: &Strip<'_>, from: usize, bytes: usize) -> Next {
        Next { at: strip.next.wrapping_add(from), bytes: bytes.div_ceil(strip.n_blocks) }
    }

    #[inline(always)]
    fn fetch<V: Vector>(&mut self) {
        (0..self.bytes).step_by(64).for_each(|at| V::fetch(self.at.wrapping_add(at)));
        self.at = self.at.wrapping_add(self.bytes);
    }
}

/// Rows from `first` on: `lane[b mod 8] += da * (d * S + m * Y)`, then the tree over the lanes.
#[inline(always)]
unsafe fn tile<V: Vector, K: Class, const R: usize, const C: usize>(
    strip: Strip<'_>,
    rows: (*const Pack, usize),
    tokens: [(*const Panel, usize); C],
    first: usize,
    mut next: Next,
    results: &mut [[[f32; PANEL]; STRIP]; C],
) {
    // SAFETY: the CPU has the instruction set; blocks b, b + 8, .. below n_blocks are in the packs.
    unsafe {
        let zero = [[V::zero(); C]; R];
        // ((0+4)+(2+6))+((1+5)+(3+7)), lane by lane: one lane's sums fit the registers, eight don't.
        let mut total = zero;
        for odd in 0..2 {
            let mut half = zero;
            for two in 0..2 {
                let mut pair = zero;
                for four in 0..2 {
                    let b = odd + 2 * two + 4 * four;
                    let mut lane = zero;
                    let (mut w, mut x) = (rows, tokens);
                    let n = (strip.n_blocks + 7 - b) / 8;
                    for _ in 0..n {
                        next.fetch::<V>();
                        block::<V, K, R, C>(strip.offset, w, x, b, &mut lane);
                        w.0 = w.0.add(1);
                        for c in 0..C {
                            x[c].0 = x[c].0.add(1);
                        }
                    }
                    plus::<V, R, C>(four == 0, &mut pair, &lane);
                }
                plus::<V, R, C>(two == 0, &mut half, &pair);
            }
            plus::<V, R, C>(odd == 0, &mut total, &half);
        }
        for c in 0..C {
            for r in 0..R {
                V::store(total[r][c], results[c][first + r].as_mut_ptr());
            }
        }
    }
}

/// a = b, or a += b.
#[inline(always)]
unsafe fn plus<V: Vector, const R: usize, const C: usize>(
    first: bool,
    a: &mut [[V::Float; C]; R],
    b: &[[V::Float; C]; R],
) {
    for r in 0..R {
        for c in 0..C {
            // SAFETY: passed on.
            a[r][c] = if first { b[r][c] } else { unsafe { V::add(a[r][c], b[r][c]) } };
        }
    }
}

/// What row `r` of a pack has: rows from `r0` on are below [`PACK`], which LLVM doesn't see.
#[inline(always)]
fn row<T>(rows: &[T; PACK], r: usize) -> *const T {
    rows.as_ptr().wrapping_add(r)
}

/// Block `b` of a pack's rows, from the one that is given on, and of each token.
#[inline(always)]
unsafe fn block<V: Vector, K: Class, const R: usize, const C: usize>(
    offset: i16,
    (w, r0): (*const Pack, usize),
    x: [(*const Panel, usize); C],
    b: usize,
    lane: &mut [[V::Float; C]; R],
) {
    // SAFETY: pointers to whole packs and panels; rows, tokens and b are inside them.
    unsafe {
        let sums = match K::HALVES {
            false => whole_block::<V, K, R, C>(offset, (w, r0), x, b),
            true => halves::<V, K, R, C>(offset, (w, r0), x, b),
        };
        let mut all_y = [V::zero(); C];
        if matches!(K::MIN, Min::Block) {
            for (y, (panel, t)) in all_y.iter_mut().zip(x) {
                *y = V::float(V::pairs(&raw const (*panel).sums[b][t], [1, 1]));
            }
        }
        for r in 0..R {
            let d = V::all(*row(&(*w).d[b], r0 + r));
            let m = *row(&(*w).m[b], r0 + r);
            for c in 0..C {
                let (panel, t) = x[c];
                let mut term = V::mul(d, sums[r][c]);
                match K::MIN {
                    Min::None => {}
                    Min::Block => term = V::add(term, V::mul(V::all(m), all_y[c])),
                    Min::Halves => {
                        let y =
                            V::pairs(&raw const (*panel).sums[b][t], *row(&(*w).mins[b], r0 + r));
                        term = V::add(term, V::mul(V::all(m), V::float(y)));
                    }
                }
                let da = V::load(&raw const (*panel).scales[b][t]);
                lane[r][c] = V::add(lane[r][c], V::mul(da, term));
            }
        }
    }
}

/// S of R x C blocks, sums of codes less the offset.
#[inline(always)]
unsafe fn whole_block<V: Vector, K: Class, const R: usize, const C: usize>(
    offset: i16,
    (w, r0): (*const Pack, usize),
    x: [(*const Panel, usize); C],
    b: usize,
) -> [[V::Float; C]; R] {
    // SAFETY: as `block`.
    unsafe {
        let mut first = [V::none(); C];
        let mut y = [std::ptr::null(); C];
        for (c, (panel, t)) in x.into_iter().enumerate() {
            if !K::SIGNED || V::UNSIGNED {
                first[c] = V::pairs(&raw const (*panel).sums[b][t], [-offset; 2]);
            }
            y[c] = &raw const (*panel).codes[8 * b][t];
        }
        let mut sums = [first; R];
        let mut codes = [std::ptr::null::<i8>(); R];
        for r in 0..R {
            codes[r] = row(&(*w).codes[b], r0 + r).cast();
        }
        V::products::<K, 8, R, C>(&mut sums, codes, y);
        let mut s = [[V::zero(); C]; R];
        for (s, sums) in s.iter_mut().zip(sums) {
            for (s, sum) in s.iter_mut().zip(sums) {
                *s = V::float(sum);
            }
        }
        s
    }
}

/// S of R x C blocks whose halves have scales. f32 is exact here: the largest is Q6_K's, 2 * 128 *
/// (16 * 32 * 127) < 2^24.
#[inline(always)]
unsafe fn halves<V: Vector, K: Class, const R: usize, const C: usize>(
    offset: i16,
    (w, r0): (*const Pack, usize),
    x: [(*const Panel, usize); C],
    b: usize,
) -> [[V::Float; C]; R] {
    // SAFETY: as `block`.
    let mut total = unsafe { [[V::zero(); C]; R] };
    for h in 0..2 {
        // SAFETY: as `block`.
        unsafe {
            let factors = if h == 0 { [-offset, 0] } else { [0, -offset] };
            let mut first = [V::none(); C];
            let mut y = [std::ptr::null(); C];
            for (c, (panel, t)) in x.into_iter().enumerate() {
                first[c] = V::pairs(&raw const (*panel).sums[b][t], factors);
                y[c] = &raw const (*panel).codes[8 * b + 4 * h][t];
            }
            let mut sums = [first; R];
            let mut codes = [std::ptr::null::<i8>(); R];
            for r in 0..R {
                codes[r] = row(&(*w).codes[b], r0 + r).cast::<i8>().add(16 * h);
            }
            V::products::<K, 4, R, C>(&mut sums, codes, y);
            for r in 0..R {
                let scale = V::all(*row(&(*w).scales[h][b], r0 + r));
                for c in 0..C {
                    let scaled = V::mul(scale, V::float(sums[r][c]));
                    total[r][c] = if h == 0 { scaled } else { V::add(total[r][c], scaled) };
                }
            }
        }
    }
    total
}

/// A table's unpacking of one format: rows of `n_in` weights into packs `[n_rows.div_ceil(8),
/// n_groups]`; returns what is to be taken off codes.
pub type UnpackRows = unsafe fn(w: &[u8], n_in: usize, n_rows: usize, out: &mut [Pack]) -> i16;

/// A table's [`multiply`] for one class of formats.
pub type MultiplyStrip = unsafe fn(Strip<'_>, &[Panel], usize, &mut Tile<'_, f32>);

/// Products of all rows of `w` with the tokens that lie in panels, strip by strip.
///
/// # Safety
/// The CPU has the instruction set of both functions.
pub unsafe fn by_strips(
    w: &[u8],
    n_in: usize,
    panels: &[Panel],
    scratch: &mut [Pack],
    out: &mut Tile<'_, f32>,
    (unpack, multiply): (UnpackRows, MultiplyStrip),
) {
    let n_groups = n_in.div_ceil(256);
    let n_tokens = out.n_rows().min(panels.len() / n_groups * PANEL);
    if n_tokens == 0 || w.is_empty() {
        return;
    }
    let row_bytes = w.len() / out.n_cols();
    for (i, rows) in w.chunks(STRIP * row_bytes).enumerate() {
        let n_rows = rows.len() / row_bytes;
        let packs = &mut scratch[..n_rows.div_ceil(PACK) * n_groups];
        // SAFETY: passed on.
        unsafe {
            let strip = Strip {
                offset: unpack(rows, n_in, n_rows, packs),
                packs,
                n_rows,
                n_groups,
                n_blocks: n_in / 32,
                first: STRIP * i,
                next: rows.as_ptr_range().end,
                row_bytes,
            };
            multiply(strip, panels, n_tokens, out);
        }
    }
}
