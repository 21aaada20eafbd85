//! GPT-2's stand-ins: a byte-level vocabulary is stored as text, with a printable character for
//! each byte. `!`..`~`, `¡`..`¬` and `®`..`ÿ` stand for themselves; the other 68 bytes, in order,
//! are U+0100 and on.

/// The byte that a stand-in character stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c {
        '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' => Some(c as u8),
        '\u{100}'..='\u{120}' => Some((c as u32 - 0x100) as u8),
        '\u{121}'..='\u{142}' => Some((c as u32 - 0x121) as u8 + 0x7f),
        '\u{143}' => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes that a text of stand-ins stands for; None if a character is no stand-in.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let [first, more @ ..] = rest {
        let (c, more) = match (first, more) {
            (0x00..=0x7f, _) => (u32::from(*first), more),
            // All other stand-ins have two bytes in UTF-8.
            (0xc2..=0xdf, [second @ 0x80..=0xbf, more @ ..]) => {
                (u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f), more)
            }
            _ => return None,
        };
        out.push(byte_of(char::from_u32(c)?)?);
        rest = more;
    }
    Some(())
}

/// Is the stand-in for `byte` a number in Unicode's sense? (² ³ ¹ ¼ ½ ¾ stand for themselves.)
pub(super) fn numeric_stand_in(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | 0xb2 | 0xb3 | 0xb9 | 0xbc..=0xbe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_stand_in() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                assert_eq!(numeric_stand_in(byte), c.is_numeric(), "{c:?}");
            }
        }
    }
}
