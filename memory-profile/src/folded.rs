//! Folded stacks: one line per stack, outermost frame first, for flame graphs.

use std::fmt::Write;

use arrow_memory_core::StackTrace;
use arrow_memory_core::sampling::SampleReport;

/// The live bytes of a report as folded stacks, `allocator;outer;…;inner bytes`, for
/// `arrow-memory flame`, inferno, or flamegraph.pl.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, sampling};
///
/// let root = RootAllocator::unlimited();
/// sampling::start("*", 4096);
/// let buffer = root.buffer(1 << 20)?;
/// let folded = arrow_memory_profile::write_folded(&sampling::report());
/// assert!(folded.starts_with("ROOT;") && folded.ends_with(" 1048576\n"));
/// # sampling::stop_all();
/// # drop(buffer);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
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

/// The names of the functions of a stack, innermost first.
fn frames(stack: Option<&StackTrace>) -> Vec<String> {
    match stack {
        Some(stack) => {
            let frames = stack.resolve();
            frames.iter().map(|frame| clean(&frame.function)).collect()
        }
        None => vec!["(other)".to_owned()],
    }
}

/// A name without the characters that separate fields of the format.
fn clean(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
}
