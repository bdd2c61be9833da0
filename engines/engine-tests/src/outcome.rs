//! What came out of a query, and whether it is right.

use std::fmt;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};

use crate::configuration::Executed;
use crate::watch::GivenUp;

/// What came out of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The right answer.
    Right {
        /// Bytes that were spilled for it.
        spilled: usize,
    },
    /// Another answer.
    Wrong(String),
    /// Its memory was refused.
    Refused(String),
    /// It did not end.
    GivenUp(GivenUp),
    /// Any other error.
    Failed(String),
}

impl Outcome {
    /// Judges a run: `expected` tells what is wrong with its rows.
    pub fn of(
        run: Result<Result<Executed<Rows>>, GivenUp>,
        expected: impl FnOnce(&Rows) -> Option<String>,
    ) -> Self {
        match run {
            Err(given_up) => Self::GivenUp(given_up),
            Ok(Err(error)) if is_refusal(&error) => Self::Refused(error.to_string()),
            Ok(Err(error)) => Self::Failed(error.to_string()),
            Ok(Ok(executed)) => match expected(&executed.value) {
                Some(difference) => Self::Wrong(difference),
                None => Self::Right {
                    spilled: executed.spilled,
                },
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right { spilled: 0 } => f.write_str("right"),
            Self::Right { spilled } => write!(f, "right, {spilled} bytes spilled"),
            Self::Wrong(difference) => write!(f, "wrong: {difference}"),
            Self::Refused(text) => write!(f, "refused: {text}"),
            Self::GivenUp(given_up) => given_up.fmt(f),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}

/// Returns whether an error is a refusal of memory, whatever operators have put around it.
pub fn is_refusal(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// The rows of a result, as DataFusion's sqllogictest files write them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    rows: Vec<Vec<String>>,
    /// Whether a column has floating-point numbers, whose sums depend on the order.
    floats: Vec<bool>,
}

impl Rows {
    /// Reads them from batches.
    ///
    /// # Errors
    ///
    /// If a value cannot be written.
    pub fn read(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Self> {
        let float = |kind: &DataType| kind.is_floating();
        let floats = schema.fields().iter().map(|field| float(field.data_type()));
        let mut rows = Vec::new();
        for batch in batches {
            read(&batch, &mut rows)?;
        }
        Ok(Self {
            floats: floats.collect(),
            rows,
        })
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Compares them with the lines of a sqllogictest file, and returns the first difference. Words of columns with
    /// floating-point numbers may differ by a 10⁻⁹th part, and everything else by nothing.
    pub fn differ_from_lines(&self, lines: &[String]) -> Option<String> {
        if self.rows.len() != lines.len() {
            return Some(format!("{} rows, not {}", self.rows.len(), lines.len()));
        }
        let mut pairs = self.rows.iter().zip(lines);
        let (row, line) = pairs.find(|(row, line)| !self.row_is(row, line))?;
        Some(format!("{:?}, not {line:?}", row.join(" ")))
    }

    fn row_is(&self, row: &[String], line: &str) -> bool {
        let mut expected = line.split_whitespace();
        for (cell, &float) in row.iter().zip(&self.floats) {
            for word in cell.split_whitespace() {
                if !expected
                    .next()
                    .is_some_and(|other| same(word, other, float))
                {
                    return false;
                }
            }
        }
        expected.next().is_none()
    }

    /// Compares them with other rows, in any order, and returns the first difference.
    pub fn differ_from(&self, other: &Self) -> Option<String> {
        let (mut own, mut others) = (self.rows.clone(), other.rows.clone());
        own.sort_unstable();
        others.sort_unstable();
        if own.len() != others.len() || self.floats != other.floats {
            return Some(format!("{} rows, not {}", own.len(), others.len()));
        }
        let cells = |row: &[String], other: &[String]| {
            let mut pairs = row.iter().zip(other).zip(&self.floats);
            row.len() == other.len() && pairs.all(|((one, two), &float)| same(one, two, float))
        };
        let mut pairs = own.iter().zip(&others);
        let (row, other) = pairs.find(|(row, other)| !cells(row, other))?;
        Some(format!("{row:?}, not {other:?}"))
    }
}

/// Adds the rows of a batch.
fn read(batch: &RecordBatch, rows: &mut Vec<Vec<String>>) -> Result<()> {
    let options = FormatOptions::new()
        .with_display_error(false)
        .with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<_> = columns
        .map(|column| {
            let text = ArrayFormatter::try_new(column, &options)?;
            Ok((column.data_type(), text))
        })
        .collect::<Result<_>>()?;
    for row in 0..batch.num_rows() {
        let cells = columns.iter().map(|(kind, text)| {
            let text = text.value(row).try_to_string()?;
            Ok(cell(kind, text))
        });
        rows.push(cells.collect::<Result<_>>()?);
    }
    Ok(())
}

/// Writes a value as sqllogictest files do: an empty text is `(empty)`, numbers have no zeros at the end of their fraction,
/// and those with a floating point at most 12 digits there.
fn cell(kind: &DataType, text: String) -> String {
    if kind.is_string() {
        return match text.is_empty() {
            true => "(empty)".to_owned(),
            false => text.trim_end_matches('\n').to_owned(),
        };
    }
    if kind.is_decimal() {
        return without_zeros(&text);
    }
    match text.parse::<f64>() {
        Ok(number) if kind.is_floating() => without_zeros(&format!("{number:.12}")),
        _ => text,
    }
}

fn without_zeros(number: &str) -> String {
    let shorter = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    shorter.to_owned()
}

fn same(one: &str, two: &str, float: bool) -> bool {
    if one == two {
        return true;
    }
    match (one.parse::<f64>(), two.parse::<f64>()) {
        (Ok(one), Ok(two)) if float => (one - two).abs() <= 1e-9 * one.abs().max(two.abs()),
        _ => false,
    }
}
