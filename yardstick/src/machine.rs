//! What machine this is: absolute times mean something only beside its name.

use std::thread;

/// The processor's name, family and model, and how many threads can run at once:
/// "AMD EPYC, family 25, model 17, 2 threads".
pub fn name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line =
            info.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string())
    };
    let mut name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    for key in ["cpu family", "model"] {
        if let (Some(value), Some(word)) = (field(key), key.split(' ').next_back()) {
            name += &format!(", {word} {value}");
        }
    }
    format!("{name}, {} threads", thread::available_parallelism().map_or(1, |n| n.get()))
}

/// The name as a file's name: "amd-epyc-family-25-model-17-2-threads".
pub fn slug() -> String {
    let words = name().to_lowercase();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}
