//! Tells whether a Parquet file is encrypted, by the plain text of its footer.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// The message about an encrypted file.
pub(super) const ENCRYPTED: &str =
    "it is encrypted Parquet, which this tool does not read: decrypt it first";

/// Whether the footer names an encryption algorithm, or is encrypted itself.
pub(super) fn is_encrypted(file: &File) -> bool {
    let Some(footer) = footer(file) else {
        return false;
    };
    footer.is_none_or(|footer| {
        let mut reader = Compact { rest: &footer };
        reader.has_field(ALGORITHM).unwrap_or(false)
    })
}

/// The field of the footer that names the encryption algorithm of columns.
const ALGORITHM: i16 = 8;

/// The bytes of the footer; `Some(None)` if the footer is encrypted.
fn footer(mut file: &File) -> Option<Option<Vec<u8>>> {
    let mut tail = [0; 8];
    let end = file.seek(SeekFrom::End(-8)).ok()?;
    file.read_exact(&mut tail).ok()?;
    let (length, magic) = tail.split_at(4);
    match magic {
        b"PARE" => return Some(None),
        b"PAR1" => {}
        _ => return None,
    }
    let length = u64::from(u32::from_le_bytes(length.try_into().ok()?));
    file.seek(SeekFrom::Start(end.checked_sub(length)?)).ok()?;
    let mut footer = Vec::new();
    file.take(length).read_to_end(&mut footer).ok()?;
    Some(Some(footer))
}

/// A reader of Thrift's compact protocol that can only skip fields. Every method returns `None` if the bytes
/// end early or are invalid.
struct Compact<'a> {
    rest: &'a [u8],
}

impl Compact<'_> {
    /// Whether the struct that starts here has a field of this number.
    fn has_field(&mut self, wanted: i16) -> Option<bool> {
        let mut number = 0_i16;
        loop {
            let Some((kind, next)) = self.field(number)? else {
                return Some(false);
            };
            if next == wanted {
                return Some(true);
            }
            number = next;
            self.skip(kind, 0)?;
        }
    }

    /// The kind and the number of the next field; `Some(None)` at the end of the struct.
    fn field(&mut self, before: i16) -> Option<Option<(u8, i16)>> {
        let byte = self.byte()?;
        let (step, kind) = (byte >> 4, byte & 0xF);
        if kind == 0 {
            return Some(None);
        }
        let number = match step {
            // The number is not a difference: it follows as a zigzag varint.
            0 => {
                let coded = self.varint()?;
                i16::try_from((coded >> 1) as i64 ^ -((coded & 1) as i64)).ok()?
            }
            step => before.checked_add(i16::from(step))?,
        };
        Some(Some((kind, number)))
    }

    /// Skips a value. Values are nested; the depth is bounded.
    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > 64 {
            return None;
        }
        match kind {
            // The value of a boolean is in the kind of its field.
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.take(8)?,
            8 => {
                let length = self.varint()?;
                self.take(usize::try_from(length).ok()?)?;
            }
            9 | 10 => self.skip_list(depth)?,
            11 => self.skip_map(depth)?,
            12 => {
                let mut number = 0;
                while let Some((kind, next)) = self.field(number)? {
                    self.skip(kind, depth + 1)?;
                    number = next;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn skip_list(&mut self, depth: usize) -> Option<()> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        for _ in 0..count {
            self.skip_element(byte & 0xF, depth)?;
        }
        Some(())
    }

    fn skip_map(&mut self, depth: usize) -> Option<()> {
        let count = self.varint()?;
        if count == 0 {
            return Some(());
        }
        let kinds = self.byte()?;
        for _ in 0..count {
            self.skip_element(kinds >> 4, depth)?;
            self.skip_element(kinds & 0xF, depth)?;
        }
        Some(())
    }

    /// Skips an element of a list or map, in which a boolean is a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => self.byte().map(drop),
            kind => self.skip(kind, depth + 1),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn take(&mut self, length: usize) -> Option<()> {
        self.rest = self.rest.get(length..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(footer: &[u8], field: i16) -> Option<bool> {
        Compact { rest: footer }.has_field(field)
    }

    #[test]
    fn fields_are_found_behind_values_of_every_kind() {
        // Fields 1 to 4: a number, a list of two structs, text, a boolean; then 8, a struct.
        let footer = [
            0x15, 0x02, 0x19, 0x2C, 0x15, 0x02, 0x00, 0x00, 0x18, 0x02, b'a', b'b', 0x11, 0x4C,
            0x00, 0x00,
        ];
        assert_eq!(has(&footer, 8), Some(true));
        assert_eq!(has(&footer, 7), Some(false));
        for end in 0..footer.len() - 3 {
            assert_eq!(has(&footer[..end], 8), None, "{end}");
        }
    }

    #[test]
    fn bytes_that_mean_nothing_end_the_walk() {
        for length in 0..200 {
            let noise: Vec<u8> = (0..length)
                .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect();
            // Any result is right, as long as the call returns soon.
            let _ = has(&noise, 8);
        }
        assert_eq!(has(&[0x1C; 1000], 8), None);
    }
}
