//! What a file is, by its first bytes and its name, and how it is read.

use std::fmt;

use super::encryption;
use super::source::Source;
use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;

use crate::failure::Failure;
use crate::lists::Element;

/// How files are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The columns to read; all if empty.
    pub(crate) columns: Vec<Element>,
    /// Rows in a batch of Parquet or CSV.
    pub(crate) batch_size: usize,
    pub(crate) csv: CsvOptions,
}

/// How text is read as CSV.
#[derive(Clone, Debug, Default)]
pub(crate) struct CsvOptions {
    /// Read what is neither Parquet nor Arrow IPC as CSV, whatever it is called.
    pub(crate) forced: bool,
    /// What separates fields; a tab in files that are called .tsv, else a comma.
    pub(crate) delimiter: Option<u8>,
    /// The first row is data.
    pub(crate) no_header: bool,
    /// Texts that are nulls, besides the empty one.
    pub(crate) nulls: Vec<String>,
    /// Types by the name of the column.
    pub(crate) types: Vec<(String, DataType)>,
}

/// What a file was found to be.
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
    /// By the first bytes if they are a format's, else by the name.
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

/// The batches of a decoder with memory of its own.
pub(super) type Decoded = Box<dyn Iterator<Item = Result<RecordBatch, Failure>>>;
