//! All queries, one at a time, under each limit.

use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use engine_tests::Outcome;

use crate::numbers::mib;
use crate::{Bench, heap, judged, table};

const SETTLING: Duration = Duration::from_secs(60);

/// What came out of a query.
struct Run {
    query: usize,
    outcome: Outcome,
    /// The time in terms of the time without a limit.
    ratio: f64,
    /// The peak of the process's heap.
    peak: usize,
}

/// All queries in one configuration under one limit.
struct Sweep<'a> {
    configuration: &'a str,
    limit: usize,
    /// What the process held before the first query.
    idle: usize,
    runs: Vec<Run>,
}

async fn sweep<'a>(bench: &'a Bench, limits: &[usize]) -> Result<Vec<Sweep<'a>>> {
    let answers = bench.answers().await?;
    let mut sweeps = Vec::new();
    for &limit in limits {
        for configuration in &bench.configurations {
            eprintln!("{} at {}", configuration.name, mib(limit));
            let limited = configuration.limited(Some(limit));
            let session = bench.session(&limited).await?;
            let idle = heap().live();
            let mut runs = Vec::new();
            for (query, answer) in bench.queries.iter().zip(&answers) {
                heap().reset_peak();
                let (outcome, elapsed) = judged(&limited, &session, query, answer).await;
                let peak = heap().peak();
                let ratio = elapsed.as_secs_f64() / answer.1.as_secs_f64();
                let text = outcome.to_string();
                let (number, text) = (query.number, text.lines().next().unwrap_or_default());
                eprintln!("  q{number}: {ratio:.2}, {}, {text}", mib(peak));
                let settled = limited.settled(SETTLING).await;
                settled.map_err(DataFusionError::Internal)?;
                runs.push(Run {
                    query: query.number,
                    outcome,
                    ratio,
                    peak,
                });
            }
            sweeps.push(Sweep {
                configuration: configuration.name,
                limit,
                idle,
                runs,
            });
        }
    }
    Ok(sweeps)
}

/// Prints how many queries completed, what that took, and the peak of the heap beside the limit.
pub(crate) async fn completion(bench: &Bench, limits: &[usize]) -> Result<()> {
    let sweeps = sweep(bench, limits).await?;
    completed(&sweeps);
    println!();
    peaks(&sweeps);
    Ok(())
}

fn completed(sweeps: &[Sweep<'_>]) {
    table::heading("Completion under limits");
    println!(
        "`right` are the queries with the right answer, `time` the geometric mean of their times in terms of the time without a limit.\n"
    );
    table::columns(&[
        "limit",
        "configuration",
        "right",
        "refused",
        "hung or late",
        "wrong or failed",
        "time",
        "spilled",
        "peak of the heap",
        "not right",
    ]);
    for sweep in sweeps {
        let count = |is: fn(&Outcome) -> bool| {
            sweep
                .runs
                .iter()
                .filter(|run| is(&run.outcome))
                .count()
                .to_string()
        };
        let right = |run: &&Run| matches!(run.outcome, Outcome::Right { .. });
        let logs: Vec<f64> = sweep
            .runs
            .iter()
            .filter(right)
            .map(|run| run.ratio.ln())
            .collect();
        let spilled = sweep.runs.iter().map(|run| match run.outcome {
            Outcome::Right { spilled } => spilled,
            _ => 0,
        });
        let others = sweep.runs.iter().filter(|run| !right(run));
        let others: Vec<String> = others.map(|run| format!("q{}", run.query)).collect();
        table::row([
            mib(sweep.limit),
            sweep.configuration.to_owned(),
            count(|outcome| matches!(outcome, Outcome::Right { .. })),
            count(|outcome| matches!(outcome, Outcome::Refused(_))),
            count(|outcome| matches!(outcome, Outcome::GivenUp(_))),
            count(|outcome| matches!(outcome, Outcome::Wrong(_) | Outcome::Failed(_))),
            format!(
                "{:.2}",
                (logs.iter().sum::<f64>() / logs.len() as f64).exp()
            ),
            mib(spilled.sum()),
            mib(sweep.runs.iter().map(|run| run.peak).max().unwrap_or(0)),
            others.join(" "),
        ]);
    }
}

/// Prints the peak of the heap beside the limit.
pub(crate) async fn memory(bench: &Bench, limits: &[usize]) -> Result<()> {
    peaks(&sweep(bench, limits).await?);
    Ok(())
}

fn peaks(sweeps: &[Sweep<'_>]) {
    table::heading("The peak of the heap beside the limit");
    println!(
        "`idle` is what the process held before the first query, `over` the largest peak without it, in terms of the limit. A bound of 1.1 holds for `within` so many queries.\n"
    );
    table::columns(&[
        "limit",
        "configuration",
        "idle",
        "largest peak",
        "over",
        "of query",
        "within",
    ]);
    for sweep in sweeps {
        let Some(largest) = sweep.runs.iter().max_by_key(|run| run.peak) else {
            continue;
        };
        let over = |run: &Run| run.peak.saturating_sub(sweep.idle) as f64 / sweep.limit as f64;
        let within = sweep.runs.iter().filter(|run| over(run) <= 1.1).count();
        table::row([
            mib(sweep.limit),
            sweep.configuration.to_owned(),
            mib(sweep.idle),
            mib(largest.peak),
            format!("{:.2}", over(largest)),
            format!("q{}", largest.query),
            format!("{within} of {}", sweep.runs.len()),
        ]);
    }
}
