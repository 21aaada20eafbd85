//! Prints the golden file of the formats, as ggml makes it.

use pith::quant::Format;
use yardstick::ggml;

#[path = "../../../tests/support/quant_inputs.rs"]
mod quant_inputs;

fn main() {
    println!("# What ggml 0.26.0 (crate llama-cpp-sys-2 0.1.161, x86-64) makes of the inputs of");
    println!("# tests/support/quant_inputs.rs: format, input, hash of the blocks that");
    println!("# ggml_quantize_chunk writes, hash of the values that to_float reads from them.");
    println!(
        "# Again: cd yardstick && cargo run --release --bin golden > ../tests/golden/quant.txt"
    );
    for &format in Format::ALL {
        let lines = quant_inputs::golden_lines(
            format.name(),
            format.block_bytes(),
            |values| ggml::encode(format, values, 256),
            |blocks| ggml::decode(format, blocks),
        );
        for line in lines {
            println!("{line}");
        }
    }
}
