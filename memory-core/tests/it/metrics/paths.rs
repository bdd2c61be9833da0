//! Groups of allocators, and the paths that name the series.

use arrow_memory_core::{MetricsExporter, Peaks};

use super::{Exports, Page, refuse, root};

#[test]
fn allocators_of_a_group_share_its_series_and_keep_their_names() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));
    let mut lines = Vec::new();

    for query in 0..10_000 {
        let name = format!("query-{query}");
        let child = root
            .child(&name)
            .group("query")
            .limit(1000)
            .build()
            .unwrap();
        let scan = child.child("scan").build().unwrap();
        let error = scan.buffer(1001).unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
        if query % 1000 == 0 {
            lines.push(exports.page().0.lines().count());
        }
    }

    assert!(lines.iter().all(|&count| count == lines[0]), "{lines:?}");
    let page = exports.page();
    assert_eq!(page.value("refusals_total", "server/query"), Some(10_000.0));
    let paths: Vec<_> = page.series("allocated_bytes").into_keys().collect();
    assert_eq!(paths, ["server", "server/query", "server/query/scan"]);
}

#[test]
fn gauges_of_a_group_are_added_up_and_the_largest_peak_and_limit_count() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root).peaks(Peaks::OfEpoch));
    let child = |name, limit| {
        let child = root.child(name).group("query").reservation(64).limit(limit);
        child.build().unwrap()
    };
    let (one, two) = (child("query-1", 4096), child("query-2", 8192));
    let _held = [one.buffer(1024).unwrap(), two.buffer(2048).unwrap()];
    drop(one.buffer(3072).unwrap());
    let value = |page: &Page, metric| page.value(metric, "server/query").unwrap();

    let page = exports.page();

    assert_eq!(value(&page, "allocated_bytes"), 3072.0);
    assert_eq!(value(&page, "peak_bytes"), 4096.0);
    assert_eq!(value(&page, "limit_bytes"), 8192.0);
    assert_eq!(value(&page, "reservation_bytes"), 128.0);
    assert_eq!(value(&page, "live_allocations"), 2.0);
    assert_eq!(value(&exports.page(), "peak_bytes"), 2048.0); // of the next epoch
}

#[test]
fn a_bounded_depth_counts_what_lies_deeper_in_its_ancestor() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root).max_depth(1));
    let query = root.child("query").limit(1 << 20).build().unwrap();
    let scan = query
        .child("scan")
        .reservation(100)
        .limit(1000)
        .build()
        .unwrap();
    let column = scan.child("column").build().unwrap();
    let _held = [query.buffer(64).unwrap(), column.buffer(128).unwrap()];
    refuse(&scan);
    column.force_allocate(10);

    let page = exports.page();

    let paths: Vec<_> = page.series("allocated_bytes").into_keys().collect();
    assert_eq!(paths, ["server", "server/query"]);
    for (metric, expected) in [
        ("allocated_bytes", 202.0),
        ("peak_bytes", 202.0),
        ("limit_bytes", 1_048_576.0),
        ("reservation_bytes", 0.0),
        ("live_allocations", 2.0),
        ("refusals_total", 1.0),
        ("forced_bytes_total", 10.0),
    ] {
        assert_eq!(
            page.value(metric, "server/query"),
            Some(expected),
            "{metric}"
        );
    }
    column.release_bytes(10);
    let mut exports = Exports::of(MetricsExporter::new(&root).max_depth(0));
    let page = exports.page();
    assert_eq!(page.series("allocated_bytes"), [("server", 192.0)].into());
    assert_eq!(page.series("refusals_total"), [("server", 1.0)].into());
}

#[test]
fn names_without_a_group_add_a_bounded_number_of_series_and_no_count_is_lost() {
    let root = root();
    let mut exports = Exports::of(MetricsExporter::new(&root));

    for query in 0..3000 {
        let child = root
            .child(&format!("query-{query}"))
            .limit(1000)
            .build()
            .unwrap();
        let scan = child.child("scan").build().unwrap();
        refuse(&child);
        refuse(&scan.child("column").limit(100).build().unwrap());
        let _held = scan.buffer(64).unwrap();
        if query % 500 == 0 || query == 2999 {
            let page = exports.page();
            assert_eq!(page.value("allocated_bytes", "server"), Some(64.0));
            if query >= 1000 {
                assert_eq!(page.value("allocated_bytes", "server/(other)"), Some(64.0));
            }
        }
    }

    let page = exports.page();
    assert_eq!(page.value("refusals_total", "server/(other)"), Some(4000.0));
    assert_eq!(page.sum("refusals_total"), 6000.0);
    assert_eq!(page.series("refusals_total").len(), 2 + 1000 * 2 + 2);
}

/// A regression: a child `a/b` and the child `b` of `a` shared one series.
#[test]
fn names_with_slashes_and_control_characters_are_escaped_in_paths() {
    let root = root();
    let a = root.child("a").build().unwrap();
    let _ab = [
        a.child("b").build().unwrap(),
        root.child("a/b").build().unwrap(),
    ];
    let _line = root.child("two\nlines").group("x\"y").build().unwrap();

    let page = Exports::of(MetricsExporter::new(&root)).page();

    // The page escapes characters, too: a lone backslash is doubled, and `\"` stays as it is.
    let paths: Vec<_> = page.series("allocated_bytes").into_keys().collect();
    let expected = [
        "server",
        "server/a",
        "server/a/b",
        r"server/a\\/b",
        r#"server/x\"y"#,
    ];
    assert_eq!(paths, expected);
}

#[test]
fn an_exporter_of_a_child_names_paths_from_there_and_counts_what_came_before_it() {
    let root = root();
    let engine = root.child("engine").build().unwrap();
    let _beside = root.child("cache").build().unwrap();
    refuse(&engine.child("query").limit(10).build().unwrap());

    let page = Exports::of(MetricsExporter::new(&engine)).page();

    let expected = [("engine", 0.0), ("engine/query", 1.0)];
    assert_eq!(page.series("refusals_total"), expected.into());
    assert_eq!(page.series("allocated_bytes"), [("engine", 0.0)].into());
}
