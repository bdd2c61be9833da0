//! A query that has run, as text and as JSON.

use arrow_memory_datafusion::QueryReport;
use datafusion::arrow::datatypes::DataType;
use serde::Serialize;

use crate::failure::{CANCELLED, FAILED, REFUSED};
use crate::run::{Limit, Outcome, Ran, Row, Session};
use crate::size::{Size, counted};
use crate::table::{self, Column};
use crate::terminal::{self, Style};

/// The narrowest and the widest lines of the report, in columns of a terminal, and what a file gets.
const REPORT: (usize, usize, usize) = (60, 120, 100);

/// What a query printed as JSON has. The names are documented in the README.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    outcome: &'static str,
    error: Option<&'a str>,
    seconds: f64,
    limit: Option<usize>,
    limit_from: &'a str,
    partitions: usize,
    rows: u64,
    columns: Vec<JsonColumn<'a>>,
    first_rows: &'a [Row],
    resident_before: Option<usize>,
    resident_peak: Option<usize>,
    report: &'a QueryReport,
}

#[derive(Debug, Serialize)]
struct JsonColumn<'a> {
    name: &'a str,
    r#type: String,
}

impl Outcome {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Finished | Self::Cancelled => None,
            Self::Refused(text) | Self::Failed(text) => Some(text),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Finished => 0,
            Self::Refused(_) => REFUSED,
            Self::Failed(_) => FAILED,
            Self::Cancelled => CANCELLED,
        }
    }
}

impl<'a> Document<'a> {
    pub(crate) fn of(session: &'a Session, ran: &'a Ran) -> Self {
        let columns = ran.schema.fields().iter().map(|field| JsonColumn {
            name: field.name(),
            r#type: field.data_type().to_string(),
        });
        Self {
            outcome: ran.outcome.name(),
            error: ran.outcome.error(),
            seconds: ran.seconds,
            limit: session.limit.bytes,
            limit_from: session.limit.from.as_deref().unwrap_or("--limit"),
            partitions: session.partitions,
            rows: ran.rows,
            columns: columns.collect(),
            first_rows: &ran.first,
            resident_before: ran.before.now,
            resident_peak: ran.after.peak,
            report: &ran.report,
        }
    }
}

/// Returns the rows and what is said about them, then the report.
pub(crate) fn text(ran: &Ran, limit: &Limit) -> String {
    let (style, width) = (Style::stdout(), terminal::width());
    let mut text = String::new();
    if !ran.first.is_empty() && ran.outcome == Outcome::Finished {
        let columns = ran.schema.fields().iter().map(|field| Column {
            name: field.name(),
            number: field.data_type().is_numeric() && *field.data_type() != DataType::Null,
        });
        let columns: Vec<_> = columns.collect();
        text += &table::render(&columns, &ran.first, width, style);
        text += "\n";
    }
    text += &format!("{}\n\n", rows(ran));
    text += &report(ran, limit, style, width);
    text
}

fn rows(ran: &Ran) -> String {
    let (rows, shown) = (counted(ran.rows, "row"), ran.first.len() as u64);
    let seconds = ran.seconds;
    match ran.outcome {
        Outcome::Finished if shown < ran.rows => {
            let shown = match shown {
                0 => "none is".to_owned(),
                1 => "the first one is".to_owned(),
                more => format!("the first {more} are"),
            };
            format!("{rows} in {seconds:.2} s; {shown} shown (--max-rows)")
        }
        Outcome::Finished => format!("{rows} in {seconds:.2} s"),
        _ if ran.rows == 0 => format!(
            "{} after {seconds:.2} s, before the first row",
            ran.outcome.name()
        ),
        _ => format!("{} after {seconds:.2} s and {rows}", ran.outcome.name()),
    }
}

/// Returns the tree of operators, and what the process used.
fn report(ran: &Ran, limit: &Limit, style: Style, width: Option<usize>) -> String {
    let (narrowest, widest, without) = REPORT;
    let width = width.unwrap_or(without).clamp(narrowest, widest);
    let report = format!("{:width$}", ran.report);
    let mut lines = report.lines();
    let mut text = style.bold(lines.next().unwrap_or_default()) + "\n";
    for line in lines {
        text += &(line.to_owned() + "\n");
    }
    if let (Some(peak), Some(before)) = (ran.after.peak, ran.before.now) {
        text += &format!(
            "process: {} resident at most, {} before the query\n",
            Size(peak),
            Size(before)
        );
    }
    if let Some(from) = &limit.from {
        text += &style.dim(&format!("limit: {from}; --limit sets another one\n"));
    }
    text
}

/// Returns what is said on standard error of a query that did not finish.
pub(crate) fn error(outcome: &Outcome) -> Option<String> {
    Some(match outcome {
        Outcome::Finished => return None,
        Outcome::Refused(text) => {
            let other = if text.contains("HashJoin") {
                "at least two --partitions with --set datafusion.optimizer.prefer_hash_join=false"
            } else {
                "fewer --partitions"
            };
            format!("refused: {text}\nHere that is a larger --limit, or {other}.")
        }
        Outcome::Failed(text) => format!("error: {}", crate::failure::one_line(text)),
        Outcome::Cancelled => "cancelled by a signal: what follows is how far it came".to_owned(),
    })
}
