//! Speed of attention for one token, table by table and for each type of the cache: one layer of
//! 8 key/value heads of 64 dimensions, four query heads each, over 256 and 4096 positions. The layers
//! of a model take turns, so that the long context comes from memory as it does in a step.
//! Throughput is in multiplications.
//!
//! `cargo bench --bench attend -- avx2/q8_0` runs what contains the given text.

mod support;

use std::{hint::black_box, ops::Range, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pith::{
    cache::Type,
    kernel::{A8, CHUNK, Chunk, HEADS, Kernels, Query, Results, SHARE, Softmax, Stored},
};
use support::values;

/// Key/value heads.
const N_HEAD_KV: usize = 8;

/// Width of a head.
const HEAD_DIM: usize = 64;

/// Keys, or values: it makes no difference to the time which number lies where.
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8_0(Vec<i8>, Vec<u16>),
}

impl Store {
    fn new(of: Type, n_rows: usize) -> Store {
        let x = values(256 * HEAD_DIM);
        let n = n_rows / 256;
        let halves = |x: &[f32]| {
            let mut halves = vec![0; x.len()];
            Kernels::best().to_f16(x, &mut halves);
            halves.repeat(n)
        };
        match of {
            Type::F16 => Store::F16(halves(&x)),
            Type::F32 => Store::F32(x.repeat(n)),
            Type::Q8_0 => {
                let mut groups = vec![A8::ZERO; x.len() / 256];
                Kernels::best().quantize(&x, &mut groups);
                let codes: Vec<i8> = groups.iter().flat_map(|group| group.codes).collect();
                let scales: Vec<f32> = groups.iter().flat_map(|group| group.scales).collect();
                Store::Q8_0(codes.repeat(n), halves(&scales))
            }
        }
    }

    fn get(&self, rows: Range<usize>) -> Stored<'_> {
        let span = |width: usize| rows.start * width..rows.end * width;
        match self {
            Store::F16(x) => Stored::F16(&x[span(HEAD_DIM)]),
            Store::F32(x) => Stored::F32(&x[span(HEAD_DIM)]),
            Store::Q8_0(codes, scales) => Stored::Q8_0 {
                codes: &codes[span(HEAD_DIM)],
                scales: &scales[span(HEAD_DIM / SHARE)],
            },
        }
    }
}

/// A token's attention to one layer's rows, which begin at `first`.
fn attend(
    kernels: &Kernels,
    (keys, values): (&Store, &Store),
    first: usize,
    n_ctx: usize,
    q: &[f32],
    out: &mut [f32],
) {
    let mut scores = [[0.0; CHUNK]; HEADS];
    let mut mixed = [0.0; HEADS * HEAD_DIM];
    for head in 0..N_HEAD_KV {
        let mut states = [Softmax::NONE; HEADS];
        for start in (0..n_ctx).step_by(CHUNK) {
            let rows = first + head * n_ctx + start..first + head * n_ctx + start + CHUNK;
            let chunk = Chunk {
                keys: keys.get(rows.clone()),
                values: values.get(rows),
                head_dim: HEAD_DIM,
                width: HEAD_DIM,
                scale: 0.125,
                softcap: 0.0,
            };
            let queries: [Query<'_>; HEADS] = std::array::from_fn(|i| Query {
                q: &q[i * HEAD_DIM..][..HEAD_DIM],
                first: 0,
                end: CHUNK,
                position: n_ctx - 1 - start,
                slope: 0.0,
            });
            let mut softmax = [Softmax::NONE; HEADS];
            let results = Results { scores: &mut scores, softmax: &mut softmax, mixed: &mut mixed };
            kernels.attend(&chunk, &queries, results);
            let heads = out.chunks_exact_mut(HEAD_DIM).zip(mixed.chunks_exact(HEAD_DIM));
            for ((state, new), (out, mixed)) in states.iter_mut().zip(softmax).zip(heads) {
                kernels.merge(state, out, new, mixed);
            }
        }
    }
}

fn decode(c: &mut Criterion) {
    for kernels in Kernels::available() {
        let mut group = c.benchmark_group(kernels.name());
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.sample_size(20);
        // The reference is there to be plain; one speed of it is enough.
        let contexts: &[usize] = if kernels.name() == "scalar" { &[256] } else { &[256, 4096] };
        for (&n_ctx, &of) in contexts.iter().flat_map(|n| Type::ALL.iter().map(move |of| (n, of))) {
            let n_layer = if n_ctx == 256 { 1 } else { 16 };
            let rows = N_HEAD_KV * n_ctx;
            let (keys, stored) = (Store::new(of, n_layer * rows), Store::new(of, n_layer * rows));
            let q = values(HEADS * HEAD_DIM);
            let mut out = vec![0.0; HEADS * HEAD_DIM];
            let mut layer = 0;
            group.throughput(Throughput::Elements((2 * HEADS * rows * HEAD_DIM) as u64));
            group.bench_function(BenchmarkId::new(of.name(), n_ctx), |b| {
                b.iter(|| {
                    layer = (layer + 1) % n_layer;
                    let first = layer * rows;
                    attend(kernels, (&keys, &stored), first, n_ctx, black_box(&q), &mut out);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
