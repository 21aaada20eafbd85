//! What this machine can do at most, measured.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

/// Bytes of the file that are read at most: many times what a cache holds.
const MAX_BYTES: usize = 1 << 30;
/// Bytes that a pass reads at least, so that starting the threads doesn't count.
const MIN_PASS: usize = 256 << 20;
/// How long passes are repeated, and how many there are at least; the first maps the pages.
const TIME: Duration = Duration::from_millis(300);
const MIN_PASSES: usize = 4;
/// Places that a thread reads from in turn: memory serves several streams faster than one.
const STREAMS: usize = 4;

/// Bytes per second at which `n_threads` threads read `bytes`, each its own part: the best of
/// several passes. A small file is then read from the caches, as its weights are when it runs.
pub fn read_bandwidth(bytes: &[u8], n_threads: usize) -> f64 {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let rounds = (MIN_PASS / bytes.len().max(1 << 16)).max(1);
    let part = bytes.len().div_ceil(n_threads).max(1);
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut passes = 0;
    while passes < MIN_PASSES || start.elapsed() < TIME {
        let began = Instant::now();
        thread::scope(|scope| {
            for part in bytes.chunks(part) {
                scope.spawn(move || (0..rounds).for_each(|_| read(black_box(part))));
            }
        });
        best = best.min(began.elapsed());
        passes += 1;
    }
    (rounds * bytes.len()) as f64 / best.as_secs_f64()
}

/// Adds up all bytes, 64 at a time, of several streams in turn.
fn read(bytes: &[u8]) {
    let blocks = bytes.as_chunks::<64>().0;
    let mut streams = blocks.chunks(blocks.len().div_ceil(STREAMS).max(1));
    let streams: [&[[u8; 64]]; STREAMS] =
        std::array::from_fn(|_| streams.next().unwrap_or_default());
    let mut sum = [0u64; 8];
    for i in 0..streams[0].len() {
        for block in streams.iter().filter_map(|stream| stream.get(i)) {
            for (sum, word) in sum.iter_mut().zip(block.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_and_number_of_threads_is_read() {
        for (len, n_threads) in [(0, 1), (1, 3), (100, 2), (64 << 10, 2)] {
            let rate = read_bandwidth(&vec![1; len], n_threads);
            assert!(rate.is_finite() && (rate > 0.0) == (len > 0), "{len}: {rate}");
        }
    }
}
