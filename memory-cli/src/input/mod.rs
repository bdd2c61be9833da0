//! Files as streams of record batches: Parquet, Arrow IPC (files and streams) and CSV.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_memory_core::{AllocError, BufferAllocator, RootAllocator};

use crate::failure::Failure;
use crate::guarded::guarded;
use crate::lists::Element;

pub(crate) mod csv;
mod encryption;
mod ipc;
mod parquet;
mod records;
mod selection;
mod source;

use ipc::Messages;
use selection::Selection;
pub(crate) use source::{Source, sources};

/// How files are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The columns to read; all if empty.
    pub(crate) columns: Vec<Element>,
    /// Rows in a batch of Parquet or CSV.
    pub(crate) batch_size: usize,
    pub(crate) csv: csv::Options,
}

/// What can be told of a file without reading its values.
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    pub(crate) format: Format,
    /// The rows it has, where the format says so in front.
    pub(crate) rows: Option<u64>,
}

/// One file that is open, its schema read.
pub(crate) struct Input {
    name: String,
    pub(crate) format: Format,
    /// The length of the file in bytes.
    pub(crate) bytes: u64,
    /// The columns that will be read.
    pub(crate) schema: SchemaRef,
    /// What a person may want to change about how it is read.
    pub(crate) hints: Vec<String>,
    batches: Batches,
}

/// Where batches come from.
enum Batches {
    /// A decoder with memory of its own.
    Decoded(Decoded),
    /// Messages in memory of an allocator.
    Messages(Messages),
}

/// The batches of a decoder with memory of its own.
type Decoded = Box<dyn Iterator<Item = Result<RecordBatch, Failure>>>;

/// Why there is no batch.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A limit stood in the way.
    Refused(AllocError),
    Failed(Failure),
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

impl Glance {
    /// Opens a file, reads what it says in front or in its footer, and closes it.
    ///
    /// # Errors
    ///
    /// If it is of no format that is read here, if its codec is not, if it lacks a column of
    /// `reading`, or if it is damaged in a way that shows already.
    pub(crate) fn at(source: &Source, reading: &Reading) -> Result<Self, Failure> {
        let glance = || {
            let (file, _, format) = opened(source, reading)?;
            let rows = match format {
                Format::Parquet => parquet::glance(file, reading)?,
                Format::Ipc | Format::IpcStream => {
                    ipc::glance(file, format, reading)?;
                    None
                }
                Format::Csv => {
                    csv::check_columns(file, source, reading)?;
                    None
                }
            };
            Ok(Self { format, rows })
        };
        guarded(glance).map_err(|failure| source.failed(failure))
    }
}

impl Input {
    /// Opens a file whose first bytes, or whose name, say what it is.
    ///
    /// The messages of Arrow IPC are read into memory of `messages`; the decoders of other formats
    /// have memory of their own. They are not the readers of arrow-memory-arrow, which adopt each
    /// batch as it appears: a scan does that itself, into the tree that is looked at, where it can
    /// say what was refused and what would have been needed.
    pub(crate) fn open(
        source: &Source,
        reading: &Reading,
        messages: &BufferAllocator,
    ) -> Result<Self, Stop> {
        let open = || {
            let (file, bytes, format) = opened(source, reading)?;
            let (schema, hints, batches) = match format {
                Format::Parquet => {
                    let (schema, batches) = parquet::open(file, reading)?;
                    (schema, Vec::new(), Batches::Decoded(batches))
                }
                Format::Ipc | Format::IpcStream => {
                    let messages = Messages::open(file, format, &reading.columns, messages)?;
                    (messages.schema(), Vec::new(), Batches::Messages(messages))
                }
                Format::Csv => {
                    let opened = csv::open(file, bytes, source, reading)?;
                    (
                        opened.schema,
                        opened.hints,
                        Batches::Decoded(opened.batches),
                    )
                }
            };
            Ok(Self {
                name: source.name.clone(),
                format,
                bytes,
                schema,
                hints,
                batches,
            })
        };
        guarded(open).map_err(|stop: Stop| stop.about(|failure| source.failed(failure)))
    }

    /// The next batch; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let next = guarded(|| match &mut self.batches {
            Batches::Decoded(batches) => Ok(batches.next().transpose()?),
            Batches::Messages(messages) => messages.next_batch(),
        });
        next.map_err(|stop: Stop| stop.about(|failure| source::failed(&self.name, failure)))
    }

    /// After a refusal: makes the batch that was refused the next one. Returns the one before if it was
    /// read again, into other memory.
    pub(crate) fn recover(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let recovered = guarded(|| match &mut self.batches {
            Batches::Decoded(_) => Ok(None),
            Batches::Messages(messages) => messages.recover(),
        });
        recovered.map_err(|stop: Stop| stop.about(|failure| source::failed(&self.name, failure)))
    }

    /// Whether batches lie in messages of the allocator that the file was opened with.
    pub(crate) fn has_messages(&self) -> bool {
        matches!(self.batches, Batches::Messages(_))
    }
}

impl Stop {
    fn about(self, f: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(f(failure)),
            refused => refused,
        }
    }

    /// The failure, where nothing is limited.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Refused(error) => Failure::new(error.to_string()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AllocError> for Stop {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory { .. } => Self::Refused(error),
            error => Self::Failed(Failure::new(error.to_string())),
        }
    }
}

impl From<MemoryError> for Stop {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Alloc(error) => error.into(),
            error => Self::Failed(said(error)),
        }
    }
}

impl Format {
    /// By the first bytes if they are a format's, else by the name.
    fn of(source: &Source, head: &[u8], as_csv: bool) -> Result<Self, Failure> {
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

/// An allocator without a limit, for the messages of Arrow IPC where nothing is limited, on a
/// backend that is not the one that is looked at.
pub(crate) fn messages() -> Result<RootAllocator, Failure> {
    RootAllocator::builder()
        .name("messages")
        .backend("system")
        .build()
        .map_err(|error| Failure::new(error.to_string()))
}

/// How much of a file is looked at to tell what it is.
const HEAD: usize = 4096;

/// The file at its start, its length, and what it is.
fn opened(source: &Source, reading: &Reading) -> Result<(File, u64, Format), Failure> {
    let (mut file, bytes) = source.open()?;
    if bytes == 0 {
        return Err(Failure::new("the file is empty"));
    }
    let mut head = Vec::with_capacity(HEAD);
    Read::by_ref(&mut file)
        .take(HEAD as u64)
        .read_to_end(&mut head)
        .map_err(io_failure)?;
    source::rewind(&mut file)?;
    let format = Format::of(source, &head, reading.csv.forced)?;
    Ok((file, bytes, format))
}

/// The schema and the batches with the chosen columns only.
fn narrowed(selection: &Selection, schema: &Schema) -> SchemaRef {
    Arc::new(selection.schema(schema))
}

/// What a library said of a file, with what to do about codecs that are not built in.
fn said(error: impl fmt::Display) -> Failure {
    let text = error.to_string();
    let disabled = [
        "Disabled feature at compile time",
        "requires the lz4",
        "requires the zstd",
    ];
    if disabled.iter().any(|words| text.contains(words)) {
        return no_codec("one of its columns");
    }
    Failure::new(text)
}

/// What to say of a file in a codec that was left out.
fn no_codec(what: &str) -> Failure {
    Failure::new(format!(
        "{what} is compressed in a way that this build does not read: build this tool with `--features codecs`"
    ))
}

fn arrow_said(error: ArrowError) -> Failure {
    said(error)
}

fn io_failure(error: std::io::Error) -> Failure {
    Failure::new(error.to_string())
}

/// Whether a path has the name of a format that is read.
pub(crate) fn is_called_a_table(path: &Path) -> bool {
    let known = [
        "parquet", "pq", "arrow", "arrows", "ipc", "feather", "csv", "tsv", "csv.gz", "tsv.gz",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    known.iter().any(|known| {
        name.strip_suffix(known)
            .is_some_and(|rest| rest.ends_with('.'))
    })
}
