//! The report of a scan as text.

use std::fmt::Write as _;

use super::report::{Accounted, BackendReport, FileReport, NeedReport, Refusal, Report, Resident};
use crate::size::{counted, grouped, human, told_apart};
use crate::text::{cell, escaped, wrapped};
use crate::tree::{self, View};

/// The column in which notes start, behind two numbers.
const NOTES: usize = 37;

impl Report {
    /// The report as text for people.
    pub(crate) fn render(&self, view: View) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, view);
        text
    }

    fn write(&self, text: &mut String, view: View) -> std::fmt::Result {
        let shown = view.top.unwrap_or(usize::MAX);
        for file in self.files.iter().take(shown) {
            write_file(text, file, view)?;
        }
        let more = self.files.len().saturating_sub(shown);
        if more > 0 {
            writeln!(text, "{}", counted(more as u64, "more file"))?;
        }
        writeln!(
            text,
            "{} in {}, {}; {}\n",
            counted(self.rows, "row"),
            counted(self.batches, "batch"),
            duration(self.seconds),
            self.what_is_shown(),
        )?;
        text.push_str(&tree::render(&self.tree, view));
        text.push('\n');
        self.write_totals(text, view)?;
        text.push('\n');
        self.write_verdict(text, view)
    }

    fn what_is_shown(&self) -> &'static str {
        match (&self.refusal, self.keep) {
            (Some(_), _) => "the tree when a request was refused",
            (None, true) => "the tree with all of it in memory",
            (None, false) => "the tree when it held most",
        }
    }

    fn write_totals(&self, text: &mut String, view: View) -> std::fmt::Result {
        let head = format!("  {:<9}  {:>10}  {:>10}", "", "then", "at most");
        writeln!(text, "{}", view.style.dim(&head))?;
        let mut line = |what: &str, used: Option<usize>, peak: Option<usize>, notes: &[String]| {
            let size = |bytes: Option<usize>| bytes.map_or_else(|| "?".to_owned(), human);
            let (used, peak) = (size(used), size(peak));
            let notes = wrapped(&notes.join(", "), NOTES, NOTES, view.width);
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
        notes.extend(blocks.map(|blocks| counted(blocks, "block")));
        notes.extend(resident.map(|bytes| format!("{} of pages", human(bytes))));
        line("backend", *live, *peak, &notes)?;
        if let Some(Accounted { used, peak }) = self.decoder {
            let what = "its pages and scratch, not accounted above";
            line("decoder", Some(used), Some(peak), &[what.to_owned()])?;
        }
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

    fn write_verdict(&self, text: &mut String, view: View) -> std::fmt::Result {
        let mut paragraph = |sign: Option<String>, words: &str| {
            let (sign, used) = match sign {
                Some(sign) => (format!("  {sign} "), 2 + 17),
                None => ("    ".to_owned(), 4),
            };
            writeln!(text, "{sign}{}", wrapped(words, used, 4, view.width))
        };
        let need = self.need.sentence();
        match (&self.refusal, self.limit) {
            (Some(refusal), _) => {
                let sign = view.style.bad("✗ Does not fit.");
                paragraph(Some(sign), &refusal.sentence())?;
                paragraph(None, &refusal.progress())?;
                if let Some(need) = need {
                    paragraph(None, &format!("It would have needed {need}."))?;
                }
                paragraph(None, &self.advice())?;
            }
            (None, Some(_)) => {
                let sign = view.style.good("✓ Fits.");
                let need = need.map_or_else(String::new, |need| format!("It needs {need}."));
                paragraph(Some(sign), &need)?;
            }
            (None, None) => {
                if let Some(need) = need {
                    writeln!(
                        text,
                        "  {}",
                        wrapped(&format!("It needs {need}."), 2, 4, view.width)
                    )?;
                }
            }
        }
        let bounds = wrapped(&self.bounds(), 4, 4, view.width);
        writeln!(text, "    {bounds}")
    }

    /// A sentence on the numbers that a limit bounds.
    fn bounds(&self) -> String {
        let limit = match self.limit {
            Some(_) => "--limit bounds",
            None => "A --limit would bound",
        };
        let mut bounded = Vec::new();
        if let Some(columns) = self.need.columns {
            bounded.push(format!(
                "the columns ({} kept, {} in a batch)",
                human(columns.kept),
                human(columns.batch)
            ));
        }
        if let Some(messages) = self.need.messages {
            bounded.push(format!("the messages ({} at a time)", human(messages)));
        } else if !self.adopt {
            bounded.push("the batch as it was decoded".to_owned());
        }
        let process = match self.need.process {
            Some(process) => format!("the process, which had {} at most", human(process)),
            None => "the memory of the decoder".to_owned(),
        };
        let decoder = match &self.decoder {
            Some(decoder) => format!(
                ", nor the pages and scratch of the decoder in it, {} at most",
                human(decoder.peak)
            ),
            None => String::new(),
        };
        format!(
            "{limit} {}; it does not bound {process}{decoder}.",
            bounded.join(" and ")
        )
    }

    /// Advice on a limit that is too small.
    fn advice(&self) -> String {
        let NeedReport { kept, batch, .. } = self.need;
        let whole = |bytes: usize| format!("--limit {}", round_up(bytes));
        let kept = kept.map_or_else(|| "a larger --limit".to_owned(), whole);
        match (self.keep, batch, self.limit) {
            (true, Some(batch), Some(limit)) if batch <= limit => {
                format!("Give it {kept}, or leave --keep out.")
            }
            (true, Some(batch), _) => {
                format!("Give it {kept}, or leave --keep out with {}.", whole(batch))
            }
            (true, None, _) => format!("Give it {kept}, or see without --keep what a batch needs."),
            (false, batch, _) if self.need.messages.is_some() => format!(
                "Give it {}; the batches of Arrow IPC are as they were written.",
                batch.map_or_else(|| "a larger --limit".to_owned(), whole)
            ),
            (false, batch, _) => format!(
                "Give it {}, fewer --columns, or a --batch-size below {}.",
                batch.map_or_else(|| "a larger --limit".to_owned(), whole),
                grouped(self.batch_size as u64)
            ),
        }
    }
}

impl NeedReport {
    fn sentence(&self) -> Option<String> {
        let kept = self
            .kept
            .map(|bytes| format!("{} to keep all of it", human(bytes)));
        let batch = self
            .batch
            .map(|bytes| format!("{} to hold a batch at a time", human(bytes)));
        let needs: Vec<String> = kept.into_iter().chain(batch).collect();
        (!needs.is_empty()).then(|| needs.join(", "))
    }
}

impl Refusal {
    fn sentence(&self) -> String {
        let [requested, left, limit] = told_apart([self.requested, self.left, self.limit]);
        format!(
            "`{}` asked for {requested}; `{}` had {left} left of {limit}.",
            cell(&self.asked_by, 120),
            cell(&self.refused_by, 120),
        )
    }

    fn progress(&self) -> String {
        let rows = match self.of_rows {
            Some(rows) => format!("{} of {}", grouped(self.after_rows), counted(rows, "row")),
            None => counted(self.after_rows, "row"),
        };
        format!("Refused after {rows}; the rest was measured, and not held.")
    }
}

fn write_file(text: &mut String, file: &FileReport, view: View) -> std::fmt::Result {
    let FileReport {
        path,
        format,
        bytes,
        rows,
        columns,
        hints,
    } = file;
    let size = human(usize::try_from(*bytes).unwrap_or(usize::MAX));
    let what = format!(
        "  {format}, {size}: {}, {}",
        counted(*rows, "row"),
        counted(*columns as u64, "column")
    );
    // A path is cut only if it does not fit the line.
    let path = cell(
        path,
        view.width.saturating_sub(crate::text::width(&what)).max(24),
    );
    writeln!(text, "{}{what}", view.style.bold(&path))?;
    for hint in hints {
        let hint = wrapped(&format!("hint: {}", escaped(hint)), 2, 4, view.width);
        writeln!(text, "  {hint}")?;
    }
    Ok(())
}

/// A size of at least `bytes` that is short enough to type.
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

/// Seconds as text for people.
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

    #[test]
    fn sizes_that_look_the_same_are_told_in_bytes() {
        let refusal = Refusal {
            asked_by: "a".to_owned(),
            requested: (1 << 20) + 64,
            refused_by: "scan".to_owned(),
            limit: 1 << 20,
            left: 1 << 20,
            after_rows: 1,
            of_rows: Some(1),
        };
        assert_eq!(
            refusal.sentence(),
            "`a` asked for 1,048,640 bytes; `scan` had 1,048,576 bytes left of 1,048,576 bytes."
        );
        assert!(refusal.progress().contains("1 of 1 row;"));
    }
}
