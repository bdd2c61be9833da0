//! `scan`: reads files into a tree with an allocator per file and column.

use crate::failure::Failure;
use crate::input::Glance;
use crate::process::ProcessMemory;

mod need;
mod options;
mod place;
mod render;
mod report;
mod run;
mod trees;

pub(crate) use options::Options;
pub(crate) use render::duration;
pub(crate) use report::Report;
use run::Scan;
use trees::Trees;

/// Reads the files, releases everything, and checks that nothing is left.
pub(crate) fn scan(options: &Options) -> Result<Report, Failure> {
    let before = ProcessMemory::now();
    let trees = Trees::plant(options)?;
    // All files are checked first, so that errors are reported before the work. One is open at a time.
    let glances = options
        .files
        .iter()
        .map(|source| trees.decode(|| Glance::at(source, &options.reading)))
        .collect::<Result<Vec<_>, _>>();
    let scanned = glances.and_then(|glances| Scan::new(&trees, options).run(&glances, before));
    // Even after a failure, everything has to be released.
    let closed = trees.close();
    let mut report = scanned?;
    report.resident.after_release = closed?.resident;
    Ok(report)
}
