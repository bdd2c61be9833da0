//! The database that the runner of sqllogictest asks: DataFusion's, with a deadline, and with a note of refusals.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use datafusion_sqllogictest::{DFColumnType, DFOutput, DFSqlLogicTestError, DataFusion};
use indicatif::ProgressBar;
use sqllogictest::{AsyncDB, DBOutput};

use crate::outcome::is_refusal;
use crate::watch::watch;

/// The text of the last refusal, until it is taken.
type Refusal = Arc<Mutex<Option<String>>>;

pub(super) struct Db {
    inner: DataFusion,
    deadline: Duration,
    refusal: Refusal,
    /// The working directory, as plans write it.
    folder: String,
}

impl Db {
    pub(super) fn new(
        session: SessionContext,
        file: &Path,
        deadline: Duration,
        refusal: Refusal,
    ) -> Self {
        let folder = std::env::current_dir().unwrap_or_default();
        let folder = folder.to_string_lossy();
        Self {
            inner: DataFusion::new(session, file.to_owned(), ProgressBar::hidden()),
            deadline,
            refusal,
            folder: folder.trim_start_matches('/').to_owned(),
        }
    }
}

#[async_trait]
impl AsyncDB for Db {
    type Error = DFSqlLogicTestError;
    type ColumnType = DFColumnType;

    async fn run(&mut self, sql: &str) -> Result<DFOutput, DFSqlLogicTestError> {
        let run = watch(self.inner.run(sql), self.deadline).await;
        let output = run.map_err(|given_up| DFSqlLogicTestError::Other(given_up.to_string()))?;
        if let Err(DFSqlLogicTestError::DataFusion(error)) = &output
            && is_refusal(error)
        {
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            *refusal = Some(error.to_string());
        }
        let mut output = output?;
        if let DBOutput::Rows { rows, .. } = &mut output {
            for cell in rows.iter_mut().flatten() {
                // The files expect DataFusion's repository around them.
                if cell.contains(&self.folder) {
                    *cell = cell.replace(&self.folder, "WORKSPACE_ROOT/datafusion/sqllogictest");
                }
            }
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }

    fn engine_name(&self) -> &str {
        self.inner.engine_name()
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
