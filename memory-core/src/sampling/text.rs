//! Text of the reports.

use std::fmt;

use super::holders::{Held, Holders};
use super::live::{SampleReport, SiteReport};
use crate::stack::StackTrace;

impl fmt::Display for SampleReport {
    /// Writes a table of the sites, each with its callers below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>15} {:>15} {:>9}  site",
            "live bytes", "allocated bytes", "samples"
        )?;
        for site in &self.sites {
            let SiteReport {
                stack,
                allocated,
                samples,
                ..
            } = site;
            let live = site.live_total().bytes;
            let allocated = allocated.bytes;
            write!(f, "\n{live:>15.0} {allocated:>15.0} {samples:>9}  ")?;
            write_stack(f, stack.as_ref(), &" ".repeat(44))?;
        }
        if self.dropped > 0 {
            write!(
                f,
                "\n{} samples were not followed: too many are alive",
                self.dropped
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Holders {
    /// Writes the allocators with their bytes, each with its sites below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, held) in self.allocators.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            held.write(f)?;
        }
        Ok(())
    }
}

impl Held {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            charged_bytes,
            external_bytes,
            reserved_bytes,
            exact,
            sites,
            ..
        } = self;
        write!(f, "{charged_bytes:>15} bytes  {path}")?;
        match (external_bytes, reserved_bytes) {
            (0, 0) => {}
            (external, 0) => write!(f, " ({external} of them external)")?,
            (0, reserved) => write!(f, " ({reserved} of them reserved)")?,
            (external, reserved) => {
                write!(f, " ({external} of them external, {reserved} reserved)")?;
            }
        }
        let about = if *exact { "" } else { "about " };
        for site in sites {
            write!(
                f,
                "\n{:>15} in {about}{}: ",
                format!("{about}{}", site.bytes),
                site.count
            )?;
            write_stack(f, site.stack.as_ref(), &" ".repeat(19))?;
        }
        Ok(())
    }
}

/// Writes the innermost frame, and then each caller on a line of its own.
fn write_stack(
    f: &mut fmt::Formatter<'_>,
    stack: Option<&StackTrace>,
    indent: &str,
) -> fmt::Result {
    let Some(stack) = stack else {
        return f.write_str("(other)");
    };
    for (index, frame) in stack.resolve().iter().enumerate() {
        if index > 0 {
            write!(f, "\n{indent}called from ")?;
        }
        write!(f, "{frame}")?;
    }
    Ok(())
}
