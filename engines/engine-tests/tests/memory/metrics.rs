//! Queries and operators on a page of Prometheus.

use arrow_memory_datafusion::{DataFusionMemory, MetricsExporter, RootAllocator};
use engine_tests::run;
use futures::StreamExt;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::support::{MIB, SORT, config, settled};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_of_one_kind_are_a_series_of_all_queries() {
    let root = RootAllocator::builder().name("server").limit(256 * MIB);
    let root = root.build().unwrap();
    let memory = DataFusionMemory::new(&root);
    let session = memory.session(config()).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let mut exporter = MetricsExporter::new(memory.allocator());
    let mut queries = Vec::new();
    for name in ["one", "two"] {
        let query = memory.query(name).admit().await.unwrap();
        let frame = run::sql(&session, SORT).await.unwrap();
        let mut stream = query.execute_stream(frame).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        queries.push((query, stream));
    }

    metrics::with_local_recorder(&recorder, || exporter.export());

    let page = recorder.handle().render();
    // What it declares is a reservation, which covers what it holds.
    let bytes: f64 = ["allocated", "reservation"]
        .map(|what| {
            let start =
                format!("arrow_memory_{what}_bytes{{allocator=\"server/query/SortExec\"}} ");
            let series = page.lines().filter_map(|line| line.strip_prefix(&start));
            let values: Vec<f64> = series.map(|value| value.parse().unwrap()).collect();
            assert_eq!(values.len(), 1, "{page}");
            values[0]
        })
        .iter()
        .sum();
    assert!(bytes > 1e6, "{page}");
    drop(queries);
    settled(&memory, &root).await;
}
