//! A [`QueryReport`] as text: a line for the query, a table with a line for each operator, and bars.

use std::fmt;

use super::{OperatorReport, QueryReport};
use crate::text::Size;

/// The width of the lines if the caller sets none, in columns of a terminal.
const WIDTH: usize = 100;
/// The first columns of a line, which hold the branches of the tree.
const INDENT: usize = 5;
/// The columns between two cells.
const GAP: usize = 2;
/// The smallest and the largest number of columns for names; those of a name that does not fit are cut.
const NAMES: (usize, usize) = (12, 48);
/// The smallest and the largest number of columns for bars. Where the smallest does not fit there are none.
const BARS: (usize, usize) = (6, 20);

/// A column of numbers.
struct Column {
    title: &'static str,
    cells: Vec<String>,
}

impl Column {
    /// Returns the column, or `None` if it is zero for all operators and `always` is not set.
    fn of(
        title: &'static str,
        always: bool,
        operators: &[OperatorReport],
        number: impl Fn(&OperatorReport) -> u64,
        text: impl Fn(u64) -> String,
    ) -> Option<Self> {
        let shown = always || operators.iter().any(|operator| number(operator) > 0);
        let cells = operators.iter().map(|operator| text(number(operator)));
        shown.then(|| Self {
            title,
            cells: cells.collect(),
        })
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(String::len);
        cells.max().unwrap_or(0).max(self.title.len())
    }
}

fn columns(operators: &[OperatorReport]) -> Vec<Column> {
    let size = |bytes: u64| Size(usize::try_from(bytes).unwrap_or(usize::MAX)).to_string();
    let count = |number: u64| number.to_string();
    let columns = [
        Column::of("declared", true, operators, |o| o.declared as u64, size),
        Column::of("held", false, operators, |o| o.held as u64, size),
        Column::of("peak", true, operators, |o| o.peak as u64, size),
        Column::of("held peak", false, operators, |o| o.held_peak as u64, size),
        Column::of(
            "spilled",
            false,
            operators,
            |o| o.spilled_bytes as u64,
            size,
        ),
        Column::of("refused", false, operators, |o| o.refused, count),
        Column::of("forced", false, operators, |o| o.forced_bytes, size),
    ];
    columns.into_iter().flatten().collect()
}

impl fmt::Display for QueryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = f.width().unwrap_or(WIDTH);
        f.write_str(&self.summary(width))?;
        if self.operators.is_empty() {
            return f.write_str("\n  no operator has declared any memory");
        }
        let columns = columns(&self.operators);
        let numbers: usize = columns.iter().map(|column| GAP + column.width()).sum();
        let names: Vec<String> = self
            .operators
            .iter()
            .map(|operator| operator.name.escape_debug().to_string())
            .collect();
        let longest = names.iter().map(|name| name.chars().count()).max();
        let room = width.saturating_sub(INDENT + numbers).max(NAMES.0);
        let name_width = longest.unwrap_or(0).max("operator".len());
        let name_width = name_width.min(NAMES.1).min(room);
        let bars = room.saturating_sub(name_width + GAP).min(BARS.1);

        let titles = columns.iter().map(|column| (column, column.title));
        write!(f, "\n{}", line("     ", "operator", name_width, titles))?;
        let largest = self.operators.iter().map(|operator| operator.peak).max();
        for (index, (operator, name)) in self.operators.iter().zip(&names).enumerate() {
            let last = index + 1 == self.operators.len();
            let branch = if last { "  └─ " } else { "  ├─ " };
            let cells = columns.iter().map(|column| (column, &*column.cells[index]));
            let mut text = line(branch, &cut(name, name_width), name_width, cells);
            if bars >= BARS.0 {
                text.push_str("  ");
                text.push_str(&bar(operator.peak, largest.unwrap_or(0), bars));
            }
            write!(f, "\n{}", text.trim_end())?;
        }
        Ok(())
    }
}

impl QueryReport {
    /// Returns the line about the query as a whole, wrapped after a comma where it is too long.
    fn summary(&self, width: usize) -> String {
        let mut parts = vec![format!("{} declared", Size(self.declared))];
        if self.held > 0 || self.held_peak > 0 {
            parts.push(format!("{} held", Size(self.held)));
        }
        parts.push(format!("peak {}", Size(self.peak)));
        if let Some(limit) = self.limit {
            parts.push(format!("limit {}", Size(limit)));
        }
        parts.push(format!("spilled {}", Size(self.spilled_bytes)));
        if self.revoked > 0 {
            parts.push(format!("revoked {}", self.revoked));
        }
        if self.planned_again > 0 {
            parts.push("planned again".to_owned());
        }
        if !self.waited.is_zero() {
            parts.push(format!("waited {:.1?}", self.waited));
        }
        let mut text = format!("query `{}`:", self.name.escape_debug());
        let mut used = text.chars().count();
        let count = parts.len();
        for (index, part) in parts.iter().enumerate() {
            let comma = if index + 1 == count { "" } else { "," };
            if used + 1 + part.len() + comma.len() > width {
                text.push_str("\n ");
                used = 1;
            }
            text.push(' ');
            text.push_str(part);
            text.push_str(comma);
            used += 1 + part.len() + comma.len();
        }
        text
    }
}

/// Returns a line of the table: a name, then a cell of each column.
fn line<'a>(
    branch: &str,
    name: &str,
    name_width: usize,
    cells: impl Iterator<Item = (&'a Column, &'a str)>,
) -> String {
    let mut line = format!("{branch}{name:name_width$}");
    for (column, cell) in cells {
        line.push_str(&format!(
            "{:GAP$}{cell:>width$}",
            "",
            width = column.width()
        ));
    }
    line
}

/// Returns the name; if it is longer than `width`, its start and its end with an ellipsis between them.
fn cut(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let tail = (width - 1) / 3;
    let head: String = name.chars().take(width - 1 - tail).collect();
    let tail: String = name.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// Returns a bar of at most `width` columns, to an eighth of one.
fn bar(part: usize, whole: usize, width: usize) -> String {
    let eighths = part as u128 * width as u128 * 8 / (whole.max(1) as u128);
    let eighths = usize::try_from(eighths).unwrap_or(0);
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}
