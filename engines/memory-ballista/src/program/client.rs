//! The roles `client` and `cancel`.

use arrow_memory_ballista::{OnRefusal, collect, connect};
use ballista_core::serde::protobuf::CancelJobParams;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_connection};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::ParquetReadOptions;

use super::cli::{Cancel, Client};
use super::{print, reach};

pub(crate) async fn run(options: Client) -> std::result::Result<(), String> {
    let pair = |text: &'static str, both: &str| {
        let (name, value) = both
            .split_once('=')
            .ok_or_else(|| format!("`{both}` is not {text}"))?;
        Ok::<_, String>((name.to_owned(), value.to_owned()))
    };
    let settings = options.settings.iter().map(|both| pair("KEY=VALUE", both));
    let settings = settings.collect::<std::result::Result<Vec<_>, _>>()?;
    let tables = options.tables.iter().map(|both| pair("NAME=PATH", both));
    let tables = tables.collect::<std::result::Result<Vec<_>, _>>()?;
    reach("--scheduler", &options.scheduler).await?;
    let rows = rows(&options, &settings, &tables).await;
    print(&format!("{}\n", rows.map_err(|error| readable(&error))?))
}

/// Returns an error's text. A scheduler sends what its executors print for programmers, in which ends of lines are escaped.
pub(crate) fn readable(error: &DataFusionError) -> String {
    error
        .strip_backtrace()
        .replace("\\n", "\n")
        .replace("\\\"", "\"")
}

/// Ends a job.
pub(crate) async fn cancel(options: Cancel) -> std::result::Result<(), String> {
    reach("--scheduler", &options.scheduler).await?;
    let url = format!("http://{}", options.scheduler);
    let scheduler = create_grpc_client_connection(url, &GrpcClientConfig::default()).await;
    let scheduler = scheduler.map_err(|error| error.to_string())?;
    let job = CancelJobParams {
        job_id: options.job,
    };
    let cancelled = SchedulerGrpcClient::new(scheduler).cancel_job(job).await;
    cancelled
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

async fn rows(
    options: &Client,
    settings: &[(String, String)],
    tables: &[(String, String)],
) -> Result<String> {
    let settings = settings.iter().map(|(key, value)| (&**key, &**value));
    let session = connect(&options.scheduler, settings).await?;
    for (name, path) in tables {
        session
            .register_parquet(name, path, ParquetReadOptions::default())
            .await?;
    }
    let on_refusal = match options.plan_again {
        true => OnRefusal::PlanAgain,
        false => OnRefusal::Fail,
    };
    let batches = collect(session.sql(&options.sql).await?, on_refusal).await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}
