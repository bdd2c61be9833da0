//! What operators have let go of is charged to nobody when a request is refused.

use std::sync::Arc;

use arrow_memory_arrow::Shares;
use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;
use datafusion_common::arrow::array::Int64Array;
use datafusion_common::arrow::record_batch::RecordBatch;

use crate::operator::{Operator, Seen};
use crate::options::Options;
use crate::queries::Queries;
use crate::query::Query;

/// A query with a scan and a join, below a root with a limit of 1000 bytes.
struct Plan {
    root: RootAllocator,
    query: Arc<Query>,
    scan: Arc<Operator>,
    join: Arc<Operator>,
    shares: Arc<Shares>,
}

impl Plan {
    fn new() -> Self {
        let root = RootAllocator::new(1000);
        let queries = Queries::new(root.root_allocator(), Options::default());
        let query = queries.begin(Some("q"), usize::MAX).unwrap();
        Self {
            scan: query.operator(Some(1), "scan"),
            join: query.operator(Some(2), "join"),
            shares: Arc::new(Shares::new()),
            root,
            query,
        }
    }

    /// Hands half of a batch from the scan to the join, which drops it.
    fn hand_half(&self, batch: &RecordBatch) {
        let half = batch.slice(0, batch.num_rows() / 2);
        let handed = self
            .query
            .hand_over(half, &self.scan, &self.join, Some(&self.shares));
        drop(handed.unwrap());
    }
}

/// A batch of 800 bytes.
fn batch() -> RecordBatch {
    let numbers = Int64Array::from(vec![7; 100]);
    RecordBatch::try_from_iter([("numbers", Arc::new(numbers) as _)]).unwrap()
}

#[test]
fn what_was_let_go_of_within_a_poll_does_not_refuse_a_declaration() {
    let plan = Plan::new();
    let join = Seen {
        id: 1,
        name: "HashJoinInput",
        can_spill: false,
        frees_by_spilling: false,
    };
    let join = plan.query.consumer(join, Some(&plan.join));
    let groups = batch();
    plan.hand_half(&groups);
    assert_eq!(plan.scan.allocator.allocated_memory(), 800);
    plan.query.try_grow(&join, 900).unwrap_err();

    drop(groups);
    plan.query.try_grow(&join, 900).unwrap();

    assert_eq!(plan.root.allocated_memory(), 900);
    plan.query.unregister(1);
    assert_eq!(plan.root.allocated_memory(), 0);
}

#[test]
fn what_was_let_go_of_within_a_poll_does_not_refuse_a_batch() {
    let plan = Plan::new();
    let (first, second) = (batch(), batch());
    plan.hand_half(&first);
    let half = second.slice(0, 50);
    let refused = plan
        .query
        .hand_over(half, &plan.scan, &plan.join, Some(&plan.shares));
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("it is to hold a batch of scan"),
        "{refused}"
    );

    drop(first);
    plan.hand_half(&second);

    assert_eq!(plan.scan.numbers().held, 800);
    drop(second);
    plan.scan.sweep(usize::MAX);
    assert_eq!(plan.root.allocated_memory(), 0);
}

/// A sort that has read its input merges what it has, and cannot spill any more.
#[test]
fn what_was_to_give_way_and_has_read_its_input_since_is_not_refused() {
    let plan = Plan::new();
    let sort = Seen {
        id: 1,
        name: "ExternalSorter[0]",
        can_spill: true,
        frees_by_spilling: true,
    };
    let sort = plan.query.consumer(sort, Some(&plan.join));
    plan.join.begins_to_read(0);
    plan.query.try_grow(&sort, 100).unwrap();

    sort.revoke();
    plan.query.try_grow(&sort, 100).unwrap_err();
    sort.shrink(50);
    sort.revoke();
    plan.join.has_read(0);
    plan.query.try_grow(&sort, 100).unwrap();

    plan.query.unregister(1);
    assert_eq!(plan.root.allocated_memory(), 0);
}
