//! Descriptions and units of the metrics.

use std::collections::BTreeSet;
use std::sync::Mutex;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use arrow_memory_core::MetricsExporter;

use super::{Exports, root};

#[test]
fn every_metric_is_described() {
    let root = root();
    let _query = root.child("query").limit(100).build().unwrap();

    let page = Exports::of(MetricsExporter::new(&root)).page();

    let kinds: Vec<&str> = (page.0.lines())
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    assert!(kinds.len() >= 10, "{}", page.0);
    for kind in kinds {
        let name = kind.split(' ').next().unwrap();
        let help = format!("# HELP {name} ");
        assert_eq!(page.0.matches(&help).count(), 1, "{help} in {}", page.0);
    }
    let peak = (page.0.lines())
        .find(|line| line.starts_with("# HELP arrow_memory_peak_bytes"))
        .unwrap();
    assert!(
        peak.contains("too high") && peak.contains("never too low"),
        "{peak}"
    );
}

/// Records the names that are described and registered.
#[derive(Default)]
struct Noting {
    described: Mutex<Vec<(String, Option<Unit>)>>,
    registered: Mutex<BTreeSet<String>>,
}

impl Noting {
    fn describe(&self, name: &KeyName, unit: Option<Unit>) {
        let described = (name.as_str().to_owned(), unit);
        self.described.lock().unwrap().push(described);
    }

    fn register(&self, key: &Key) {
        let name = key.name().to_owned();
        self.registered.lock().unwrap().insert(name);
    }
}

impl Recorder for Noting {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key);
        Histogram::noop()
    }
}

#[test]
fn every_metric_is_described_once_with_the_unit_of_its_name() {
    let root = root();
    let _query = root.child("query").limit(100).build().unwrap();
    let recorder = Noting::default();
    let mut exporter = MetricsExporter::new(&root);

    ::metrics::with_local_recorder(&recorder, || (exporter.export(), exporter.export()));

    let described = recorder.described.into_inner().unwrap();
    let names: BTreeSet<String> = described.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), described.len(), "{described:?}");
    assert!(names.is_superset(&recorder.registered.into_inner().unwrap()));
    for (name, unit) in described {
        let expected = match name.trim_end_matches("_total").rsplit('_').next() {
            Some("bytes") => Unit::Bytes,
            Some("seconds") => Unit::Seconds,
            _ => Unit::Count,
        };
        assert_eq!(unit, Some(expected), "{name}");
    }
}
