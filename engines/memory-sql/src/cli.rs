//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::size::Size;
use crate::tables::Table;

/// The smallest limit. Below it not even the first batch of a table can be decoded.
const SMALLEST: usize = 1 << 20;

/// Runs a query of DataFusion under a memory limit, and says which operator declared and held how
/// much, what was spilled, and what was refused.
#[derive(Debug, Parser)]
#[command(
    name = "arrow-memory-sql",
    version,
    args_conflicts_with_subcommands = true,
    verbatim_doc_comment,
    override_usage = "arrow-memory-sql [OPTIONS] --table [NAME=]PATH <SQL>\n       arrow-memory-sql demo [--json]",
    after_help = AFTER
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) query: Query,
}

const AFTER: &str = "\
Example:
  arrow-memory-sql --limit 256MiB --table lineitem.parquet \\
      \"SELECT l_returnflag, count(*) FROM lineitem GROUP BY 1\"

The limit is of what the operators declare and hold. Decoders and other memory that nothing
declares come on top: the line `process` of the output has what the process used.

Exit codes:
  0    the query finished
  1    the query, a file or the machine was at fault
  2    the command line was
  3    the query was refused memory
  70   memory was not given back, a bug
  130  the query was cancelled, by Ctrl-C or a signal to terminate";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run three queries under one limit: one fits, one spills, one is refused
    Demo(Demo),
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print one JSON document on standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Only generate the data, in this folder.
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) generate: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The query, or `-` for standard input; of several statements the last one
    #[arg(value_name = "SQL", conflicts_with = "file")]
    pub(crate) sql: Option<String>,
    /// Read the query from a file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A file of Parquet or CSV, or a folder of them; can be repeated
    #[arg(short, long = "table", value_name = "[NAME=]PATH")]
    pub(crate) tables: Vec<Table>,
    /// The memory that the query may use, such as 256MiB
    /// [default: 70 % of what the machine or the cgroup has]
    #[arg(short, long, value_name = "SIZE", value_parser = limit, verbatim_doc_comment)]
    pub(crate) limit: Option<Size>,
    /// The number of partitions that run at once [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) partitions: Option<u16>,
    /// An option of DataFusion, such as datafusion.execution.batch_size=1024
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// The number of rows that are printed; the others are counted
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) max_rows: usize,
    /// Print one JSON document on standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

fn limit(text: &str) -> Result<Size, String> {
    match text.parse()? {
        Size(bytes) if bytes < SMALLEST => Err(format!(
            "{} is too small for any query: give 1MiB or more",
            Size(bytes)
        )),
        size => Ok(size),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.starts_with("datafusion.") => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write an option of DataFusion and its value, as in datafusion.execution.batch_size=1024".to_owned()),
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

    #[test]
    fn the_help_fits_100_columns() {
        let help = Cli::command().render_long_help().to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
