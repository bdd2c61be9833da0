//! Where what is read goes, and how much of it at once.

use arrow_memory_core::{AllocError, BufferAllocator};

use super::accounted::Accounted;
use super::deps::arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use super::deps::arrow_schema::Schema;
use crate::error::MemoryError;

/// The allocators that a reader charges.
///
/// An allocator converts into the destination that takes whole batches.
#[derive(Clone, Debug)]
pub struct Destination {
    all: BufferAllocator,
    /// One for each column, if each is charged by itself.
    columns: Vec<BufferAllocator>,
}

impl From<&BufferAllocator> for Destination {
    fn from(allocator: &BufferAllocator) -> Self {
        Self {
            all: allocator.clone(),
            columns: Vec::new(),
        }
    }
}

impl Destination {
    /// One child of `file` for each column of `schema`, called as the column is.
    ///
    /// What a reader needs besides columns (a whole message of Arrow IPC, which all its columns
    /// share) is charged to `file` itself.
    ///
    /// # Errors
    ///
    /// As for [`BufferAllocator::new_child_allocator`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_arrow::Destination;
    /// use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let file = root.child("orders.csv").build()?;
    /// let column: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2, 3]));
    /// let batch = RecordBatch::try_from_iter([("price", column)]).unwrap();
    ///
    /// let columns = Destination::columns(&file, &batch.schema())?;
    /// let placed = columns.place(&batch)?;
    /// let price = &file.child_allocators()[0];
    /// assert_eq!((price.name(), price.allocated_memory()), ("price", 24));
    /// # Ok::<(), arrow_memory_arrow::MemoryError>(())
    /// ```
    pub fn columns(file: &BufferAllocator, schema: &Schema) -> Result<Self, AllocError> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| file.child(field.name()).build())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            all: file.clone(),
            columns,
        })
    }

    /// The allocator of what is no column's.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.all
    }

    /// The allocators of the columns; none if batches go to one allocator as a whole.
    pub fn column_allocators(&self) -> &[BufferAllocator] {
        &self.columns
    }

    /// Adopts a batch: as a whole, or each column by its allocator, in order. Columns beyond the
    /// allocators go to the one for the rest.
    ///
    /// # Errors
    ///
    /// As [`Accounted::adopt`]. Columns that were adopted by then have been released.
    pub fn place(&self, batch: &RecordBatch) -> Result<RecordBatch, MemoryError> {
        if self.columns.is_empty() {
            return batch.adopt(&self.all);
        }
        let allocators = self.columns.iter().chain(std::iter::repeat(&self.all));
        let columns = batch
            .columns()
            .iter()
            .zip(allocators)
            .map(|(column, allocator)| column.adopt(allocator))
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            batch.schema(),
            columns,
            &options,
        )?)
    }
}

/// How many rows a reader puts into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchLimit {
    /// So many.
    Rows(usize),
    /// At most so many, and fewer where the headroom of the destination is short: as many as should
    /// take half of it, and at least one.
    Headroom {
        /// The most rows.
        most: usize,
    },
}

impl Default for BatchLimit {
    /// 8192 rows.
    fn default() -> Self {
        Self::Rows(8192)
    }
}

impl BatchLimit {
    /// The most rows of a batch; at least one.
    #[allow(dead_code, reason = "for the readers, each behind a feature")]
    pub(crate) fn most_rows(self) -> usize {
        match self {
            Self::Rows(rows) | Self::Headroom { most: rows } => rows.max(1),
        }
    }

    /// How many bytes the next batch should take at most, if it is bounded.
    #[allow(dead_code, reason = "for the readers, each behind a feature")]
    pub(crate) fn budget(self, destination: &Destination) -> Option<usize> {
        match self {
            Self::Rows(_) => None,
            Self::Headroom { .. } => Some(destination.all.headroom().max(0) as usize / 2),
        }
    }
}
