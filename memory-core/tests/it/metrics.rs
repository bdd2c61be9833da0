//! The series that `MetricsExporter` publishes, as a page of Prometheus.

mod described;
mod paths;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{BufferAllocator, MetricsExporter, RootAllocator};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

/// An exporter with a recorder of its own.
struct Exports {
    exporter: MetricsExporter,
    recorder: PrometheusRecorder,
}

impl Exports {
    fn of(exporter: MetricsExporter) -> Self {
        Self {
            exporter,
            recorder: PrometheusBuilder::new().build_recorder(),
        }
    }

    /// Exports, and returns the page.
    fn page(&mut self) -> Page {
        ::metrics::with_local_recorder(&self.recorder, || self.exporter.export());
        Page(self.recorder.handle().render())
    }
}

struct Page(String);

impl Page {
    /// The value of `arrow_memory_METRIC{allocator="PATH"}`.
    fn value(&self, metric: &str, path: &str) -> Option<f64> {
        let start = format!("arrow_memory_{metric}{{allocator=\"{path}\"}} ");
        let value = self.0.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(value.parse().expect("a number"))
    }

    /// The series of this metric with their values.
    fn series(&self, metric: &str) -> BTreeMap<&str, f64> {
        let start = format!("arrow_memory_{metric}{{allocator=\"");
        let found = self.0.lines().filter_map(|line| line.strip_prefix(&start));
        let found = found.filter_map(|line| line.split_once("\"} "));
        found
            .map(|(path, value)| (path, value.parse().expect("a number")))
            .collect()
    }

    fn sum(&self, metric: &str) -> f64 {
        self.series(metric).values().sum()
    }
}

fn root() -> RootAllocator {
    RootAllocator::builder()
        .name("server")
        .limit(1 << 30)
        .credit(0)
        .statistics(true)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

fn refuse(allocator: &BufferAllocator) {
    let limit = allocator.limit();
    assert!(allocator.buffer(limit + 1).is_err());
}

/// A regression: counters lost the events of allocators that were created and left between two exports. Of
/// 1,000 refusals the page showed 100.
#[test]
fn counts_of_allocators_that_left_between_two_exports_are_not_lost() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let mut last = (0.0, 0.0);

    for query in 1..=10_000 {
        let allocator = root.child("query").limit(1000).build().unwrap();
        if query % 10 == 1 {
            refuse(&allocator);
        }
        let scan = allocator.child("scan").build().unwrap();
        scan.force_allocate(3);
        scan.release_bytes(3);
        drop((allocator, scan));
        if query % 100 == 0 {
            let page = exports.page();
            let now = (
                page.value("refusals_total", "server/query").unwrap(),
                page.value("forced_bytes_total", "server/query/scan")
                    .unwrap(),
            );
            assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
            last = now;
        }
    }

    assert_eq!(last, (1000.0, 30_000.0));
    let page = exports.page();
    assert_eq!(page.sum("refusals_total"), 1000.0, "{}", page.0);
    assert_eq!(page.sum("forced_bytes_total"), 30_000.0, "{}", page.0);
}

#[test]
fn an_allocator_is_counted_once_whether_it_was_exported_alive_or_not() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let refusals = |page: Page| page.value("refusals_total", "server/query");

    let query = root.child("query").limit(100).build().unwrap();
    refuse(&query);
    let _ = root.snapshot(); // measures, too
    assert_eq!(refusals(exports.page()), Some(1.0));
    assert_eq!(refusals(exports.page()), Some(1.0));
    refuse(&query);
    drop(query);

    assert_eq!(refusals(exports.page()), Some(2.0));
    assert_eq!(refusals(exports.page()), Some(2.0));
}

#[test]
fn what_an_allocator_counts_after_it_was_closed_and_before_its_tree_goes_is_counted() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let query = root.child("query").limit(100).build().unwrap();
    query.close().unwrap();

    refuse(&query);
    query.force_allocate(5);
    let page = exports.page();
    assert_eq!(page.value("refusals_total", "server/query"), Some(1.0));
    assert_eq!(page.value("forced_bytes_total", "server/query"), Some(5.0));

    refuse(&query);
    root.force_allocate(7);
    root.release_bytes(7);
    drop((query, root));
    let page = exports.page();
    assert_eq!(page.value("refusals_total", "server/query"), Some(2.0));
    assert_eq!(page.value("forced_bytes_total", "server"), Some(7.0));
}

#[test]
fn no_count_is_lost_while_threads_come_and_go_and_another_one_exports() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let done = AtomicBool::new(false);

    let pages = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for query in 0..500 {
                        let name = format!("query-{}", query % 7);
                        let allocator = root.child(&name).limit(100).build().unwrap();
                        refuse(&allocator);
                    }
                })
            })
            .collect();
        let exporting = scope.spawn(|| {
            let mut pages = Vec::new();
            while !done.load(Ordering::Relaxed) {
                pages.push(exports.page());
            }
            pages.push(exports.page());
            pages
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        exporting.join().unwrap()
    });

    for pair in pages.windows(2) {
        for (path, before) in pair[0].series("refusals_total") {
            assert!(
                pair[1].value("refusals_total", path) >= Some(before),
                "{path}"
            );
        }
    }
    let last = pages.last().unwrap().series("refusals_total");
    assert_eq!(last.len(), 8, "{last:?}"); // each name once, and the root
    assert_eq!(last.values().sum::<f64>(), 2000.0);
}

/// A regression: the limit of a path that has left the tree was still shown.
#[test]
fn all_gauges_of_a_path_that_has_gone_are_zero() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let gauges = |page: &Page| {
        [
            "allocated_bytes",
            "peak_bytes",
            "limit_bytes",
            "reservation_bytes",
            "live_allocations",
        ]
        .map(|metric| page.value(metric, "server/query").unwrap())
    };
    let query = root
        .child("query")
        .reservation(512)
        .limit(4096)
        .build()
        .unwrap();
    let buffer = query.buffer(1000).unwrap();
    assert_eq!(
        gauges(&exports.page()),
        [1024.0, 1024.0, 4096.0, 512.0, 1.0]
    );

    drop((query, buffer));
    assert_eq!(gauges(&exports.page()), [0.0; 5]);
    assert_eq!(gauges(&exports.page()), [0.0; 5]);

    let manager = root.allocation_manager().name();
    let manager = format!("arrow_memory_manager_live_bytes{{manager=\"{manager}\"}}");
    let held = root.buffer(64).unwrap();
    let page = exports.page();
    assert!(
        page.0.contains("accounted_bytes{root=\"server\"} 64\n"),
        "{}",
        page.0
    );
    assert!(page.0.contains(&format!("{manager} 64\n")), "{}", page.0);
    drop((held, root));
    let page = exports.page();
    assert_eq!(page.value("limit_bytes", "server"), Some(0.0));
    assert!(
        page.0.contains("accounted_bytes{root=\"server\"} 0\n"),
        "{}",
        page.0
    );
    assert!(page.0.contains(&format!("{manager} 0\n")), "{}", page.0);
}

#[test]
fn a_limit_that_was_removed_is_infinite_and_one_that_never_was_is_absent() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let query = root.child("query").limit(4096).build().unwrap();
    let _free = root.child("free").build().unwrap();
    exports.page();

    query.set_limit(usize::MAX);
    let page = exports.page();

    assert_eq!(
        page.value("limit_bytes", "server/query"),
        Some(f64::INFINITY)
    );
    assert_eq!(page.value("limit_bytes", "server/free"), None);
    drop(query);
    exports.page();
    let _again = root.child("query").build().unwrap();
    let page = exports.page();
    assert_eq!(
        page.value("limit_bytes", "server/query"),
        Some(f64::INFINITY)
    );
}

#[test]
fn gauges_that_have_gone_can_be_dropped_by_an_idle_timeout_that_keeps_the_counters() {
    use metrics_util::MetricKindMask;
    // Each gauge is dropped after that idle time, and not all of them between the same two pages.
    let idle = Duration::from_millis(100);
    let root = root();
    let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(idle));
    let mut exports = Exports {
        exporter: MetricsExporter::new(&root),
        recorder: builder.build_recorder(),
    };
    let query = root.child("query").limit(100).build().unwrap();
    refuse(&query);
    exports.page();
    drop(query);
    let start = Instant::now();
    let page = exports.page();
    if start.elapsed() < idle {
        assert_eq!(page.value("limit_bytes", "server/query"), Some(0.0));
    }

    let page = loop {
        let page = exports.page();
        let mut gauges = ["limit_bytes", "allocated_bytes"].into_iter();
        if gauges.all(|gauge| page.value(gauge, "server/query").is_none()) {
            break page;
        }
        assert!(start.elapsed() < 400 * idle, "{}", page.0);
        thread::yield_now();
    };

    assert_eq!(page.value("refusals_total", "server/query"), Some(1.0));
}

/// With credit a parent is charged more than its children use, and its peak includes that.
#[test]
fn peaks_are_exact_without_credit_and_never_too_low_nor_too_high_by_more_than_the_credit_with_it() {
    for credit in [0, 1 << 20] {
        let root = RootAllocator::builder()
            .name("server")
            .credit(credit)
            .allocation_manager(Arc::new(TrackingManager::default()))
            .build()
            .unwrap();
        let children: Vec<_> = (0..8)
            .map(|index| root.child(&format!("scan-{index}")).build().unwrap())
            .collect();
        for child in &children {
            drop(child.buffer(1024).unwrap());
        }

        let page = Exports::of(MetricsExporter::new(&root)).page();

        let peak = page.value("peak_bytes", "server").unwrap();
        let most = 1024.0 + (8 * credit) as f64;
        assert!(
            (1024.0..=most).contains(&peak),
            "{peak} with credit {credit}"
        );
        assert_eq!(page.value("peak_bytes", "server/scan-0"), Some(1024.0));
    }
}

#[test]
fn waits_are_counted_and_those_that_wait_now_are_gauges() {
    let root = root();
    let held = root.wait().reserve(root.limit()).unwrap();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let mut future = Box::pin(root.wait().reserve_async(100));
    let polled = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    let line =
        |metric: &str, value: usize| format!("arrow_memory_{metric}{{root=\"server\"}} {value}\n");

    let page = exports.page().0;
    for (metric, value) in [
        ("waiting_requests", 1),
        ("waiting_bytes", 100),
        ("waits_total", 1),
    ] {
        assert!(page.contains(&line(metric, value)), "{metric}: {page}");
    }

    drop((future, held));
    let page = exports.page().0;
    for metric in [
        "waiting_requests",
        "waiting_bytes",
        "waited_seconds_total",
        "give_ways_total",
    ] {
        assert!(page.contains(&line(metric, 0)), "{metric}: {page}");
    }
}
