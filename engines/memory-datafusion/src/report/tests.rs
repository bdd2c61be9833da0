//! Reports as text and as JSON. They are made up: what fills them is tested where it happens.

use std::time::Duration;

use super::{OperatorReport, QueryReport};

const MIB: usize = 1 << 20;

fn sort() -> OperatorReport {
    OperatorReport {
        name: "ExternalSorter".to_owned(),
        declared: 40 * MIB,
        held: 20 * MIB,
        charged: 40 * MIB,
        peak: 60 * MIB,
        held_peak: 30 * MIB,
        refused: 12,
        revoked: 1,
        forced_bytes: 1000,
        spilled_bytes: 90 * MIB,
        waited: Duration::from_millis(1500),
        can_spill: true,
        consumers: 2,
    }
}

fn join() -> OperatorReport {
    OperatorReport {
        name: "HashJoinInput".to_owned(),
        declared: 3 * MIB,
        charged: 3 * MIB,
        peak: 7 * MIB,
        consumers: 1,
        ..OperatorReport::default()
    }
}

fn query(operators: Vec<OperatorReport>) -> QueryReport {
    QueryReport {
        name: "q7".to_owned(),
        limit: Some(64 * MIB),
        reservation: MIB,
        declared: 43 * MIB,
        charged: 43 * MIB,
        peak: 61 * MIB,
        operators,
        ..QueryReport::default()
    }
}

/// A query with all numbers.
fn full() -> QueryReport {
    QueryReport {
        held: 20 * MIB,
        held_peak: 30 * MIB,
        refused: 12,
        revoked: 1,
        forced_bytes: 1000,
        spilled_bytes: 90 * MIB,
        waited: Duration::from_millis(1500),
        open_streams: 1,
        ..query(vec![sort(), join()])
    }
}

fn widest(text: &str) -> usize {
    let widths = text.lines().map(|line| line.chars().count());
    widths.max().unwrap_or(0)
}

#[test]
fn a_report_is_a_tree_with_the_columns_that_say_something() {
    let plain = query(vec![join()]);
    let text = [plain.to_string(), full().to_string()].join("\n");
    assert_eq!(
        text,
        "\
query `q7`: 43.0 MiB declared, peak 61.0 MiB, limit 64.0 MiB, spilled 0 B
     operator       declared     peak
  └─ HashJoinInput   3.0 MiB  7.0 MiB  ████████████████████
query `q7`: 43.0 MiB declared, 20.0 MiB held, peak 61.0 MiB, limit 64.0 MiB, spilled 90.0 MiB,
  revoked 1, waited 1.5s
     operator        declared      held      peak  held peak   spilled  refused  forced
  ├─ ExternalSorter  40.0 MiB  20.0 MiB  60.0 MiB   30.0 MiB  90.0 MiB       12  1000 B  ███████████
  └─ HashJoinInput    3.0 MiB       0 B   7.0 MiB        0 B       0 B        0     0 B  █▎"
    );
}

#[test]
fn declared_and_peak_are_shown_although_they_are_zero() {
    let idle = OperatorReport {
        name: "idle".to_owned(),
        ..OperatorReport::default()
    };
    let text = query(vec![idle]).to_string();
    assert!(
        text.ends_with("\n     operator  declared  peak\n  └─ idle           0 B   0 B"),
        "{text}"
    );
    assert!(
        query(Vec::new())
            .to_string()
            .ends_with("\n  no operator has declared any memory")
    );
}

#[test]
fn lines_fit_the_width_as_long_as_names_can_be_cut() {
    let mut report = full();
    report.operators[1].name =
        "ParquetSink(tmp/a-rather-long-folder/and-a-file.parquet)\n".to_owned();
    for width in [96, 100, 120, 200] {
        let text = format!("{report:width$}");
        assert!(widest(&text) <= width, "{width}:\n{text}");
        assert_eq!(
            text.lines().count(),
            report.operators.len() + 2 + usize::from(width <= 100)
        );
    }
    assert!(report.to_string().contains("ParquetSink"), "{report}");
    report.operators.remove(0);
    let narrow = format!("{report:60}");
    assert!(widest(&narrow) <= 60, "{narrow}");
    // A name keeps a few letters although the line is too long then.
    assert!(format!("{report:1}").contains("Parquet"), "{report:1}");
}

#[test]
fn bars_are_as_long_as_the_peaks() {
    let of = |peak| OperatorReport {
        name: format!("{peak}"),
        peak,
        ..OperatorReport::default()
    };
    let text = query(vec![of(1600), of(800), of(10), of(1), of(0)]).to_string();
    let bars: Vec<&str> = text
        .lines()
        .skip(2)
        .map(|line| line.trim_start_matches(|c| !('█'..='▏').contains(&c)))
        .collect();
    assert_eq!(bars, ["████████████████████", "██████████", "▏", "", ""]);
}

/// Scripts read these names: they are changed with a line in the changelog.
#[cfg(feature = "serde")]
#[test]
fn the_names_and_the_order_of_the_fields_in_json_are_these() {
    let json = serde_json::to_string_pretty(&QueryReport {
        limit: None,
        ..full()
    });
    assert_eq!(
        json.unwrap(),
        r#"{
  "name": "q7",
  "limit": null,
  "reservation": 1048576,
  "declared": 45088768,
  "held": 20971520,
  "charged": 45088768,
  "peak": 63963136,
  "held_peak": 31457280,
  "refused": 12,
  "revoked": 1,
  "forced_bytes": 1000,
  "spilled_bytes": 94371840,
  "waited_seconds": 1.5,
  "planned_again": 0,
  "open_streams": 1,
  "operators": [
    {
      "name": "ExternalSorter",
      "declared": 41943040,
      "held": 20971520,
      "charged": 41943040,
      "peak": 62914560,
      "held_peak": 31457280,
      "refused": 12,
      "revoked": 1,
      "forced_bytes": 1000,
      "spilled_bytes": 94371840,
      "waited_seconds": 1.5,
      "can_spill": true,
      "consumers": 2
    },
    {
      "name": "HashJoinInput",
      "declared": 3145728,
      "held": 0,
      "charged": 3145728,
      "peak": 7340032,
      "held_peak": 0,
      "refused": 0,
      "revoked": 0,
      "forced_bytes": 0,
      "spilled_bytes": 0,
      "waited_seconds": 0.0,
      "can_spill": false,
      "consumers": 1
    }
  ]
}"#
    );
}
