//! `demo`: three queries under one limit, over data that it generates.

use std::time::Instant;

use serde::Serialize;

use crate::failure::{CANCELLED, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, Document};
use crate::run::{Limit, Options, Outcome, Ran, Session};
use crate::size::Size;
use crate::terminal::{self, Style};
use crate::tpch;

/// The limit of each query.
const LIMIT: &str = "48MiB";
/// The number of partitions, so that the numbers are alike on all machines.
const PARTITIONS: u16 = 1;
/// The number of rows that are shown.
const ROWS: usize = 4;

/// What a query of the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Fits,
    Spills,
    IsRefused,
}

struct Part {
    title: &'static str,
    sql: &'static str,
    expected: Expected,
}

const PARTS: [Part; 3] = [
    Part {
        title: "1. A query that fits: an aggregate keeps a few groups, whatever the size of the table.",
        sql: "SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, count(*) AS n \
              FROM lineitem GROUP BY 1, 2 ORDER BY 1, 2",
        expected: Expected::Fits,
    },
    Part {
        title: "2. A query that spills: the sort is refused memory, writes what it has to disk, and finishes.",
        sql: "SELECT l_orderkey, l_shipdate, l_comment FROM lineitem ORDER BY l_comment, l_orderkey",
        expected: Expected::Spills,
    },
    Part {
        title: "3. A query that is refused: a hash join cannot spill, and its table does not fit.",
        sql: "SELECT count(*) FROM lineitem a JOIN lineitem b ON a.l_orderkey = b.l_orderkey \
              WHERE a.l_comment <> b.l_comment",
        expected: Expected::IsRefused,
    },
];

/// A query of the demo as JSON.
#[derive(Serialize)]
struct JsonPart<'a> {
    sql: &'static str,
    expected: Expected,
    as_expected: bool,
    #[serde(flatten)]
    document: Document<'a>,
}

/// Generates the data in a temporary folder, and runs the queries.
///
/// # Errors
///
/// Also if a query did anything else than it should.
pub(crate) async fn demo(json: bool, interrupt: &Interrupt) -> Result<u8, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("arrow-memory-sql-demo.")
        .tempdir();
    let folder = folder.map_err(|error| {
        let place = std::env::temp_dir();
        Failure::new(format!(
            "cannot make a folder in `{}`: {error}",
            place.display()
        ))
    })?;
    let begun = Instant::now();
    tpch::generate_apart(folder.path())?;
    let file = folder.path().join(tpch::LINEITEM);
    let bytes = std::fs::metadata(&file).map_or(0, |file| file.len());
    if !json {
        introduce(
            usize::try_from(bytes).unwrap_or(usize::MAX),
            begun.elapsed().as_secs_f64(),
        )?;
    }
    let limit: Size = LIMIT.parse().map_err(Failure::usage)?;
    let table = file.to_string_lossy().parse().map_err(Failure::new)?;
    let options = Options {
        limit: Limit::of(Some(limit.0)),
        partitions: Some(PARTITIONS),
        settings: Vec::new(),
        tables: vec![table],
    };
    let session = Session::open(options, interrupt).await?;
    let mut all = Vec::new();
    for part in &PARTS {
        if !json {
            announce(part)?;
        }
        let ran = session.run(part.sql, ROWS, !json).await?;
        if ran.outcome == Outcome::Cancelled {
            return Err(Failure::of(CANCELLED, "the demo was cancelled"));
        }
        if !json {
            tell(&ran, &session)?;
        }
        all.push((part, ran));
    }
    if json {
        let queries = all.iter().map(|(part, ran)| part.json(&session, ran));
        terminal::print_json(&serde_json::json!({
            "scale": tpch::SCALE,
            "queries": queries.collect::<Vec<_>>(),
        }))?;
    }
    conclude(&all, json)
}

impl Part {
    fn is_as_expected(&self, ran: &Ran) -> bool {
        let (finished, spilled) = (
            ran.outcome == Outcome::Finished,
            ran.report.spilled_bytes > 0,
        );
        match self.expected {
            Expected::Fits => finished && !spilled,
            Expected::Spills => finished && spilled,
            Expected::IsRefused => matches!(ran.outcome, Outcome::Refused(_)),
        }
    }

    fn json<'a>(&self, session: &'a Session, ran: &'a Ran) -> JsonPart<'a> {
        JsonPart {
            sql: self.sql,
            expected: self.expected,
            as_expected: self.is_as_expected(ran),
            document: Document::of(session, ran),
        }
    }
}

fn introduce(bytes: usize, seconds: f64) -> Result<(), Failure> {
    let style = Style::stdout();
    terminal::print(&format!(
        "{}\n  The table lineitem of TPC-H at scale {}, {} of Parquet, made in {seconds:.1} s.\n\n",
        style.bold(&format!(
            "What do queries do in {LIMIT}, and which operator needs how much?"
        )),
        tpch::SCALE,
        Size(bytes),
    ))
}

fn announce(part: &Part) -> Result<(), Failure> {
    let style = Style::stdout();
    let command = format!(
        "$ arrow-memory-sql --limit {LIMIT} --partitions {PARTITIONS} --table {} \\\n    \"{}\"",
        tpch::LINEITEM,
        part.sql
    );
    terminal::print(&format!(
        "{}\n{}\n\n",
        style.bold(part.title),
        style.accent(&command)
    ))
}

fn tell(ran: &Ran, session: &Session) -> Result<(), Failure> {
    // On standard output: here a refusal is no error.
    let said = output::error(&ran.outcome).map_or_else(String::new, |said| said + "\n\n");
    terminal::print(&format!("{said}{}\n", output::text(ran, &session.limit)))
}

fn conclude(all: &[(&Part, Ran)], json: bool) -> Result<u8, Failure> {
    let wrong = all.iter().find(|(part, ran)| !part.is_as_expected(ran));
    if let Some((part, ran)) = wrong {
        let (outcome, spilled) = (ran.outcome.name(), Size(ran.report.spilled_bytes));
        return Err(Failure::new(format!(
            "the demo did not show what it should: `{}` {outcome}, and spilled {spilled}",
            part.sql
        )));
    }
    if !json {
        terminal::print("Each query did what it should, and its allocators are at zero again.\n")?;
    }
    Ok(0)
}
