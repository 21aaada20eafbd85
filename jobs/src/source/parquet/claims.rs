//! What a decompressed page says of its values: how many a dictionary has, and how many and how long those
//! of the delta encodings are, for the `parquet` crate allocates what it is told; and that there are
//! levels for all of them, for it would look for more without end.
//!
//! The encodings: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use parquet::{
    basic::{Encoding, Type},
    column::page::Page,
    schema::types::ColumnDescriptor,
};

use super::thrift::Walk;

/// The most values of a page in a delta encoding. Writers end a page long before.
const MAX_DELTAS: u64 = 1 << 24;

/// What is wrong with a page of this column, whose values may take `limit` bytes.
pub(super) fn check(page: &Page, column: &ColumnDescriptor, limit: u64) -> Result<(), String> {
    let n = u64::from(page.num_values());
    match page {
        Page::DictionaryPage { buf, .. } => {
            let width = match column.physical_type() {
                Type::BOOLEAN => 1,
                Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
                Type::INT64 | Type::DOUBLE => 8,
                Type::INT96 => 12,
                Type::FIXED_LEN_BYTE_ARRAY => column.type_length().max(1) as u64,
            };
            match n * width <= buf.len() as u64 {
                true => Ok(()),
                false => Err(format!("a dictionary of {n} values in {} bytes", buf.len())),
            }
        }
        Page::DataPage { encoding, .. } | Page::DataPageV2 { encoding, .. } => {
            let n_lists = match encoding {
                Encoding::DELTA_BYTE_ARRAY => 2,
                Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BINARY_PACKED => 1,
                _ => 0,
            };
            if n_lists == 0 && column.max_rep_level() == 0 {
                return Ok(());
            }
            let Some((repetition, values)) = parts(page, column) else {
                return Err("a page that ends in its levels".to_owned());
            };
            if let Some(levels) = repetition {
                n_levels(levels, width(column.max_rep_level()))
                    .filter(|n_levels| *n_levels >= n)
                    .ok_or_else(|| format!("a page of {n} values with fewer levels"))?;
            }
            if n_lists == 0 {
                return Ok(());
            }
            if n > MAX_DELTAS {
                return Err(format!(
                    "a page of {n} values in {encoding}; at most {MAX_DELTAS} are read"
                ));
            }
            match deltas(values, n_lists, n) {
                Some(bytes) if bytes <= limit => Ok(()),
                Some(bytes) => {
                    Err(format!("a page of {bytes} bytes in {encoding}; at most {limit} are read"))
                }
                None => Err(format!("a broken page in {encoding}")),
            }
        }
    }
}

/// The repetition levels of a data page, if it has such and they are in runs, and its values.
fn parts<'p>(page: &'p Page, column: &ColumnDescriptor) -> Option<(Option<&'p [u8]>, &'p [u8])> {
    let (repetition, definition) = (column.max_rep_level(), column.max_def_level());
    match page {
        Page::DataPage { buf, rep_level_encoding, def_level_encoding, num_values, .. } => {
            let (mut bytes, mut runs) = (&buf[..], None);
            for (most, encoding) in
                [(repetition, rep_level_encoding), (definition, def_level_encoding)]
            {
                if most == 0 {
                    continue;
                }
                let n = match encoding {
                    Encoding::RLE => {
                        let (n, rest) = bytes.split_first_chunk()?;
                        bytes = rest;
                        u64::from(u32::from_le_bytes(*n))
                    }
                    _ => (u64::from(*num_values) * width(most)).div_ceil(8),
                };
                let (levels, rest) = bytes.split_at_checked(usize::try_from(n).ok()?)?;
                bytes = rest;
                // Those of repetition come first.
                if *encoding == Encoding::RLE && repetition > 0 && runs.is_none() {
                    runs = Some(levels);
                }
            }
            Some((runs.filter(|_| *rep_level_encoding == Encoding::RLE), bytes))
        }
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            let (runs, rest) = buf.split_at_checked(*rep_levels_byte_len as usize)?;
            let values = rest.get(*def_levels_byte_len as usize..)?;
            Some(((repetition > 0).then_some(runs), values))
        }
        Page::DictionaryPage { .. } => None,
    }
}

/// The bits of a level.
fn width(most: i16) -> u64 {
    u64::from(16 - most.leading_zeros())
}

/// How many levels runs hold: of one level, or of eight times as many levels as there are bytes for a bit of each.
fn n_levels(bytes: &[u8], width: u64) -> Option<u64> {
    let (mut walk, mut n) = (Walk { bytes }, 0u64);
    while !walk.bytes.is_empty() {
        let head = walk.number()?;
        let (bytes, levels) = match head & 1 {
            0 => (width.div_ceil(8), head >> 1),
            _ => ((head >> 1).checked_mul(width)?, (head >> 1).checked_mul(8)?),
        };
        // The last run may be cut where its levels end.
        if bytes > walk.bytes.len() as u64 {
            let left = 8 * walk.bytes.len() as u64 / width;
            return n.checked_add(if head & 1 == 0 { 0 } else { left.min(levels) });
        }
        walk.take(bytes)?;
        n = n.checked_add(levels)?;
    }
    Some(n)
}

/// Walks over lists of packed deltas, none longer than `most`. The first of two says how many bytes each
/// value shares with the one before it: their sum is what is returned.
fn deltas(bytes: &[u8], n_lists: usize, most: u64) -> Option<u64> {
    let mut walk = Walk { bytes };
    let mut shared = 0;
    for list in 0..n_lists {
        let block = walk.number()?;
        let n_mini = walk.number()?;
        let n = walk.number()?;
        if n > most || n_mini == 0 || block % n_mini != 0 {
            return None;
        }
        if list + 1 == n_lists {
            break; // nothing that is behind it has to be found
        }
        let mut value = walk.signed()? as i32;
        let mut left = n;
        if left > 0 {
            shared += value.max(0) as u64;
            left -= 1;
        }
        while left > 0 {
            let least = walk.signed()? as i32;
            for width in walk.take(n_mini)? {
                if left == 0 {
                    break;
                }
                let (width, n_values) = (u64::from(*width), block / n_mini);
                let packed = walk.take(n_values.checked_mul(width)?.div_ceil(8))?;
                for at in 0..n_values.min(left) {
                    value = value
                        .wrapping_add(least)
                        .wrapping_add(bits(packed, at * width, width)? as i32);
                    shared += value.max(0) as u64;
                }
                left -= n_values.min(left);
            }
        }
    }
    Some(shared)
}

/// A number of `width` bits, 32 at most, that begins at bit `at`, the lowest first.
fn bits(bytes: &[u8], at: u64, width: u64) -> Option<u32> {
    if width > 32 {
        return None;
    }
    let start = usize::try_from(at / 8).ok()?;
    let mut word = [0; 8];
    let n = bytes.len().saturating_sub(start).min(8);
    word[..n].copy_from_slice(bytes.get(start..start + n)?);
    Some((u64::from_le_bytes(word) >> (at % 8) & ((1 << width) - 1)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted() {
        // ten of one level, 16 packed ones of 2 bits
        let bytes = [20, 1, 5, 0, 0, 0, 0];
        assert_eq!(n_levels(&bytes, 2), Some(26));
        assert_eq!(n_levels(&bytes[..5], 2), Some(18), "cut in the packed ones");
        assert_eq!(n_levels(&bytes[..1], 2), Some(0));
        assert_eq!(n_levels(&[], 2), Some(0));
    }

    #[test]
    fn shared_bytes_are_summed() {
        // blocks of 128 in 4, 6 values: 0, then deltas from -1 on of 4 bits: 5, 3, 3, 10, 0
        let mut bytes = vec![0x80, 0x01, 4, 6, 0, 1, 4, 0, 0, 0];
        bytes.extend([0x96, 0x81, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let wanted: i32 = [6, 9, 1, 8, 0]
            .iter()
            .scan(0, |value, delta| {
                *value += delta - 1;
                Some((*value).max(0))
            })
            .sum();
        bytes.extend([0x80, 0x01, 4, 6, 0]);
        assert_eq!(deltas(&bytes, 2, 6), Some(wanted as u64));
        assert_eq!(deltas(&bytes, 2, 5), None, "more values than the page says");
        for end in 0..bytes.len() - 2 {
            assert_eq!(deltas(&bytes[..end], 2, 6), None, "{end}");
        }
        assert_eq!(deltas(&[0x80, 0x01, 4, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], 1, 1 << 24), None);
    }
}
