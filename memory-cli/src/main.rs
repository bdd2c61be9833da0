//! `arrow-memory`: shows how much memory columnar files need.
//!
//! Each command has a module: `demo`, `scan`, `compare`, `generate` and `flame`; `captures` has `events` and
//! `dangling`. They share `input`, which reads files, `columns`, which copies them into accounted memory,
//! `tree`, which draws allocators, `text` and `terminal`, which format and print, and `output`, which writes
//! files. `heap` and `lifeline` end the process, when memory runs out or when its parent ends.

// Linked, so that each backend can be selected by name.
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
mod heap;
mod input;
mod lifeline;
mod lists;
mod output;
mod process;
mod scan;
mod size;
mod terminal;
mod text;
mod tree;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Gen};
use failure::{DOES_NOT_FIT, Failure, one_line};
use terminal::Style;

fn main() -> ExitCode {
    guarded::install_hook();
    lifeline::watch();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            terminal::say(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let json = cli.json;
    match cli.command {
        Command::Demo => demo::demo(json)?,
        Command::Scan(arguments) => return scan(arguments, json),
        Command::Compare(arguments) => compare(arguments, json)?,
        Command::Events(arguments) => captures::events(arguments.file.as_deref())?,
        Command::Dangling(arguments) => return dangling(&arguments, json),
        Command::Flame(arguments) => {
            let drawn = flame::flame(arguments.file.as_deref(), &arguments.out, &arguments.title)?;
            show(json, &drawn, || drawn.line())?;
        }
        Command::Gen(Gen::Tpch(arguments)) => generate(arguments, json)?,
        Command::Completions(arguments) => {
            let mut script = Vec::new();
            let mut command = Cli::command();
            clap_complete::generate(arguments.shell, &mut command, "arrow-memory", &mut script);
            terminal::print(&String::from_utf8_lossy(&script))?;
        }
        Command::Man => {
            let mut page = Vec::new();
            let written = clap_mangen::Man::new(Cli::command()).render(&mut page);
            written.map_err(|error| Failure::bug(error.to_string()))?;
            terminal::print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a result, as JSON or as text.
fn show(
    json: bool,
    result: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match json {
        true => terminal::print_json(result),
        false => terminal::print(&text()),
    }
}

fn scan(arguments: cli::Scan, json: bool) -> Result<ExitCode, Failure> {
    let top = arguments.top.map(|top| top as usize);
    let view = tree::View {
        style: Style::stdout(),
        width: terminal::width(),
        top,
        by_size: top.is_some() || arguments.sort == cli::Sort::Size,
    };
    let report = scan::scan(&scan::Options {
        files: input::sources(&arguments.files)?,
        reading: input::Reading {
            columns: arguments.columns.map_or_else(Vec::new, |columns| columns.0),
            batch_size: arguments.batch_size as usize,
            csv: arguments.csv.options(),
        },
        limit: arguments.limit.map(|limit| limit.0),
        backend: arguments.backend,
        keep: arguments.keep,
        adopt: arguments.adopt,
        progress: !json,
    })?;
    show(json, &report, || report.render(view))?;
    Ok(match report.fits {
        Some(false) => ExitCode::from(DOES_NOT_FIT),
        _ => ExitCode::SUCCESS,
    })
}

fn compare(arguments: cli::Compare, json: bool) -> Result<(), Failure> {
    let (threads, batch_size) = (arguments.threads.into(), arguments.batch_size as usize);
    if let Some(backend) = arguments.worker {
        let outcome = compare::work(&arguments.file, &backend, threads, batch_size)?;
        return terminal::print_json(&outcome);
    }
    let (comparison, drawn) = compare::compare(&compare::Options {
        file: arguments.file,
        threads,
        batch_size,
        backends: arguments.backends,
        rounds: arguments.rounds.into(),
        chart: arguments.chart,
        progress: !json,
    })?;
    show(json, &comparison, || {
        comparison.render(Style::stdout(), terminal::width())
    })?;
    // The numbers are printed even if the chart could not be written.
    drawn
}

fn dangling(arguments: &cli::Dangling, json: bool) -> Result<ExitCode, Failure> {
    let shape = if arguments.folded {
        captures::Shape::Folded
    } else if json {
        captures::Shape::Json
    } else {
        captures::Shape::Text
    };
    let bytes = captures::dangling(arguments.capture.file.as_deref(), arguments.top, shape)?;
    Ok(match arguments.fail_over {
        Some(allowed) if bytes > allowed.0 as u64 => ExitCode::from(DOES_NOT_FIT),
        _ => ExitCode::SUCCESS,
    })
}

fn generate(arguments: cli::Tpch, json: bool) -> Result<(), Failure> {
    let written = generate::generate(&generate::Options {
        scale: arguments.scale,
        out: arguments.out,
        format: arguments.format,
        tables: arguments.tables,
        force: arguments.force,
        progress: !json,
    })?;
    show(json, &written, || {
        written.iter().map(generate::Written::line).collect()
    })
}

/// Prints clap's message: help in full, an error on one line.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // If standard output is closed, there is no place to report it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    if !text.starts_with("error: ") {
        // Prints the help, because there is no command.
        eprint!("{text}");
        return ExitCode::from(2);
    }
    let about = text.split("\n\n").next().unwrap_or(&text);
    eprintln!("{} (see --help)", one_line(about));
    ExitCode::from(2)
}
