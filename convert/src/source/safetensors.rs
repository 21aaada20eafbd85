//! safetensors: a length, a JSON header, then the bytes of all tensors without gaps.
//!
//! The header is read here and not by crate `safetensors`: this reader refuses duplicate names,
//! names the tensor in each error, and its sums of hostile sizes are checked (the crate's wrap at
//! the end of the address space).

use super::{Data, Dtype, Entry, contiguous};
use pith::{Error, Result};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::{collections::HashSet, fmt};

/// The largest header that is read. A million tensors fit.
const MAX_HEADER: usize = 100_000_000;
/// More dimensions than any weight has.
const MAX_DIMS: usize = 8;

fn fault(what: impl Into<String>) -> Error {
    Error::malformed("safetensors", what)
}

/// Types of the format, with their size in bits.
const DTYPES: &[(&str, Dtype)] = &[
    ("F64", Dtype::F64),
    ("F32", Dtype::F32),
    ("F16", Dtype::F16),
    ("BF16", Dtype::BF16),
    ("I64", Dtype::Other { name: "I64", bits: 64 }),
    ("U64", Dtype::Other { name: "U64", bits: 64 }),
    ("C64", Dtype::Other { name: "C64", bits: 64 }),
    ("I32", Dtype::Other { name: "I32", bits: 32 }),
    ("U32", Dtype::Other { name: "U32", bits: 32 }),
    ("I16", Dtype::Other { name: "I16", bits: 16 }),
    ("U16", Dtype::Other { name: "U16", bits: 16 }),
    ("I8", Dtype::Other { name: "I8", bits: 8 }),
    ("U8", Dtype::Other { name: "U8", bits: 8 }),
    ("BOOL", Dtype::Other { name: "BOOL", bits: 8 }),
    ("F8_E4M3", Dtype::F8E4M3),
    ("F8_E5M2", Dtype::F8E5M2),
    ("F8_E4M3FNUZ", Dtype::Other { name: "F8_E4M3FNUZ", bits: 8 }),
    ("F8_E5M2FNUZ", Dtype::Other { name: "F8_E5M2FNUZ", bits: 8 }),
    ("F6_E2M3", Dtype::Other { name: "F6_E2M3", bits: 6 }),
    ("F6_E3M2", Dtype::Other { name: "F6_E3M2", bits: 6 }),
    ("F8_E8M0", Dtype::Other { name: "F8_E8M0", bits: 8 }),
    ("F4", Dtype::Other { name: "F4", bits: 4 }),
];

/// Lists the tensors of the safetensors `file`, in order of their data.
///
/// # Errors
/// [`Error::Malformed`], naming the tensor: a header that is too long, not JSON, repeats a name or
/// has an unknown type; offsets that leave the file, overlap, leave gaps or disagree with the shape.
pub fn read(file: &[u8]) -> Result<Vec<Entry>> {
    let (length, rest) =
        file.split_first_chunk::<8>().ok_or_else(|| fault("shorter than its length field"))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).ok_or_else(|| {
        fault(format!("a header of {length} bytes; at most {MAX_HEADER} are read"))
    })?;
    let (json, data) = rest.split_at_checked(header).ok_or_else(|| {
        fault(format!("a header of {header} bytes in a file of {} bytes", file.len()))
    })?;
    let Header(mut infos) =
        serde_json::from_slice(json).map_err(|error| fault(format!("its header: {error}")))?;
    infos.sort_by(|a, b| (a.1.offsets, &a.0).cmp(&(b.1.offsets, &b.0)));
    let mut entries = Vec::with_capacity(infos.len());
    let mut next = 0;
    for (name, info) in infos {
        let [start, end] = info.offsets;
        if start != next || end < start {
            return Err(fault(format!(
                "tensor `{name}` lies at {start}..{end}; the one before it ends at {next}"
            )));
        }
        let dtype = DTYPES.iter().find(|(known, _)| *known == info.dtype);
        let dtype = dtype.map(|&(_, dtype)| dtype).ok_or_else(|| {
            Error::Unsupported(format!("tensor `{name}` has the unknown type {:?}", info.dtype))
        })?;
        let size = byte_size(&info.shape, dtype).ok_or_else(|| {
            fault(format!("tensor `{name}` of shape {:?} has no whole size", info.shape))
        })?;
        if end - start != size {
            return Err(fault(format!(
                "tensor `{name}` of shape {:?} and type {} takes {size} bytes, {} are given",
                info.shape,
                info.dtype,
                end - start
            )));
        }
        next = end;
        let strides = contiguous(&info.shape);
        entries.push((name, dtype, info.shape, strides, start..end));
    }
    // Checked before any range is used: no tensor ends behind `next`.
    if next as u64 != data.len() as u64 {
        return Err(fault(format!(
            "its tensors take {next} bytes, {} follow the header",
            data.len()
        )));
    }
    let base = 8 + header;
    let entry =
        |(name, dtype, shape, strides, range): (_, _, _, _, std::ops::Range<usize>)| Entry {
            name,
            dtype,
            shape,
            strides,
            offset: 0,
            data: Data::Mapped { range: base + range.start..base + range.end, crc: None },
        };
    Ok(entries.into_iter().map(entry).collect())
}

fn byte_size(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
    let bits = count.checked_mul(dtype.bits())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// One tensor's line of the header.
struct Info {
    dtype: String,
    shape: Vec<usize>,
    offsets: [usize; 2],
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Info;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tensor's dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Info, A::Error> {
                let (mut dtype, mut shape, mut offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let repeated = match key.as_str() {
                        "dtype" => dtype.replace(map.next_value()?).is_some(),
                        "shape" => {
                            let dims: Vec<usize> = map.next_value()?;
                            if dims.len() > MAX_DIMS {
                                return Err(de::Error::custom(format!(
                                    "{} dimensions",
                                    dims.len()
                                )));
                            }
                            shape.replace(dims).is_some()
                        }
                        "data_offsets" => offsets.replace(map.next_value()?).is_some(),
                        other => {
                            return Err(de::Error::custom(format!("unknown field {other:?}")));
                        }
                    };
                    if repeated {
                        return Err(de::Error::custom(format!("{key} given twice")));
                    }
                }
                Ok(Info {
                    dtype: dtype.ok_or_else(|| de::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| de::Error::missing_field("shape"))?,
                    offsets: offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The header: names with their lines; `__metadata__` is skipped.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let (mut infos, mut names) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor `{name}` is listed twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<de::IgnoredAny>()?;
                    } else {
                        let info = map.next_value().map_err(|error| {
                            de::Error::custom(format!("tensor `{name}`: {error}"))
                        })?;
                        infos.push((name, info));
                    }
                }
                Ok(Header(infos))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
