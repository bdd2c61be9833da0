//! Sizes as text for people.

use std::fmt;

/// A size in bytes, from text such as `256MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&human(self.0))
    }
}

/// `1.5 MiB`: binary units, one digit after the point.
pub(crate) fn human(bytes: usize) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0 in the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats each size as [`human`] does, or in bytes if two different sizes would look the same.
pub(crate) fn told_apart<const N: usize>(sizes: [usize; N]) -> [String; N] {
    let looks_the_same = |one: usize, other: usize| one != other && human(one) == human(other);
    let confusing = sizes
        .iter()
        .any(|&one| sizes.iter().any(|&other| looks_the_same(one, other)));
    match confusing {
        true => sizes.map(|bytes| counted(bytes as u64, "byte")),
        false => sizes.map(human),
    }
}

/// `1 row`, `2 rows`. The number is grouped by commas.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = match (number, noun.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {noun}{ending}", grouped(number))
}

/// Groups digits by commas, as in `300,005`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn parse(text: &str) -> Result<usize, String> {
    let expected = || {
        format!(
            "`{text}` is not a size: write bytes, or a number with a unit as in 256MiB, 1.5GiB or 64kB"
        )
    };
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit_of(unit.trim()).ok_or_else(expected)?;
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return Err(expected());
    }
    let too_large = || format!("`{text}` is more than a program can address");
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(unit).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse().map_err(|_| expected())?;
        bytes += numerator * unit / 10_u128.pow(fraction.len() as u32);
    }
    usize::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or_else(too_large)
}

/// The factor of a unit: `K`, `Ki` and `KiB` are 1024 bytes, `kB` is 1000, and so on.
fn unit_of(unit: &str) -> Option<u128> {
    let lower = unit.to_ascii_lowercase();
    let (prefix, base) = match lower.as_str() {
        "" | "b" => return Some(1),
        unit => match unit.strip_suffix("ib").or(unit.strip_suffix('i')) {
            Some(prefix) => (prefix, 1024_u128),
            None => match unit.strip_suffix('b') {
                Some(prefix) => (prefix, 1000),
                None => (unit, 1024),
            },
        },
    };
    let power = match prefix {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        let cases = [
            ("0", 0),
            ("1", 1),
            ("4096", 4096),
            ("1_000", 1000),
            ("256MiB", 256 << 20),
            ("256 mib", 256 << 20),
            ("256M", 256 << 20),
            ("64kB", 64_000),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("2TB", 2_000_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "MiB", "-1", "1.2.3", "12XB", "1e9", "½", ".5", "0x10"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("256MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn a_size_that_no_program_can_address_is_refused() {
        assert!(parse("9223372036854775807").is_ok());
        for text in ["9223372036854775808", "99999999PiB", &"9".repeat(60)] {
            assert!(parse(text).unwrap_err().contains("address"), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_one_digit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        let texts = [
            counted(1, "row"),
            counted(0, "row"),
            counted(1234, "batch"),
            counted(1, "batch"),
        ];
        assert_eq!(texts, ["1 row", "0 rows", "1,234 batches", "1 batch"]);
    }
}
