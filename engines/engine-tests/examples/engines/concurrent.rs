//! Several queries at once under one limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datafusion::error::{DataFusionError, Result};
use engine_tests::Outcome;

use crate::numbers::{mib, percentile};
use crate::{Bench, heap, judged, table};

const SETTLING: Duration = Duration::from_secs(60);

/// Runs all queries in each configuration, some at a time: whoever ends one takes the next.
pub(crate) async fn run(
    bench: Bench,
    limits: &[usize],
    at_once: usize,
    rounds: usize,
) -> Result<()> {
    let bench = Arc::new(bench);
    let answers = Arc::new(bench.answers().await?);
    table::heading(&format!("{at_once} queries at once"));
    table::columns(&[
        "limit",
        "configuration",
        "right",
        "refused",
        "hung or late",
        "wrong or failed",
        "p50",
        "p99",
        "all",
        "peak of the heap",
    ]);
    let count = bench.queries.len() * rounds;
    for &limit in limits {
        for configuration in &bench.configurations {
            eprintln!("{} at {}", configuration.name, mib(limit));
            let limited = Arc::new(configuration.limited(Some(limit)));
            let session = bench.session(&limited).await?;
            heap().reset_peak();
            let (begun, taken) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
            let tasks = (0..at_once).map(|_| {
                let (bench, answers) = (Arc::clone(&bench), Arc::clone(&answers));
                let (limited, session) = (Arc::clone(&limited), session.clone());
                let taken = Arc::clone(&taken);
                tokio::spawn(async move {
                    let mut ended = Vec::new();
                    loop {
                        // Relaxed: each number is taken once, and nothing else.
                        let next = taken.fetch_add(1, Ordering::Relaxed);
                        if next >= count {
                            return ended;
                        }
                        let index = next % bench.queries.len();
                        let (query, answer) = (&bench.queries[index], &answers[index]);
                        ended.push(judged(&limited, &session, query, answer).await);
                    }
                })
            });
            let mut ended: Vec<(Outcome, Duration)> = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                let of_task = task.await;
                ended.extend(of_task.map_err(|error| DataFusionError::External(Box::new(error)))?);
            }
            let (all, peak) = (begun.elapsed(), heap().peak());
            limited
                .settled(SETTLING)
                .await
                .map_err(DataFusionError::Internal)?;
            print(limit, configuration.name, &ended, all, peak);
        }
    }
    Ok(())
}

fn print(limit: usize, name: &str, ended: &[(Outcome, Duration)], all: Duration, peak: usize) {
    let count = |is: fn(&Outcome) -> bool| {
        ended
            .iter()
            .filter(|(outcome, _)| is(outcome))
            .count()
            .to_string()
    };
    let right = ended
        .iter()
        .filter(|(outcome, _)| matches!(outcome, Outcome::Right { .. }));
    let mut times: Vec<Duration> = right.map(|(_, time)| *time).collect();
    let mut at = |percent| {
        percentile(&mut times, percent)
            .map_or(String::new(), |time| format!("{:.2} s", time.as_secs_f64()))
    };
    let (p50, p99) = (at(50), at(99));
    table::row([
        mib(limit),
        name.to_owned(),
        count(|outcome| matches!(outcome, Outcome::Right { .. })),
        count(|outcome| matches!(outcome, Outcome::Refused(_))),
        count(|outcome| matches!(outcome, Outcome::GivenUp(_))),
        count(|outcome| matches!(outcome, Outcome::Wrong(_) | Outcome::Failed(_))),
        p50,
        p99,
        format!("{:.1} s", all.as_secs_f64()),
        mib(peak),
    ]);
}
