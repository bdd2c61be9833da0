//! The role `client`.

use arrow_memory_ballista::{OnRefusal, collect, connect};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::prelude::ParquetReadOptions;

use super::cli::Client;

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
    let rows = rows(&options, &settings, &tables).await;
    println!("{}", rows.map_err(|error| error.strip_backtrace())?);
    Ok(())
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
