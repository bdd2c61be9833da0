//! `scan`: files read into a tree with an allocator per file and column.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::arrow_60::Accounted;
use arrow_memory_arrow::arrow_60::deps::arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_memory_core::{
    AllocError, AllocationManager, AllocatorSnapshot, ArrowBuf, BufferAllocator, ManagerStats,
    ProxyManager, RootAllocator, backend,
};

use crate::columns;
use crate::failure::Failure;
use crate::input::{Input, messages};
use crate::process::ProcessMemory;
use crate::terminal;
use crate::tree;

mod report;

use report::{Accounted as AccountedBytes, BackendReport, FileReport, Need, Refusal, Resident};
pub(crate) use report::{Report, duration};

/// What a scan is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) files: Vec<PathBuf>,
    /// Bytes that the tree may hold; no limit if `None`.
    pub(crate) limit: Option<usize>,
    /// The backend's name; the default one if `None`.
    pub(crate) backend: Option<String>,
    /// Rows in a batch of Parquet or CSV.
    pub(crate) batch_size: usize,
    /// The columns to read; all if empty.
    pub(crate) columns: Vec<String>,
    /// Whether batches are held until the end.
    pub(crate) keep: bool,
    /// Whether decoded buffers are charged where they are, instead of copied to the backend.
    pub(crate) adopt: bool,
    /// Whether to show progress.
    pub(crate) progress: bool,
}

/// Reads the files, releases everything, and checks that nothing is left.
pub(crate) fn scan(options: &Options) -> Result<Report, Failure> {
    let before = ProcessMemory::now();
    let trees = Trees::plant(options)?;
    let open = |path| Input::open(path, &options.columns, options.batch_size, &trees.messages);
    let inputs = options
        .files
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>();
    let scanned = inputs.and_then(|inputs| Scan::new(&trees, options).run(inputs, before));
    // Whether or not it went well, everything has to be back.
    let closed = trees.close();
    let mut report = scanned?;
    report.resident.after_release = closed?.resident;
    Ok(report)
}

/// The tree of the scan, and two beside it.
struct Trees {
    root: RootAllocator,
    /// Unlimited; holds a decoded batch at a time, without a copy.
    measure: RootAllocator,
    /// Where decoded batches come from, if they are of Arrow IPC.
    messages: RootAllocator,
    /// Counts what the backend handed out to the first two.
    counted: Arc<ProxyManager>,
    backend: Arc<dyn AllocationManager>,
}

impl Trees {
    fn plant(options: &Options) -> Result<Self, Failure> {
        let backend = match &options.backend {
            Some(name) => backend::manager(name),
            None => backend::default_manager(),
        };
        let backend = backend.map_err(|error| Failure::usage(error.to_string()))?;
        let counted = Arc::new(ProxyManager::new(Arc::clone(&backend)));
        let plant = |name, limit| {
            let manager: Arc<dyn AllocationManager> = Arc::clone(&counted) as _;
            RootAllocator::builder()
                .name(name)
                .limit(limit)
                // Exact peaks, at every level.
                .credit(0)
                .allocation_manager(manager)
                .build()
                .map_err(|error| Failure::new(error.to_string()))
        };
        Ok(Self {
            root: plant("scan", options.limit.unwrap_or(usize::MAX))?,
            measure: plant("measure", usize::MAX)?,
            messages: messages()?,
            counted,
            backend,
        })
    }

    /// Closes the trees, and says what is resident then.
    fn close(self) -> Result<ProcessMemory, Failure> {
        for root in [&self.root, &self.measure, &self.messages] {
            root.close()
                .map_err(|error| Failure::bug(format!("memory was not given back: {error}")))?;
        }
        match self.counted.stats().live_bytes {
            Some(0) | None => {}
            Some(left) => {
                let name = self.counted.name();
                let message = format!("{left} bytes were not given back to backend `{name}`");
                return Err(Failure::bug(message));
            }
        }
        self.backend.release_unused();
        Ok(ProcessMemory::now())
    }
}

/// A scan under way. Holds what was read; all of it is back when this has gone.
struct Scan<'a> {
    trees: &'a Trees,
    options: &'a Options,
    kept: Vec<Placed>,
    refusal: Option<Refusal>,
    need: Need,
    /// When the tree held most, or a request was refused.
    shown: Moment,
    rows: u64,
    batches: u64,
}

/// What everybody held at one time.
#[derive(Default)]
struct Moment {
    tree: AllocatorSnapshot,
    /// What the backend handed out to the trees.
    counted: ManagerStats,
    /// What the backend says of itself.
    own: ManagerStats,
    process: ProcessMemory,
}

/// One file's allocators.
struct Branch {
    /// Held so that the columns have a parent with the file's name.
    _file: BufferAllocator,
    columns: Vec<BufferAllocator>,
    /// Where a batch is charged between decoding and copying.
    decoding: Option<BufferAllocator>,
}

/// One column of one batch, charged to its allocator.
enum Placed {
    Copied(#[expect(dead_code, reason = "held, not read")] Vec<ArrowBuf>),
    Adopted(#[expect(dead_code, reason = "held, not read")] ArrayRef),
}

/// Why a batch could not be placed.
enum Stop {
    Refused(AllocError),
    Failed(Failure),
}

impl<'a> Scan<'a> {
    fn new(trees: &'a Trees, options: &'a Options) -> Self {
        Self {
            trees,
            options,
            kept: Vec::new(),
            refusal: None,
            need: Need::default(),
            shown: Moment::default(),
            rows: 0,
            batches: 0,
        }
    }

    fn run(mut self, inputs: Vec<Input>, before: ProcessMemory) -> Result<Report, Failure> {
        let start = Instant::now();
        let total = inputs.iter().map(|input| input.rows).sum::<Option<u64>>();
        let bar = if self.options.progress {
            terminal::progress(total, "scanning")
        } else {
            indicatif::ProgressBar::hidden()
        };
        let labels = labels(&self.options.files);
        let branches = inputs
            .iter()
            .zip(labels)
            .map(|(input, label)| self.branch(&label, input))
            .collect::<Result<Vec<_>, _>>()?;
        let mut files = Vec::with_capacity(inputs.len());
        for (mut input, branch) in inputs.into_iter().zip(&branches) {
            let rows_before = self.rows;
            while let Some(batch) = input.next_batch()? {
                self.take(&batch, branch, total)?;
                bar.set_position(self.rows);
            }
            files.push(FileReport {
                path: input.path,
                format: input.format,
                bytes: input.bytes,
                rows: self.rows - rows_before,
                columns: input.schema.fields().len(),
            });
        }
        bar.finish_and_clear();
        Ok(self.report(files, before, start))
    }

    /// Makes the allocators of a file. Names are whole, so that an error says all of it.
    fn branch(&self, label: &str, input: &Input) -> Result<Branch, Failure> {
        let child = |parent: &BufferAllocator, name: &str| {
            parent
                .child(name)
                .build()
                .map_err(|error| Failure::new(error.to_string()))
        };
        let file = child(&self.trees.root, label)?;
        let columns = input
            .schema
            .fields()
            .iter()
            .map(|field| child(&file, &format!("{label}/{}", field.name())))
            .collect::<Result<_, _>>()?;
        let decoding = if self.options.adopt {
            None
        } else {
            Some(child(&file, &format!("{label}/(decoding)"))?)
        };
        Ok(Branch {
            _file: file,
            columns,
            decoding,
        })
    }

    /// Takes one batch in, or, once one was refused, only measures it.
    fn take(
        &mut self,
        batch: &RecordBatch,
        branch: &Branch,
        total: Option<u64>,
    ) -> Result<(), Failure> {
        self.measure(batch)?;
        if self.refusal.is_none() {
            match self.place(batch, branch) {
                Ok(()) => {}
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Refused(error)) => {
                    self.kept.clear();
                    self.refusal = Some(Refusal::of(&error, self.rows, total)?);
                }
            }
        }
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        Ok(())
    }

    /// Adds what the batch needs.
    fn measure(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let measure = &self.trees.measure;
        let held = batch
            .clone()
            .adopt(measure)
            .map_err(|error| Failure::new(error.to_string()))?;
        let decoded = measure.allocated_memory();
        drop(held);
        let (placed, passing) = if self.options.adopt {
            (decoded, 0)
        } else {
            let columns = batch.columns().iter();
            let copies = columns.map(|column| columns::copied_size(&column.to_data(), measure));
            (copies.sum(), decoded)
        };
        self.need.add(placed, passing);
        Ok(())
    }

    /// Charges the batch, column by column; lets it go again, unless batches are kept.
    fn place(&mut self, batch: &RecordBatch, branch: &Branch) -> Result<(), Stop> {
        let mut decoded = None;
        let mut placed = Vec::with_capacity(branch.columns.len());
        let outcome = place_columns(batch, branch, &mut decoded, &mut placed);
        let fuller = || self.trees.root.allocated_memory() > self.shown.allocated();
        // What is kept is most when all of it is there.
        if outcome.is_err() || (!self.options.keep && fuller()) {
            self.shown = Moment::of(self.trees);
        }
        outcome?;
        if self.options.keep {
            self.kept.append(&mut placed);
        }
        Ok(())
    }

    fn report(mut self, files: Vec<FileReport>, before: ProcessMemory, start: Instant) -> Report {
        let seconds = start.elapsed().as_secs_f64();
        if self.shown.tree.entries.is_empty() {
            self.shown = Moment::of(self.trees);
        }
        let Trees {
            root,
            counted,
            backend,
            ..
        } = self.trees;
        let all = counted.stats();
        let mut shown = self.shown;
        shown.set_peaks(&root.snapshot());
        Report {
            fits: self.refusal.is_none(),
            limit: self.options.limit,
            keep: self.options.keep,
            adopt: self.options.adopt,
            batch_size: self.options.batch_size,
            rows: self.rows,
            batches: self.batches,
            seconds,
            accounted: AccountedBytes {
                used: shown.allocated(),
                peak: root.peak_memory_allocation(),
            },
            backend: BackendReport {
                name: backend.name().to_owned(),
                live: shown.counted.live_bytes,
                peak: all.peak_bytes,
                blocks: all.allocations,
                resident: shown.own.resident_bytes,
                cached: shown.own.cached_bytes,
            },
            resident: Resident {
                before: before.resident,
                used: shown.process.resident,
                // The kernel's own peak may lag behind what it says is resident.
                peak: ProcessMemory::now()
                    .peak_resident
                    .max(shown.process.resident),
                after_release: None,
            },
            need: self.need,
            refusal: self.refusal,
            tree: tree::rows(&shown.tree),
            files,
        }
    }
}

impl Moment {
    fn of(trees: &Trees) -> Self {
        Self {
            tree: trees.root.snapshot(),
            counted: trees.counted.stats(),
            own: trees.backend.stats(),
            process: ProcessMemory::now(),
        }
    }

    /// Takes the peaks of a later time.
    fn set_peaks(&mut self, later: &AllocatorSnapshot) {
        let peaks: HashMap<_, _> = later
            .entries
            .iter()
            .map(|entry| (entry.allocator.id, entry.peak))
            .collect();
        for entry in &mut self.tree.entries {
            if let Some(&peak) = peaks.get(&entry.allocator.id) {
                entry.peak = peak;
            }
        }
    }

    /// Bytes allocated from the root.
    fn allocated(&self) -> usize {
        self.tree.entries.first().map_or(0, |root| root.allocated)
    }
}

/// `decoded` holds the batch while its columns are copied.
fn place_columns(
    batch: &RecordBatch,
    branch: &Branch,
    decoded: &mut Option<RecordBatch>,
    placed: &mut Vec<Placed>,
) -> Result<(), Stop> {
    let columns = batch.columns().iter().zip(&branch.columns);
    let Some(decoding) = &branch.decoding else {
        for (column, allocator) in columns {
            let adopted = column.clone().adopt(allocator);
            placed.push(Placed::Adopted(adopted.map_err(MemoryError::from)?));
        }
        return Ok(());
    };
    let adopted = batch.clone().adopt(decoding);
    *decoded = Some(adopted.map_err(MemoryError::from)?);
    for (column, allocator) in columns {
        placed.push(Placed::Copied(columns::copy_into(
            &column.to_data(),
            allocator,
        )?));
    }
    Ok(())
}

/// The names of files, or their whole paths where two have the same name.
fn labels(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned()
    };
    let names: Vec<String> = paths.iter().map(name).collect();
    let label = |(path, name): (&PathBuf, &String)| {
        let same = names.iter().filter(|other| *other == name).count();
        if same > 1 {
            path.display().to_string()
        } else {
            name.clone()
        }
    };
    paths.iter().zip(&names).map(label).collect()
}

impl From<AllocError> for Stop {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory { .. } => Self::Refused(error),
            error => Self::Failed(Failure::new(error.to_string())),
        }
    }
}

impl From<MemoryError> for Stop {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Alloc(error) => error.into(),
            error => Self::Failed(Failure::new(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_told_apart_by_their_paths() {
        let paths = ["a/x.csv", "b/x.csv", "b/y.csv"].map(PathBuf::from);
        assert_eq!(labels(&paths), ["a/x.csv", "b/x.csv", "y.csv"]);
    }
}
