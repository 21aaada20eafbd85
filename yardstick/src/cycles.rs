//! Time in seconds and in cycles of the core's clock, which no counter that a guest may read shows:
//! the clock is taken from a chain of dependent additions, one cycle each, before and after.
#![allow(unsafe_code)]

use std::time::Instant;

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Wall-clock time.
    pub seconds: f64,
    /// Cycles of this thread's core in that time.
    pub cycles: f64,
}

/// Times `f`.
pub fn time(f: impl FnOnce()) -> Sample {
    let before = hertz();
    let start = Instant::now();
    f();
    let seconds = start.elapsed().as_secs_f64();
    Sample { seconds, cycles: seconds * (before + hertz()) / 2.0 }
}

/// The clock of the core that runs this: the best of some short chains, since an interruption only
/// makes a chain slower.
pub fn hertz() -> f64 {
    const ADDITIONS: u32 = 16 * 4096;
    let chain = || {
        let start = Instant::now();
        dependent_additions(ADDITIONS / 16);
        f64::from(ADDITIONS) / start.elapsed().as_secs_f64()
    };
    (0..4).map(|_| chain()).fold(0.0, f64::max)
}

/// `16 * n` additions, each of which waits for the one before.
fn dependent_additions(n: u32) {
    // SAFETY: changes two registers of its own and the flags.
    unsafe {
        std::arch::asm!(
            "2:",
            ".rept 16",
            "add {x}, {y}",
            ".endr",
            "dec {n:e}",
            "jnz 2b",
            x = inout(reg) 0u64 => _,
            y = in(reg) 1u64,
            n = inout(reg) n => _,
            options(nomem, nostack),
        );
    }
}
