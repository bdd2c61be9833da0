//! `compare`: does the same work on each backend, in processes of their own.

use std::env;
use std::path::{Path, PathBuf};

use arrow_memory_core::backend;

use crate::failure::{Failure, one_line};
use crate::input::{Glance, Source};
use crate::lifeline;
use crate::output::{self, cannot_write};
use crate::scan::duration;
use crate::size::{counted, grouped, human};
use crate::terminal::{self, Style};
use crate::text::{cell, wrapped};

mod chart;
mod work;

pub(crate) use work::work;
use work::{Outcome, reading};

/// The work to compare, and on which backends.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) file: PathBuf,
    /// The number of threads, each of which does all of the work.
    pub(crate) threads: usize,
    pub(crate) batch_size: usize,
    /// The backends' names; all that are linked if empty.
    pub(crate) backends: Vec<String>,
    /// The number of runs of each backend; the medians are shown.
    pub(crate) rounds: usize,
    /// The file that the chart is written to.
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
    /// The spreads of each backend, in the same order.
    pub(crate) spreads: Vec<Spread>,
}

/// Runs every backend `rounds` times, in turn, and draws the chart. The second value says whether the chart
/// was written.
pub(crate) fn compare(options: &Options) -> Result<(Comparison, Result<(), Failure>), Failure> {
    let names = names(&options.backends)?;
    // Checked here, so that a bad file is one error and not one per process.
    Glance::at(&Source::file(&options.file), &reading(options.batch_size))?;
    // Checked before the work, so that its results are not lost.
    let cannot = |error| cannot_write("chart", &options.chart, &error, "--chart");
    output::check(&options.chart, Some(&options.file)).map_err(cannot)?;
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
    let spread = |outcomes: &Vec<Outcome>| Spread::of(outcomes);
    let spreads: Vec<Spread> = outcomes.iter().map(spread).collect();
    let backends: Vec<Outcome> = outcomes.into_iter().filter_map(Outcome::median).collect();
    let comparison = Comparison {
        file: options.file.clone(),
        rows: backends.first().map_or(0, |outcome| outcome.rows),
        threads: options.threads,
        rounds: options.rounds,
        chart: options.chart.clone(),
        backends,
        spreads,
    };
    let svg = chart::draw(&comparison);
    let drawn = output::replace(&options.chart, svg.as_bytes()).map_err(cannot);
    Ok((comparison, drawn))
}

/// The minimum and the maximum of a number over the rounds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) seconds: (f64, f64),
    pub(crate) peak_accounted: (usize, usize),
}

impl Spread {
    fn of(outcomes: &[Outcome]) -> Self {
        let seconds = outcomes.iter().map(|outcome| outcome.seconds);
        let accounted = outcomes.iter().map(|outcome| outcome.peak_accounted);
        Self {
            seconds: (
                seconds.clone().fold(f64::INFINITY, f64::min),
                seconds.fold(0.0, f64::max),
            ),
            peak_accounted: (
                accounted.clone().min().unwrap_or(0),
                accounted.max().unwrap_or(0),
            ),
        }
    }
}

impl Comparison {
    /// The comparison as text for people.
    pub(crate) fn render(&self, style: Style, width: usize) -> String {
        let rounds = counted(self.rounds as u64, "round");
        let rows = counted(self.rows, "row");
        let threads = counted(self.threads as u64, "thread");
        let what = format!(": {rows}, {threads}, medians of {rounds}");
        let room = width.saturating_sub(what.len()).max(24);
        let file = style.bold(&cell(&self.file.display().to_string(), room));
        let mut text = format!("{file}{what}\n\n");
        for head in [
            [
                "backend",
                "time",
                "of it",
                "accounted",
                "resident",
                "page",
                "resident",
            ],
            [
                "",
                "",
                "decoding",
                "at most",
                "at most",
                "faults",
                "after release",
            ],
        ] {
            let [backend, time, decoding, accounted, resident, faults, after] = head;
            let line = format!(
                "  {backend:<9} {time:>10} {decoding:>11} {accounted:>12} {resident:>12} {faults:>12} {after:>14}"
            );
            text.push_str(&style.dim(&line));
            text.push('\n');
        }
        for outcome in &self.backends {
            let size = |bytes: Option<usize>| bytes.map_or_else(|| "?".to_owned(), human);
            let faults = outcome.page_faults.map_or_else(|| "?".to_owned(), grouped);
            text.push_str(&format!(
                "  {:<9} {:>10} {:>11} {:>12} {:>12} {faults:>12} {:>14}\n",
                outcome.backend,
                duration(outcome.seconds),
                duration(outcome.decoding_seconds),
                human(outcome.peak_accounted),
                size(outcome.peak_resident),
                size(outcome.resident_after_release),
            ));
        }
        for note in self.notes() {
            text.push_str(&format!("\n  {}\n", wrapped(&note, 2, 2, width.min(100))));
        }
        text
    }

    /// Notes on the meaning of the numbers, and on how far they can be trusted.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "Each thread decodes every batch, copies it, appends it to buffers that grow, filters half of its rows, and frees in operator order. Resident memory has the decoder in it."
                .to_owned(),
        ];
        if self.rounds > 1 {
            let of = |(outcome, spread): (&Outcome, &Spread)| {
                let (low, high) = spread.seconds;
                format!(
                    "{} {} to {}",
                    outcome.backend,
                    duration(low),
                    duration(high)
                )
            };
            let times: Vec<String> = self.backends.iter().zip(&self.spreads).map(of).collect();
            notes.push(format!(
                "Lowest and highest times: {}. Differences within these ranges say nothing.",
                times.join(", ")
            ));
        }
        if self.threads > 1 {
            notes.push(
                "What is accounted at most depends on when the threads were at their highest, which differs from run to run: it does not compare the backends."
                    .to_owned(),
            );
        }
        let chart = crate::text::escaped(&self.chart.display().to_string());
        notes.push(format!("Chart: {chart}"));
        notes
    }
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
    let mut worker = lifeline::again(program);
    worker
        .arg("compare")
        .arg(format!("--worker={name}"))
        .arg(format!("--threads={}", options.threads))
        .arg(format!("--batch-size={}", options.batch_size))
        .arg("--")
        .arg(&options.file);
    let output = lifeline::output(&mut worker)
        .map_err(|error| failed(&format!("cannot start this program again: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = one_line(said.trim().trim_start_matches("error: "));
        return Err(failed(&format!("{said} ({})", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error.to_string()))
}
