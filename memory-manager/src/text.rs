//! How numbers and names are printed, in errors, reports, events and metrics alike.

use std::fmt;

/// Bytes in one MiB.
const MIB: usize = 1024 * 1024;

/// A number of bytes with its unit: `1 byte`, `5000 bytes`, `9437184 bytes (9.0 MiB)`.
#[derive(Clone, Copy)]
pub struct Bytes(pub usize);

/// A number of bytes without its unit, for the second number of a sentence: `5000`,
/// `9437184 (9.0 MiB)`.
#[derive(Clone, Copy)]
pub struct Size(pub usize);

/// A limit as a number of bytes: `none` above `isize::MAX`.
#[derive(Clone, Copy)]
pub struct Limit(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        write!(f, "{bytes} {}", if bytes == 1 { "byte" } else { "bytes" })?;
        write_mib(f, bytes)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        write_mib(f, self.0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > isize::MAX as usize {
            f.write_str("none")
        } else {
            Size(self.0).fmt(f)
        }
    }
}

/// The same number in MiB, in parentheses, from 1 MiB on.
fn write_mib(f: &mut fmt::Formatter<'_>, bytes: usize) -> fmt::Result {
    if bytes < MIB {
        return Ok(());
    }
    write!(f, " ({:.1} MiB)", bytes as f64 / MIB as f64)
}

/// A name that a program chose, in a form that is safe to print and that nothing else can look like.
///
/// Control characters, quotes, backslashes and what cannot be seen are written as in a Rust string
/// literal; `/` and the backtick, which separate names in paths and enclose them in messages, get a
/// backslash. So the child `a/b` prints as `a\/b`, and the path `a/b` is always child `b` of `a`. The
/// empty name prints as `""`, which no other name does.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let Self(name) = self;
        if name.is_empty() {
            return f.write_str("\"\"");
        }
        if name.bytes().all(is_plain) {
            return f.write_str(name);
        }
        for character in name.escape_debug() {
            if matches!(character, '/' | '`') {
                f.write_char('\\')?;
            }
            f.write_char(character)?;
        }
        Ok(())
    }
}

/// Whether a byte stands for itself. Nearly all names consist of such bytes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.: ()".contains(&byte)
}

/// A path of allocators: their escaped names, from the root, joined by `/`.
///
/// Callers walk a tree in the order parents before children, and call [`enter`](Self::enter) for each.
#[derive(Default)]
pub struct Path {
    text: String,
    /// Where the name of each level ends in `text`.
    ends: Vec<usize>,
}

impl Path {
    /// The path of the next allocator in tree order, which lies `depth` levels below the first.
    pub fn enter(&mut self, depth: usize, name: &str) -> &str {
        use fmt::Write;
        self.ends.truncate(depth);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
        if !self.ends.is_empty() {
            self.text.push('/');
        }
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{}", Escaped(name));
        self.ends.push(self.text.len());
        &self.text
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_bytes_and_from_one_mib_on_also_in_mib() {
        let sizes = [0, 1, 2, MIB - 1, MIB, 9 * MIB, 10 * 1024 * MIB];

        assert_eq!(
            sizes.map(|size| Bytes(size).to_string()),
            [
                "0 bytes",
                "1 byte",
                "2 bytes",
                "1048575 bytes",
                "1048576 bytes (1.0 MiB)",
                "9437184 bytes (9.0 MiB)",
                "10737418240 bytes (10240.0 MiB)",
            ]
        );
        assert_eq!(Size(1).to_string(), "1");
        assert_eq!(Size(MIB + MIB / 2).to_string(), "1572864 (1.5 MiB)");
        assert_eq!(Limit(usize::MAX).to_string(), "none");
        assert_eq!(Limit(MIB).to_string(), "1048576 (1.0 MiB)");
    }

    #[test]
    fn names_print_as_themselves_unless_they_could_be_mistaken() {
        let names = [
            ("query-7 (scan: a_b.c)", "query-7 (scan: a_b.c)"),
            ("größe", "größe"),
            ("", "\"\""),
            ("\"\"", "\\\"\\\""),
            ("a/b", "a\\/b"),
            ("a\\/b", "a\\\\\\/b"),
            ("a`b", "a\\`b"),
            ("it's \"it\"", "it\\'s \\\"it\\\""),
            ("two\nlines\r\t\0", "two\\nlines\\r\\t\\0"),
            ("\u{1b}[31mred\u{7f}\u{9b}", "\\u{1b}[31mred\\u{7f}\\u{9b}"),
            ("\u{202e}txt.exe\u{200b}", "\\u{202e}txt.exe\\u{200b}"),
        ];

        for (name, expected) in names {
            assert_eq!(Escaped(name).to_string(), expected);
        }
    }

    #[test]
    fn paths_of_different_names_differ() {
        let mut path = Path::default();

        let paths = [(0, "a"), (1, "b"), (2, "c"), (1, "b/c"), (1, ""), (1, "b")]
            .map(|(depth, name)| path.enter(depth, name).to_owned());

        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b\\/c", "a/\"\"", "a/b"]);
    }
}
