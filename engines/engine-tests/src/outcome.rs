//! What came out of a query, and whether it is right.

use std::fmt;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion_sqllogictest::convert_batches;

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
    /// If a batch does not fit the schema, or a value cannot be written.
    pub fn read(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Self> {
        let float = |kind: &DataType| kind.is_floating();
        let floats = schema.fields().iter().map(|field| float(field.data_type()));
        Ok(Self {
            floats: floats.collect(),
            rows: convert_batches(&schema, batches, false)
                .map_err(|error| DataFusionError::External(Box::new(error)))?,
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

fn same(one: &str, two: &str, float: bool) -> bool {
    if one == two {
        return true;
    }
    match (one.parse::<f64>(), two.parse::<f64>()) {
        (Ok(one), Ok(two)) if float => (one - two).abs() <= 1e-9 * one.abs().max(two.abs()),
        _ => false,
    }
}
