//! What a configuration costs where memory is not short.

use std::time::{Duration, Instant};

use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use engine_tests::Limited;
use engine_tests::configuration::unbounded;
use engine_tests::tpch::Query;

use crate::numbers::median;
use crate::{Bench, table};

/// Runs each query in all configurations, one after the other, in as many rounds. The order changes with each.
pub(crate) async fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let mut sessions = Vec::new();
    let baseline = unbounded();
    let others = bench
        .configurations
        .iter()
        .filter(|one| one.name != baseline.name);
    let configurations: Vec<_> = std::iter::once(&baseline).chain(others).collect();
    for configuration in &configurations {
        let limited = configuration.limited(None);
        let session = bench.session(&limited).await?;
        sessions.push((limited, session));
    }
    let count = sessions.len();
    // By configuration, query and round.
    let mut times = vec![vec![vec![Duration::ZERO; rounds]; bench.queries.len()]; count];
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for (number, query) in bench.queries.iter().enumerate() {
            for turn in 0..count {
                let index = (turn + round + number) % count;
                let (limited, session) = &sessions[index];
                let time = time(limited, session, query).await?;
                if let Some(counted) = round.checked_sub(1) {
                    times[index][number][counted] = time;
                }
            }
        }
    }

    table::heading("Overhead: time without a limit, relative to DataFusion's pool without one");
    println!(
        "Ratios are medians of {rounds} rounds, with intervals of 95 %; the last row is the median of all queries in each round.\n"
    );
    let names: Vec<_> = configurations.iter().skip(1).map(|one| one.name).collect();
    table::columns(&[&["query", "Unbounded, ms"], &names[..]].concat());
    let ratio = |index: usize, number: usize, round: usize| {
        times[index][number][round].as_secs_f64() / times[0][number][round].as_secs_f64()
    };
    for (number, query) in bench.queries.iter().enumerate() {
        let milliseconds = times[0][number].iter().map(|time| time.as_secs_f64() * 1e3);
        let first = [
            query.number.to_string(),
            format!("{:.1}", median(milliseconds.collect()).median),
        ];
        let ratios = (1..count).map(|index| {
            median(
                (0..rounds)
                    .map(|round| ratio(index, number, round))
                    .collect(),
            )
            .to_string()
        });
        table::row(first.into_iter().chain(ratios));
    }
    let all = (1..count).map(|index| {
        let of_round = |round| {
            let ratios = (0..bench.queries.len()).map(|number| ratio(index, number, round));
            median(ratios.collect()).median
        };
        median((0..rounds).map(of_round).collect()).to_string()
    });
    table::row(["all".to_owned(), String::new()].into_iter().chain(all));
    Ok(())
}

async fn time(limited: &Limited, session: &SessionContext, query: &Query) -> Result<Duration> {
    let begun = Instant::now();
    let read = |_, batches| {
        drop(batches);
        Ok(())
    };
    limited
        .execute(session, &query.sql, "overhead", read)
        .await?;
    Ok(begun.elapsed())
}
