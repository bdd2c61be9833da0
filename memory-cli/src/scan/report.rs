//! What a scan found: plain data, and the text of it.

use std::fmt::Write as _;
use std::path::PathBuf;

use arrow_memory_core::AllocError;

use crate::failure::Failure;
use crate::input::Format;
use crate::size::{grouped, human};
use crate::terminal::Style;
use crate::tree::{self, Row};

/// The result of a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    /// Whether the limit allowed it.
    pub(crate) fits: bool,
    pub(crate) limit: Option<usize>,
    pub(crate) keep: bool,
    pub(crate) adopt: bool,
    pub(crate) batch_size: usize,
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    pub(crate) seconds: f64,
    pub(crate) accounted: Accounted,
    pub(crate) backend: BackendReport,
    pub(crate) resident: Resident,
    pub(crate) need: Need,
    pub(crate) refusal: Option<Refusal>,
    /// The tree at the end if batches are kept, else when it held most; or at the refusal.
    pub(crate) tree: Vec<Row>,
    pub(crate) files: Vec<FileReport>,
}

/// What the tree was charged for.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Accounted {
    pub(crate) used: usize,
    pub(crate) peak: usize,
}

/// What the backend handed out to the tree, and what it says of itself.
#[derive(Debug, serde::Serialize)]
pub(crate) struct BackendReport {
    pub(crate) name: String,
    pub(crate) live: Option<usize>,
    pub(crate) peak: Option<usize>,
    /// Blocks handed out in total.
    pub(crate) blocks: Option<u64>,
    pub(crate) resident: Option<usize>,
    pub(crate) cached: Option<usize>,
}

/// Physical memory of the whole process, decoders included.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Resident {
    pub(crate) before: Option<usize>,
    /// With the tree as it is shown.
    pub(crate) used: Option<usize>,
    pub(crate) peak: Option<usize>,
    pub(crate) after_release: Option<usize>,
}

/// One file.
#[derive(Debug, serde::Serialize)]
pub(crate) struct FileReport {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) columns: usize,
}

/// The least limits that would do.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Need {
    /// To hold everything.
    pub(crate) kept: usize,
    /// To hold one batch at a time.
    pub(crate) batch: usize,
    /// What all batches before the next one take.
    #[serde(skip)]
    sum: usize,
}

impl Need {
    /// Adds a batch that takes `placed` bytes, and `passing` more while it arrives.
    pub(crate) fn add(&mut self, placed: usize, passing: usize) {
        self.kept = self.kept.max(self.sum + placed + passing);
        self.batch = self.batch.max(placed + passing);
        self.sum += placed;
    }
}

/// Who stopped a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Refusal {
    /// Who asked.
    pub(crate) asked_by: String,
    pub(crate) requested: usize,
    /// Whose limit stood in the way.
    pub(crate) refused_by: String,
    pub(crate) limit: usize,
    /// What was left of it.
    pub(crate) left: usize,
    /// Rows that were in before.
    pub(crate) after_rows: u64,
    /// Rows that there are, where the file says so in front.
    pub(crate) of_rows: Option<u64>,
}

impl Refusal {
    pub(crate) fn of(error: &AllocError, rows: u64, total: Option<u64>) -> Result<Self, Failure> {
        let AllocError::OutOfMemory {
            requested, outcome, ..
        } = error
        else {
            return Err(Failure::bug(error.to_string()));
        };
        // Names as they were given: they are paths, and whoever prints them escapes them.
        let refused_by = outcome.failed_allocator().name.to_string();
        let asked_by = outcome.entries.first().map_or_else(
            || refused_by.clone(),
            |entry| entry.allocator.name.to_string(),
        );
        Ok(Self {
            asked_by,
            requested: *requested,
            refused_by,
            limit: outcome.refuser().limit,
            left: outcome.headroom(),
            after_rows: rows,
            of_rows: total,
        })
    }
}

impl Report {
    /// The report as people read it.
    pub(crate) fn render(&self, style: Style) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, style);
        text
    }

    fn write(&self, text: &mut String, style: Style) -> std::fmt::Result {
        for file in &self.files {
            let FileReport {
                path,
                format,
                bytes,
                rows,
                columns,
            } = file;
            let size = human(usize::try_from(*bytes).unwrap_or(usize::MAX));
            writeln!(
                text,
                "{}  {format}, {size}: {} rows, {columns} columns",
                style.bold(&path.display().to_string()),
                grouped(*rows),
            )?;
        }
        let (batches, plural) = (
            grouped(self.batches),
            if self.batches == 1 { "" } else { "es" },
        );
        writeln!(
            text,
            "{} rows in {batches} batch{plural}, {}; {}\n",
            grouped(self.rows),
            duration(self.seconds),
            self.what_is_shown(),
        )?;
        text.push_str(&tree::render(&self.tree, style));
        text.push('\n');
        self.write_totals(text, style)?;
        text.push('\n');
        self.write_verdict(text, style)
    }

    fn what_is_shown(&self) -> &'static str {
        match (&self.refusal, self.keep) {
            (Some(_), _) => "the tree when a request was refused",
            (None, true) => "the tree with all of it in memory",
            (None, false) => "the tree when it held most",
        }
    }

    fn write_totals(&self, text: &mut String, style: Style) -> std::fmt::Result {
        let head = format!("  {:<9}  {:>10}  {:>10}", "", "then", "at most");
        writeln!(text, "{}", style.dim(&head))?;
        let mut line = |what: &str, used: Option<usize>, peak: Option<usize>, notes: &[String]| {
            let size = |bytes: Option<usize>| bytes.map_or_else(|| "?".to_owned(), human);
            let notes = notes.join(", ");
            let (used, peak) = (size(used), size(peak));
            writeln!(text, "  {what:<9}  {used:>10}  {peak:>10}  {notes}")
        };
        let limit = match self.limit {
            Some(limit) => format!("of {} allowed", human(limit)),
            None => "no limit".to_owned(),
        };
        let Accounted { used, peak } = self.accounted;
        line("accounted", Some(used), Some(peak), &[limit])?;
        let BackendReport {
            name,
            live,
            peak,
            blocks,
            resident,
            ..
        } = &self.backend;
        let mut notes = vec![name.clone()];
        notes.extend(blocks.map(|blocks| format!("{} blocks", grouped(blocks))));
        notes.extend(resident.map(|bytes| format!("{} of pages", human(bytes))));
        line("backend", *live, *peak, &notes)?;
        let Resident {
            before,
            used: Some(used),
            peak,
            after_release,
        } = self.resident
        else {
            return Ok(());
        };
        let mut notes = vec!["this process, decoder and all".to_owned()];
        notes.extend(before.map(|bytes| format!("{} before", human(bytes))));
        notes.extend(after_release.map(|bytes| format!("{} after release", human(bytes))));
        line("resident", Some(used), peak, &notes)
    }

    fn write_verdict(&self, text: &mut String, style: Style) -> std::fmt::Result {
        let Need { kept, batch, .. } = self.need;
        let need = format!(
            "{} to keep all of it, {} to hold a batch at a time",
            human(kept),
            human(batch)
        );
        let Some(refusal) = &self.refusal else {
            return writeln!(text, "  {} It needs {need}.", style.good("✓ Fits."));
        };
        let Refusal {
            asked_by,
            requested,
            refused_by,
            limit,
            left,
            after_rows,
            of_rows,
        } = refusal;
        let of_rows = of_rows.map_or_else(String::new, |rows| format!(" of {}", grouped(rows)));
        writeln!(
            text,
            "  {} `{asked_by}` asked for {}; `{refused_by}` had {} left of {}.",
            style.bad("✗ Does not fit."),
            human(*requested),
            human(*left),
            human(*limit),
        )?;
        writeln!(
            text,
            "    Refused after {}{of_rows} rows; the rest was measured, and not held.",
            grouped(*after_rows),
        )?;
        writeln!(text, "    It would have needed {need}.")?;
        writeln!(text, "    {}", self.advice())
    }

    /// What to do about a limit that does not do.
    fn advice(&self) -> String {
        let Need { kept, batch, .. } = self.need;
        let whole = |bytes: usize| format!("--limit {}", round_up(bytes));
        match (self.keep, self.limit) {
            (true, Some(limit)) if batch <= limit => {
                format!("Give it {}, or leave --keep out.", whole(kept))
            }
            (true, _) => format!(
                "Give it {}, or leave --keep out with {}.",
                whole(kept),
                whole(batch)
            ),
            (false, _) => format!(
                "Give it {}, fewer --columns, or a --batch-size below {}.",
                whole(batch),
                grouped(self.batch_size as u64)
            ),
        }
    }
}

/// A size that covers `bytes`, short enough to type.
fn round_up(bytes: usize) -> String {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    if bytes > 16 * MIB {
        format!("{}MiB", bytes.div_ceil(MIB))
    } else if bytes > 16 * KIB {
        format!("{}KiB", bytes.div_ceil(KIB))
    } else {
        bytes.to_string()
    }
}

/// Seconds as people read them.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{:.1} ms", seconds * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_the_highest_that_holding_would_reach() {
        let mut need = Need::default();
        need.add(100, 50);
        need.add(10, 200);
        need.add(10, 0);

        assert_eq!((need.kept, need.batch), (310, 210));
    }

    #[test]
    fn a_limit_that_is_advised_covers_the_need() {
        let cases = [
            (1, "1"),
            (16 << 10, "16384"),
            ((16 << 10) + 1, "17KiB"),
            ((16 << 20) + 1, "17MiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(round_up(bytes), text);
        }
    }
}
