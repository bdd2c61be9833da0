//! Folded stacks: one line per stack, outermost frame first, for flame graphs.

use std::fmt::Write;

use super::live::SampleReport;
use crate::stack::StackTrace;

/// The live bytes of a report as folded stacks, `allocator;outer;…;inner bytes`, for
/// `arrow-memory flame`, inferno, or flamegraph.pl.
pub fn write_folded(report: &SampleReport) -> String {
    let mut text = String::new();
    for site in &report.sites {
        let frames = frames(site.stack.as_ref());
        for (allocator, live) in &site.live {
            text.push_str(&clean(&allocator.to_string()));
            for frame in frames.iter().rev() {
                text.push(';');
                text.push_str(frame);
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, " {:.0}", live.bytes);
        }
    }
    text
}

/// The functions of a stack, innermost first.
fn frames(stack: Option<&StackTrace>) -> Vec<String> {
    match stack {
        Some(stack) => {
            let frames = stack.resolve();
            frames.iter().map(|frame| clean(&frame.function)).collect()
        }
        None => vec!["(other)".to_owned()],
    }
}

/// A name without what the format uses.
fn clean(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
}
