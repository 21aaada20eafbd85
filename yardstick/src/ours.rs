//! pith's side of a product: activations quantized once, then tiles over the rows of weights, as a
//! step of the model does it.

use pith::kernel::{A8, Input, Kernels, Per};
use pith::team::{Mat, Region, Team};

use crate::products::{Product, Weights};

/// What a product needs beside its weights.
pub struct Ours {
    product: Product,
    kernels: &'static Kernels,
    team: Team,
    codes: Vec<A8>,
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
        let codes = vec![A8::ZERO; product.n * product.n_in.div_ceil(256)];
        Ok(Ours { product, kernels, team: Team::new(n_threads)?, codes })
    }

    /// Multiplies `x` `[n, n_in]` with each of the copies, all into `out` `[n, n_out]`.
    pub fn pass(
        &mut self,
        weights: &Weights,
        copies: impl Iterator<Item = usize> + Send,
        x: &[f32],
        out: &mut [f32],
    ) {
        let Ours { product, kernels, team, codes } = self;
        team.step(|region| {
            for copy in copies {
                multiply(product, kernels, region, codes, weights.copy(copy), x, out);
            }
        });
    }
}

fn multiply(
    product: &Product,
    kernels: &Kernels,
    region: &Region<'_>,
    codes: &mut [A8],
    weights: &[u8],
    x: &[f32],
    out: &mut [f32],
) {
    let &Product { format, n, n_out, n_in } = product;
    let x = match Per::of(format) {
        None => Input::F32(x),
        Some(per) => {
            let groups = n_in.div_ceil(256);
            let tile_rows = (16 * 1024 / n_in).max(1);
            region.tiles(Mat::new(codes, n, groups, groups), tile_rows, groups, |_, mut tile| {
                for i in 0..tile.n_rows() {
                    let row = &x[(tile.row0() + i) * n_in..][..n_in];
                    kernels.quantize(per, row, tile.row_mut(i));
                }
            });
            Input::A8(codes)
        }
    };
    let row_bytes = weights.len() / n_out;
    let tile_cols = (n_out / (4 * region.n_threads())).clamp(16, 64).next_multiple_of(8);
    region.tiles(Mat::new(out, n, n_out, n_out), n, tile_cols, |_, mut tile| {
        let span = tile.col0() * row_bytes..(tile.col0() + tile.n_cols()) * row_bytes;
        kernels.matmul(format, &weights[span], n_in, x, &mut tile);
    });
}
