//! pith's side of a product: activations quantized once, then tiles over the rows of weights, as a
//! step of the model does it.

use std::sync::{Mutex, PoisonError};

use pith::kernel::{A8, Acts, Input, Kernels, PANEL, Pack, Panel};
use pith::team::{Mat, Region, Team};

use crate::products::{Product, Weights};

/// What a product needs beside its weights.
pub struct Ours {
    product: Product,
    kernels: &'static Kernels,
    team: Team,
    panels: Vec<Panel>,
    rows: Vec<A8>,
    /// One for each thread.
    scratch: Vec<Mutex<Vec<Pack>>>,
}

impl Ours {
    /// Threads and memory for products of one kind.
    ///
    /// # Errors
    /// The threads can't be started.
    pub fn new(
        product: Product,
        kernels: &'static Kernels,
        n_threads: usize,
    ) -> pith::Result<Ours> {
        let n_groups = product.n_in.div_ceil(256);
        let (n_panels, n_rows) = kernels.split(product.n);
        let scratch = || Mutex::new(vec![Pack::ZERO; Kernels::scratch_packs(product.n_in)]);
        Ok(Ours {
            product,
            kernels,
            team: Team::new(n_threads)?,
            panels: vec![Panel::ZERO; n_panels * n_groups],
            rows: vec![A8::ZERO; n_rows * n_groups],
            scratch: (0..n_threads).map(|_| scratch()).collect(),
        })
    }

    /// Multiplies `x` `[n, n_in]` with each of the copies, all into `out` `[n, n_out]`.
    pub fn pass(
        &mut self,
        weights: &Weights,
        copies: impl Iterator<Item = usize>,
        x: &[f32],
        out: &mut [f32],
    ) {
        let Ours { product, kernels, team, panels, rows, scratch } = self;
        team.step(|region| {
            for copy in copies {
                let input = if product.format.is_float() {
                    Input::F32(x)
                } else {
                    quantize(product, kernels, region, x, panels, rows);
                    Input::Acts(Acts { panels, rows })
                };
                multiply(product, kernels, region, weights.copy(copy), input, scratch, out);
            }
        });
    }
}

fn quantize(
    product: &Product,
    kernels: &Kernels,
    region: &Region<'_>,
    x: &[f32],
    panels: &mut [Panel],
    rows: &mut [A8],
) {
    let &Product { n, n_in, .. } = product;
    let n_groups = n_in.div_ceil(256);
    let n_panels = panels.len() / n_groups;
    region.tiles(Mat::new(panels, n_panels, n_groups, n_groups), 1, n_groups, |_, mut tile| {
        let first = tile.row0() * PANEL;
        let x = &x[first * n_in..(first + PANEL).min(n) * n_in];
        kernels.quantize_panel(x, n_in, 0, tile.row_mut(0));
    });
    for (i, row) in rows.chunks_exact_mut(n_groups).enumerate() {
        kernels.quantize(&x[(n_panels * PANEL + i) * n_in..][..n_in], row);
    }
}

fn multiply(
    product: &Product,
    kernels: &Kernels,
    region: &Region<'_>,
    weights: &[u8],
    x: Input<'_>,
    scratch: &[Mutex<Vec<Pack>>],
    out: &mut [f32],
) {
    let &Product { format, n, n_out, n_in } = product;
    let row_bytes = weights.len() / n_out;
    let tile_cols = (n_out / (4 * region.n_threads())).clamp(16, 64).next_multiple_of(32);
    region.tiles(Mat::new(out, n, n_out, n_out), n, tile_cols, |worker, mut tile| {
        let span = tile.col0() * row_bytes..(tile.col0() + tile.n_cols()) * row_bytes;
        let mut scratch = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
        kernels.matmul(format, &weights[span], n_in, x, &mut scratch, &mut tile);
    });
}
