//! Values and bytes that the format tests encode and decode: the same everywhere, as they are made
//! of integer arithmetic and correctly rounded float operations only.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// Nearly normal with mean 0 and variance 1: twelve uniforms.
    pub fn normal(&mut self) -> f32 {
        (0..12).fold(-6.0, |sum, _| sum + self.uniform())
    }
}

/// Every kind of input, by name.
pub const KINDS: [&str; 11] = [
    "normal", "uniform", "positive", "negative", "heavy", "sparse", "constant", "zero", "lattice",
    "tiny", "huge",
];

/// `n` values of one of the [`KINDS`], a multiple of 256.
pub fn values(kind: &str, n: usize, seed: u64) -> Vec<f32> {
    let random = &mut Random(seed);
    let mut out = Vec::with_capacity(n);
    while out.len() < n {
        // Scales differ from superblock to superblock, and a few sub-blocks are zero.
        let scale = 0.02 * (1.0 + 9.0 * random.uniform());
        for i in 0..256 {
            let hole = kind == "sparse" && (i / 32) % 3 == 1;
            let x = match kind {
                _ if hole => 0.0,
                "normal" => random.normal() * scale,
                "uniform" => (random.uniform() - 0.5) * scale,
                "positive" => random.uniform() * scale + 0.01,
                "negative" => -random.uniform() * scale - 0.01,
                "heavy" => {
                    let z = random.normal();
                    z * z * z * scale
                }
                "sparse" => {
                    let keep = random.uniform() < 0.1;
                    let x = random.normal() * scale;
                    if keep { x } else { 0.0 }
                }
                "constant" => scale - 0.08,
                "zero" => 0.0,
                "lattice" => (random.bits() % 16) as f32 * 0.003 - 0.02,
                "tiny" => random.normal() * 1e-38 * scale,
                "huge" => random.normal() * 1e38 * scale,
                _ => panic!("no kind of values is called {kind}"),
            };
            out.push(x);
        }
    }
    out
}

/// `n` random bytes.
pub fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let random = &mut Random(seed);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// FNV-1a, 64 bits.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// [`hash`] of floats by their bits; every NaN counts as the same, as its sign and payload are the
/// processor's affair.
pub fn hash_floats(values: &[f32]) -> u64 {
    let canonical = |x: &f32| if x.is_nan() { f32::NAN } else { *x };
    hash(values.iter().flat_map(|x| canonical(x).to_bits().to_le_bytes()))
}

/// One line of the golden file per format and kind: what `encode` and `decode` give. `encode` takes
/// values and returns blocks; `decode` takes blocks and returns values.
pub fn golden_lines(
    name: &str,
    block_bytes: usize,
    encode: impl Fn(&[f32]) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Vec<f32>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (seed, kind) in KINDS.iter().enumerate() {
        let blocks = encode(&values(kind, 2048, seed as u64));
        let decoded = hash_floats(&decode(&blocks));
        lines.push(format!("{name} {kind} {:016x} {decoded:016x}", hash(blocks)));
    }
    let random = bytes(64 * block_bytes, 99);
    lines.push(format!("{name} bytes - {:016x}", hash_floats(&decode(&random))));
    lines
}
