//! The format of a file, by its first bytes and its name, and the options for reading it.

use std::fmt;

use super::encryption;
use super::source::Source;
use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;

use crate::failure::Failure;
use crate::lists::Element;

/// The options for reading files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The columns to read; all if empty.
    pub(crate) columns: Vec<Element>,
    /// The number of rows in a batch of Parquet or CSV.
    pub(crate) batch_size: usize,
    pub(crate) csv: CsvOptions,
}

/// The options for reading CSV.
#[derive(Clone, Debug, Default)]
pub(crate) struct CsvOptions {
    /// Whether to read every file that is neither Parquet nor Arrow IPC as CSV, whatever its name.
    pub(crate) forced: bool,
    /// The separator of fields; if `None`, a tab in files that are called .tsv, and a comma in others.
    pub(crate) delimiter: Option<u8>,
    /// Whether the first row is data.
    pub(crate) no_header: bool,
    /// Texts that are nulls, in addition to the empty one.
    pub(crate) nulls: Vec<String>,
    /// The types of columns, by name.
    pub(crate) types: Vec<(String, DataType)>,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Parquet,
    /// Arrow IPC with a footer.
    Ipc,
    /// Arrow IPC without one.
    #[serde(rename = "ipc stream")]
    IpcStream,
    Csv,
}

impl Format {
    /// The format by the first bytes if they identify one, or else by the name.
    pub(super) fn of(source: &Source, head: &[u8], as_csv: bool) -> Result<Self, Failure> {
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        if head.starts_with(b"PARE") {
            return Err(Failure::new(encryption::ENCRYPTED));
        }
        if head.starts_with(b"ARROW1") {
            return Ok(Self::Ipc);
        }
        if head.starts_with(&[0xFF; 4]) {
            return Ok(Self::IpcStream);
        }
        match source.extension() {
            Some("parquet" | "pq") if !as_csv => Err(Failure::new(
                "it is called Parquet but does not start with `PAR1`: it is damaged, or another format",
            )),
            Some("arrow" | "arrows" | "ipc" | "feather") if !as_csv => Err(Failure::new(
                "it is called Arrow IPC but does not start as one: it is damaged, or another format (version 1 of Feather is not Arrow IPC)",
            )),
            extension => {
                let called_so = matches!(extension, Some("csv" | "tsv" | "txt"));
                if !called_so && !as_csv && !source.is_standard_input() {
                    return Err(Failure::new(match source.is_gzip(head) {
                        true => {
                            "it is compressed with gzip; only CSV is read so, when it is called .csv.gz or with --csv: decompress it first"
                        }
                        false => {
                            "it is neither Parquet nor Arrow IPC; to read it as CSV, call it .csv or give --csv"
                        }
                    }));
                }
                if !source.is_gzip(head) && head.contains(&0) {
                    return Err(Failure::new(
                        "it is called CSV but holds bytes that no text has",
                    ));
                }
                Ok(Self::Csv)
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Ipc => "Arrow IPC file",
            Self::IpcStream => "Arrow IPC stream",
            Self::Csv => "CSV",
        })
    }
}

/// The batches of a decoder that allocates its own memory.
pub(super) type Decoded = Box<dyn Iterator<Item = Result<RecordBatch, Failure>>>;
