//! How sizes print.

use std::fmt;

/// A number of bytes for people to read: `12.5 MiB`.
pub(crate) struct Size(pub(crate) usize);

impl fmt::Display for Size {
    #[expect(clippy::cast_precision_loss, reason = "one digit is printed")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        let (mut size, mut unit) = (self.0 as f64, "B");
        for larger in units {
            if size < 1024.0 {
                break;
            }
            (size, unit) = (size / 1024.0, larger);
        }
        let text = if unit == "B" {
            format!("{size} B")
        } else {
            format!("{size:.1} {unit}")
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_print_with_one_digit_from_a_kibibyte_on() {
        let sizes = [0, 1, 1023, 1024, 1536, 1 << 20, 5 << 30, usize::MAX];
        let texts = sizes.map(|size| Size(size).to_string());
        assert_eq!(
            texts,
            [
                "0 B",
                "1 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "5.0 GiB",
                "16777216.0 TiB"
            ]
        );
    }
}
