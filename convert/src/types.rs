//! Which format each tensor gets. The rule, in one place:
//!
//! 1. Vectors, norms and the position table stay F32, whatever is asked for.
//! 2. `f32`, `f16` and `bf16` apply to everything else; `source` keeps each tensor's own.
//! 3. A quantized type applies to all matrices but the embedding and the output, whose errors reach
//!    every token and which small models spend few bytes on: these get Q8_0 beside 5 bits and
//!    more, Q6_K beside 4 bits and less.
//! 4. A classifier's head, a few rows that decide everything, stays F32 beside any quantized type.
//! 5. Where a row isn't a multiple of the block, the next simpler format takes its place as in
//!    llama.cpp: Q2_K, Q3_K, IQ4_XS -> IQ4_NL, Q4_K -> Q5_0, Q5_K -> Q5_1, Q6_K -> Q8_0, and F16
//!    where a row isn't a multiple of 32 either. Each such fallback is reported.

use crate::source::Dtype;
use pith::{Error, Result, quant::Format};

/// What the matrices become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each tensor keeps its own type; F64 becomes F32.
    Source,
    /// All get this format, by the rule above.
    Format(Format),
}

impl Target {
    /// The target with this name (`q4_k`, `f16`, `source`), whatever its case.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the names that exist. llama.cpp's mixtures (`q4_k_m`) are not
    /// formats: the error says which format is meant.
    pub fn by_name(name: &str) -> Result<Target> {
        if name.eq_ignore_ascii_case("source") {
            return Ok(Target::Source);
        }
        if let Some(format) = Format::by_name(name) {
            return Ok(Target::Format(format));
        }
        let lower = name.to_ascii_lowercase();
        let mixture = ["_s", "_m", "_l"].iter().find_map(|end| lower.strip_suffix(end));
        let hint = match mixture.filter(|base| Format::by_name(base).is_some()) {
            Some(base) => format!("; it is a mixture of llama.cpp's, the format is `{base}`"),
            None => String::new(),
        };
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name().to_ascii_lowercase()).collect();
        Err(Error::Invalid(format!("no type `{name}`{hint}: choose source, {}", names.join(", "))))
    }

    /// llama.cpp's `general.file_type`: the kind of most tensors. A file without quantization
    /// counts as what its matrices are; `source` as `F16` unless told otherwise by `most`.
    pub(crate) fn file_type(self, most: Format) -> u32 {
        let format = match self {
            Target::Source => most,
            Target::Format(format) => format,
        };
        match format {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q8_0 => 7,
            Format::Q5_0 => 8,
            Format::Q5_1 => 9,
            Format::Q2_K => 10,
            Format::Q3_K => 11,
            Format::Q4_K => 14,
            Format::Q5_K => 16,
            Format::Q6_K => 18,
            Format::IQ4_NL => 25,
            Format::IQ4_XS => 30,
            Format::BF16 => 32,
        }
    }
}

/// The format of one tensor, and the one that was wanted where it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub format: Format,
    pub wanted: Format,
}

/// Chooses the format of the tensor `name` with rows of `n_in` values and `n_dims` dimensions,
/// stored as `dtype`.
pub(crate) fn choose(
    target: Target,
    name: &str,
    n_dims: usize,
    n_in: usize,
    dtype: Dtype,
) -> Choice {
    let stays_f32 = n_dims < 2
        || !name.ends_with(".weight")
        || name.ends_with("_norm.weight")
        || name == "position_embd.weight";
    let wanted = match (target, dtype) {
        _ if stays_f32 => Format::F32,
        (Target::Source, Dtype::F16) => Format::F16,
        (Target::Source, Dtype::BF16) => Format::BF16,
        (Target::Source, _) => Format::F32,
        (Target::Format(format), _) => match name {
            "token_embd.weight" | "output.weight" => beside(format),
            "cls.output.weight" if !format.is_float() => Format::F32,
            _ => format,
        },
    };
    let mut format = wanted;
    while format != Format::F16 && format.row_bytes(n_in).is_none() {
        format = simpler(format);
    }
    Choice { format, wanted }
}

/// The format of embedding and output beside matrices of `format`.
fn beside(format: Format) -> Format {
    use Format::*;
    match format {
        F32 | F16 | BF16 => format,
        Q8_0 | Q6_K | Q5_K | Q5_0 | Q5_1 => Q8_0,
        Q4_0 | Q4_1 | Q4_K | Q3_K | Q2_K | IQ4_NL | IQ4_XS => Q6_K,
    }
}

/// What takes the place of a format whose block doesn't divide a row; ends at F16, which always
/// does.
fn simpler(format: Format) -> Format {
    use Format::*;
    match format {
        Q2_K | Q3_K | IQ4_XS => IQ4_NL,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Format::*;

    fn chosen(target: Format, name: &str, n_dims: usize, n_in: usize) -> Format {
        choose(Target::Format(target), name, n_dims, n_in, Dtype::F32).format
    }

    #[test]
    fn vectors_norms_and_positions_stay_f32() {
        for (name, n_dims) in [
            ("blk.0.attn_q.bias", 1),
            ("blk.0.attn_norm.weight", 1),
            ("blk.0.attn_q_norm.weight", 2),
            ("position_embd.weight", 2),
        ] {
            for &format in Format::ALL {
                assert_eq!(chosen(format, name, n_dims, 256), F32, "{name}");
            }
        }
    }

    #[test]
    fn embedding_and_output_get_more_bits() {
        for name in ["token_embd.weight", "output.weight"] {
            assert_eq!(chosen(Q4_K, name, 2, 256), Q6_K);
            assert_eq!(chosen(Q4_K, name, 2, 64), Q8_0);
            assert_eq!(chosen(Q5_K, name, 2, 256), Q8_0);
            assert_eq!(chosen(F16, name, 2, 64), F16);
        }
        assert_eq!(chosen(Q4_K, "blk.0.ffn_up.weight", 2, 256), Q4_K);
    }

    #[test]
    fn a_classifiers_head_is_never_quantized() {
        let head = |format| chosen(format, "cls.output.weight", 2, 256);
        assert_eq!([Q4_K, Q8_0, F16, BF16, F32].map(head), [F32, F32, F16, BF16, F32]);
    }

    #[test]
    fn odd_rows_fall_back_as_in_llama_cpp() {
        let rows =
            |format| [256, 64, 48].map(|n_in| chosen(format, "blk.0.ffn_up.weight", 2, n_in));
        assert_eq!(rows(Q2_K), [Q2_K, IQ4_NL, F16]);
        assert_eq!(rows(Q3_K), [Q3_K, IQ4_NL, F16]);
        assert_eq!(rows(Q4_K), [Q4_K, Q5_0, F16]);
        assert_eq!(rows(Q5_K), [Q5_K, Q5_1, F16]);
        assert_eq!(rows(Q6_K), [Q6_K, Q8_0, F16]);
        assert_eq!(rows(IQ4_XS), [IQ4_XS, IQ4_NL, F16]);
        assert_eq!(rows(Q4_0), [Q4_0, Q4_0, F16]);
        assert_eq!(rows(BF16), [BF16; 3]);
    }

    #[test]
    fn source_keeps_each_type() {
        let kept = |dtype| choose(Target::Source, "blk.0.ffn_up.weight", 2, 3, dtype).format;
        assert_eq!(
            [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].map(kept),
            [F32, F32, F16, BF16]
        );
    }
}
