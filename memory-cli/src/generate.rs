//! `gen tpch`: the tables of TPC-H as files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_memory_arrow::arrow_60::deps::arrow_array::{RecordBatch, RecordBatchReader};
use arrow_memory_arrow::arrow_60::deps::arrow_csv;
use arrow_memory_arrow::arrow_60::deps::arrow_ipc::writer::FileWriter;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::SchemaRef;
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::ArrowWriter;
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::arrow_writer::ArrowWriterOptions;
use arrow_memory_arrow::arrow_60::deps::parquet::basic::Compression;
use arrow_memory_arrow::arrow_60::deps::parquet::file::properties::WriterProperties;
use tpchgen::generators as rows;
use tpchgen_arrow as tables;

use crate::failure::Failure;
use crate::size::{grouped, human};
use crate::terminal;

/// A format that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Compressed with Snappy.
    Parquet,
    /// An Arrow IPC file.
    Ipc,
    /// With a header.
    Csv,
}

/// A table of TPC-H.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Table {
    Nation,
    Region,
    Part,
    Supplier,
    Partsupp,
    Customer,
    Orders,
    Lineitem,
}

/// What is to be generated.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// 1 is about a gigabyte as text.
    pub(crate) scale: f64,
    pub(crate) out: PathBuf,
    pub(crate) format: Format,
    /// All if empty.
    pub(crate) tables: Vec<Table>,
    pub(crate) progress: bool,
}

/// One file that was written.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Written {
    pub(crate) fn line(&self) -> String {
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        format!(
            "{}  {} rows, {}\n",
            self.path.display(),
            grouped(self.rows),
            human(bytes)
        )
    }
}

/// Writes each table to a file of its own, which appears when it is complete.
pub(crate) fn generate(options: &Options) -> Result<Vec<Written>, Failure> {
    let out = &options.out;
    fs::create_dir_all(out).map_err(|error| {
        Failure::new(format!(
            "cannot create directory `{}`: {error}",
            out.display()
        ))
    })?;
    let tables = if options.tables.is_empty() {
        &Table::ALL
    } else {
        options.tables.as_slice()
    };
    tables
        .iter()
        .map(|&table| write_table(table, options))
        .collect()
}

impl Table {
    const ALL: [Self; 8] = [
        Self::Nation,
        Self::Region,
        Self::Part,
        Self::Supplier,
        Self::Partsupp,
        Self::Customer,
        Self::Orders,
        Self::Lineitem,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nation => "nation",
            Self::Region => "region",
            Self::Part => "part",
            Self::Supplier => "supplier",
            Self::Partsupp => "partsupp",
            Self::Customer => "customer",
            Self::Orders => "orders",
            Self::Lineitem => "lineitem",
        }
    }

    fn batches(self, scale: f64) -> Box<dyn RecordBatchReader> {
        match self {
            Self::Nation => Box::new(tables::NationArrow::new(rows::NationGenerator::new(
                scale, 1, 1,
            ))),
            Self::Region => Box::new(tables::RegionArrow::new(rows::RegionGenerator::new(
                scale, 1, 1,
            ))),
            Self::Part => Box::new(tables::PartArrow::new(rows::PartGenerator::new(
                scale, 1, 1,
            ))),
            Self::Supplier => Box::new(tables::SupplierArrow::new(rows::SupplierGenerator::new(
                scale, 1, 1,
            ))),
            Self::Partsupp => Box::new(tables::PartSuppArrow::new(rows::PartSuppGenerator::new(
                scale, 1, 1,
            ))),
            Self::Customer => Box::new(tables::CustomerArrow::new(rows::CustomerGenerator::new(
                scale, 1, 1,
            ))),
            Self::Orders => Box::new(tables::OrderArrow::new(rows::OrderGenerator::new(
                scale, 1, 1,
            ))),
            Self::Lineitem => Box::new(tables::LineItemArrow::new(rows::LineItemGenerator::new(
                scale, 1, 1,
            ))),
        }
    }
}

impl Format {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Ipc => "arrow",
            Self::Csv => "csv",
        }
    }
}

fn write_table(table: Table, options: &Options) -> Result<Written, Failure> {
    let name = format!("{}.{}", table.name(), options.format.extension());
    let path = options.out.join(&name);
    // Beside it, so that renaming it is one step; by process, so that two do not write to one.
    let partial = options.out.join(format!(".{name}.{}", std::process::id()));
    let cannot = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot {what} `{}`: {error}", path.display()))
    };
    let outcome = write_file(table, options, &partial)
        .map_err(|error| cannot("write", &path, error.as_ref()))
        .and_then(|rows| {
            fs::rename(&partial, &path).map_err(|error| cannot("write", &path, &error))?;
            Ok(rows)
        });
    let rows = outcome.inspect_err(|_| {
        // What is left of it is of no use; that it cannot go either changes nothing.
        let _ = fs::remove_file(&partial);
    })?;
    let metadata = fs::metadata(&path).map_err(|error| cannot("read", &path, &error))?;
    Ok(Written {
        path,
        rows,
        bytes: metadata.len(),
    })
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn write_file(table: Table, options: &Options, path: &Path) -> Result<u64, AnyError> {
    let mut file = BufWriter::new(File::create(path)?);
    let batches = table.batches(options.scale);
    let bar = if options.progress {
        terminal::progress(None, table.name())
    } else {
        indicatif::ProgressBar::hidden()
    };
    let mut rows = 0;
    let mut writer = Writer::new(options.format, &mut file, batches.schema())?;
    for batch in batches {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        writer.write(&batch)?;
        bar.set_position(rows);
    }
    writer.finish()?;
    file.flush()?;
    file.into_inner()?.sync_all()?;
    bar.finish_and_clear();
    Ok(rows)
}

enum Writer<W: Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    Ipc(Box<FileWriter<W>>),
    Csv(Box<arrow_csv::Writer<W>>),
}

impl<W: Write + Send> Writer<W> {
    fn new(format: Format, file: W, schema: SchemaRef) -> Result<Self, AnyError> {
        Ok(match format {
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .build();
                // Without Arrow's schema beside Parquet's, strings are read as strings, not views.
                let options = ArrowWriterOptions::new()
                    .with_properties(properties)
                    .with_skip_arrow_metadata(true);
                let writer = ArrowWriter::try_new_with_options(file, Arc::clone(&schema), options)?;
                Self::Parquet(Box::new(writer))
            }
            Format::Ipc => Self::Ipc(Box::new(FileWriter::try_new(file, &schema)?)),
            Format::Csv => Self::Csv(Box::new(arrow_csv::Writer::new(file))),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), AnyError> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::Ipc(writer) => writer.write(batch)?,
            Self::Csv(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), AnyError> {
        match self {
            Self::Parquet(writer) => drop(writer.close()?),
            Self::Ipc(mut writer) => writer.finish()?,
            Self::Csv(_) => {}
        }
        Ok(())
    }
}
