//! Wrapped plans look like plans that are not, print like them, and return the same.

use arrow_memory_datafusion::{Charge, DataFusionMemory, Granularity, RootAllocator};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::prelude::{SessionConfig, SessionContext};
use engine_tests::run;

const QUERIES: [&str; 7] = [
    "SELECT value % 7 AS k, count(*) AS n FROM generate_series(1, 10000) GROUP BY 1 ORDER BY 1",
    "SELECT a.value FROM generate_series(1, 500) a JOIN generate_series(200, 700) b ON a.value = b.value ORDER BY 1 LIMIT 7",
    "SELECT value, sum(value) OVER (ORDER BY value ROWS 3 PRECEDING) AS s FROM generate_series(1, 50) ORDER BY 1",
    "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) t(x, y) CROSS JOIN (VALUES (3), (4)) u(z) ORDER BY 1, 3",
    "SELECT value FROM generate_series(1, 5) UNION ALL SELECT value FROM generate_series(3, 4) ORDER BY value",
    // The last operator looks for the session's functions in its context. One of them is this crate's.
    "SELECT DISTINCT routine_name FROM information_schema.routines WHERE routine_name <> 'memory' ORDER BY 1",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 20) SELECT sum(n) AS s FROM r",
];

async fn text(session: &SessionContext, sql: &str) -> String {
    let batches = run::batches(session, sql).await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

fn config() -> SessionConfig {
    SessionConfig::new()
        .with_target_partitions(3)
        .with_information_schema(true)
}

#[tokio::test]
async fn plans_print_and_return_the_same() {
    let plain = SessionContext::new_with_config(config());
    for at in [Granularity::Holders, Granularity::Operators] {
        let root = RootAllocator::new(1 << 30);
        let memory = DataFusionMemory::builder(&root).granularity(at).build();
        let session = memory.session(config()).unwrap();
        for sql in QUERIES {
            for before in [
                "",
                "EXPLAIN ",
                "EXPLAIN FORMAT INDENT ",
                "EXPLAIN FORMAT TREE ",
            ] {
                let sql = format!("{before}{sql}");
                assert_eq!(
                    text(&session, &sql).await,
                    text(&plain, &sql).await,
                    "{sql}"
                );
            }
        }
    }
}

#[tokio::test]
async fn operators_are_found_by_their_types() {
    let root = RootAllocator::new(1 << 30);
    let memory = DataFusionMemory::builder(&root)
        .granularity(Granularity::Operators)
        .build();
    let session = memory.session(config()).unwrap();
    let frame = run::sql(&session, QUERIES[0]).await.unwrap();
    let plan = run::plan(&frame).await.unwrap();
    let mut found = (0, 0);
    let mut plans = vec![&plan];
    while let Some(plan) = plans.pop() {
        found.0 += usize::from(plan.is::<SortExec>());
        found.1 += usize::from(plan.downcast_ref::<AggregateExec>().is_some());
        plans.extend(plan.children());
    }
    assert_eq!(found, (1, 2));
}

#[tokio::test]
async fn explain_analyze_has_what_operators_held() {
    for charge in [Charge::Declared, Charge::Larger] {
        let root = RootAllocator::new(1 << 30);
        let memory = DataFusionMemory::builder(&root).charge(charge).build();
        let session = memory.session(config()).unwrap();
        let text = text(&session, &format!("EXPLAIN ANALYZE {}", QUERIES[0])).await;
        let sort = text.lines().find(|line| line.contains("SortExec")).unwrap();
        for metric in [
            "mem_peak",
            "mem_held_peak",
            "mem_refused",
            "mem_forced_bytes",
            "mem_wait",
        ] {
            assert!(sort.contains(metric), "{metric} in {sort}");
        }
    }
}
