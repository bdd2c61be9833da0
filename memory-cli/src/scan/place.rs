//! Batches in the tree of a scan: each column charged to its own allocator.

use std::collections::HashMap;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::arrow_60::Accounted;
use arrow_memory_arrow::arrow_60::deps::arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_memory_arrow::arrow_60::deps::arrow_schema::Schema;
use arrow_memory_core::{AllocatorId, ArrowBuf, BufferAllocator};

use crate::columns;
use crate::failure::Failure;
use crate::input::Stop;

/// One file's allocators.
pub(super) struct Branch {
    /// Held so that the columns have a parent with the file's name.
    _file: BufferAllocator,
    pub(super) columns: Vec<BufferAllocator>,
    /// Where its messages are, if it is made of messages.
    pub(super) messages: Option<BufferAllocator>,
    /// Where a batch is charged between decoding and copying, if it has memory of its own.
    decoding: Option<BufferAllocator>,
}

/// One column of one batch, charged to its allocator.
pub(super) enum Placed {
    Copied(#[expect(dead_code, reason = "held, not read")] Vec<ArrowBuf>),
    Adopted(ArrayRef),
    /// A whole batch, in messages that are charged to the allocator of these.
    InMessages(RecordBatch),
}

/// The same memory, charged to `allocator`; nothing is copied.
pub(super) fn adopted<T: Accounted + Clone>(
    memory: &T,
    allocator: &BufferAllocator,
) -> Result<T, MemoryError> {
    let adopted = memory.clone().adopt(allocator)?;
    Ok(adopted)
}

/// The allocator of a file. Names are whole, so that an error says all of them.
pub(super) fn file(root: &BufferAllocator, label: &str) -> Result<BufferAllocator, Failure> {
    child(root, label)
}

/// The allocator of the messages of a file.
pub(super) fn messages(file: &BufferAllocator) -> Result<BufferAllocator, Failure> {
    child(file, &format!("{}/(messages)", file.name()))
}

fn child(parent: &BufferAllocator, name: &str) -> Result<BufferAllocator, Failure> {
    let built = parent.child(name).build();
    built.map_err(|error| Failure::new(error.to_string()))
}

impl Branch {
    /// The allocators of the columns, and, with `decoding`, one for decoded batches.
    pub(super) fn grow(
        file: BufferAllocator,
        messages: Option<BufferAllocator>,
        schema: &Schema,
        decoding: bool,
    ) -> Result<Self, Failure> {
        let named = |name: &str| child(&file, &format!("{}/{name}", file.name()));
        let columns = schema.fields().iter();
        let columns = columns
            .map(|field| named(field.name()))
            .collect::<Result<_, _>>()?;
        let decoding = decoding.then(|| named("(decoding)")).transpose()?;
        Ok(Self {
            _file: file,
            columns,
            messages,
            decoding,
        })
    }

    /// Copies the columns. `decoded` holds the batch meanwhile.
    pub(super) fn copy(
        &self,
        batch: &RecordBatch,
        decoded: &mut Option<RecordBatch>,
        placed: &mut Vec<Placed>,
    ) -> Result<(), Stop> {
        if let Some(decoding) = &self.decoding {
            *decoded = Some(adopted(batch, decoding)?);
        }
        for (column, allocator) in batch.columns().iter().zip(&self.columns) {
            let copied = columns::copy_into(&column.to_data(), allocator)?;
            placed.push(Placed::Copied(copied));
        }
        Ok(())
    }

    /// Charges the columns where they are. Those that lie in a message share it, and it is charged
    /// already: to none of them, rather than to the one that happens to be the first.
    pub(super) fn adopt(&self, batch: &RecordBatch, placed: &mut Vec<Placed>) -> Result<(), Stop> {
        if self.messages.is_some() {
            placed.push(Placed::InMessages(batch.clone()));
            return Ok(());
        }
        for (column, allocator) in batch.columns().iter().zip(&self.columns) {
            placed.push(Placed::Adopted(adopted(column, allocator)?));
        }
        Ok(())
    }

    /// How much of a batch that lies in messages is each column's.
    pub(super) fn add_parts(&self, batch: &RecordBatch, parts: &mut HashMap<AllocatorId, usize>) {
        for (column, allocator) in batch.columns().iter().zip(&self.columns) {
            let size = columns::copied_size(&column.to_data(), allocator);
            *parts.entry(allocator.id()).or_default() += size;
        }
    }
}
