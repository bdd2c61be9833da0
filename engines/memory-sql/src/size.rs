//! Sizes as text for people.

use std::fmt;

/// A size in bytes: read from text such as `256MiB`, printed as `256.0 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            // 1023.95 would be printed as 1024.0 in the smaller unit.
            if value < 1023.95 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        f.pad(&match unit {
            "B" => format!("{value} B"),
            _ => format!("{value:.1} {unit}"),
        })
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    /// Reads bytes, or a number with a unit: `K`, `Ki` and `KiB` are 1024 bytes, `kB` is 1000, and so on.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("`{text}` is not a size: write a number with a unit, as in 256MiB or 1.5GiB")
        };
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit_of(unit.trim()).ok_or_else(expected)?;
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(expected());
        }
        let number: f64 = number.parse().map_err(|_| expected())?;
        let bytes = number * unit;
        if bytes >= isize::MAX as f64 {
            return Err(format!("`{text}` is more than a program can address"));
        }
        Ok(Self(bytes as usize))
    }
}

fn unit_of(unit: &str) -> Option<f64> {
    let lower = unit.to_ascii_lowercase();
    if ["", "b"].contains(&&*lower) {
        return Some(1.0);
    }
    let (prefix, base) = match lower.strip_suffix("ib").or(lower.strip_suffix('i')) {
        Some(prefix) => (prefix, 1024.0_f64),
        None => match lower.strip_suffix('b') {
            Some(prefix) => (prefix, 1000.0),
            None => (&*lower, 1024.0),
        },
    };
    let power = ["k", "m", "g", "t", "p"]
        .iter()
        .position(|&p| p == prefix)?;
    Some(base.powi(power as i32 + 1))
}

/// `1 row`, `2,000 rows`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(number))
}

/// Groups digits by commas, as in `300,005`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
            ("256MiB", 256 << 20),
            (" 256 mib ", 256 << 20),
            ("256M", 256 << 20),
            ("64kB", 64_000),
            ("1.5GiB", 3 << 29),
            ("2TB", 2_000_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in [
            "", "MiB", "-1", "1.2.3", "12XB", "1e9", "½", ".5", "0x10", "1 2",
        ] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains("256MiB"), "{text}: {error}");
        }
        for text in ["9223372036854775808", "99999999PiB"] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains("address"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_printed_with_one_digit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1_234_567, "row"), "1,234,567 rows");
        assert_eq!(counted(123, "row"), "123 rows");
    }
}
