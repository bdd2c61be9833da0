//! Queries that wait until their reservation fits.

use std::time::Duration;

use arrow_memory_datafusion::{AdmitError, DataFusionMemory, RootAllocator};

use crate::support::balanced;

#[tokio::test]
async fn a_query_waits_until_its_reservation_fits() {
    let root = RootAllocator::new(1000);
    let memory = DataFusionMemory::new(&root);
    let first = memory
        .query("first")
        .reservation(600)
        .admit()
        .await
        .unwrap();
    let second = tokio::spawn(memory.query("second").reservation(600).priority(3).admit());
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    assert_eq!(root.allocated_memory(), 600);

    first.finish().await.unwrap();

    let second = second.await.unwrap().unwrap();
    assert_eq!(
        (second.report().name.as_str(), second.report().reservation),
        ("second", 600)
    );
    assert_eq!(
        memory.queries().len(),
        2,
        "the handle of the first one is alive"
    );
    drop((first, second));
    assert!(memory.queries().is_empty());
    balanced(&root);
}

#[tokio::test]
async fn a_query_that_cannot_be_admitted_says_why() {
    let root = RootAllocator::new(1000);
    let memory = DataFusionMemory::new(&root);
    let first = memory.query("first").reservation(600).try_admit().unwrap();

    let too_large = memory
        .query("a")
        .reservation(1001)
        .admit()
        .await
        .unwrap_err();
    assert!(
        matches!(too_large, AdmitError::TooLarge { .. }),
        "{too_large}"
    );
    let beyond_its_own = memory
        .query("b")
        .limit(10)
        .reservation(11)
        .admit()
        .await
        .unwrap_err();
    assert!(
        matches!(beyond_its_own, AdmitError::TooLarge { .. }),
        "{beyond_its_own}"
    );
    let deadline = Duration::from_millis(20);
    let late = memory
        .query("c")
        .reservation(600)
        .deadline(deadline)
        .admit()
        .await
        .unwrap_err();
    assert!(matches!(late, AdmitError::Timeout { .. }), "{late}");
    assert!(
        late.to_string()
            .starts_with("query `c` was not admitted within its deadline: "),
        "{late}"
    );
    let now = memory.query("d").reservation(600).try_admit().unwrap_err();
    assert!(matches!(now, AdmitError::Refused { .. }), "{now}");

    drop(first);
    balanced(&root);
    root.close().unwrap();
    let closed = memory.query("e").admit().await.unwrap_err();
    assert!(matches!(closed, AdmitError::Closed { .. }), "{closed}");
}
