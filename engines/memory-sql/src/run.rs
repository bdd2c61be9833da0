//! Runs a query under its limit.

use std::sync::Arc;
use std::time::Instant;

use arrow_memory_datafusion::{DataFusionMemory, QueryMemory, QueryReport, RootAllocator};
use arrow_memory_host::HostLimit;
use datafusion::arrow::array::Array;
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::DFParser;
use futures::StreamExt;

use crate::failure::{BUG, Failure};
use crate::interrupt::Interrupt;
use crate::process::{self, Resident};
use crate::tables::{self, Table};
use crate::watch::Watch;

/// The part of the host's limit that a query may use if the command line does not say.
const PART: f64 = 0.7;

/// What a query may use, and who says so.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) bytes: Option<usize>,
    /// `None` if the command line says so.
    pub(crate) from: Option<String>,
}

impl Limit {
    pub(crate) fn of(given: Option<usize>) -> Self {
        if given.is_some() {
            return Self {
                bytes: given,
                from: None,
            };
        }
        let (bytes, from) = match HostLimit::read() {
            Ok(host) => {
                // What follows are files that say more or nothing.
                let source = host.source().split(';').next().unwrap_or_default();
                let from = format!("70 % of {source}");
                (Some(host.clone().fraction(PART).bytes()), from)
            }
            Err(error) => (
                None,
                format!("none, since the host's is not known: {error}"),
            ),
        };
        Self {
            bytes,
            from: Some(from),
        }
    }
}

/// What a session is opened with.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) limit: Limit,
    pub(crate) partitions: Option<u16>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) tables: Vec<Table>,
}

/// A session of DataFusion under a limit.
pub(crate) struct Session {
    session: SessionContext,
    memory: DataFusionMemory,
    pub(crate) limit: Limit,
    pub(crate) partitions: usize,
    tables: Vec<String>,
    interrupt: Interrupt,
}

/// How a query ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    /// It was refused memory; the text says who asked, and who had how much.
    Refused(String),
    /// DataFusion says why.
    Failed(String),
    Cancelled,
}

/// A query that has run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    pub(crate) schema: SchemaRef,
    /// All rows that came.
    pub(crate) rows: u64,
    /// The first of them, as text.
    pub(crate) first: Vec<Row>,
    /// After the end; if it did not finish, at the instant at which it ended.
    pub(crate) report: QueryReport,
    pub(crate) before: Resident,
    pub(crate) after: Resident,
}

impl Session {
    pub(crate) async fn open(options: Options, interrupt: &Interrupt) -> Result<Self, Failure> {
        let limit = options.limit.bytes.unwrap_or(usize::MAX);
        let root = RootAllocator::builder().limit(limit).credit(0).build();
        let root = root.map_err(|error| Failure::new(error.to_string()))?;
        let memory = DataFusionMemory::builder(&root).query_limit(limit).build();
        let mut config = SessionConfig::new().with_information_schema(true);
        // A folder is all that is below it.
        config
            .options_mut()
            .execution
            .listing_table_ignore_subdirectory = false;
        if let Some(partitions) = options.partitions {
            config = config.with_target_partitions(partitions.into());
        }
        for (key, value) in &options.settings {
            let set = config.options_mut().set(key, value);
            set.map_err(|error| Failure::usage(format!("--set {key}: {}", plain(&error))))?;
        }
        let partitions = config.target_partitions();
        let session = memory
            .session(config)
            .map_err(|error| Failure::new(plain(&error)))?;
        interrupt
            .or(tables::register(&session, &options.tables))
            .await?;
        Ok(Self {
            session,
            memory,
            limit: options.limit,
            partitions,
            tables: options.tables.into_iter().map(|table| table.name).collect(),
            interrupt: interrupt.clone(),
        })
    }

    /// Runs the statements, and watches the last one. The first `max_rows` of its rows are kept.
    ///
    /// # Errors
    ///
    /// An error before the query began. What comes later is its outcome.
    pub(crate) async fn run(
        &self,
        sql: &str,
        max_rows: usize,
        progress: bool,
    ) -> Result<Ran, Failure> {
        let frame = self.interrupt.or(self.frame(sql)).await?;
        let schema = Arc::clone(frame.schema().inner());
        process::forget_peak();
        let before = Resident::read();
        let begun = Instant::now();
        let query = self.memory.query("query").admit().await;
        let query = Arc::new(query.map_err(|error| Failure::new(error.to_string()))?);
        let watch = Watch::over(&query, &self.interrupt, progress);
        let mut results = Results::new(max_rows);
        let (ended, at_the_end) = match query.execute_stream(frame).await {
            Ok(stream) => results.drain(stream, &query).await,
            Err(error) => (Err(error), query.report()),
        };
        drop(watch);
        let seconds = begun.elapsed().as_secs_f64();
        let outcome = self.outcome(ended);
        let after = Resident::read();
        let finished = query
            .finish()
            .await
            .map_err(|held| Failure::of(BUG, held.to_string()))?;
        Ok(Ran {
            report: match outcome {
                Outcome::Finished => finished,
                _ => at_the_end,
            },
            outcome,
            seconds,
            schema,
            rows: results.rows,
            first: results.first,
            before,
            after,
        })
    }

    /// Runs all statements but the last one, and plans that.
    async fn frame(&self, sql: &str) -> Result<DataFrame, Failure> {
        let explain = |error: DataFusionError| self.explain(&error);
        let statements = DFParser::parse_sql(sql).map_err(explain)?;
        let count = statements.len();
        for (index, statement) in statements.into_iter().enumerate() {
            let plan = self
                .session
                .state()
                .statement_to_plan(statement)
                .await
                .map_err(explain)?;
            let frame = self
                .session
                .execute_logical_plan(plan)
                .await
                .map_err(explain)?;
            if index + 1 == count {
                return Ok(frame);
            }
            frame.collect().await.map_err(explain)?;
        }
        Err(Failure::usage(
            "there is no query: write one, as in \"SELECT 1\"",
        ))
    }

    /// Returns what DataFusion says, and what can be done if a table is missing.
    fn explain(&self, error: &DataFusionError) -> Failure {
        if let DataFusionError::ResourcesExhausted(text) = error.find_root() {
            return Failure::of(crate::failure::REFUSED, text);
        }
        let text = plain(error);
        let missing = text
            .split_once("table '")
            .and_then(|(_, rest)| rest.split_once("' not found"));
        let Some((table, _)) = missing else {
            return Failure::new(text);
        };
        let table = table.rsplit('.').next().unwrap_or(table);
        let known = match self.tables.is_empty() {
            true => "no table is given".to_owned(),
            false => format!("there are {}", self.tables.join(", ")),
        };
        Failure::new(format!(
            "the query names table `{table}`, and {known}: add it with --table {table}=PATH"
        ))
    }

    fn outcome(&self, ended: Result<(), DataFusionError>) -> Outcome {
        match ended {
            Ok(()) => Outcome::Finished,
            Err(_) if self.interrupt.came() => Outcome::Cancelled,
            Err(error) => match error.find_root() {
                DataFusionError::ResourcesExhausted(text) => Outcome::Refused(text.clone()),
                _ => Outcome::Failed(plain(&error)),
            },
        }
    }
}

/// The values of a row as text, `None` for null.
pub(crate) type Row = Vec<Option<String>>;

/// The rows of a query as they come.
struct Results {
    max_rows: usize,
    rows: u64,
    /// As text: a batch would be charged for as long as it is kept.
    first: Vec<Row>,
}

impl Results {
    fn new(max_rows: usize) -> Self {
        Self {
            max_rows,
            rows: 0,
            first: Vec::new(),
        }
    }

    /// Takes all batches, and returns how the stream ended, with the report of that instant.
    async fn drain(
        &mut self,
        mut stream: SendableRecordBatchStream,
        query: &QueryMemory,
    ) -> (Result<(), DataFusionError>, QueryReport) {
        while let Some(batch) = stream.next().await {
            if let Err(error) = batch.and_then(|batch| self.take(&batch)) {
                // The operators are alive: the report has what they hold.
                return (Err(error), query.report());
            }
        }
        (Ok(()), query.report())
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), DataFusionError> {
        self.rows += batch.num_rows() as u64;
        let wanted = self.max_rows - self.first.len();
        if wanted == 0 {
            return Ok(());
        }
        let options = FormatOptions::default().with_display_error(true);
        let columns = batch.columns().iter();
        let columns: Vec<_> = columns
            .map(|column| {
                let text = ArrayFormatter::try_new(column, &options)?;
                Ok((column.logical_nulls(), text))
            })
            .collect::<Result<_, DataFusionError>>()?;
        for row in 0..wanted.min(batch.num_rows()) {
            let value = |(nulls, text): &(Option<NullBuffer>, ArrayFormatter<'_>)| {
                let null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                (!null).then(|| text.value(row).to_string())
            };
            self.first.push(columns.iter().map(value).collect());
        }
        Ok(())
    }
}

/// Returns what an error says, without the name of its kind where that is not for people.
fn plain(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        _ => error.strip_backtrace(),
    }
}
