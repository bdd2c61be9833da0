//! Operators that spill when they are refused, and that would fail if the refusal were wrapped in another error.

use std::fmt;
use std::time::Duration;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryLimit, MemoryPool, MemoryReservation,
};
use engine_tests::configuration::{Configuration, pools, trees, unbounded};
use engine_tests::outcome::Rows;
use engine_tests::tpch::{ANSWERS_SCALE, Joins, config, register, tables};
use engine_tests::watch::watch;
use engine_tests::{Limited, Outcome};

use crate::alone;

const MIB: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

const AGGREGATE: &str = "SELECT count(*), sum(n) FROM \
     (SELECT l_orderkey, l_linenumber, count(*) AS n FROM lineitem GROUP BY 1, 2)";
const SORT: &str = "SELECT l_comment, l_orderkey, l_linenumber FROM lineitem ORDER BY 1, 2, 3";

async fn run(limited: &Limited, sql: &str, expected: Option<&Rows>) -> (Outcome, Option<Rows>) {
    let config = config(1, Joins::Hash)
        .with_batch_size(1024)
        .with_sort_spill_reservation_bytes(MIB);
    let session = limited.session(config);
    register(&session, &tables(ANSWERS_SCALE).unwrap())
        .await
        .unwrap();
    let mut rows = None;
    let run = limited.execute(&session, sql, "spilling", Rows::read);
    let outcome = Outcome::of(watch(run, DEADLINE).await, |own| {
        rows = Some(own.clone());
        // Of a sort the order counts, too.
        expected.and_then(|expected| (own != expected).then(|| "other rows".to_owned()))
    });
    limited.settled(DEADLINE).await.unwrap();
    (outcome, rows)
}

/// Checks that a statement spills under that limit and has the right rows, in DataFusion's pool and in trees.
async fn spills(sql: &str, limit: usize, trees: Vec<Configuration>) {
    let (_, expected) = run(&unbounded().limited(None), sql, None).await;
    let expected = expected.unwrap();
    let configurations = pools().into_iter().take(1).chain(trees);
    for configuration in configurations {
        let (outcome, _) = run(&configuration.limited(Some(limit)), sql, Some(&expected)).await;
        assert!(
            matches!(outcome, Outcome::Right { spilled } if spilled > MIB),
            "{}: {outcome}",
            configuration.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_that_is_refused_spills_and_is_right() {
    let _alone = alone().await;

    spills(AGGREGATE, 8 * MIB, trees()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_that_is_refused_spills_and_is_right() {
    let _alone = alone().await;

    // The other trees count the result, too, which is larger than the limit.
    let mut trees = trees();
    trees.retain(|tree| tree.name == "declared");
    assert_eq!(trees.len(), 1);
    spills(SORT, 32 * MIB, trees).await;
}

/// A pool that refuses with an error around the one that operators look for.
#[derive(Debug)]
struct Wrapping(GreedyMemoryPool);

impl MemoryPool for Wrapping {
    fn name(&self) -> &str {
        "wrapping"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let grown = self.0.try_grow(reservation, additional);
        grown.map_err(|error| error.context("wrapped"))
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

impl fmt::Display for Wrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_whose_refusal_is_wrapped_does_not_spill() {
    let _alone = alone().await;
    let wrapping = |limit| Wrapping(GreedyMemoryPool::new(limit));
    let limited = Configuration::pool("wrapping", wrapping).limited(Some(8 * MIB));

    let (outcome, _) = run(&limited, AGGREGATE, None).await;

    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome}");
}
