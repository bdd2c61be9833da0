//! What the other tests rely on: that they can fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Decimal128Array, Float64Array, StringArray};
use datafusion::arrow::record_batch::RecordBatch;
use engine_tests::configuration::{trees, unbounded};
use engine_tests::outcome::Rows;
use engine_tests::tpch::{ANSWERS_SCALE, Joins, config, outcome, queries, register, tables};
use engine_tests::watch::{GivenUp, watch};
use engine_tests::{Limited, Outcome};

use crate::{HEAP, alone};

const MIB: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// A query with a column of floating-point numbers, and one without.
const FLOATS: usize = 17;
const DECIMALS: usize = 1;

async fn outcome_of(limited: &Limited, number: usize, change: fn(&str) -> String) -> Outcome {
    let session = limited.session(config(2, Joins::Hash));
    register(&session, &tables(ANSWERS_SCALE).unwrap())
        .await
        .unwrap();
    let mut query = queries().swap_remove(number - 1);
    let last = query.answer.pop().unwrap();
    query.answer.push(change(&last));
    outcome(limited, &session, &query, DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_answer_is_seen() {
    let _alone = alone().await;
    let limited = unbounded().limited(None);

    let right = outcome_of(&limited, DECIMALS, str::to_owned).await;
    let wrong = outcome_of(&limited, DECIMALS, |line| {
        line.replace("5337950526.47", "5337950526.48")
    })
    .await;
    let longer = outcome_of(&limited, DECIMALS, |line| format!("{line} 1")).await;

    assert_eq!(right, Outcome::Right { spilled: 0 });
    assert!(matches!(wrong, Outcome::Wrong(_)), "{wrong}");
    assert!(matches!(longer, Outcome::Wrong(_)), "{longer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floating_point_numbers_may_differ_in_their_last_digits_only() {
    let _alone = alone().await;
    let limited = unbounded().limited(None);

    let close = outcome_of(&limited, FLOATS, |_| "23512.752857142859".to_owned()).await;
    let far = outcome_of(&limited, FLOATS, |_| "23512.7529".to_owned()).await;

    assert_eq!(close, Outcome::Right { spilled: 0 });
    assert!(matches!(far, Outcome::Wrong(_)), "{far}");
}

#[test]
fn values_are_written_as_in_sqllogictest_files() {
    let decimals = Decimal128Array::from(vec![Some(-150), Some(2_000), Some(0), None]);
    let decimals = decimals.with_precision_and_scale(10, 2).unwrap();
    let columns: [(&str, ArrayRef); 3] = [
        ("decimals", Arc::new(decimals)),
        (
            "floats",
            Arc::new(Float64Array::from(vec![0.1 + 0.2, 1e-13, 100.0, 2.5])),
        ),
        (
            "texts",
            Arc::new(StringArray::from(vec![
                Some(""),
                Some("1.50"),
                None,
                Some("a b"),
            ])),
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, column)| (name, column, true)),
    );
    let batch = batch.unwrap();
    let expected = [
        "-1.5 0.3 (empty)",
        "20 0 1.50",
        "0 100 NULL",
        "NULL 2.5 a b",
    ];

    for (row, expected) in expected.into_iter().enumerate() {
        let rows = Rows::read(batch.schema(), vec![batch.slice(row, 1)]).unwrap();
        let difference = rows.differ_from_lines(&["other".to_owned()]).unwrap();
        assert_eq!(difference, format!("{expected:?}, not \"other\""));
        assert_eq!(rows.differ_from_lines(&[expected.to_owned()]), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leak_of_one_byte_is_seen() {
    let _alone = alone().await;
    for configuration in trees() {
        let limited = configuration.limited(None);
        let outcome = outcome_of(&limited, DECIMALS, str::to_owned).await;
        assert_eq!(outcome, Outcome::Right { spilled: 0 });
        limited.settled(DEADLINE).await.unwrap();

        limited.root().unwrap().allocate_bytes(1).unwrap();
        let left = limited.settled(Duration::from_millis(50)).await;

        assert!(left.is_err_and(|text| text.contains("not empty")));
        limited.root().unwrap().release_bytes(1);
        limited.settled(DEADLINE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_nobody_wakes_hangs_and_one_beside_a_busy_thread_is_late() {
    let _alone = alone().await;
    let deadline = Duration::from_secs(8);
    static DONE: AtomicBool = AtomicBool::new(false);

    let hung = watch(std::future::pending::<()>(), DEADLINE).await;
    let busy = tokio::task::spawn_blocking(|| {
        // Relaxed: the flag guards nothing.
        while !DONE.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let late = watch(std::future::pending::<()>(), deadline).await;
    DONE.store(true, Ordering::Relaxed);
    busy.await.unwrap();
    let done = watch(async { 7 }, deadline).await;

    assert_eq!(hung, Err(GivenUp::Hung));
    assert_eq!(late, Err(GivenUp::Late(deadline)));
    assert_eq!(done, Ok(7));
}

#[tokio::test]
async fn the_allocator_counts_the_heap_and_its_peak() {
    let _alone = alone().await;
    HEAP.begin();
    let before = HEAP.live();
    HEAP.reset_peak();

    let mut block = vec![1_u8; 64 * MIB];
    let with = HEAP.live();
    block.truncate(MIB);
    block.shrink_to_fit();
    let less = HEAP.live();
    drop(block);

    // Threads of other tests end meanwhile, and their stacks' books are small.
    assert!(with.abs_diff(before + 64 * MIB) < MIB, "{before} {with}");
    assert!(less.abs_diff(before + MIB) < MIB, "{before} {less}");
    assert!(HEAP.live().abs_diff(before) < MIB, "{before}");
    assert!(HEAP.peak().abs_diff(with) < MIB, "{with}");
}
