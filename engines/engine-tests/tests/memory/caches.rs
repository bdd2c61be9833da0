//! What functions and sources of the program's own pass through a query, and keep: it is not the query's.

use std::sync::{Arc, LazyLock};

use arrow_memory_datafusion::{DataFusionMemory, Granularity, RootAllocator};
use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use engine_tests::run;
use futures::StreamExt;

use crate::support::{config, settled};

const ROWS: usize = 1000;
const BATCHES: usize = 20;

/// A source that keeps its batches, as a cache does.
#[derive(Debug)]
struct Cached {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl PartitionStream for Cached {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches.clone().into_iter().map(Ok);
        let stream = futures::stream::iter(batches);
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream,
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_keeps_its_batches_is_charged_for_none_of_them() {
    let batch = |at: usize| {
        let from = (at * ROWS) as i64;
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + ROWS as i64));
        RecordBatch::try_from_iter([("a", values)]).unwrap()
    };
    let batches: Vec<_> = (0..BATCHES).map(batch).collect();
    let cached = Arc::new(Cached {
        schema: batches[0].schema(),
        batches,
    });
    for at in [Granularity::Holders, Granularity::Operators] {
        let root = RootAllocator::new(1 << 30);
        let memory = DataFusionMemory::builder(&root).granularity(at).build();
        let session = memory.session(config()).unwrap();
        let table = StreamingTable::try_new(cached.schema.clone(), vec![cached.clone()]).unwrap();
        session.register_table("cached", Arc::new(table)).unwrap();
        let query = memory.query("q").admit().await.unwrap();
        let frame = run::sql(&session, "SELECT a, a + 1 AS b FROM cached WHERE a >= 0");
        let mut stream = query.execute_stream(frame.await.unwrap()).await.unwrap();

        let mut most = 0;
        while let Some(batch) = stream.next().await {
            drop(batch.unwrap());
            most = most.max(query.report().held);
        }

        // What is on its way may be charged, and not what the source keeps.
        let all = BATCHES * ROWS * size_of::<i64>();
        assert!(most <= all / 2, "{most} of {all}:\n{}", query.report());
        drop(stream);
        query.finish().await.unwrap();
        drop(query);
        settled(&memory, &root).await;
    }
}

/// The projection that returns such an array has it for as long as it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_that_a_function_caches_does_not_keep_a_query_from_finishing() {
    static CACHED: LazyLock<ArrayRef> =
        LazyLock::new(|| Arc::new(Int64Array::from_iter_values(0..100_000)));

    let root = RootAllocator::new(1 << 30);
    let memory = DataFusionMemory::new(&root);
    let session = memory.session(config()).unwrap();
    session.register_udf(create_udf(
        "cached",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|arguments| {
            let rows = match &arguments[0] {
                ColumnarValue::Array(array) => array.len(),
                ColumnarValue::Scalar(_) => 1,
            };
            Ok(ColumnarValue::Array(CACHED.slice(0, rows)))
        }),
    ));
    let query = memory.query("q").admit().await.unwrap();
    let frame = run::sql(
        &session,
        "SELECT cached(value) FROM generate_series(1, 5000)",
    );

    drop(query.collect(frame.await.unwrap()).await.unwrap());

    query.finish().await.unwrap();
    assert_eq!(CACHED.len(), 100_000);
    drop(query);
    settled(&memory, &root).await;
}
