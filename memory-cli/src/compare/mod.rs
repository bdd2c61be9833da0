//! `compare`: the same work on each backend, in processes of their own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arrow_memory_core::backend;

use crate::failure::{Failure, one_line};
use crate::input::{Input, messages};
use crate::scan::duration;
use crate::size::{grouped, human};
use crate::terminal::{self, Style};

mod chart;
mod work;

use work::Outcome;
pub(crate) use work::work;

/// What is to be compared, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) file: PathBuf,
    /// Each of them does all of the work.
    pub(crate) threads: usize,
    pub(crate) batch_size: usize,
    /// All that are linked if empty.
    pub(crate) backends: Vec<String>,
    /// How often each backend runs; medians are shown.
    pub(crate) rounds: usize,
    /// Where the chart goes.
    pub(crate) chart: PathBuf,
    pub(crate) progress: bool,
}

/// The medians of each backend.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Comparison {
    pub(crate) file: PathBuf,
    pub(crate) rows: u64,
    pub(crate) threads: usize,
    pub(crate) rounds: usize,
    pub(crate) chart: PathBuf,
    pub(crate) backends: Vec<Outcome>,
}

/// Runs every backend `rounds` times, in turn, and draws the chart.
pub(crate) fn compare(options: &Options) -> Result<Comparison, Failure> {
    let names = names(&options.backends)?;
    // Here, so that a bad file is one error and not one of each process.
    let messages = messages()?;
    drop(Input::open(
        &options.file,
        &[],
        options.batch_size,
        &messages,
    )?);
    // Before the work, so that it is not lost.
    write_chart(&options.chart, "")?;
    let program = env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}")))?;
    let runs = names.len() * options.rounds;
    let bar = if options.progress {
        terminal::steps(runs as u64, "comparing")
    } else {
        indicatif::ProgressBar::hidden()
    };
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); names.len()];
    for _ in 0..options.rounds {
        for (name, outcomes) in names.iter().zip(&mut outcomes) {
            outcomes.push(run(&program, name, options)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let backends: Vec<Outcome> = outcomes.into_iter().filter_map(Outcome::median).collect();
    let comparison = Comparison {
        file: options.file.clone(),
        rows: backends.first().map_or(0, |outcome| outcome.rows),
        threads: options.threads,
        rounds: options.rounds,
        chart: options.chart.clone(),
        backends,
    };
    write_chart(&options.chart, &chart::draw(&comparison))?;
    Ok(comparison)
}

impl Comparison {
    /// The comparison as people read it.
    pub(crate) fn render(&self, style: Style) -> String {
        let file = self.file.display().to_string();
        let (threads, rounds) = (self.threads, self.rounds);
        let (threads, rounds) = (counted(threads, "thread"), counted(rounds, "round"));
        let mut text = format!(
            "{}: {} rows, {threads}, medians of {rounds}\n\n",
            style.bold(&file),
            grouped(self.rows)
        );
        let head = format!(
            "  {:<9} {:>10} {:>11} {:>12} {:>12} {:>12} {:>14}",
            "backend", "time", "of it", "accounted", "resident", "page", "resident"
        );
        text.push_str(&style.dim(&head));
        text.push('\n');
        let head = format!(
            "  {:<9} {:>10} {:>11} {:>12} {:>12} {:>12} {:>14}",
            "", "", "decoding", "at most", "at most", "faults", "after release"
        );
        text.push_str(&style.dim(&head));
        text.push('\n');
        for outcome in &self.backends {
            let size = |bytes: Option<usize>| bytes.map_or_else(|| "?".to_owned(), human);
            let faults = outcome.page_faults.map_or_else(|| "?".to_owned(), grouped);
            let line = format!(
                "  {:<9} {:>10} {:>11} {:>12} {:>12} {faults:>12} {:>14}\n",
                outcome.backend,
                duration(outcome.seconds),
                duration(outcome.decoding_seconds),
                human(outcome.peak_accounted),
                size(outcome.peak_resident),
                size(outcome.resident_after_release),
            );
            text.push_str(&line);
        }
        text.push_str(&format!(
            "\n  Each thread decodes every batch, copies it, appends it to buffers that grow, filters half of\n  \
             its rows, and frees in operator order. Resident memory has the decoder in it.\n  Chart: {}\n",
            self.chart.display()
        ));
        text
    }
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn names(wanted: &[String]) -> Result<Vec<String>, Failure> {
    let linked = backend::supported();
    if wanted.is_empty() {
        return Ok(linked.into_iter().map(str::to_owned).collect());
    }
    for name in wanted {
        backend::manager(name).map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(wanted.to_vec())
}

fn run(program: &Path, name: &str, options: &Options) -> Result<Outcome, Failure> {
    let failed = |what: &str| Failure::new(format!("backend `{name}`: {what}"));
    let output = Command::new(program)
        .arg("compare")
        .arg(format!("--worker={name}"))
        .arg(format!("--threads={}", options.threads))
        .arg(format!("--batch-size={}", options.batch_size))
        .arg("--")
        .arg(&options.file)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&format!("cannot start this program again: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = one_line(said.trim().trim_start_matches("error: "));
        return Err(failed(&format!("{said} ({})", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error.to_string()))
}

fn write_chart(path: &Path, svg: &str) -> Result<(), Failure> {
    fs::write(path, svg).map_err(|error| {
        let path = path.display();
        Failure::new(format!(
            "cannot write the chart to `{path}`: {error}; choose another place with --chart"
        ))
    })
}
