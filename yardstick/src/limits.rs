//! What this machine can do at best: bytes read from memory, and multiply-adds of the two kinds that
//! kernels are made of. Measured, with the threads that the comparison uses.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;
use std::{fmt, thread};

/// Best rates, by some threads together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads.
    pub n_threads: usize,
    /// Bytes per second read from memory.
    pub read: f64,
    /// Multiply-adds per second of 8-bit integers: `vpdpbusd zmm` where there is one, else
    /// `vpmaddubsw` with sums kept in 16 bits.
    pub int8: f64,
    /// Multiply-adds per second of f32, multiplication and addition apart.
    pub f32: f64,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} thread(s): reads {:.1} GB/s, int8 {:.0} GMAC/s, f32 {:.0} GMAC/s",
            self.n_threads,
            self.read / 1e9,
            self.int8 / 1e9,
            self.f32 / 1e9
        )
    }
}

impl Limits {
    /// Measures them; takes a second and half a gigabyte.
    pub fn measure(n_threads: usize) -> Limits {
        assert!(is_x86_feature_detected!("avx2"), "a CPU with AVX2");
        let read = read_bandwidth(n_threads);
        let (int8, f32) = (int8_loop(), f32_loop());
        Limits { n_threads, read, int8: rate(n_threads, int8), f32: rate(n_threads, f32) }
    }
}

/// Parts of memory that a thread reads side by side: one stream alone leaves prefetchers idle.
const STREAMS: usize = 8;
/// Values of 8 bytes that are read: 512 MB, well over any last-level cache.
const VALUES: usize = 64 << 20;

fn read_bandwidth(n_threads: usize) -> f64 {
    let values = vec![1u64; VALUES];
    let parts: Vec<&[u64]> = values.chunks(VALUES.div_ceil(n_threads)).collect();
    let pass = || {
        together(n_threads, |i| {
            // SAFETY: `Limits::measure` has seen that the CPU has AVX2.
            black_box(unsafe { read(parts[i]) });
        })
    };
    let seconds = (0..5).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (VALUES * size_of::<u64>()) as f64 / seconds
}

/// Reads all whole lines of the streams: their exclusive or. Written with intrinsics because LLVM
/// takes plain loops over several streams for a case of gathering.
#[target_feature(enable = "avx2")]
fn read(values: &[u64]) -> u64 {
    let part = values.len() / STREAMS;
    let streams: [&[u64]; STREAMS] = std::array::from_fn(|i| &values[i * part..(i + 1) * part]);
    let mut sums = [_mm256_setzero_si256(); STREAMS];
    for i in 0..part / 4 {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            // SAFETY: 4 * i + 4 is at most `part`, the length of every stream.
            let line = unsafe { _mm256_loadu_si256(stream.as_ptr().add(4 * i).cast()) };
            *sum = _mm256_xor_si256(*sum, line);
        }
    }
    let all = sums.into_iter().fold(_mm256_setzero_si256(), |all, sum| _mm256_xor_si256(all, sum));
    _mm256_extract_epi64::<0>(all).cast_unsigned()
}

/// Seconds that `f(0..n_threads)` take when begun at once.
fn together(n_threads: usize, f: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(n_threads);
    let (f, barrier) = (&f, &barrier);
    let timed = move |i| {
        barrier.wait();
        let start = Instant::now();
        f(i);
        start.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|i| scope.spawn(move || timed(i))).collect();
        let seconds = threads.into_iter().map(|t| t.join().unwrap_or(f64::INFINITY));
        seconds.fold(0.0, f64::max)
    })
}

/// A loop of independent multiply-adds: how many each turn makes, and the function that turns.
type Loop = (u64, fn(u64));

fn rate(n_threads: usize, (macs, turns): Loop) -> f64 {
    const TURNS: u64 = 2_000_000;
    let pass = || together(n_threads, |_| turns(TURNS));
    let seconds = (0..5).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (n_threads as u64 * TURNS * macs) as f64 / seconds
}

/// A function that repeats twelve instructions (or pairs) on registers 0 to 11 with sources 14 and
/// 15, and 13 between the two of a pair: enough in flight to hide any latency.
macro_rules! turns {
    ($features:literal, $($instruction:literal),+) => {{
        #[target_feature(enable = $features)]
        fn turns(n: u64) {
            // SAFETY: changes vector registers that are declared below and a counter.
            unsafe {
                std::arch::asm!(
                    "vpxor xmm14, xmm14, xmm14",
                    "vpxor xmm15, xmm15, xmm15",
                    "2:",
                    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11",
                    $($instruction,)+
                    ".endr",
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) n => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack),
                );
            }
        }
        // SAFETY: the caller of the macro has seen that the CPU has the features.
        |n| unsafe { turns(n) }
    }};
}

fn int8_loop() -> Loop {
    if is_x86_feature_detected!("avx512vnni") {
        let turns = turns!("avx512f,avx512vnni", r"vpdpbusd zmm\i, zmm14, zmm15");
        return (12 * 64, turns);
    }
    (12 * 32, turns!("avx2", r"vpmaddubsw ymm13, ymm14, ymm15", r"vpaddw ymm\i, ymm\i, ymm13"))
}

fn f32_loop() -> Loop {
    if is_x86_feature_detected!("avx512f") {
        let turns = turns!("avx512f", r"vmulps zmm13, zmm14, zmm15", r"vaddps zmm\i, zmm\i, zmm13");
        return (12 * 16, turns);
    }
    (12 * 8, turns!("avx", r"vmulps ymm13, ymm14, ymm15", r"vaddps ymm\i, ymm\i, ymm13"))
}
