//! `gen tpch`: writes the tables of TPC-H as files.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
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
use crate::output::{self, Pending};
use crate::size::{counted, human};
use crate::terminal;
use crate::text::escaped;

/// The format of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Parquet, compressed with Snappy.
    Parquet,
    /// An Arrow IPC file.
    Ipc,
    /// CSV with a header.
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

/// The tables to generate, and where.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The size of the data: 1 is about a gigabyte as text.
    pub(crate) scale: f64,
    pub(crate) out: PathBuf,
    pub(crate) format: Format,
    /// The tables to generate; all if empty.
    pub(crate) tables: Vec<Table>,
    /// Whether to replace existing files, and to try although the disk seems too small.
    pub(crate) force: bool,
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
            "{}  {}, {}\n",
            escaped(&self.path.display().to_string()),
            counted(self.rows, "row"),
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
    if !options.force {
        check(tables, options)?;
    }
    tables
        .iter()
        .map(|&table| write_table(table, options))
        .collect()
}

/// Refuses to replace files, and to write more than the disk has room for.
fn check(tables: &[Table], options: &Options) -> Result<(), Failure> {
    for &table in tables {
        let path = path_of(table, options);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Failure::new(format!(
                "`{}` exists: give --force to replace it",
                path.display()
            )));
        }
    }
    let needed: f64 = tables
        .iter()
        .map(|table| table.bytes(options.format) * options.scale)
        .sum();
    let out = options.out.display();
    match output::free_space(&options.out) {
        Some(free) if needed > free as f64 => {
            let size = |bytes: f64| human(bytes as usize);
            Err(Failure::new(format!(
                "`{out}` has {} free, and these tables take about {}: give a smaller --scale, or --force to try",
                size(free as f64),
                size(needed)
            )))
        }
        _ => Ok(()),
    }
}

fn path_of(table: Table, options: &Options) -> PathBuf {
    let name = format!("{}.{}", table.name(), options.format.extension());
    options.out.join(name)
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

    /// The approximate size of the table's file at scale 1 in bytes, as measured at scale 0.02. (The tables
    /// of nations and regions have one size.)
    fn bytes(self, format: Format) -> f64 {
        let (parquet, ipc, csv) = match self {
            Self::Nation | Self::Region => (0.0, 0.0, 0.0),
            Self::Part => (8.0, 41.0, 24.0),
            Self::Supplier => (1.0, 2.5, 1.5),
            Self::Partsupp => (46.0, 142.0, 118.0),
            Self::Customer => (14.0, 37.0, 25.0),
            Self::Orders => (61.0, 257.0, 167.0),
            Self::Lineitem => (186.0, 1320.0, 750.0),
        };
        let megabytes: f64 = match format {
            Format::Parquet => parquet,
            Format::Ipc => ipc,
            Format::Csv => csv,
        };
        megabytes * 1e6
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

/// Writes a table to a file that has no name, or another one, until it is complete.
fn write_table(table: Table, options: &Options) -> Result<Written, Failure> {
    let path = path_of(table, options);
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot {what} `{}`: {error}", path.display()))
    };
    if path.is_dir() {
        return Err(cannot("write", &"it is a directory"));
    }
    let pending = Pending::beside(&path).map_err(|error| cannot("write", &error))?;
    let rows =
        write_file(table, options, &pending).map_err(|error| cannot("write", &error.as_ref()))?;
    let published = pending.publish(&path, options.force);
    published.map_err(|error| cannot("write", &error))?;
    let metadata = fs::metadata(&path).map_err(|error| cannot("read", &error))?;
    Ok(Written {
        rows,
        bytes: metadata.len(),
        path,
    })
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn write_file(table: Table, options: &Options, pending: &Pending) -> Result<u64, AnyError> {
    let mut file = BufWriter::new(pending.file());
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
                // Without Arrow's schema beside Parquet's, strings are read as strings and not as views.
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
