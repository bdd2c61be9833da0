//! The 22 queries of TPC-H, their data, and their answers at scale 0.1.

mod data;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::FutureExt;
use futures::future::BoxFuture;

pub use data::{TABLES, tables};

use crate::configuration::Limited;
use crate::folders;
use crate::outcome::{Outcome, Rows};
use crate::watch::watch;

/// The scale of the answers.
pub const ANSWERS_SCALE: f64 = 0.1;

/// A query of TPC-H.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its number, from 1 to 22.
    pub number: usize,
    /// Its text.
    pub sql: String,
    /// The rows of its answer at scale 0.1, a line each.
    pub answer: Vec<String>,
}

/// Returns all queries, as DataFusion's sqllogictest files have them.
///
/// # Panics
///
/// If the files are not what they were in version 55.2.
pub fn queries() -> Vec<Query> {
    let query = |number| {
        let file = folders::test_files().join(format!("tpch/answers/q{number}.slt.part"));
        let text = std::fs::read_to_string(&file);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let (sql, answer) = query_and_answer(&text)
            .unwrap_or_else(|| panic!("{} is not one query with its answer", file.display()));
        Query {
            number,
            sql,
            answer,
        }
    };
    (1..=22).map(query).collect()
}

/// Reads the only record of a file: a line `query` with the types of the columns, the statement, a line of hyphens, and the
/// rows, up to an empty line or the end. `None` if the file is not like that.
fn query_and_answer(text: &str) -> Option<(String, Vec<String>)> {
    let mut lines = text.lines();
    lines.find(|line| line.starts_with("query "))?;
    let sql: Vec<&str> = lines.by_ref().take_while(|line| *line != "----").collect();
    let answer = lines.by_ref().take_while(|line| !line.is_empty());
    let answer: Vec<String> = answer.map(str::to_owned).collect();
    let complete = !answer.is_empty() && lines.all(str::is_empty);
    complete.then(|| (sql.join("\n"), answer))
}

/// Which joins the optimizer prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// Hash joins, DataFusion's default. They do not spill.
    Hash,
    /// Sort-merge joins, which spill.
    SortMerge,
}

impl fmt::Display for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash joins",
            Self::SortMerge => "sort-merge joins",
        })
    }
}

/// Returns the settings of a session.
pub fn config(partitions: usize, joins: Joins) -> SessionConfig {
    SessionConfig::new()
        .with_target_partitions(partitions)
        .set_bool(
            "datafusion.optimizer.prefer_hash_join",
            joins == Joins::Hash,
        )
}

/// Registers the tables that [`tables`] wrote to `folder`.
///
/// # Errors
///
/// If a file cannot be read.
pub fn register<'a>(session: &'a SessionContext, folder: &'a Path) -> BoxFuture<'a, Result<()>> {
    // Boxed, so that DataFusion's part of it is compiled here once.
    async move {
        for table in TABLES {
            let file = folder.join(format!("{table}.parquet"));
            session
                .register_parquet(table, file.to_string_lossy(), ParquetReadOptions::default())
                .await?;
        }
        Ok(())
    }
    .boxed()
}

/// Runs a query in a session of scale 0.1 and judges its answer.
pub async fn outcome(
    limited: &Limited,
    session: &SessionContext,
    query: &Query,
    deadline: Duration,
) -> Outcome {
    let name = format!("q{}", query.number);
    let run = limited.execute(session, &query.sql, &name, Rows::read);
    Outcome::of(watch(run, deadline).await, |rows| {
        rows.differ_from_lines(&query.answer)
    })
}
