//! A scan in progress: reads batches into the trees.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use arrow_memory_arrow::arrow_60::deps::arrow_array::{Array, RecordBatch};
use arrow_memory_core::{AllocError, AllocatorId};
use indicatif::ProgressBar;

use super::need::{Need, Recurring};
use super::options::Options;
use super::place::{self, Branch, Placed};
use super::report::{Accounted, BackendReport, FileReport, NeedReport, Refusal, Report, Resident};
use super::trees::{Moment, Trees};
use crate::failure::Failure;
use crate::input::{Format, Glance, Input, Source, Stop};
use crate::process::ProcessMemory;
use crate::{columns, terminal, tree};

/// A scan in progress. It holds the batches; dropping it releases all of them.
pub(super) struct Scan<'a> {
    trees: &'a Trees,
    options: &'a Options,
    kept: Vec<Placed>,
    /// The allocators of the files that were read, held so that the tree shows all of them.
    branches: Vec<Branch>,
    /// The buffers of earlier batches that the tree for the need of keeping holds.
    recurring: Recurring,
    refusal: Option<Refusal>,
    need: Need,
    /// The trees when the root held its maximum, or when a request was refused.
    shown: Moment,
    /// The peak of the root up to the refusal.
    peak: Option<usize>,
    /// The peaks of allocators whose own peaks were reset.
    peaks: HashMap<AllocatorId, usize>,
    /// For columns in messages, the size of each column.
    parts: HashMap<AllocatorId, usize>,
    rows: u64,
    total_rows: Option<u64>,
    batches: u64,
}

/// A file that is being read.
struct Open {
    input: Input,
    branch: Branch,
}

impl<'a> Scan<'a> {
    pub(super) fn new(trees: &'a Trees, options: &'a Options) -> Self {
        Self {
            trees,
            options,
            kept: Vec::new(),
            branches: Vec::new(),
            recurring: Recurring::default(),
            refusal: None,
            need: Need::default(),
            shown: Moment::default(),
            peak: None,
            peaks: HashMap::new(),
            parts: HashMap::new(),
            rows: 0,
            total_rows: None,
            batches: 0,
        }
    }

    pub(super) fn run(
        mut self,
        glances: &[Glance],
        before: ProcessMemory,
    ) -> Result<Report, Failure> {
        let start = Instant::now();
        self.total_rows = glances.iter().map(|glance| glance.rows).sum();
        let bar = if self.options.progress {
            terminal::progress(self.total_rows, "scanning")
        } else {
            ProgressBar::hidden()
        };
        let labels = labels(&self.options.files);
        let mut files = Vec::with_capacity(glances.len());
        for ((source, label), glance) in self.options.files.iter().zip(&labels).zip(glances) {
            files.push(self.read(source, label, glance.format, &bar)?);
        }
        bar.finish_and_clear();
        self.settle_needs();
        Ok(self.report(files, before, start))
    }

    /// Reads one file.
    fn read(
        &mut self,
        source: &Source,
        label: &str,
        format: Format,
        bar: &ProgressBar,
    ) -> Result<FileReport, Failure> {
        let rows_before = self.rows;
        let mut open = self.open(source, label, format)?;
        while let Some(batch) = self.next_batch(&mut open)? {
            self.take(&batch, &open)?;
            self.rows += batch.num_rows() as u64;
            self.batches += 1;
            let before = self.trees.root.allocated_memory();
            drop(batch);
            self.note_release(before);
            bar.set_position(self.rows);
        }
        let Open { input, branch } = open;
        self.branches.push(branch);
        Ok(FileReport {
            path: source.name.clone(),
            format: input.format,
            bytes: input.bytes,
            rows: self.rows - rows_before,
            columns: input.schema.fields().len(),
            hints: input.hints,
        })
    }

    /// Opens a file, and creates its allocators.
    fn open(&mut self, source: &Source, label: &str, format: Format) -> Result<Open, Failure> {
        let file = place::file(&self.trees.root, label)?;
        let in_messages = matches!(format, Format::Ipc | Format::IpcStream);
        let messages = in_messages.then(|| place::messages(&file)).transpose()?;
        // Files of other formats charge nothing to it.
        let allocator = messages.as_ref().unwrap_or(&self.trees.measure);
        let trees = self.trees;
        let open = || trees.decode(|| Input::open(source, &self.options.reading, allocator));
        let input = match open() {
            Err(Stop::Refused(error)) => {
                self.shown = Moment::of(self.trees, &self.parts);
                self.refuse(&error, || Ok(None))?;
                let opened = trees.decode(|| Input::open(source, &self.options.reading, allocator));
                opened.map_err(Stop::into_failure)?
            }
            opened => opened.map_err(Stop::into_failure)?,
        };
        let has_memory_of_its_own = !input.has_messages();
        let decoding = has_memory_of_its_own && !self.options.adopt;
        let branch = Branch::grow(file, messages, &input.schema, decoding)?;
        let open = Open { input, branch };
        self.note_messages(&open);
        Ok(open)
    }

    /// Reads the next batch. One whose message is refused is read again without a limit, to measure it.
    fn next_batch(&mut self, open: &mut Open) -> Result<Option<RecordBatch>, Failure> {
        self.mark_after_refusal();
        let trees = self.trees;
        match trees.decode(|| open.input.next_batch()) {
            Err(Stop::Refused(error)) => {
                self.shown = Moment::of(self.trees, &self.parts);
                let recover = || {
                    let recovered = trees.decode(|| open.input.recover());
                    recovered.map_err(Stop::into_failure)
                };
                self.refuse(&error, recover)?;
                if let Some(messages) = &open.branch.messages {
                    messages.reset_peak();
                }
                let next = trees.decode(|| open.input.next_batch());
                next.map_err(Stop::into_failure)
            }
            next => next.map_err(Stop::into_failure),
        }
    }

    /// Charges one batch. After a refusal it only measures the batch.
    fn take(&mut self, batch: &RecordBatch, open: &Open) -> Result<(), Failure> {
        let in_messages = open.branch.messages.is_some();
        let passing = self.note_messages(open);
        if self.options.adopt {
            self.measure_adopted(batch, in_messages)?;
        } else {
            self.measure_copies(batch, passing)?;
        }
        if in_messages && self.options.adopt {
            if !self.options.keep {
                self.parts.clear();
            }
            open.branch.add_parts(batch, &mut self.parts);
        }
        match self.place(batch, open) {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Refused(error)) => {
                self.refuse(&error, || Ok(None))?;
                self.place(batch, open).map_err(Stop::into_failure)
            }
        }
    }

    /// Charges the batch, column by column, and drops it unless batches are kept.
    fn place(&mut self, batch: &RecordBatch, open: &Open) -> Result<(), Stop> {
        let (keep, adopt) = (self.options.keep, self.options.adopt);
        let refused = self.refusal.is_some();
        if refused && !(adopt && (keep || open.branch.messages.is_some())) {
            // The needs do not depend on this tree.
            return Ok(());
        }
        let mut decoded = None;
        let mut placed = Vec::with_capacity(open.branch.columns.len());
        let outcome = if adopt {
            open.branch.adopt(batch, &mut placed)
        } else {
            open.branch.copy(batch, &mut decoded, &mut placed)
        };
        let root = &self.trees.root;
        let fuller = || root.allocated_memory() > self.shown.allocated();
        // If batches are kept, the maximum is reached at the end.
        if !refused && (outcome.is_err() || (!keep && fuller())) {
            self.shown = Moment::of(self.trees, &self.parts);
        }
        outcome?;
        let before = root.allocated_memory();
        if adopt && keep {
            self.need.keeps(root.peak_memory_allocation());
            self.hold_recurring(&placed);
        }
        if keep && !refused {
            self.kept.append(&mut placed);
        } else {
            drop(placed);
        }
        self.note_release(before);
        Ok(())
    }

    /// Notes how many bytes the tree released since it held `before`, if it measures the need of keeping
    /// everything.
    fn note_release(&mut self, before: usize) {
        if self.options.adopt && self.options.keep {
            self.need.let_go(before, self.trees.root.allocated_memory());
        }
    }

    fn hold_recurring(&mut self, placed: &[Placed]) {
        for (index, placed) in placed.iter().enumerate() {
            match placed {
                Placed::Copied(_) => {}
                Placed::Adopted(array) => self.recurring.hold(index, &array.to_data(), true),
                Placed::InMessages(batch) => {
                    for (index, column) in batch.columns().iter().enumerate() {
                        // The buffers of views are in the message of their batch.
                        self.recurring.hold(index, &column.to_data(), false);
                    }
                }
            }
        }
    }

    /// Adds the need of copying the batch, while `passing` bytes of messages, or the decoded batch, are held.
    fn measure_copies(
        &mut self,
        batch: &RecordBatch,
        passing: Option<usize>,
    ) -> Result<(), Failure> {
        let measure = &self.trees.measure;
        let passing = match passing {
            Some(messages) => messages,
            None => self.measure_batch(batch)?,
        };
        let columns = batch.columns().iter();
        let copies = columns.map(|column| columns::copied_size(&column.to_data(), measure));
        self.need.add_copies(copies.sum(), passing);
        Ok(())
    }

    /// Adds the need of adopting the batch.
    fn measure_adopted(&mut self, batch: &RecordBatch, in_messages: bool) -> Result<(), Failure> {
        if in_messages {
            // This tree has the messages, and so measures only the need of the scan that is done.
            self.need.kept_is_unknown |= !self.options.keep;
            self.need.batch_is_unknown |= self.options.keep;
            return Ok(());
        }
        let decoded = self.measure_batch(batch)?;
        self.need.holds_a_batch(decoded);
        if self.options.keep {
            return Ok(());
        }
        let keeping = &self.trees.keeping;
        let mut placed = Vec::with_capacity(batch.num_columns());
        for column in batch.columns() {
            let adopted = place::adopted(column, keeping).map_err(Stop::from);
            placed.push(Placed::Adopted(adopted.map_err(Stop::into_failure)?));
        }
        let before = keeping.allocated_memory();
        self.need.keeps(before);
        self.hold_recurring(&placed);
        drop(placed);
        self.need.let_go(before, keeping.allocated_memory());
        Ok(())
    }

    /// The bytes of this batch alone when it is adopted.
    fn measure_batch(&self, batch: &RecordBatch) -> Result<usize, Failure> {
        let measure = &self.trees.measure;
        let held = place::adopted(batch, measure).map_err(Stop::from);
        let held = held.map_err(Stop::into_failure)?;
        let bytes = measure.allocated_memory();
        drop(held);
        Ok(bytes)
    }

    /// Notes the peak of messages since the last call. Returns the bytes that they take now.
    fn note_messages(&mut self, open: &Open) -> Option<usize> {
        let messages = open.branch.messages.as_ref()?;
        let peak = messages.reset_peak();
        let highest = self.peaks.entry(messages.id()).or_default();
        *highest = peak.max(*highest);
        self.need.has_messages(peak);
        if !self.options.adopt {
            self.need.passed(peak);
        }
        Some(messages.allocated_memory())
    }

    /// Removes the limit, and drops the kept batches: the batches from here on are only measured. Then calls
    /// `then`, which returns the last batch if it was read again.
    fn refuse(
        &mut self,
        error: &AllocError,
        then: impl FnOnce() -> Result<Option<RecordBatch>, Failure>,
    ) -> Result<(), Failure> {
        let root = &self.trees.root;
        self.refusal = Some(Refusal::of(error, self.rows, self.total_rows)?);
        self.shown.set_peaks(&root.snapshot(), &self.peaks);
        let peak = root.peak_memory_allocation();
        self.peak = Some(peak);
        let by_tree = self.options.adopt && self.options.keep;
        if by_tree {
            self.need.keeps(peak);
        }
        root.set_limit(usize::MAX);
        let before = root.allocated_memory();
        self.kept.clear();
        let read_again = then()?;
        if by_tree {
            if let Some(batch) = read_again {
                self.hold_recurring(&[Placed::InMessages(batch)]);
            }
            self.need.let_go(before, root.allocated_memory());
        }
        root.reset_peak();
        Ok(())
    }

    /// After a refusal, takes the peak of the tree since the last call: it is that of one batch.
    fn mark_after_refusal(&mut self) {
        if self.refusal.is_none() {
            return;
        }
        let peak = self.trees.root.reset_peak();
        if self.is_batch_need_in_tree() {
            self.need.batch = self.need.batch.max(peak);
        }
    }

    /// Whether the peak of the tree is the need of holding a batch.
    fn is_batch_need_in_tree(&self) -> bool {
        self.options.adopt && !self.options.keep && self.need.messages.is_some()
    }

    /// Takes the need that the peak of the tree is.
    fn settle_needs(&mut self) {
        self.recurring.clear();
        let peak = self.trees.root.peak_memory_allocation();
        if self.is_batch_need_in_tree() {
            self.need.batch = self.need.batch.max(peak).max(self.peak.unwrap_or(0));
        } else if self.options.adopt && self.options.keep && self.refusal.is_none() {
            self.need.keeps(peak);
        }
    }
}

impl Scan<'_> {
    fn report(mut self, files: Vec<FileReport>, before: ProcessMemory, start: Instant) -> Report {
        let seconds = start.elapsed().as_secs_f64();
        if self.shown.tree.entries.is_empty() {
            self.shown = Moment::of(self.trees, &self.parts);
        }
        let root = &self.trees.root;
        let mut shown = self.shown;
        let mut all = self.trees.handed_out();
        let end = root.snapshot();
        if self.refusal.is_none() {
            shown.set_peaks(&end, &self.peaks);
        } else {
            all = shown.counted;
        }
        shown.add_missing(end, self.refusal.is_none());
        // The kernel's peak may lag behind its current number of resident bytes.
        let now = ProcessMemory::now();
        let process = now.peak_resident.max(shown.process.resident);
        let options = self.options;
        Report {
            fits: options.limit.map(|_| self.refusal.is_none()),
            limit: options.limit,
            keep: options.keep,
            adopt: options.adopt,
            batch_size: options.reading.batch_size,
            rows: self.rows,
            batches: self.batches,
            seconds,
            accounted: Accounted {
                used: shown.allocated(),
                peak: self.peak.unwrap_or_else(|| root.peak_memory_allocation()),
            },
            backend: BackendReport {
                name: self.trees.backend_name().to_owned(),
                live: shown.counted.live_bytes,
                peak: all.peak_bytes,
                blocks: all.allocations,
                resident: shown.own.resident_bytes,
                cached: shown.own.cached_bytes,
            },
            decoder: self.trees.decoder().map(|(now, peak)| Accounted {
                used: shown.decoder.unwrap_or(now),
                peak,
            }),
            resident: Resident {
                before: before.resident,
                used: shown.process.resident,
                peak: process,
                after_release: None,
            },
            need: NeedReport::of(&self.need, options.adopt, process, options.limit),
            refusal: self.refusal,
            tree: tree::rows(&shown.tree, &shown.parts),
            files,
        }
    }
}

/// The names of the files, or their whole paths if two have the same name.
fn labels(sources: &[Source]) -> Vec<String> {
    let name = |source: &Source| {
        let path = Path::new(&source.name);
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let names: Vec<String> = sources.iter().map(name).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in &names {
        *counts.entry(name).or_default() += 1;
    }
    let label = |(source, name): (&Source, &String)| match counts[name.as_str()] {
        1 => name.clone(),
        _ => source.name.clone(),
    };
    sources.iter().zip(&names).map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_told_apart_by_their_paths() {
        let sources = ["a/x.csv", "b/x.csv", "b/y.csv"].map(|path| Source::file(Path::new(path)));
        assert_eq!(labels(&sources), ["a/x.csv", "b/x.csv", "y.csv"]);
    }
}
