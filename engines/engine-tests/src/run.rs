//! Statements and data frames of DataFusion, for tests.
//!
//! The compiler compiles the body of an async function anew in each crate that awaits it, and DataFusion's bodies are
//! large: that of [`SessionContext::sql`] has the whole planner of SQL. The functions here are neither async nor generic,
//! so that what they await is compiled once, in this library. Tests that await DataFusion's own functions instead take
//! minutes longer to compile.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Plans a statement.
///
/// # Errors
///
/// Those of [`SessionContext::sql`].
pub fn sql<'a>(session: &'a SessionContext, text: &'a str) -> BoxFuture<'a, Result<DataFrame>> {
    session.sql(text).boxed()
}

/// Plans a statement, executes it and returns its batches.
///
/// # Errors
///
/// Those of [`sql`] and of [`collect`].
pub fn batches<'a>(
    session: &'a SessionContext,
    text: &'a str,
) -> BoxFuture<'a, Result<Vec<RecordBatch>>> {
    async move { collect(sql(session, text).await?).await }.boxed()
}

/// Executes a data frame and returns its batches.
///
/// # Errors
///
/// Those of [`DataFrame::collect`].
pub fn collect(frame: DataFrame) -> BoxFuture<'static, Result<Vec<RecordBatch>>> {
    frame.collect().boxed()
}

/// Executes a data frame and returns its batches as they come, the partitions merged.
///
/// # Errors
///
/// Those of [`DataFrame::execute_stream`].
pub fn stream(frame: DataFrame) -> BoxFuture<'static, Result<SendableRecordBatchStream>> {
    frame.execute_stream().boxed()
}

/// Executes a data frame and returns a stream for each partition.
///
/// # Errors
///
/// Those of [`DataFrame::execute_stream_partitioned`].
pub fn streams(frame: DataFrame) -> BoxFuture<'static, Result<Vec<SendableRecordBatchStream>>> {
    frame.execute_stream_partitioned().boxed()
}

/// Returns the physical plan of a data frame.
///
/// # Errors
///
/// Those of [`DataFrame::create_physical_plan`].
pub fn plan(frame: &DataFrame) -> BoxFuture<'_, Result<Arc<dyn ExecutionPlan>>> {
    frame.create_physical_plan().boxed()
}
