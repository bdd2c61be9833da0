//! Text for terminals: names are escaped, cut and padded by their width in cells.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A name from a file, made safe to print: control characters, and characters that reorder or hide text, are
/// escaped.
pub(crate) fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if is_harmful(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether a terminal would interpret this character rather than show it, or would show the text around it in
/// another order.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The name [`escaped`], and cut to `cells` with an ellipsis if it is wider.
pub(crate) fn cell(name: &str, cells: usize) -> String {
    cut(&escaped(name), cells)
}

/// The width of the text in cells of a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text. If it is wider than `cells`, its start and its end with an ellipsis between them, since the
/// names of columns often differ only at their ends.
pub(crate) fn cut(text: &str, cells: usize) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let Some(room) = cells.checked_sub(1) else {
        return String::new();
    };
    let tail_room = room / 3;
    let head: String = fitting(text.chars(), room - tail_room).collect();
    let mut tail: Vec<char> = fitting(text.chars().rev(), tail_room).collect();
    // A combining mark whose base character was cut off would combine with the ellipsis.
    while tail.last().is_some_and(|c| c.width() == Some(0)) {
        tail.pop();
    }
    let tail: String = tail.into_iter().rev().collect();
    format!("{head}…{tail}")
}

/// The characters up to a width of `cells`.
fn fitting(chars: impl Iterator<Item = char>, cells: usize) -> impl Iterator<Item = char> {
    let mut used = 0;
    chars.take_while(move |c| {
        used += c.width().unwrap_or(0);
        used <= cells
    })
}

/// The text, padded with blanks to a width of `cells`.
pub(crate) fn padded(text: &str, cells: usize) -> String {
    let missing = cells.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Wraps `text` into lines of up to `cells`, all but the first indented. The first line has `used` cells
/// less.
pub(crate) fn wrapped(text: &str, used: usize, indent: usize, cells: usize) -> String {
    // With less room, lines of one word each would be no easier to read.
    let cells = cells.max(indent + 24);
    let mut lines = String::new();
    let mut at = used;
    let mut first = true;
    for word in text.split(' ') {
        let word_width = width(word);
        if !first && at + 1 + word_width > cells {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            at = indent;
        } else if !first {
            lines.push(' ');
            at += 1;
        }
        lines.push_str(word);
        at += word_width;
        first = false;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            escaped("a\u{1b}[31m\n\u{202e}b\u{9b}"),
            "a\\u{1b}[31m\\n\\u{202e}b\\u{9b}"
        );
        assert_eq!(escaped("名前 naïve"), "名前 naïve");
    }

    #[test]
    fn long_names_are_cut_by_cells_and_keep_their_ends() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("a_rather_long_name", 10), "a_rath…ame");
        for cells in 0..30 {
            for name in [
                "名前名前名前名前名前名前名前",
                "e\u{301}e\u{301}e\u{301}e\u{301}",
                "x".repeat(99).as_str(),
            ] {
                assert!(width(&cut(name, cells)) <= cells, "{name} {cells}");
            }
        }
        assert_eq!(padded("名前", 6), "名前  ");
    }

    #[test]
    fn words_are_wrapped_with_the_indent_of_those_above() {
        let text = wrapped("one two three four five six seven", 2, 4, 20);
        assert_eq!(text, "one two three four five\n    six seven");
        assert_eq!(wrapped("one", 200, 4, 20), "one");
    }
}
