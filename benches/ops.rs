//! Speed of the elementwise ops of a step, table by table, at the widths of small models.
//! Throughput is in values.
//!
//! `cargo bench --bench ops -- avx2/rms_norm` runs what contains the given text.

mod support;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pith::kernel::Kernels;
use pith_models::{Act, Pairing};
use support::values;

/// Widths of rows.
const WIDTHS: [usize; 4] = [576, 1536, 2048, 8192];

fn ops(c: &mut Criterion) {
    for kernels in Kernels::available() {
        let mut group = c.benchmark_group(kernels.name());
        group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(150));
        group.sample_size(10);
        for n in WIDTHS {
            let (x, y) = (values(n), values(n));
            let (mut out, mut halves) = (vec![0.0; n], vec![0; n]);
            kernels.to_f16(&x, &mut halves);
            group.throughput(Throughput::Elements(n as u64));
            let mut bench = |name: &str, f: &mut dyn FnMut()| {
                group.bench_function(BenchmarkId::new(name, n), |b| b.iter(&mut *f));
            };
            bench("rms_norm", &mut || {
                kernels.rms_norm(black_box(&x), Some(&y), 1e-5, &mut out);
            });
            bench("layer_norm", &mut || {
                kernels.layer_norm(black_box(&x), Some(&y), Some(&y), 1e-5, &mut out);
            });
            for act in [Act::Relu, Act::Silu, Act::GeluTanh, Act::GeluErf] {
                bench(&format!("gate {}", act.name()), &mut || {
                    kernels.gate(act, black_box(&x), &y, &mut out);
                });
            }
            bench("softcap", &mut || {
                out.copy_from_slice(black_box(&x));
                kernels.softcap(&mut out, 30.0);
            });
            for (name, pairing) in
                [("rope half", Pairing::Half), ("rope adjacent", Pairing::Adjacent)]
            {
                bench(name, &mut || {
                    out.copy_from_slice(black_box(&x));
                    kernels.rope(pairing, &mut out, &y[..n / 2], &y[n / 2..]);
                });
            }
            bench("add", &mut || {
                out.copy_from_slice(black_box(&x));
                kernels.add(&mut out, &y);
            });
            bench("to_f16", &mut || kernels.to_f16(black_box(&x), &mut halves));
            bench("from_f16", &mut || kernels.from_f16(black_box(&halves), &mut out));
        }
        group.finish();
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
