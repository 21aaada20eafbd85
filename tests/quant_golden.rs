//! The formats equal ggml's, bit for bit, by hashes that ggml itself gave: `golden/quant.txt`, whose
//! head says how it was made.

use pith::quant::Format;

#[path = "support/quant_inputs.rs"]
mod quant_inputs;

#[test]
fn encode_and_decode_equal_ggml() {
    let golden: Vec<&str> =
        include_str!("golden/quant.txt").lines().filter(|line| !line.starts_with('#')).collect();
    let mut ours = Vec::new();
    for &format in Format::ALL {
        ours.extend(quant_inputs::golden_lines(
            format.name(),
            format.block_bytes(),
            |values| {
                let mut blocks = vec![0; format.row_bytes(values.len()).unwrap()];
                format.encode(values, &mut blocks);
                blocks
            },
            |blocks| {
                let mut values =
                    vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
                format.decode(blocks, &mut values);
                values
            },
        ));
    }
    assert_eq!(golden.len(), ours.len());
    for (golden, ours) in golden.iter().zip(&ours) {
        assert_eq!(golden, ours, "format, input, hash of blocks, hash of their values");
    }
}
