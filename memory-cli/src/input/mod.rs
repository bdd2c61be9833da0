//! Reads files as record batches: Parquet, Arrow IPC (files and streams) and CSV.

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

/// The facts about a file that are known without reading its values.
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    pub(crate) format: Format,
    /// The number of rows, if the format stores it in front or in a footer.
    pub(crate) rows: Option<u64>,
}

/// An open file whose schema was read.
pub(crate) struct Input {
    name: String,
    pub(crate) format: Format,
    /// The length of the file in bytes.
    pub(crate) bytes: u64,
    /// The columns that will be read.
    pub(crate) schema: SchemaRef,
    /// Hints about options that may be missing or wrong.
    pub(crate) hints: Vec<String>,
    batches: Batches,
}

/// The source of batches.
enum Batches {
    /// A decoder that allocates its own memory.
    Decoded(Decoded),
    /// A reader of messages in memory of an allocator.
    Messages(Messages),
}

impl Glance {
    /// Opens a file, reads its header or footer, and closes it.
    ///
    /// # Errors
    ///
    /// If the format or the codec is not supported, if the file lacks a column of `reading`, or if the header
    /// or footer is damaged.
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
    /// Opens a file. Its first bytes, or its name, determine its format.
    ///
    /// The messages of Arrow IPC are read into memory of `messages`; the decoders of other formats allocate
    /// their own memory. This does not use the readers of arrow-memory-arrow, which adopt each batch as they
    /// return it: a scan adopts batches itself, into its own tree, where it can report a refusal and compute
    /// the need.
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

    /// Reads the next batch; returns `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let next = guarded(|| match &mut self.batches {
            Batches::Decoded(batches) => Ok(batches.next().transpose()?),
            Batches::Messages(messages) => messages.next_batch(),
        });
        next.map_err(|stop: Stop| stop.about(|failure| source::failed(&self.name, failure)))
    }

    /// Makes the refused batch the next one. Returns the batch before it if that was read again, into other
    /// memory.
    pub(crate) fn recover(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let recovered = guarded(|| match &mut self.batches {
            Batches::Decoded(_) => Ok(None),
            Batches::Messages(messages) => messages.recover(),
        });
        recovered.map_err(|stop: Stop| stop.about(|failure| source::failed(&self.name, failure)))
    }

    /// Whether batches share the memory of messages, which were read into the allocator of `open`.
    pub(crate) fn has_messages(&self) -> bool {
        matches!(self.batches, Batches::Messages(_))
    }
}

/// The number of first bytes that are read to identify the format.
const HEAD: usize = 4096;

/// The file at its start, its length, and its format.
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
