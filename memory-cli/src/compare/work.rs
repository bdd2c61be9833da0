//! The work that is done on each backend: that of a small query, with the lifetimes of its buffers.

use std::collections::VecDeque;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_arrow::arrow_60::deps::arrow_array::{Array, RecordBatch};
use arrow_memory_arrow::arrow_60::deps::arrow_data::ArrayData;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;
use arrow_memory_core::{AllocError, ArrowBuf, ArrowBufMut, BufferAllocator, RootAllocator};

use crate::columns;
use crate::failure::Failure;
use crate::input::{Input, Reading, Source, Stop, messages};
use crate::process::ProcessMemory;

/// The measurements of one backend.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Outcome {
    pub(crate) backend: String,
    /// The number of rows in the file.
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    /// The part of the time that the decoder took, on average over the threads.
    pub(crate) decoding_seconds: f64,
    pub(crate) peak_accounted: usize,
    pub(crate) peak_resident: Option<usize>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) resident_before: Option<usize>,
    pub(crate) resident_after_release: Option<usize>,
}

/// Does the work on one backend, in this process.
pub(crate) fn work(
    file: &Path,
    backend: &str,
    threads: usize,
    batch_size: usize,
) -> Result<Outcome, Failure> {
    let root = RootAllocator::builder()
        .name("compare")
        .backend(backend)
        .build()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let before = ProcessMemory::now();
    let start = Instant::now();
    let done = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let root = &root;
                let work = move || Query::plan(root, thread)?.run(file, batch_size);
                thread::Builder::new().spawn_scoped(scope, work)
            })
            .collect();
        // Joins every thread that was started, even if another one failed.
        let joined: Vec<_> = running
            .into_iter()
            .map(|thread| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::bug("a thread panicked"))),
                Err(error) => Err(Failure::new(format!(
                    "cannot start {threads} threads: {error}; give it fewer --threads"
                ))),
            })
            .collect();
        joined.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let seconds = start.elapsed().as_secs_f64();
    let after = ProcessMemory::now();
    root.release_unused();
    let closed = root
        .close()
        .map_err(|error| Failure::bug(format!("memory was not given back: {error}")));
    let done = done?;
    closed?;
    let decoding: Duration = done.iter().map(|done| done.decoding).sum();
    let faults = |memory: ProcessMemory| memory.page_faults;
    Ok(Outcome {
        backend: backend.to_owned(),
        rows: done.first().map_or(0, |done| done.rows),
        seconds,
        decoding_seconds: decoding.as_secs_f64() / threads as f64,
        peak_accounted: root.peak_memory_allocation(),
        peak_resident: after.peak_resident.max(after.resident),
        page_faults: faults(after)
            .zip(faults(before))
            .map(|(after, before)| after.saturating_sub(before)),
        resident_before: before.resident,
        resident_after_release: ProcessMemory::now().resident,
    })
}

impl Outcome {
    /// The median of each number.
    pub(crate) fn median(outcomes: Vec<Self>) -> Option<Self> {
        let first = outcomes.first()?.clone();
        let of_option = |of: fn(&Self) -> Option<usize>| median(outcomes.iter().filter_map(of));
        Some(Self {
            seconds: median(outcomes.iter().map(|outcome| outcome.seconds)).unwrap_or_default(),
            decoding_seconds: median(outcomes.iter().map(|outcome| outcome.decoding_seconds))
                .unwrap_or_default(),
            peak_accounted: median(outcomes.iter().map(|outcome| outcome.peak_accounted))
                .unwrap_or_default(),
            peak_resident: of_option(|outcome| outcome.peak_resident),
            page_faults: median(outcomes.iter().filter_map(|outcome| outcome.page_faults)),
            resident_before: of_option(|outcome| outcome.resident_before),
            resident_after_release: of_option(|outcome| outcome.resident_after_release),
            ..first
        })
    }
}

/// The middle value; of an even number of values, the lower of the two.
fn median<T: PartialOrd>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let middle = values.len().checked_sub(1)? / 2;
    values.into_iter().nth(middle)
}

/// The operators of one thread, and the buffers that they hold. The fields are dropped in this order: first
/// operator first.
struct Query {
    scan: BufferAllocator,
    /// Filtered batches that are in flight, oldest first.
    filtered: VecDeque<Vec<ArrowBuf>>,
    filter: BufferAllocator,
    /// The bytes of each column, of all batches; grown batch by batch.
    built: Vec<ArrowBufMut>,
    build: BufferAllocator,
}

struct Done {
    rows: u64,
    decoding: Duration,
}

/// The maximum number of filtered batches in flight.
const IN_FLIGHT: usize = 4;

/// The options for reading the file.
pub(super) fn reading(batch_size: usize) -> Reading {
    Reading {
        batch_size,
        ..Reading::default()
    }
}

impl Query {
    fn plan(root: &RootAllocator, thread: usize) -> Result<Self, Failure> {
        let plan = || {
            let query = root.child(&format!("thread-{thread}")).build()?;
            Ok(Self {
                scan: query.child("scan").build()?,
                filtered: VecDeque::with_capacity(IN_FLIGHT + 1),
                filter: query.child("filter").build()?,
                built: Vec::new(),
                build: query.child("build").build()?,
            })
        };
        plan().map_err(refused)
    }

    fn run(mut self, file: &Path, batch_size: usize) -> Result<Done, Failure> {
        let messages = messages()?;
        let source = Source::file(file);
        let input = Input::open(&source, &reading(batch_size), &messages);
        let mut input = input.map_err(Stop::into_failure)?;
        let mut done = Done {
            rows: 0,
            decoding: Duration::ZERO,
        };
        loop {
            let start = Instant::now();
            let batch = input.next_batch().map_err(Stop::into_failure)?;
            done.decoding += start.elapsed();
            let Some(batch) = batch else {
                return Ok(done);
            };
            done.rows += batch.num_rows() as u64;
            self.push(batch).map_err(refused)?;
        }
    }

    /// Runs a batch through the operators.
    fn push(&mut self, batch: RecordBatch) -> Result<(), AllocError> {
        let mut scanned = Vec::with_capacity(batch.num_columns());
        for column in batch.columns() {
            let data = column.to_data();
            let buffers = columns::copy_into(&data, &self.scan)?;
            scanned.push((Shape::of(&data), buffers));
        }
        let rows = batch.num_rows();
        drop(batch);
        let mut filtered = Vec::new();
        for (shape, buffers) in &scanned {
            shape.filter(buffers, rows, &self.filter, &mut filtered)?;
        }
        for (index, buffer) in scanned.iter().flat_map(|(_, buffers)| buffers).enumerate() {
            if index == self.built.len() {
                self.built.push(self.build.buffer(0)?);
            }
            self.built[index].extend_from_slice(buffer)?;
        }
        drop(scanned);
        self.filtered.push_back(filtered);
        if self.filtered.len() > IN_FLIGHT {
            self.filtered.pop_front();
        }
        Ok(())
    }
}

/// The layout of a column's values in the last of its buffers.
enum Shape {
    /// Values of this many bytes each.
    Fixed(usize),
    /// Values one after another, with 32-bit offsets in the buffer before.
    Variable,
    /// Another layout, which is copied as bytes.
    Other,
}

impl Shape {
    fn of(data: &ArrayData) -> Self {
        match data.data_type() {
            DataType::Utf8 | DataType::Binary if data.offset() == 0 => Self::Variable,
            other => match other.primitive_width() {
                Some(width) if data.offset() == 0 => Self::Fixed(width),
                _ => Self::Other,
            },
        }
    }

    /// Appends the rows that pass to buffers that grow with each batch.
    fn filter(
        &self,
        buffers: &[ArrowBuf],
        rows: usize,
        allocator: &BufferAllocator,
        filtered: &mut Vec<ArrowBuf>,
    ) -> Result<(), AllocError> {
        let Some(values) = buffers.last().map(ArrowBuf::as_slice) else {
            return Ok(());
        };
        let mut kept = allocator.buffer(64)?;
        let passing = (0..rows).filter(|&row| passes(row));
        match self {
            Self::Fixed(width) => {
                for row in passing {
                    let value = values.get(row * width..(row + 1) * width).unwrap_or(&[]);
                    kept.extend_from_slice(value)?;
                }
            }
            Self::Variable => {
                let offsets = buffers.iter().rev().nth(1);
                let offsets: &[i32] = offsets.and_then(|o| o.typed().ok()).unwrap_or(&[]);
                let mut ends = allocator.buffer(64)?;
                for row in passing {
                    let Some(&[start, end]) = offsets.get(row..row + 2) else {
                        break;
                    };
                    let value = values.get(start as usize..end as usize).unwrap_or(&[]);
                    kept.extend_from_slice(value)?;
                    ends.extend_from_slice(&(kept.len() as i32).to_le_bytes())?;
                }
                filtered.push(ends.freeze());
            }
            Self::Other => kept.extend_from_slice(&values[..values.len() / 2])?,
        }
        filtered.push(kept.freeze());
        Ok(())
    }
}

/// Selects half of the rows, in an order that a branch predictor cannot learn.
fn passes(row: usize) -> bool {
    (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0
}

fn refused(error: AllocError) -> Failure {
    Failure::new(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_lower_of_two() {
        assert_eq!(median([3, 1, 2].into_iter()), Some(2));
        assert_eq!(median([4, 1, 2, 3].into_iter()), Some(2));
        assert_eq!(median(std::iter::empty::<u8>()), None);
    }

    #[test]
    fn about_half_of_the_rows_pass() {
        let passing = (0..10_000).filter(|&row| passes(row)).count();
        assert!((4_800..5_200).contains(&passing), "{passing}");
    }
}
