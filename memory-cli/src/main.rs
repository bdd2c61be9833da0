//! `arrow-memory`: what columnar files need in memory.
//!
//! One module per command (`demo`, `scan`, `compare`, `generate`; `captures` has `events` and
//! `dangling`, `flame` is `flame`) over what they share: `input` reads files,
//! `columns` copies them into accounted memory, `tree` draws allocators, `terminal` writes.

// Linked, so that each can be asked for by name.
use arrow_memory_arena as _;
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;

mod captures;
mod cli;
mod columns;
mod compare;
mod demo;
mod failure;
mod flame;
mod generate;
mod guarded;
mod input;
mod process;
mod scan;
mod size;
mod terminal;
mod tree;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Gen};
use failure::{DOES_NOT_FIT, Failure, one_line};
use terminal::Style;

fn main() -> ExitCode {
    guarded::install_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let json = cli.json;
    match cli.command {
        Command::Demo => demo::demo(json)?,
        Command::Scan(arguments) => {
            let report = scan::scan(&scan::Options {
                files: arguments.files,
                limit: arguments.limit.map(|limit| limit.0),
                backend: arguments.backend,
                batch_size: arguments.batch_size as usize,
                columns: arguments.columns,
                keep: arguments.keep,
                adopt: arguments.adopt,
                progress: !json,
            })?;
            if json {
                terminal::print_json(&report)?;
            } else {
                terminal::print(&report.render(Style::stdout()))?;
            }
            if !report.fits {
                return Ok(ExitCode::from(DOES_NOT_FIT));
            }
        }
        Command::Compare(arguments) => {
            let (threads, batch_size) = (arguments.threads.into(), arguments.batch_size as usize);
            if let Some(backend) = arguments.worker {
                let outcome = compare::work(&arguments.file, &backend, threads, batch_size)?;
                terminal::print_json(&outcome)?;
                return Ok(ExitCode::SUCCESS);
            }
            let comparison = compare::compare(&compare::Options {
                file: arguments.file,
                threads,
                batch_size,
                backends: arguments.backends,
                rounds: arguments.rounds.into(),
                chart: arguments.chart,
                progress: !json,
            })?;
            if json {
                terminal::print_json(&comparison)?;
            } else {
                terminal::print(&comparison.render(Style::stdout()))?;
            }
        }
        Command::Events(arguments) => captures::events(arguments.file.as_deref())?,
        Command::Dangling(arguments) => {
            let shape = if arguments.folded {
                captures::Shape::Folded
            } else if json {
                captures::Shape::Json
            } else {
                captures::Shape::Text
            };
            captures::dangling(arguments.capture.file.as_deref(), arguments.top, shape)?;
        }
        Command::Flame(arguments) => {
            let drawn = flame::flame(arguments.file.as_deref(), &arguments.out, &arguments.title)?;
            if json {
                terminal::print_json(&drawn)?;
            } else {
                terminal::print(&drawn.line())?;
            }
        }
        Command::Gen(Gen::Tpch(arguments)) => {
            let written = generate::generate(&generate::Options {
                scale: arguments.scale,
                out: arguments.out,
                format: arguments.format,
                tables: arguments.tables,
                progress: !json,
            })?;
            if json {
                terminal::print_json(&written)?;
            } else {
                for file in &written {
                    terminal::print(&file.line())?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What clap has to say: help as it is, errors on one line.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to be told that standard output has gone.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    if !text.starts_with("error: ") {
        // The help, because there was no command.
        eprint!("{text}");
        return ExitCode::from(2);
    }
    let about = text.split("\n\n").next().unwrap_or(&text);
    eprintln!("{} (see --help)", one_line(about));
    ExitCode::from(2)
}
