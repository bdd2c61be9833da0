//! Files as streams of record batches: Parquet, Arrow IPC (files and streams) and CSV.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_csv;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::ProjectionMask;
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_memory_arrow::arrow_60::ipc::{IpcFileReader, IpcStreamReader};
use arrow_memory_core::{BufferAllocator, RootAllocator};

use crate::failure::Failure;
use crate::guarded::guarded;

/// One file that is open, its schema read.
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// The length of the file in bytes.
    pub(crate) bytes: u64,
    /// The rows it has, where the format says so in front.
    pub(crate) rows: Option<u64>,
    /// The columns that will be read.
    pub(crate) schema: SchemaRef,
    batches: Batches,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

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

impl Input {
    /// Opens a file whose first bytes, or whose name, say what it is. `columns` are names; all if
    /// there are none.
    ///
    /// The messages of Arrow IPC are read into memory of `messages`; the decoders of other formats
    /// have memory of their own.
    ///
    /// Not by the readers of arrow-memory-arrow for those: they adopt each batch as it appears, which
    /// a scan does itself, into the tree that is looked at, where it can say what was refused and what
    /// would have been needed. A tree in between would be charged for the same bytes and tell nothing.
    pub(crate) fn open(
        path: &Path,
        columns: &[String],
        batch_size: usize,
        messages: &BufferAllocator,
    ) -> Result<Self, Failure> {
        guarded(|| Self::open_unguarded(path, columns, batch_size, messages))
            .map_err(|failure| failure.about(format_args!("cannot read `{}`", path.display())))
    }

    fn open_unguarded(
        path: &Path,
        columns: &[String],
        batch_size: usize,
        messages: &BufferAllocator,
    ) -> Result<Self, Failure> {
        let mut file = File::open(path).map_err(|error| Failure::new(error.to_string()))?;
        let metadata = file.metadata().map_err(io_failure)?;
        if !metadata.is_file() {
            return Err(Failure::new(
                "it is not a regular file; name the files in it",
            ));
        }
        if metadata.len() == 0 {
            return Err(Failure::new("the file is empty"));
        }
        let mut head = Vec::with_capacity(HEAD);
        let limit = HEAD as u64;
        Read::by_ref(&mut file)
            .take(limit)
            .read_to_end(&mut head)
            .map_err(io_failure)?;
        file.rewind().map_err(io_failure)?;
        let format = Format::of(path, &head)?;
        let source = match format {
            Format::Parquet => parquet(file, columns, batch_size)?,
            Format::Ipc => ipc_file(file, columns, messages)?,
            Format::IpcStream => ipc_stream(file, columns, messages)?,
            Format::Csv => csv(file, metadata.len(), columns, batch_size)?,
        };
        Ok(Self {
            path: path.to_owned(),
            format,
            bytes: metadata.len(),
            rows: source.rows,
            schema: source.schema,
            batches: source.batches,
        })
    }

    /// The next batch; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let next = guarded(|| self.batches.next().transpose().map_err(said));
        next.map_err(|failure| failure.about(format_args!("cannot read `{}`", self.path.display())))
    }
}

impl Format {
    /// By the first bytes if they are a format's, else by the name.
    fn of(path: &Path, head: &[u8]) -> Result<Self, Failure> {
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        if head.starts_with(b"ARROW1") {
            return Ok(Self::Ipc);
        }
        if head.starts_with(&[0xFF; 4]) {
            return Ok(Self::IpcStream);
        }
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("parquet" | "pq") => Err(Failure::new(
                "it is called Parquet but does not start with `PAR1`: it is damaged, or another format",
            )),
            Some("arrow" | "arrows" | "ipc" | "feather") => Err(Failure::new(
                "it is called Arrow IPC but does not start as one: it is damaged, or another format (version 1 of Feather is not Arrow IPC)",
            )),
            Some("csv" | "txt") if head.contains(&0) => Err(Failure::new(
                "it is called CSV but holds bytes that no text has",
            )),
            Some("csv" | "txt") => Ok(Self::Csv),
            _ => Err(Failure::new(
                "it is neither Parquet nor Arrow IPC; to read it as CSV, call it .csv",
            )),
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

/// An allocator for the messages of Arrow IPC: no limit, on a backend that is not the one that is
/// looked at.
pub(crate) fn messages() -> Result<RootAllocator, Failure> {
    RootAllocator::builder()
        .name("messages")
        .backend("system")
        .build()
        .map_err(|error| Failure::new(error.to_string()))
}

/// How much of a file is looked at to tell what it is.
const HEAD: usize = 4096;

/// How many rows are looked at to tell the types of a large CSV file's columns.
const INFERRED_ROWS: usize = 100_000;

/// Up to this length, all of a CSV file is.
const WHOLLY_INFERRED: u64 = 64 << 20;

struct Source {
    rows: Option<u64>,
    schema: SchemaRef,
    batches: Batches,
}

fn parquet(file: File, columns: &[String], batch_size: usize) -> Result<Source, Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(said)?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
    let indices = chosen(builder.schema(), columns)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), indices);
    let reader = builder
        .with_batch_size(batch_size)
        .with_projection(mask)
        .build()
        .map_err(said)?;
    let schema =
        arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatchReader::schema(&reader);
    Ok(Source {
        rows,
        schema,
        batches: Box::new(reader),
    })
}

fn ipc_file(file: File, columns: &[String], messages: &BufferAllocator) -> Result<Source, Failure> {
    let mut reader = IpcFileReader::new(file, messages).map_err(said)?;
    let indices = chosen(&reader.schema(), columns)?;
    if !columns.is_empty() {
        reader = reader.with_projection(indices).map_err(said)?;
    }
    Ok(Source {
        rows: None,
        schema: reader.schema(),
        batches: Box::new(reader.map(|batch| batch.map_err(ArrowError::from))),
    })
}

fn ipc_stream(
    file: File,
    columns: &[String],
    messages: &BufferAllocator,
) -> Result<Source, Failure> {
    let reader = IpcStreamReader::new(BufReader::new(file), messages).map_err(said)?;
    let indices = chosen(&reader.schema(), columns)?;
    let schema = reader.schema().project(&indices).map_err(said)?;
    let chosen = move |batch: RecordBatch| batch.project(&indices);
    Ok(Source {
        rows: None,
        schema: Arc::new(schema),
        batches: Box::new(reader.map(move |batch| chosen(batch?))),
    })
}

fn csv(
    mut file: File,
    length: u64,
    columns: &[String],
    batch_size: usize,
) -> Result<Source, Failure> {
    let format = arrow_csv::reader::Format::default().with_header(true);
    let looked_at = (length > WHOLLY_INFERRED).then_some(INFERRED_ROWS);
    let (schema, _) = format
        .infer_schema(BufReader::new(&file), looked_at)
        .map_err(said)?;
    file.rewind().map_err(io_failure)?;
    let indices = chosen(&schema, columns)?;
    let reader = arrow_csv::ReaderBuilder::new(Arc::new(schema))
        .with_format(format)
        .with_batch_size(batch_size)
        .with_projection(indices)
        .build(file)
        .map_err(said)?;
    Ok(Source {
        rows: None,
        schema: reader.schema(),
        batches: Box::new(reader),
    })
}

/// The indices of the columns of these names, in the file's order; all if there are no names.
fn chosen(schema: &Schema, columns: &[String]) -> Result<Vec<usize>, Failure> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    for column in columns {
        if !names().any(|name| name == column) {
            let known: Vec<&str> = names().collect();
            return Err(Failure::new(format!(
                "it has no column `{column}`; it has: {}",
                known.join(", ")
            )));
        }
    }
    let wanted = |name: &str| columns.is_empty() || columns.iter().any(|column| column == name);
    Ok(names()
        .enumerate()
        .filter_map(|(index, name)| wanted(name).then_some(index))
        .collect())
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
        return Failure::new(format!(
            "{text}: build this tool with `--features codecs` to read it"
        ));
    }
    Failure::new(text)
}

fn io_failure(error: std::io::Error) -> Failure {
    Failure::new(error.to_string())
}
