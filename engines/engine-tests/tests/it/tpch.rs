//! The 22 queries of TPC-H at scale 0.1, with limits.

use std::path::Path;
use std::time::Duration;

use engine_tests::Outcome;
use engine_tests::configuration::{Configuration, pools, trees, unbounded};
use engine_tests::tpch::{ANSWERS_SCALE, Joins, Query, config, outcome, queries, register, tables};

use crate::alone;

const MIB: usize = 1 << 20;
/// A query takes a tenth of a second without a limit.
const DEADLINE: Duration = Duration::from_secs(120);
const SETTLING: Duration = Duration::from_secs(30);
/// Whether a query hangs depends on how its tasks are interleaved, so that DataFusion's pools get some tries.
const TRIES: usize = 5;

/// A place in the matrix, but for the configuration and the query.
#[derive(Clone, Copy)]
struct Place {
    joins: Joins,
    partitions: usize,
    limit: Option<usize>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} partitions, ", self.joins, self.partitions)?;
        match self.limit {
            Some(limit) => write!(f, "{} MiB", limit / MIB),
            None => f.write_str("no limit"),
        }
    }
}

/// How many queries ended how.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    right: usize,
    spilled: usize,
    refused: usize,
    given_up: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Right { spilled } => {
                self.right += 1;
                self.spilled += usize::from(*spilled > 0);
            }
            Outcome::Refused(_) => self.refused += 1,
            _ => self.given_up += 1,
        }
    }
}

/// Runs all queries at one place, and adds what must not be to `complaints`.
async fn all_queries(
    configuration: &Configuration,
    place: Place,
    queries: &[Query],
    folder: &Path,
    complaints: &mut Vec<String>,
) -> Counts {
    let limited = configuration.limited(place.limit);
    let session = limited.session(config(place.partitions, place.joins));
    register(&session, folder).await.unwrap();
    let mut counts = Counts::default();
    for query in queries {
        let outcome = outcome(&limited, &session, query, DEADLINE).await;
        let acceptable = match &outcome {
            Outcome::Right { .. } => true,
            Outcome::Refused(_) => place.limit.is_some(),
            Outcome::GivenUp(_) => hangs_in_a_pool(place, query, folder).await,
            Outcome::Wrong(_) | Outcome::Failed(_) => false,
        };
        let number = query.number;
        if !acceptable {
            complaints.push(format!(
                "{}, q{number}, {place}: {outcome}",
                configuration.name
            ));
        }
        counts.add(&outcome);
        if let Err(left) = limited.settled(SETTLING).await {
            complaints.push(format!(
                "{}, q{number}, {place}: {left}",
                configuration.name
            ));
        }
    }
    counts
}

/// Returns whether a query hangs at that place under DataFusion's Greedy or Fair, too.
async fn hangs_in_a_pool(place: Place, query: &Query, folder: &Path) -> bool {
    for pool in pools()
        .iter()
        .filter(|pool| pool.name != "TrackConsumers(Greedy)")
    {
        for _ in 0..TRIES {
            let limited = pool.limited(place.limit);
            let session = limited.session(config(place.partitions, place.joins));
            register(&session, folder).await.unwrap();
            let outcome = outcome(&limited, &session, query, DEADLINE).await;
            if let Outcome::GivenUp(_) = outcome {
                return true;
            }
        }
    }
    false
}

/// Runs a matrix, prints a line for each place, and fails if anything was not as it must be.
async fn matrix(configurations: &[Configuration], partitions: &[usize], limits: &[Option<usize>]) {
    let (queries, folder) = (queries(), tables(ANSWERS_SCALE).unwrap());
    let mut complaints = Vec::new();
    for configuration in configurations {
        for &partitions in partitions {
            for joins in [Joins::Hash, Joins::SortMerge] {
                for &limit in limits {
                    let place = Place {
                        joins,
                        partitions,
                        limit,
                    };
                    let counts =
                        all_queries(configuration, place, &queries, &folder, &mut complaints).await;
                    println!("{}, {place}: {counts:?}", configuration.name);
                }
            }
        }
    }
    assert!(
        complaints.is_empty(),
        "{} failures:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_queries_are_right_or_refused_with_two_partitions_and_three_limits() {
    let _alone = alone().await;

    matrix(&trees(), &[2], &[None, Some(64 * MIB), Some(16 * MIB)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `.ci/run engines_full` runs it"]
async fn all_queries_are_right_or_refused_in_the_whole_matrix() {
    let _alone = alone().await;

    let limits = [1024, 512, 256, 128, 64, 32, 16].map(|limit| Some(limit * MIB));
    let limits: Vec<_> = std::iter::once(None).chain(limits).collect();
    matrix(&trees(), &[1, 2, 8], &limits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_are_those_of_datafusions_own_pool() {
    let _alone = alone().await;

    matrix(&[unbounded()], &[2], &[None]).await;
}
