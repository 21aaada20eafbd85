//! Products of sixteen weight rows, the lanes of 512-bit vectors, with a few tokens: weights are
//! unpacked from the map into the first-level cache, where rows become columns, and a token's codes
//! are multiplied with sixteen rows at once. No sum crosses lanes, and results lie as they are
//! written.

mod load;

use std::{arch::x86_64::*, marker::PhantomData, mem::MaybeUninit};

use super::{
    super::{
        acts::{A8, MAX_ROWS},
        unpack::{Class, Min},
    },
    dot::Avx512Vnni,
    rows,
};
use crate::team::Tile;

/// Rows of weights in a vector.
const ROWS: usize = 16;

/// With fewer tokens rows are better one by one: less is done to them.
const FEWEST: usize = 3;

/// A vector as two that are loaded apart.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Halves<T>([T; 2]);

impl Halves<__m256i> {
    #[inline(always)]
    unsafe fn whole(&self) -> __m512i {
        // SAFETY: the CPU has AVX-512 F; both halves lie side by side.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

impl Halves<__m256> {
    #[inline(always)]
    unsafe fn whole(&self) -> __m512 {
        // SAFETY: the CPU has AVX-512 F; both halves lie side by side.
        unsafe { _mm512_load_ps(self.0.as_ptr().cast()) }
    }
}

/// Up to 256 weights of each of sixteen rows; lane r is row r.
pub struct Loaded {
    /// `[block][k / 4]`: four codes in each lane, which have no sign.
    codes: [[Halves<__m256i>; 8]; 8],
    /// `[block]`: factors of S.
    d: [Halves<__m256>; 8],
    /// `[block]`: factors of Y, where there are minima.
    m: [Halves<__m256>; 8],
    /// `[2 * block + half]`: scales, where halves have them.
    scales: [Halves<__m256>; 16],
    /// `[2 * block + half]`: minima, where halves have them.
    mins: [Halves<__m256>; 16],
}

/// The half of [`Loaded`] that eight rows are written to.
pub struct Half {
    all: *mut Loaded,
    half: usize,
}

impl Half {
    #[inline(always)]
    unsafe fn codes(&mut self, b: usize, codes: [__m256i; 8]) {
        for (k, codes) in codes.into_iter().enumerate() {
            // SAFETY: by `LoadEight::load_eight`'s contract; b and half are in range.
            unsafe { (*self.all).codes[b][k].0[self.half] = codes };
        }
    }

    #[inline(always)]
    unsafe fn d(&mut self, b: usize, d: __m256) {
        // SAFETY: as `codes`.
        unsafe { (*self.all).d[b].0[self.half] = d };
    }

    #[inline(always)]
    unsafe fn m(&mut self, b: usize, m: __m256) {
        // SAFETY: as `codes`.
        unsafe { (*self.all).m[b].0[self.half] = m };
    }

    #[inline(always)]
    unsafe fn scales(&mut self, scales: [__m256; 16]) {
        for (i, scale) in scales.into_iter().enumerate() {
            // SAFETY: as `codes`.
            unsafe { (*self.all).scales[i].0[self.half] = scale };
        }
    }

    #[inline(always)]
    unsafe fn mins(&mut self, mins: [__m256; 16]) {
        for (i, min) in mins.into_iter().enumerate() {
            // SAFETY: as `codes`.
            unsafe { (*self.all).mins[i].0[self.half] = min };
        }
    }
}

/// Eight weight rows, from the same block of each on.
#[derive(Clone, Copy)]
pub struct Rows {
    /// The first of them.
    at: *const u8,
    /// Bytes of a row.
    bytes: usize,
}

/// A format that is unpacked from eight rows at once.
pub trait LoadEight: rows::Load {
    /// The first `n_blocks` blocks of 32 of each row, or a superblock: all that the format has of
    /// them is written.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ and VL; every row has so many blocks; `out` may be written.
    unsafe fn load_eight(rows: Rows, n_blocks: usize, out: &mut Half);

    /// What is to be taken off codes as they are loaded.
    const LESS: i16 = if Self::Class::SIGNED { 128 } else { Self::Class::OFFSET };
}

/// What products want of a token's 256 codes beside themselves, by block, or by half of a block
/// where those have scales.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Sums {
    /// What a sum of products begins with: `-LESS` times the sum of codes.
    first: [i32; 16],
    /// The sum of codes.
    y: [f32; 16],
}

/// Products of all rows of `w` with `x`, up to [`MAX_ROWS`] tokens: those of the tile from `t` on.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and VNNI, and what AVX2's table needs; lengths are as
/// `Kernels::matmul` checks.
#[inline(always)]
pub unsafe fn multiply<F: LoadEight>(
    w: &[u8],
    n_in: usize,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
) {
    let (n_cols, n_groups) = (out.n_cols(), n_in.div_ceil(256));
    let row_bytes = w.len() / n_cols;
    let in_sixteens = if x.len() < FEWEST * n_groups { 0 } else { n_cols / ROWS * ROWS };
    let (sixteens, rest) = w.split_at(in_sixteens * row_bytes);
    // SAFETY: passed on.
    unsafe {
        for (i, rows) in sixteens.chunks_exact(ROWS * row_bytes).enumerate() {
            let mut sums = [_mm512_setzero_ps(); MAX_ROWS];
            strip::<F>(rows, n_in, x, &mut sums);
            for (i_token, sum) in sums.iter().enumerate().take(x.len() / n_groups) {
                let out = &mut out.row_mut(t + i_token)[ROWS * i..][..ROWS];
                _mm512_storeu_ps(out.as_mut_ptr(), *sum);
            }
        }
        if !rest.is_empty() {
            let out = &mut out.columns(in_sixteens..n_cols);
            rows::multiply::<F, Avx512Vnni, { FEWEST - 1 }>(rest, n_in, x, out, t);
        }
    }
}

/// Sixteen rows by all tokens.
#[inline(always)]
unsafe fn strip<F: LoadEight>(rows: &[u8], n_in: usize, x: &[A8], out: &mut [__m512; MAX_ROWS]) {
    let (n_groups, row_bytes) = (n_in.div_ceil(256), rows.len() / ROWS);
    let n_tokens = x.len() / n_groups;
    let mut loaded = MaybeUninit::<Loaded>::uninit();
    let mut sums = [MaybeUninit::<Sums>::uninit(); MAX_ROWS];
    let mut lanes = [MaybeUninit::<[__m512; 8]>::uninit(); MAX_ROWS];
    // SAFETY: passed on; there are n_groups groups of each token. What is read was written: of `loaded` what the format has, by `load_eight`'s
    // contract; of the others what belongs to the tokens that are there.
    unsafe {
        for lanes in &mut lanes[..n_tokens] {
            lanes.write([_mm512_setzero_ps(); 8]);
        }
        for g in 0..n_groups {
            let n_blocks = (n_in / 32 - 8 * g).min(8);
            let at = rows.as_ptr().add(g * F::BYTES);
            let all = loaded.as_mut_ptr();
            for half in 0..2 {
                let at = at.add(ROWS / 2 * half * row_bytes);
                F::load_eight(Rows { at, bytes: row_bytes }, n_blocks, &mut Half { all, half });
            }
            // Pointers, as an iterator's steps make a chain of additions longer than the products of a token.
            let x = x.as_ptr().add(g);
            for (i, sums) in sums.iter_mut().enumerate().take(n_tokens) {
                sums.write(sums_of::<F>(&*x.add(i * n_groups)));
            }
            for b in 0..n_blocks {
                fetch::<F>(rows.as_ptr_range().end, 8 * g + b);
                let w = Block::<F::Class>::of(all, b);
                for (i, (sums, lanes)) in sums.iter().zip(&mut lanes).enumerate().take(n_tokens) {
                    let lane = &mut lanes.assume_init_mut()[b % 8];
                    *lane = w.add_to(*lane, &*x.add(i * n_groups), sums.assume_init_ref());
                }
            }
        }
        for (out, l) in out.iter_mut().zip(&lanes[..n_tokens]) {
            let l = l.assume_init_ref();
            let even = _mm512_add_ps(_mm512_add_ps(l[0], l[4]), _mm512_add_ps(l[2], l[6]));
            let odd = _mm512_add_ps(_mm512_add_ps(l[1], l[5]), _mm512_add_ps(l[3], l[7]));
            *out = _mm512_add_ps(even, odd);
        }
    }
}

/// Asks for as much as a block of 32 of sixteen rows is: block `i` of what lies at `at`, the rows that
/// probably come next. A few lines at a time, as many at once would make loads wait; into the second
/// level, as the first has no room for them.
#[inline(always)]
fn fetch<F: LoadEight>(at: *const u8, i: usize) {
    let bytes = const { ROWS * F::BYTES / 8 };
    for line in (0..bytes).step_by(64) {
        // SAFETY: any address may be fetched.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(i * bytes + line).cast()) };
    }
}

#[inline(always)]
unsafe fn sums_of<F: LoadEight>(x: &A8) -> Sums {
    let mut sums = Sums { first: [0; 16], y: [0.0; 16] };
    // SAFETY: the CPU has AVX-512 F; arrays are as long as vectors.
    unsafe {
        let halves = _mm256_loadu_si256(x.sums.as_ptr().cast());
        let y = match F::Class::HALVES {
            true => _mm512_cvtepi16_epi32(halves),
            false => _mm512_castsi256_si512(_mm256_madd_epi16(halves, _mm256_set1_epi16(1))),
        };
        let first = _mm512_mullo_epi32(y, _mm512_set1_epi32((-F::LESS).into()));
        _mm512_store_si512(sums.first.as_mut_ptr().cast(), first);
        _mm512_store_ps(sums.y.as_mut_ptr(), _mm512_cvtepi32_ps(y));
    }
    sums
}

/// A block of 32 of sixteen rows of class K; registers hold what every format has.
struct Block<K> {
    b: usize,
    codes: [__m512i; 8],
    d: __m512,
    m: __m512,
    all: *const Loaded,
    class: PhantomData<K>,
}

impl<K: Class> Block<K> {
    #[inline(always)]
    unsafe fn of(all: *const Loaded, b: usize) -> Block<K> {
        // SAFETY: the CPU has AVX-512 F; block b has been loaded.
        unsafe {
            let mut codes = [_mm512_setzero_si512(); 8];
            for (k, codes) in codes.iter_mut().enumerate() {
                *codes = (*all).codes[b][k].whole();
            }
            let m = match K::MIN {
                Min::None => _mm512_setzero_ps(),
                _ => (*all).m[b].whole(),
            };
            Block { b, codes, d: (*all).d[b].whole(), m, all, class: PhantomData }
        }
    }

    /// lane + da * (d * S + m * Y).
    #[inline(always)]
    unsafe fn add_to(&self, lane: __m512, x: &A8, sums: &Sums) -> __m512 {
        let b = self.b;
        // SAFETY: as `of`.
        unsafe {
            let mut term = _mm512_mul_ps(self.d, self.s(x, sums));
            match K::MIN {
                Min::None => {}
                Min::Block => term = _mm512_add_ps(term, times(self.m, sums.y[b])),
                Min::Halves => {
                    let (first, second) =
                        ((*self.all).mins[2 * b].whole(), (*self.all).mins[2 * b + 1].whole());
                    let (first, second) =
                        (times(first, sums.y[2 * b]), times(second, sums.y[2 * b + 1]));
                    let y = _mm512_add_ps(first, second);
                    term = _mm512_add_ps(term, _mm512_mul_ps(self.m, y));
                }
            }
            _mm512_add_ps(lane, times(term, x.scales[b]))
        }
    }

    /// S of the block, exact in f32: the largest is Q6_K's, 2 * 128 * (16 * 32 * 127) < 2^24.
    #[inline(always)]
    unsafe fn s(&self, x: &A8, sums: &Sums) -> __m512 {
        let b = self.b;
        // SAFETY: as `of`.
        unsafe {
            if !K::HALVES {
                return self.dot::<0, 8>(x, sums.first[b]);
            }
            let (first, second) =
                ((*self.all).scales[2 * b].whole(), (*self.all).scales[2 * b + 1].whole());
            let first = _mm512_mul_ps(first, self.dot::<0, 4>(x, sums.first[2 * b]));
            let second = _mm512_mul_ps(second, self.dot::<4, 8>(x, sums.first[2 * b + 1]));
            _mm512_add_ps(first, second)
        }
    }

    /// Sums of products over fours A..B of the block's codes, which begin with `first`.
    #[inline(always)]
    unsafe fn dot<const A: usize, const B: usize>(&self, x: &A8, first: i32) -> __m512 {
        // SAFETY: the CPU has AVX-512 F and VNNI.
        unsafe {
            let mut sum = _mm512_set1_epi32(first);
            // Aligned to 32, as `A8` is.
            let y = x.codes.as_ptr().add(32 * self.b).cast::<i32>();
            for k in A..B {
                let y = _mm512_set1_epi32(*y.add(k));
                sum = _mm512_dpbusd_epi32(sum, self.codes[k], y);
            }
            _mm512_cvtepi32_ps(sum)
        }
    }
}

/// w * y.
#[inline(always)]
unsafe fn times(w: __m512, y: f32) -> __m512 {
    // SAFETY: the CPU has AVX-512 F.
    unsafe { _mm512_mul_ps(w, _mm512_set1_ps(y)) }
}
