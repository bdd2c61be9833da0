//! `arrow-memory-sql`: runs a query of DataFusion under a memory limit, and says which operator held what.
//!
//! `cli` has the command line, `tables` its files, `run` the session and the query, `watch` the thread beside it,
//! `output` and `table` what is printed. `demo` runs three queries over data that `tpch` generates.

mod cli;
mod demo;
mod failure;
mod interrupt;
mod output;
mod process;
mod run;
mod size;
mod table;
mod tables;
mod terminal;
mod tpch;
mod watch;

use std::fs;
use std::io::{self, Read};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command, Demo, Query};
use failure::{Failure, one_line};
use interrupt::Interrupt;
use output::Document;
use run::{Limit, Options, Session};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            terminal::say(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    if let Some(Command::Demo(Demo {
        generate: Some(folder),
        ..
    })) = &cli.command
    {
        return tpch::generate(folder).map(|()| 0);
    }
    let environment = |error: io::Error| Failure::new(format!("cannot begin: {error}"));
    let interrupt = Interrupt::install().map_err(environment)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_time().build().map_err(environment)?;
    let code = runtime.block_on(async {
        match cli.command {
            Some(Command::Demo(demo)) => demo::demo(demo.json, &interrupt).await,
            None => query(cli.query, &interrupt).await,
        }
    });
    // A task that hangs must not keep the program.
    runtime.shutdown_background();
    code
}

async fn query(query: Query, interrupt: &Interrupt) -> Result<u8, Failure> {
    let sql = sql(&query)?;
    let options = Options {
        limit: Limit::of(query.limit.map(|limit| limit.0)),
        partitions: query.partitions,
        settings: query.settings,
        tables: query.tables,
    };
    let session = Session::open(options, interrupt).await?;
    let ran = session.run(&sql, query.max_rows, !query.json).await?;
    if let Some(error) = output::error(&ran.outcome) {
        terminal::say(&error);
    }
    match query.json {
        true => terminal::print_json(&Document::of(&session, &ran))?,
        false => terminal::print(&output::text(&ran, &session.limit))?,
    }
    Ok(ran.outcome.exit_code())
}

/// Returns the query, from wherever it comes.
fn sql(query: &Query) -> Result<String, Failure> {
    match (&query.sql, &query.file) {
        (Some(sql), None) if sql == "-" => {
            let mut sql = String::new();
            let read = io::stdin().read_to_string(&mut sql);
            read.map_err(|error| Failure::new(format!("cannot read the query: {error}")))?;
            Ok(sql)
        }
        (Some(sql), _) => Ok(sql.clone()),
        (None, Some(file)) => fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", file.display()))),
        (None, None) => Err(Failure::usage(
            "there is no query: write one, as in \"SELECT 1\", or `demo` (see --help)",
        )),
    }
}

/// Prints clap's message: help in full, an error on one line.
fn explain(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // If standard output is closed, there is no place to report it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let about = text.split("\n\n").next().unwrap_or(&text);
    terminal::say(&format!("{} (see --help)", one_line(about)));
    ExitCode::from(failure::USAGE)
}
