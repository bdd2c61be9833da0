//! Files as streams of record batches: Parquet, Arrow IPC (files and streams) and CSV.

use std::fs::File;
use std::io::Read;

use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::SchemaRef;
use arrow_memory_core::BufferAllocator;

use crate::failure::Failure;
use crate::guarded::guarded;

pub(crate) mod csv;
mod encryption;
mod format;
mod ipc;
mod parquet;
mod records;
mod selection;
mod source;
mod stop;

use format::Decoded;
pub(crate) use format::{CsvOptions, Format, Reading};
use ipc::Messages;
pub(crate) use ipc::messages;
pub(crate) use source::{Source, sources};
pub(crate) use stop::Stop;
use stop::io_failure;

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
