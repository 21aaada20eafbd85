//! What all benches share.

/// Numbers in -1..1, spread evenly and always the same.
pub fn values(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
