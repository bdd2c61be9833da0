//! A tree of allocators, as rows and as text.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow_memory_core::{AllocatorId, AllocatorSnapshot, SnapshotEntry};

use crate::size::human;
use crate::terminal::Style;
use crate::text::{cut, escaped, padded, width};

/// The options for showing a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) style: Style,
    /// The width of a line in cells.
    pub(crate) width: usize,
    /// The number of allocators that are shown below each one, the largest first; all if `None`.
    pub(crate) top: Option<usize>,
    /// Whether siblings are sorted by size, the largest first.
    pub(crate) by_size: bool,
}

/// One allocator.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    /// The allocator's name.
    pub(crate) name: String,
    /// The number of levels below the root.
    pub(crate) depth: usize,
    /// Bytes allocated.
    pub(crate) used: usize,
    /// The maximum of `used` so far.
    pub(crate) peak: usize,
    /// `used`, or `part` if there is one, as a fraction of the root's bytes.
    pub(crate) share: f64,
    /// For a column in messages: the size of the column, for which `(messages)` is charged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<usize>,
    /// Whether this row stands for several that are not shown.
    #[serde(skip)]
    stands_for_others: bool,
}

/// The allocators of a snapshot, parents before children, in the order of creation, with `(messages)` last.
/// `parts` has the sizes of columns in messages.
pub(crate) fn rows(snapshot: &AllocatorSnapshot, parts: &HashMap<AllocatorId, usize>) -> Vec<Row> {
    let mut children: HashMap<Option<AllocatorId>, Vec<&SnapshotEntry>> = HashMap::new();
    for entry in &snapshot.entries {
        children.entry(entry.parent).or_default().push(entry);
    }
    for siblings in children.values_mut() {
        // In descending order, since the last one is popped first.
        siblings.sort_by_key(|entry| {
            let is_no_column = entry.allocator.name.ends_with("/(messages)");
            std::cmp::Reverse((is_no_column, entry.allocator.id))
        });
    }
    let whole = snapshot.entries.first().map_or(0, |root| root.allocated);
    let above = snapshot.entries.first().and_then(|root| root.parent);
    let mut open: Vec<&SnapshotEntry> = children.remove(&above).unwrap_or_default();
    let mut rows = Vec::with_capacity(snapshot.entries.len());
    while let Some(entry) = open.pop() {
        let id = entry.allocator.id;
        let part = parts.get(&id).copied();
        rows.push(Row {
            name: entry.allocator.name.to_string(),
            depth: entry.depth,
            used: entry.allocated,
            peak: entry.peak,
            share: share(part.unwrap_or(entry.allocated), whole),
            part,
            stands_for_others: false,
        });
        open.extend(children.remove(&Some(id)).into_iter().flatten());
    }
    rows
}

fn share(bytes: usize, whole: usize) -> f64 {
    match whole {
        0 => 0.0,
        whole => bytes as f64 / whole as f64,
    }
}

/// The rows as lines, with branches and bars, as wide as the view.
pub(crate) fn render(rows: &[Row], view: View) -> String {
    let arranged = arranged(rows, view);
    let names = names(&arranged);
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    // Numbers in parentheses are two cells wider.
    let used_width = match rows.iter().any(|row| row.part.is_some()) {
        true => 12,
        false => 10,
    };
    let room = view.width.saturating_sub(used_width - 10);
    let (name_width, bar_width) = widths(widest.max("allocator".len()), room);
    let mut text = String::new();
    let head = format!(
        "  {}  {:>used_width$}  {:>10}  {:>7}",
        padded("allocator", name_width),
        "used",
        "peak",
        "share"
    );
    line(&mut text, &view.style.dim(&head));
    for (row, name) in arranged.iter().zip(&names) {
        let name = padded(&cut(name, name_width), name_width);
        let name = match row.depth {
            0 | 1 => view.style.bold(name.trim_end()) + &name[name.trim_end().len()..],
            _ => name,
        };
        let used = match row.part {
            Some(part) => format!("({})", human(part)),
            None => human(row.used),
        };
        let peak = match row.part.is_some() || row.stands_for_others {
            true => String::new(),
            false => human(row.peak),
        };
        let share = row.share * 100.0;
        let bar = view.style.accent(&bar(row.share, bar_width));
        let cells = format!("  {name}  {used:>used_width$}  {peak:>10}  {share:>5.1} %  {bar}");
        line(&mut text, cells.trim_end());
    }
    if rows.iter().any(|row| row.part.is_some()) {
        let note =
            "Columns in messages share their memory: in parentheses, how much of it is theirs.";
        line(
            &mut text,
            &format!("\n  {}", crate::text::wrapped(note, 2, 2, view.width)),
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// The widths of names and of full bars. Bars are shortened before names are cut, and are left out if the
/// names need the room.
fn widths(widest: usize, whole: usize) -> (usize, usize) {
    /// The width of blanks and numbers.
    const NUMBERS: usize = 35;
    const LONGEST_BAR: usize = 20;
    const SHORTEST_BAR: usize = 8;
    /// The width below which names are not cut to make room for bars.
    const NAME: usize = 24;

    let room = whole.saturating_sub(NUMBERS);
    let name = widest.min(room.saturating_sub(SHORTEST_BAR + 2).max(NAME));
    let bar = room.saturating_sub(name + 2).min(LONGEST_BAR);
    if bar >= SHORTEST_BAR {
        return (name, bar);
    }
    (widest.min(room.max("allocator".len())), 0)
}

/// The rows in the order of the view, and as many as it shows.
fn arranged(rows: &[Row], view: View) -> Vec<Row> {
    if view.top.is_none() && !view.by_size {
        return rows.to_vec();
    }
    let mut arranged = Vec::new();
    arrange(rows, view, &mut arranged);
    arranged
}

/// Arranges siblings; in `rows`, each is followed by the rows below it.
fn arrange(rows: &[Row], view: View, arranged: &mut Vec<Row>) {
    let Some(depth) = rows.first().map(|row| row.depth) else {
        return;
    };
    let mut families: Vec<&[Row]> = Vec::new();
    let mut rest = rows;
    while !rest.is_empty() {
        let below = rest[1..].iter().take_while(|row| row.depth > depth).count();
        let (family, behind) = rest.split_at(1 + below);
        families.push(family);
        rest = behind;
    }
    let size = |family: &&[Row]| (family[0].part.unwrap_or(family[0].used), family[0].peak);
    families.sort_by_key(|family| std::cmp::Reverse(size(family)));
    let shown = view.top.unwrap_or(usize::MAX).min(families.len());
    let (shown, others) = families.split_at(shown);
    for family in shown {
        arranged.push(family[0].clone());
        arrange(&family[1..], view, arranged);
    }
    if let Some(first) = others.first() {
        let others = others.iter().map(|family| &family[0]);
        arranged.push(Row {
            name: format!("({} more)", others.len()),
            used: others.clone().map(|row| row.used).sum(),
            share: others.clone().map(|row| row.share).sum(),
            part: others.map(|row| row.part).sum(),
            stands_for_others: true,
            ..first[0].clone()
        });
    }
}

/// The names of rows behind their branches, without the prefix that is their parent's name.
fn names(rows: &[Row]) -> Vec<String> {
    let goes_on = has_later_siblings(rows);
    let mut names = Vec::with_capacity(rows.len());
    // By depth: the row above, and whether its branch continues below.
    let mut above: Vec<(&Row, bool)> = Vec::new();
    for (row, &goes_on) in rows.iter().zip(&goes_on) {
        above.truncate(row.depth);
        let mut name = String::new();
        for (_, goes_on) in above.iter().skip(1) {
            name.push_str(if *goes_on { "│  " } else { "   " });
        }
        if row.depth > 0 {
            name.push_str(if goes_on { "├─ " } else { "└─ " });
        }
        let parent = above.last().map(|(parent, _)| *parent);
        let own = parent
            .and_then(|parent| row.name.strip_prefix(&parent.name)?.strip_prefix('/'))
            .unwrap_or(&row.name);
        name.push_str(&escaped(own));
        names.push(name);
        above.push((row, goes_on));
    }
    names
}

/// For each row, whether another child of the same parent follows.
fn has_later_siblings(rows: &[Row]) -> Vec<bool> {
    let mut found = vec![false; rows.len()];
    // By depth, counted from the last row: whether a row of that depth follows within the same parent.
    let mut seen: Vec<bool> = Vec::new();
    for (row, found) in rows.iter().zip(&mut found).rev() {
        seen.resize(row.depth + 1, false);
        *found = std::mem::replace(&mut seen[row.depth], true);
    }
    found
}

/// A bar of up to `width` characters, in eighths.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Style;

    fn row(name: &str, depth: usize, used: usize, share: f64) -> Row {
        Row {
            name: name.to_owned(),
            depth,
            used,
            peak: used * 2,
            share,
            part: None,
            stands_for_others: false,
        }
    }

    fn view(width: usize, top: Option<usize>) -> View {
        View {
            style: Style::plain(),
            width,
            top,
            by_size: top.is_some(),
        }
    }

    fn six() -> [Row; 6] {
        [
            row("scan", 0, 4096, 1.0),
            row("a.csv", 1, 3072, 0.75),
            row("a.csv/x", 2, 3072, 0.75),
            row("a.csv/y", 2, 0, 0.0),
            row("b.csv", 1, 1024, 0.25),
            row("b.csv/x", 2, 1024, 0.25),
        ]
    }

    #[test]
    fn a_tree_is_drawn_with_branches_shares_and_bars() {
        assert_eq!(
            render(&six(), view(100, None)),
            "  allocator        used        peak    share
  scan          4.0 KiB     8.0 KiB  100.0 %  ████████████████████
  ├─ a.csv      3.0 KiB     6.0 KiB   75.0 %  ███████████████
  │  ├─ x       3.0 KiB     6.0 KiB   75.0 %  ███████████████
  │  └─ y           0 B         0 B    0.0 %
  └─ b.csv      1.0 KiB     2.0 KiB   25.0 %  █████
     └─ x       1.0 KiB     2.0 KiB   25.0 %  █████
"
        );
    }

    #[test]
    fn the_largest_come_first_and_the_others_are_one_row() {
        let rows = [
            row("scan", 0, 100, 1.0),
            row("f", 1, 100, 1.0),
            row("f/a", 2, 10, 0.1),
            row("f/b", 2, 70, 0.7),
            row("f/c", 2, 20, 0.2),
        ];

        let text = render(&rows, view(60, Some(1)));

        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[3].contains("├─ b") && lines[3].contains("70 B"),
            "{text}"
        );
        assert!(
            lines[4].contains("└─ (2 more)") && lines[4].contains("30 B"),
            "{text}"
        );
        assert_eq!(lines.len(), 5, "{text}");
    }

    #[test]
    fn lines_are_as_wide_as_the_view_and_names_cannot_break_them() {
        let mut rows = six();
        rows[2].name = format!("a.csv/{}", "名前".repeat(3000));
        rows[3].name = "a.csv/new\nline\u{1b}[31mred".to_owned();
        for whole in [50, 60, 79, 80, 100, 200] {
            let text = render(&rows, view(whole, None));
            assert_eq!(text.lines().count(), 7, "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            for line in text.lines() {
                assert!(width(line) <= whole, "{whole}: {line}");
            }
        }
    }
}
