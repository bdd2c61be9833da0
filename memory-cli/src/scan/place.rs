//! Puts batches into the tree of a scan: each column is charged to its own allocator.

use std::collections::HashMap;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::arrow_60::Accounted;
use arrow_memory_arrow::arrow_60::deps::arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_memory_arrow::arrow_60::deps::arrow_schema::Schema;
use arrow_memory_core::{AllocatorId, ArrowBuf, BufferAllocator};

use crate::columns;
use crate::failure::Failure;
use crate::input::Stop;

/// The allocators of one file.
pub(super) struct Branch {
    /// Held so that the allocator with the file's name stays open, as the parent of the columns.
    _file: BufferAllocator,
    pub(super) columns: Vec<BufferAllocator>,
    /// The allocator of the file's messages, if its format has messages.
    pub(super) messages: Option<BufferAllocator>,
    /// The allocator to which a batch is charged while it is copied, if the decoder allocated its memory.
    decoding: Option<BufferAllocator>,
}

/// One column of one batch, charged to its allocator.
pub(super) enum Placed {
    Copied(#[expect(dead_code, reason = "held, not read")] Vec<ArrowBuf>),
    Adopted(ArrayRef),
    /// A whole batch in messages, which are charged to the allocator of messages.
    InMessages(RecordBatch),
}

/// Charges `memory` to `allocator`, without copying.
pub(super) fn adopted<T: Accounted + Clone>(
    memory: &T,
    allocator: &BufferAllocator,
) -> Result<T, MemoryError> {
    let adopted = memory.clone().adopt(allocator)?;
    Ok(adopted)
}

/// The allocator of a file. Names contain the parent's name, so that an error identifies the file.
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
    /// Makes the allocators of the columns and, if `decoding` is set, one for decoded batches.
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

    /// Copies the columns. `decoded` keeps the batch charged until the caller drops it.
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

    /// Charges the columns without copying. Columns in a message share its memory, which is charged to
    /// `(messages)` already; charging it to the first of them would be arbitrary, so none is charged.
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

    /// Adds to `parts` the size of each column of a batch in messages.
    pub(super) fn add_parts(&self, batch: &RecordBatch, parts: &mut HashMap<AllocatorId, usize>) {
        for (column, allocator) in batch.columns().iter().zip(&self.columns) {
            let size = columns::copied_size(&column.to_data(), allocator);
            *parts.entry(allocator.id()).or_default() += size;
        }
    }
}
