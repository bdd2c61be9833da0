//! Format strings of the C Data Interface, and the buffers and children that an array of a format has.

use super::error::{At, CDataError};

/// One buffer of an array, by how its size follows from the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One bit for each row; may be missing if no row is null.
    Validity,
    /// One bit for each row.
    Bits,
    /// This number of bytes for each row.
    Fixed(usize),
    /// Offsets of this number of bytes each: one more than there are rows, or none at all if there are no rows.
    Offsets(usize),
    /// As many bytes as the last offset in the buffer before this one says.
    Bytes,
    /// Any number of buffers, whose sizes are the lengths in the last one.
    Variadic,
    /// One length of 8 bytes for each variadic buffer. It exists in C structures only.
    Lengths,
}

/// How many children an array of a format has, and how many rows each of them needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    /// None.
    None,
    /// One, whose rows depend on offsets in the array's buffers.
    One,
    /// One, with this number of rows for each row of the array.
    Repeated(usize),
    /// Any number, each with at least the rows of the array.
    Parallel,
    /// Any number, whose rows depend on offsets in the array's buffers.
    Any,
    /// Two: the ends of runs, and their values.
    Runs,
}

/// The buffers and children of arrays of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) parts: Vec<Part>,
    pub(super) children: Children,
    /// Whether the values can index a dictionary.
    pub(super) is_index: bool,
}

impl Layout {
    /// Returns whether the number of buffers is open.
    pub(super) fn is_variadic(&self) -> bool {
        self.parts.contains(&Part::Variadic)
    }

    /// Returns the buffers that each array of the format has, in their order.
    pub(super) fn fixed(&self) -> impl Iterator<Item = Part> {
        let open = |part: &Part| matches!(part, Part::Variadic | Part::Lengths);
        self.parts.iter().copied().filter(move |part| !open(part))
    }

    /// Reads a format string.
    pub(super) fn of(format: &str, at: &At<'_>) -> Result<Self, CDataError> {
        let Some(layout) = nested(format).or_else(|| flat(format)) else {
            return at.error(format!("the format `{}` is unknown", format.escape_debug()));
        };
        Ok(layout)
    }
}

/// The layout of a format without children.
fn flat(format: &str) -> Option<Layout> {
    let fixed = |width| vec![Part::Validity, Part::Fixed(width)];
    let bytes = |width| vec![Part::Validity, Part::Offsets(width), Part::Bytes];
    let is_index = matches!(format, "c" | "C" | "s" | "S" | "i" | "I" | "l" | "L");
    let parts = match format {
        "n" => Vec::new(),
        "b" => vec![Part::Validity, Part::Bits],
        "c" | "C" => fixed(1),
        "s" | "S" | "e" => fixed(2),
        "i" | "I" | "f" | "tdD" | "tts" | "ttm" | "tiM" => fixed(4),
        "l" | "L" | "g" | "tdm" | "ttu" | "ttn" | "tDs" | "tDm" | "tDu" | "tDn" | "tiD" => fixed(8),
        "tin" => fixed(16),
        "z" | "u" => bytes(4),
        "Z" | "U" => bytes(8),
        "vz" | "vu" => vec![
            Part::Validity,
            Part::Fixed(16),
            Part::Variadic,
            Part::Lengths,
        ],
        _ => fixed(parametric(format)?),
    };
    Some(Layout {
        parts,
        children: Children::None,
        is_index,
    })
}

/// The bytes of one value of a flat format that has parameters.
fn parametric(format: &str) -> Option<usize> {
    let (head, parameters) = format.split_once(':')?;
    match head {
        "tss" | "tsm" | "tsu" | "tsn" => Some(8), // the parameter is a time zone
        "w" => size(parameters),
        "d" => {
            let mut numbers = parameters.split(',');
            let (precision, scale) = (numbers.next()?, numbers.next()?);
            precision.parse::<u16>().ok()?;
            scale.parse::<i16>().ok()?;
            match (numbers.next(), numbers.next()) {
                (None, _) | (Some("128"), None) => Some(16),
                (Some("32"), None) => Some(4),
                (Some("64"), None) => Some(8),
                (Some("256"), None) => Some(32),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The layout of a format with children.
fn nested(format: &str) -> Option<Layout> {
    let (parts, children) = match format {
        "+s" => (vec![Part::Validity], Children::Parallel),
        "+l" | "+m" => (vec![Part::Validity, Part::Offsets(4)], Children::One),
        "+L" => (vec![Part::Validity, Part::Offsets(8)], Children::One),
        "+vl" => (
            vec![Part::Validity, Part::Fixed(4), Part::Fixed(4)],
            Children::One,
        ),
        "+vL" => (
            vec![Part::Validity, Part::Fixed(8), Part::Fixed(8)],
            Children::One,
        ),
        "+r" => (Vec::new(), Children::Runs),
        _ => {
            let (head, parameters) = format.split_once(':')?;
            match head {
                "+w" => (vec![Part::Validity], Children::Repeated(size(parameters)?)),
                "+us" if are_type_ids(parameters) => (vec![Part::Fixed(1)], Children::Parallel),
                "+ud" if are_type_ids(parameters) => {
                    (vec![Part::Fixed(1), Part::Fixed(4)], Children::Any)
                }
                _ => return None,
            }
        }
    };
    Some(Layout {
        parts,
        children,
        is_index: false,
    })
}

/// A size in a format, which is not negative and no more than an `i32`, as in Arrow's schemas.
fn size(text: &str) -> Option<usize> {
    let size: i32 = text.parse().ok()?;
    usize::try_from(size).ok()
}

/// Whether the text is a list of numbers from 0 to 127, as unions have.
fn are_type_ids(text: &str) -> bool {
    text.is_empty() || (text.split(',')).all(|id| id.parse().is_ok_and(|id: i8| id >= 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(format: &str) -> Vec<Part> {
        Layout::of(format, &At::Top("schema")).unwrap().parts
    }

    #[test]
    fn each_flat_format_has_the_buffers_that_the_interface_lists() {
        for (formats, width) in [
            (&["c", "C", "w:1"][..], 1),
            (&["s", "S", "e"], 2),
            (&["i", "f", "tdD", "tts", "ttm", "tiM", "d:7,2,32"], 4),
            (
                &[
                    "l",
                    "g",
                    "tdm",
                    "ttu",
                    "ttn",
                    "tss:",
                    "tsn:Europe/Berlin",
                    "tDu",
                    "tiD",
                ],
                8,
            ),
            (&["tin", "d:19,10", "d:38,-3,128"], 16),
            (&["d:50,2,256"], 32),
        ] {
            for format in formats {
                assert_eq!(
                    parts(format),
                    [Part::Validity, Part::Fixed(width)],
                    "{format}"
                );
            }
        }
        assert_eq!(parts("n"), []);
        assert_eq!(parts("b"), [Part::Validity, Part::Bits]);
        assert_eq!(parts("u"), [Part::Validity, Part::Offsets(4), Part::Bytes]);
        assert_eq!(parts("Z"), [Part::Validity, Part::Offsets(8), Part::Bytes]);
        assert!(Layout::of("vu", &At::Top("schema")).unwrap().is_variadic());
    }

    #[test]
    fn each_nested_format_has_the_children_that_the_interface_lists() {
        for (format, children, buffers) in [
            ("+l", Children::One, 2),
            ("+vL", Children::One, 3),
            ("+w:3", Children::Repeated(3), 1),
            ("+s", Children::Parallel, 1),
            ("+us:0,5", Children::Parallel, 1),
            ("+ud:", Children::Any, 2),
            ("+r", Children::Runs, 0),
        ] {
            let layout = Layout::of(format, &At::Top("schema")).unwrap();
            assert_eq!(
                (layout.children, layout.parts.len()),
                (children, buffers),
                "{format}"
            );
        }
    }

    #[test]
    fn formats_that_nobody_defined_are_refused() {
        for format in [
            "",
            "x",
            "+",
            "+x",
            "w:",
            "w:-1",
            "w:4294967296",
            "+w:-2",
            "+w:",
            "d:",
            "d:1",
            "d:1,2,8",
            "d:1,2,128,1",
            "d:a,b",
            "+us:-1",
            "+ud:128",
            "+ud:0,",
            "u\0",
            "tsx:",
            "ts",
        ] {
            assert!(
                Layout::of(format, &At::Top("schema")).is_err(),
                "{format:?}"
            );
        }
    }
}
