//! Speed of the kernels, table by table: products of a 2048 x 2048 matrix with 1, 4, 8, 16 and 64
//! tokens in every format, and what quantizes and attends; `ops` has the elementwise ops. Throughput is in
//! elements: multiplications for products, values elsewhere.
//!
//! `cargo bench --bench kernel -- avx2/Q4_K` runs what contains the given text.

mod support;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pith::{
    kernel::{
        A8, Acts, CHUNK, Chunk, HEADS, Input, Kernels, PANEL, Pack, Panel, Query, Results, Softmax,
        Stored,
    },
    quant::Format,
    team::Mat,
};
use support::values;

/// Rows of a matrix, and weights of a row.
const N: usize = 2048;

/// A matrix of real weights: rows are repeats of 16 encoded ones, since encoding is slow.
fn weights(format: Format) -> Vec<u8> {
    let row_bytes = format.row_bytes(N).expect("rows of whole blocks");
    let mut rows = vec![0; 16 * row_bytes];
    format.encode(&values(16 * N), &mut rows);
    rows.repeat(N / 16)
}

fn products(c: &mut Criterion) {
    for kernels in Kernels::available() {
        let mut group = c.benchmark_group(kernels.name());
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.sample_size(20);
        // The reference is there to be plain; one speed of it is enough.
        let tokens: &[usize] = if kernels.name() == "scalar" { &[1] } else { &[1, 4, 8, 16, 64] };
        for &format in Format::ALL {
            let w = weights(format);
            for &n in tokens {
                let x = values(n * N);
                let (n_panels, n_rows) = kernels.split(n);
                let mut panels = vec![Panel::ZERO; n_panels * N / 256];
                for (x, out) in x.chunks(PANEL * N).zip(panels.chunks_exact_mut(N / 256)) {
                    kernels.quantize_panel(x, N, 0, out);
                }
                let mut rows = vec![A8::ZERO; n_rows * N / 256];
                for (x, out) in x.chunks(N).zip(rows.chunks_exact_mut(N / 256)) {
                    kernels.quantize(x, out);
                }
                let input = match format.is_float() {
                    true => Input::F32(&x),
                    false => Input::Acts(Acts { panels: &panels, rows: &rows }),
                };
                let mut scratch = vec![Pack::ZERO; Kernels::scratch_packs(N)];
                let mut out = vec![0.0; n * N];
                group.throughput(Throughput::Elements((n * N * N) as u64));
                group.bench_function(BenchmarkId::new(format.name(), n), |b| {
                    b.iter(|| {
                        let mut out = Mat::new(&mut out, n, N, N);
                        let w = black_box(&w);
                        kernels.matmul(format, w, N, input, &mut scratch, &mut out.tile());
                    });
                });
            }
        }
        group.finish();
    }
}

fn ops(c: &mut Criterion) {
    for kernels in Kernels::available() {
        let mut group = c.benchmark_group(format!("{}/op", kernels.name()));
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
        group.sample_size(20);
        let x = values(N);
        let mut out = vec![0.0; N];
        let mut groups = vec![A8::ZERO; N / 256];
        group.throughput(Throughput::Elements(N as u64));
        group.bench_function("quantize", |b| {
            b.iter(|| kernels.quantize(black_box(&x), &mut groups));
        });
        let (head_dim, n_heads) = (64, HEADS);
        let (keys, rows) = (values(CHUNK * head_dim), values(CHUNK * head_dim));
        let (mut key_halves, mut row_halves) = (vec![0; keys.len()], vec![0; rows.len()]);
        kernels.to_f16(&keys, &mut key_halves);
        kernels.to_f16(&rows, &mut row_halves);
        let chunk = Chunk {
            keys: Stored::F16(&key_halves),
            values: Stored::F16(&row_halves),
            head_dim,
            width: head_dim,
            scale: 0.125,
            softcap: 0.0,
        };
        let query = |q| Query { q, first: 0, end: CHUNK, position: CHUNK - 1, slope: 0.0 };
        let queries: Vec<_> = x.chunks_exact(head_dim).take(n_heads).map(query).collect();
        let mut scores = Box::new([[0.0; CHUNK]; HEADS]);
        group.throughput(Throughput::Elements((2 * n_heads * CHUNK * head_dim) as u64));
        group.bench_function("attend", |b| {
            b.iter(|| {
                let mut softmax = [Softmax::NONE; HEADS];
                let mixed = &mut out[..n_heads * head_dim];
                let results = Results { scores: &mut scores, softmax: &mut softmax, mixed };
                kernels.attend(black_box(&chunk), &queries, results);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, products, ops);
criterion_main!(benches);
