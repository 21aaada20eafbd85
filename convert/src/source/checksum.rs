//! The checksums that containers have of their tensors.

use pith::{Error, Result};

/// A checksum of some bytes, as a container states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32 (zip).
    Crc32(u32),
    /// CRC-32C, masked as LevelDB does (TensorFlow).
    MaskedCrc32c(u32),
}

impl Checksum {
    /// Checks `bytes`, called `name`, at offset `at` of their file.
    ///
    /// # Errors
    /// [`Error::Malformed`] where they have another checksum.
    pub fn check(self, bytes: &[u8], name: &str, at: usize) -> Result<()> {
        let (format, kind, got, wanted) = match self {
            Checksum::Crc32(wanted) => ("zip", "CRC-32", crc32fast::hash(bytes), wanted),
            Checksum::MaskedCrc32c(wanted) => {
                ("TensorFlow checkpoint", "CRC-32C", mask(crc32c(&[bytes])), wanted)
            }
        };
        if got == wanted {
            return Ok(());
        }
        let fault = format!("entry `{name}` has {kind} {got:08x}, its header says {wanted:08x}");
        Err(Error::malformed_at(format, at as u64, fault))
    }
}

/// LevelDB's mask: a CRC of data that hold their own CRC would be no check of them.
pub(super) fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[n][b]`: what the byte `b` does to the register, `n` more bytes behind it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[n - 1][byte];
            tables[n][byte] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
};

/// CRC-32C of the parts behind each other, eight bytes at a time.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0u32;
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word) ^ u64::from(crc);
            let step = |n: usize| TABLES[7 - n][(word >> (8 * n)) as usize & 0xff];
            crc = (0..8).fold(0, |crc, n| crc ^ step(n));
        }
        for &byte in rest {
            crc = crc >> 8 ^ TABLES[0][(crc as u8 ^ byte) as usize];
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn crc32c_of_the_standard() {
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&ascending]), 0x46dd_794e);
        for cut in 0..32 {
            assert_eq!(crc32c(&[&ascending[..cut], &ascending[cut..]]), 0x46dd_794e);
        }
    }
}
