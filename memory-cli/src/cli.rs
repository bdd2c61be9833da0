//! The command line.

use std::path::PathBuf;

use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;
use clap::{Args, Parser, Subcommand};

use crate::generate;
use crate::input::{CsvOptions, csv};
use crate::lists::{self, Element};
use crate::size::Size;

/// See what columnar files need in memory, bound it, and compare allocators.
///
/// Exit codes: 0 done; 1 a file or the machine was at fault; 2 the command line was; 3 it does not
/// fit the limit; 70 memory was not given back, a bug.
#[derive(Debug, Parser)]
#[command(name = "arrow-memory", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it all on data made here: no arguments, no network
    Demo,
    Scan(Scan),
    /// Do the same work on each backend, in processes of their own
    Compare(Compare),
    /// Turn the text of `perf script` into one JSON object per line
    Events(Capture),
    /// List the blocks that a capture shows as never freed, by stack, largest first
    Dangling(Dangling),
    /// Draw a flame graph of folded stacks
    Flame(Flame),
    /// Make test data
    #[command(subcommand)]
    Gen(Gen),
    /// Print a script that completes this command line in a shell
    Completions(Completions),
    /// Print the manual page
    Man,
}

/// Prints a script for a shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Read files into a tree with an allocator per file and column, and report the memory that they need
///
/// Formats: Parquet; Arrow IPC, files and streams; CSV, also with tabs (.tsv) and compressed (.csv.gz).
/// Parquet and Arrow IPC are known by their first bytes, CSV by its name or by --csv.
///
/// Exit codes: 0 done; 1 a file or the machine was at fault; 2 the command line was, a column that is
/// not there included; 3 it does not fit the limit; 70 memory was not given back, a bug.
#[derive(Debug, Args)]
pub(crate) struct Scan {
    /// The files to read; the tables below a directory; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The maximum that the tree may hold, for instance 256MiB
    #[arg(long, value_name = "SIZE", value_parser = limit)]
    pub(crate) limit: Option<Size>,
    /// Where memory comes from: jemalloc, mimalloc, system or arena
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Rows in a batch (Arrow IPC files keep their own batches)
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) batch_size: u32,
    /// The columns to read, separated by commas; s.a is field a of struct s, and names with commas
    /// or dots are in double quotes
    #[arg(long, value_name = "NAME,…", value_parser = columns)]
    pub(crate) columns: Option<Columns>,
    /// Hold all batches, instead of one at a time
    #[arg(long)]
    pub(crate) keep: bool,
    /// Charge decoded buffers where they are, without copying them to the backend
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Show only this many of the columns and files, the largest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top: Option<u32>,
    /// The order of columns and files
    #[arg(long, value_enum, value_name = "ORDER", default_value = "file")]
    pub(crate) sort: Sort,
    #[command(flatten)]
    pub(crate) csv: Csv,
}

/// The order of the rows of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sort {
    /// The order of the files
    File,
    /// The largest first
    Size,
}

/// The options for reading CSV.
#[derive(Debug, Args)]
#[command(next_help_heading = "CSV")]
pub(crate) struct Csv {
    /// Read every file that is neither Parquet nor Arrow IPC as CSV, whatever its name
    #[arg(long)]
    pub(crate) csv: bool,
    /// The separator of fields: a character, or `tab` [default: a comma; a tab in .tsv]
    #[arg(long, value_name = "CHAR", value_parser = csv::delimiter)]
    pub(crate) delimiter: Option<u8>,
    /// The first row is data; columns are called column_1, column_2, …
    #[arg(long)]
    pub(crate) no_header: bool,
    /// Fields with this text are nulls, as empty ones are; may be given more than once [default: only
    /// empty fields are: NA, null and NaN are text]
    #[arg(long = "null", value_name = "TEXT")]
    pub(crate) nulls: Vec<String>,
    /// The types of columns, where the inferred ones are wrong: text, int, float, bool, date, timestamp, or
    /// one of Arrow's
    #[arg(long, value_name = "NAME=TYPE,…", value_parser = types)]
    pub(crate) types: Option<Types>,
}

impl Csv {
    pub(crate) fn options(self) -> CsvOptions {
        CsvOptions {
            forced: self.csv,
            delimiter: self.delimiter,
            no_header: self.no_header,
            nulls: self.nulls,
            types: self.types.map_or_else(Vec::new, |types| types.0),
        }
    }
}

/// Names of columns.
#[derive(Clone, Debug)]
pub(crate) struct Columns(pub(crate) Vec<Element>);

/// Types by column.
#[derive(Clone, Debug)]
pub(crate) struct Types(Vec<(String, DataType)>);

fn columns(text: &str) -> Result<Columns, String> {
    lists::elements(text).map(Columns)
}

fn types(text: &str) -> Result<Types, String> {
    csv::types(text).map(Types)
}

/// Decode, copy, grow, filter and free, as a query would, on each backend.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The file to work on
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The number of threads, each of which does all of the work
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Only these backends, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) backends: Vec<String>,
    /// How often each backend runs; the medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Rows in a batch (Arrow IPC files keep their own batches)
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) batch_size: u32,
    /// The file that the chart is written to
    #[arg(long, value_name = "FILE", default_value = "arrow-memory-compare.svg")]
    pub(crate) chart: PathBuf,
    /// Do the work on this backend, in this process, and print the measurements
    #[arg(long, hide = true)]
    pub(crate) worker: Option<String>,
}

/// A capture of the probes of arrow-memory, or of those documented for Arrow C++.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// The output of `perf script`; standard input if it is missing or `-`
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Lists the blocks that were allocated and never freed.
#[derive(Debug, Args)]
pub(crate) struct Dangling {
    #[command(flatten)]
    pub(crate) capture: Capture,
    /// Print only the largest stacks
    #[arg(long, value_name = "N", conflicts_with = "folded")]
    pub(crate) top: Option<usize>,
    /// Print folded stacks with their bytes, for `arrow-memory flame`; no JSON
    #[arg(long)]
    pub(crate) folded: bool,
    /// End with exit code 3 if more than this was never freed
    #[arg(long, value_name = "SIZE")]
    pub(crate) fail_over: Option<Size>,
}

/// Draws folded stacks: those of sampling, or of `dangling --folded`.
#[derive(Debug, Args)]
pub(crate) struct Flame {
    /// Lines of `frame;frame;… bytes`; standard input if it is missing or `-`
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The file that the SVG is written to
    #[arg(long, value_name = "FILE", default_value = "arrow-memory-flame.svg")]
    pub(crate) out: PathBuf,
    /// The title of the graph
    #[arg(long, value_name = "TEXT", default_value = "Memory held, by stack")]
    pub(crate) title: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Gen {
    /// The tables of TPC-H
    Tpch(Tpch),
}

/// Writes the tables of TPC-H.
#[derive(Debug, Args)]
pub(crate) struct Tpch {
    /// The size of the data: 1 is about a gigabyte as text
    #[arg(long, value_name = "S", value_parser = scale)]
    pub(crate) scale: f64,
    /// The directory to write to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The format of the files
    #[arg(long, value_enum, default_value = "parquet")]
    pub(crate) format: generate::Format,
    /// Only these tables, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) tables: Vec<generate::Table>,
    /// Replace existing files, and try although the disk seems too small
    #[arg(long)]
    pub(crate) force: bool,
}

fn limit(text: &str) -> Result<Size, String> {
    match text.parse()? {
        Size(0) => Err(
            "a limit of 0 leaves no room for anything: give a size such as 256MiB, or leave it out"
                .to_owned(),
        ),
        size => Ok(size),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.001..=1000.0).contains(&scale) => Ok(scale),
        _ => Err("a scale is a number from 0.001 to 1000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
