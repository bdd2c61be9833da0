//! Rows as a table for people.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::run::Row;
use crate::terminal::Style;

/// Columns of a terminal between two cells, and before the first one.
const GAP: &str = "  ";
/// The smallest width to which a column is cut.
const NARROWEST: usize = 8;

/// A column of the table.
pub(crate) struct Column<'a> {
    pub(crate) name: &'a str,
    /// Numbers are aligned at their right.
    pub(crate) number: bool,
}

/// Returns the rows as a table. In lines of `width` cells are cut, and if that does not suffice the last columns are left out;
/// the last line says so.
pub(crate) fn render(
    columns: &[Column<'_>],
    rows: &[Row],
    width: Option<usize>,
    style: Style,
) -> String {
    let shown = |row: &Row| -> Vec<String> {
        let cells = row.iter();
        cells
            .map(|cell| {
                cell.as_ref()
                    .map_or("NULL".to_owned(), |cell| escaped(cell))
            })
            .collect()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let names: Vec<String> = columns.iter().map(|column| escaped(column.name)).collect();
    let mut widths: Vec<usize> = names.iter().map(|name| name.width()).collect();
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = cell.width().max(*widest);
        }
    }
    let fitting = width.map_or(columns.len(), |width| fit(&mut widths, width));
    let line = |cells: &[String]| {
        let mut line = String::new();
        for ((cell, column), &width) in cells.iter().zip(columns).zip(&widths).take(fitting) {
            line.push_str(GAP);
            line.push_str(&padded(&cut(cell, width), width, column.number));
        }
        line.trim_end().to_owned()
    };
    let mut text = style.bold(&line(&names)) + "\n";
    let rules: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
    text += &(style.dim(&line(&rules)) + "\n");
    for row in &rows {
        text += &(line(row) + "\n");
    }
    if fitting < columns.len() {
        let others = names[fitting..].join(", ");
        let note = format!(
            "{GAP}and {} more columns: {others}",
            columns.len() - fitting
        );
        text += &(style.dim(&cut(&note, width.unwrap_or(usize::MAX))) + "\n");
    }
    text
}

/// Cuts the widest columns until a line fits, and returns how many columns fit then.
fn fit(widths: &mut [usize], width: usize) -> usize {
    let line = |widths: &[usize]| -> usize { widths.iter().map(|width| GAP.len() + width).sum() };
    while line(widths) > width {
        let too_many = line(widths) - width;
        let widest = widths.iter().copied().max().unwrap_or(0);
        if widest <= NARROWEST {
            break;
        }
        // The columns that are the widest ones shrink together, to the next one or as far as needed.
        let next = widths.iter().copied().filter(|&width| width < widest).max();
        let count = widths.iter().filter(|&&width| width == widest).count();
        let target = widest.saturating_sub(too_many.div_ceil(count));
        let target = target.max(next.unwrap_or(0)).max(NARROWEST);
        for width in widths.iter_mut().filter(|width| **width == widest) {
            *width = target;
        }
    }
    let fits = |count: &usize| line(&widths[..*count]) <= width;
    (1..=widths.len())
        .rev()
        .find(fits)
        .unwrap_or(1)
        .min(widths.len())
}

/// A value made safe to print: line breaks, and what a terminal would interpret, are escaped.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() || c.width() == Some(0) && !c.is_alphanumeric() && is_harmful(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    safe
}

/// Whether it reorders or hides the text around it.
fn is_harmful(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let fitting = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used <= width
    });
    fitting.collect::<String>() + "…"
}

fn padded(text: &str, width: usize, at_the_right: bool) -> String {
    let blanks = " ".repeat(width.saturating_sub(text.width()));
    match at_the_right {
        true => blanks + text,
        false => text.to_owned() + &blanks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> String {
        let columns = [
            ("flag", false),
            ("sum", true),
            ("comment", false),
            ("last", true),
        ];
        let columns = columns.map(|(name, number)| Column { name, number });
        let row = |cells: [Option<&str>; 4]| cells.map(|cell| cell.map(str::to_owned)).to_vec();
        let rows = [
            row([
                Some("A"),
                Some("1"),
                Some("a comment of some length\n"),
                Some("1.50"),
            ]),
            row([None, Some("100000"), Some("名前"), Some("22.25")]),
        ];
        render(&columns, &rows, width, Style::plain())
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let text = "  \
  flag     sum  comment                      last
  ────  ──────  ──────────────────────────  ─────
  A          1  a comment of some length\\n   1.50
  NULL  100000  名前                        22.25
";
        assert_eq!(table(None), text);
    }

    #[test]
    fn cells_are_cut_to_the_width_and_then_columns_are_left_out() {
        let text = "  \
  flag     sum  comment        last
  ────  ──────  ────────────  ─────
  A          1  a comment o…   1.50
  NULL  100000  名前          22.25
";
        assert_eq!(table(Some(35)), text);
        let text = "  \
  flag     sum  comment
  ────  ──────  ────────
  A          1  a comme…
  NULL  100000  名前
  and 1 more columns: last
";
        assert_eq!(table(Some(28)), text);
        for width in 1..60 {
            let widest = table(Some(width)).lines().map(UnicodeWidthStr::width).max();
            assert!(
                widest <= Some(width.max(6)),
                "{width}:\n{}",
                table(Some(width))
            );
        }
    }
}
