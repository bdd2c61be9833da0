//! The comparison as an SVG chart: a panel per number, a bar per backend.

use std::fmt::Write as _;

use super::Comparison;
use super::work::Outcome;
use crate::scan::duration;
use crate::size::{counted, grouped, human};
use crate::text::cell;

const WIDTH: usize = 900;
const MARGIN: usize = 24;
const COLUMNS: usize = 2;
const PANEL: usize = (WIDTH - MARGIN * (COLUMNS + 1)) / COLUMNS;
const HEAD: usize = 84;
const BAR: usize = 20;
const STEP: usize = 30;
const LABEL: usize = 78;
/// The width that is kept free to the right of the longest bar, for its number.
const NUMBER: usize = 92;

/// One number of an outcome, and its format.
struct Panel {
    title: &'static str,
    value: fn(&Outcome) -> Option<f64>,
    /// A part of the value, drawn in a paler colour at the start of the bar.
    part: fn(&Outcome) -> f64,
    write: fn(f64) -> String,
}

const PANELS: [Panel; 5] = [
    Panel {
        title: "time (pale: decoding)",
        value: |outcome| Some(outcome.seconds),
        part: |outcome| outcome.decoding_seconds,
        write: duration,
    },
    Panel {
        title: "page faults",
        value: |outcome| outcome.page_faults.map(|faults| faults as f64),
        part: |_| 0.0,
        write: |faults| grouped(faults as u64),
    },
    Panel {
        title: "accounted, at most",
        value: |outcome| Some(outcome.peak_accounted as f64),
        part: |_| 0.0,
        write: |bytes| human(bytes as usize),
    },
    Panel {
        title: "resident, at most",
        value: |outcome| outcome.peak_resident.map(|bytes| bytes as f64),
        part: |_| 0.0,
        write: |bytes| human(bytes as usize),
    },
    Panel {
        title: "resident after release (pale: before the work)",
        value: |outcome| outcome.resident_after_release.map(|bytes| bytes as f64),
        part: |outcome| outcome.resident_before.unwrap_or(0) as f64,
        write: |bytes| human(bytes as usize),
    },
];

const COLOURS: [&str; 6] = [
    "#3b6ea8", "#d1793b", "#4f9a63", "#8a63a8", "#a8873b", "#5a5a5a",
];

/// The chart as the text of an SVG file.
pub(super) fn draw(comparison: &Comparison) -> String {
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = write_chart(&mut svg, comparison);
    svg
}

fn write_chart(svg: &mut String, comparison: &Comparison) -> std::fmt::Result {
    let panel_height = 34 + STEP * comparison.backends.len() + 18;
    let height = HEAD + panel_height * PANELS.len().div_ceil(COLUMNS) + 8;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, 'DejaVu Sans', sans-serif\" \
         font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    )?;
    let name = comparison.file.file_name().unwrap_or_default();
    text(
        svg,
        MARGIN,
        36,
        "font-size=\"19\" font-weight=\"600\" fill=\"#222\"",
        "One query's memory on each backend",
    )?;
    let (threads, rounds) = (comparison.threads, comparison.rounds);
    let timing = match threads {
        1 => "",
        _ => "; what is accounted at most depends on timing",
    };
    let about = format!(
        "{}, {}; threads: {threads}; medians of {rounds}; less is better{timing}",
        cell(&name.to_string_lossy(), 60),
        counted(comparison.rows, "row")
    );
    text(svg, MARGIN, 60, "fill=\"#666\"", &about)?;
    for (index, panel) in PANELS.iter().enumerate() {
        let x = MARGIN + (index % COLUMNS) * (PANEL + MARGIN);
        let y = HEAD + (index / COLUMNS) * panel_height;
        write_panel(svg, panel, &comparison.backends, x, y)?;
    }
    writeln!(svg, "</svg>")
}

fn write_panel(
    svg: &mut String,
    panel: &Panel,
    outcomes: &[Outcome],
    x: usize,
    y: usize,
) -> std::fmt::Result {
    text(
        svg,
        x,
        y + 18,
        "font-weight=\"600\" fill=\"#222\"",
        panel.title,
    )?;
    let most = outcomes.iter().filter_map(panel.value).fold(0.0, f64::max);
    // If all values are 0, or one is no number, no bars are drawn.
    let scale = match most.is_normal() {
        true => (PANEL - LABEL - NUMBER) as f64 / most,
        false => 0.0,
    };
    for (index, outcome) in outcomes.iter().enumerate() {
        let top = y + 32 + index * STEP;
        let colour = COLOURS[index % COLOURS.len()];
        let (bar, baseline) = (x + LABEL, top + BAR / 2 + 5);
        text(
            svg,
            bar - 8,
            baseline,
            "text-anchor=\"end\" fill=\"#444\"",
            &outcome.backend,
        )?;
        let Some(value) = (panel.value)(outcome) else {
            text(svg, bar, baseline, "fill=\"#888\"", "not known here")?;
            continue;
        };
        let width = value * scale;
        writeln!(
            svg,
            "<rect x=\"{bar}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        )?;
        let part = (panel.part)(outcome).clamp(0.0, value) * scale;
        if part > 0.0 {
            writeln!(
                svg,
                "<rect x=\"{bar}\" y=\"{top}\" width=\"{part:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"#ffffff\" fill-opacity=\"0.55\"/>"
            )?;
        }
        let after = bar + width.ceil() as usize + 6;
        text(svg, after, baseline, "fill=\"#222\"", &(panel.write)(value))?;
    }
    Ok(())
}

fn text(svg: &mut String, x: usize, y: usize, style: &str, text: &str) -> std::fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // XML does not allow control characters.
    let text = text.replace(|c: char| c.is_control(), " ");
    writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>{text}</text>")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn numbers_that_are_all_zero_have_bars_without_a_length() {
        let nothing = Outcome {
            backend: "one".to_owned(),
            rows: 0,
            seconds: 0.0,
            decoding_seconds: 0.0,
            peak_accounted: 0,
            peak_resident: Some(0),
            page_faults: Some(0),
            resident_before: Some(0),
            resident_after_release: Some(0),
        };
        let svg = draw(&Comparison {
            file: PathBuf::from("empty.parquet"),
            rows: 0,
            threads: 1,
            rounds: 1,
            chart: PathBuf::new(),
            backends: vec![nothing],
            spreads: Vec::new(),
        });

        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("width=\"0.0\"").count(), 5, "{svg}");
    }

    #[test]
    fn a_chart_has_a_bar_for_each_number_and_says_which_are_unknown() {
        let outcome = |backend: &str, page_faults| Outcome {
            backend: backend.to_owned(),
            rows: 10,
            seconds: 0.5,
            decoding_seconds: 0.25,
            peak_accounted: 1 << 20,
            peak_resident: Some(2 << 20),
            page_faults,
            resident_before: None,
            resident_after_release: Some(1 << 20),
        };
        let comparison = Comparison {
            file: PathBuf::from("a<b>&\u{7}.csv"),
            rows: 10,
            threads: 1,
            rounds: 1,
            chart: PathBuf::new(),
            backends: vec![outcome("one", Some(7)), outcome("two", None)],
            spreads: Vec::new(),
        };

        let svg = draw(&comparison);

        assert!(svg.contains("a&lt;b>&amp;\\u{7}.csv"), "{svg}");
        assert_eq!(svg.matches("not known here").count(), 1);
        // The background, nine bars, and the decoder's parts of two of them.
        assert_eq!(svg.matches("<rect").count(), 1 + 9 + 2);
    }
}
