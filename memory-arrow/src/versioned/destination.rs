//! Where what is read goes, and how much of it at once.

use arrow_memory_core::{AllocError, BufferAllocator};

use super::accounted::{Accounted, moved};
use super::deps::arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use super::deps::arrow_schema::Schema;
use crate::error::{MemoryError, Refused};

/// The allocators that a reader charges.
///
/// An allocator converts into the destination that takes whole batches.
#[derive(Clone, Debug)]
pub struct Destination {
    all: BufferAllocator,
    /// The allocator of messages, if it is another one.
    messages: Option<BufferAllocator>,
    /// One for each column, if each is charged by itself.
    columns: Vec<BufferAllocator>,
}

impl From<&BufferAllocator> for Destination {
    fn from(allocator: &BufferAllocator) -> Self {
        Self {
            all: allocator.clone(),
            messages: None,
            columns: Vec::new(),
        }
    }
}

impl Destination {
    /// One child of `file` for each column of `schema`, called as the column is.
    ///
    /// A message of Arrow IPC is charged to `file` itself while it is read and decoded, or to the
    /// allocator for messages if there is [another](Self::with_messages). All columns of a batch share
    /// its memory; the charge then goes to the allocator of the first of them that is on it.
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
    /// let placed = columns.place(batch)?;
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
            messages: None,
            columns,
        })
    }

    /// Has readers of Arrow IPC read messages into memory of `messages`: a child of the destination's
    /// allocator, say, so that what is being decoded is bounded by the same limits and shows by itself.
    ///
    /// If the destination is of the same tree, the charge of the message then moves there with the batch
    /// that was decoded from it (to the first column's allocator, if there is one for each), and only if
    /// it fits: otherwise the batch is refused. A dictionary moves with the first batch that uses it. A
    /// file that is mapped stays with `messages` for as long as the reader has it; then its charge moves
    /// to the destination of a batch that is left, by force, whatever the limits say. If the destination
    /// is of another tree, both are charged for as long as the batch lives.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// # use arrow_memory_arrow::deps::arrow_ipc::writer::StreamWriter;
    /// use arrow_memory_arrow::Destination;
    /// use arrow_memory_arrow::ipc::IpcStreamReader;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// # let column: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1; 1000]));
    /// # let batch = RecordBatch::try_from_iter([("a", column)])?;
    /// # let mut stream = Vec::new();
    /// # let mut writer = StreamWriter::try_new(&mut stream, &batch.schema())?;
    /// # writer.write(&batch)?;
    /// # writer.finish()?;
    /// # drop(writer);
    /// let root = RootAllocator::new(1 << 20);
    /// let (scan, messages) = (root.child("scan").build()?, root.child("messages").build()?);
    /// let destination = Destination::from(&scan).with_messages(&messages);
    /// let mut reader = IpcStreamReader::new(&stream[..], destination)?;
    /// let batch = reader.next().unwrap()?;
    /// assert!(messages.peak_memory_allocation() >= 8000);
    /// assert_eq!((messages.allocated_memory(), scan.allocated_memory() >= 8000), (0, true));
    /// # drop(batch);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_messages(mut self, messages: &BufferAllocator) -> Self {
        self.messages = Some(messages.clone());
        self
    }

    /// The allocator of the messages of Arrow IPC.
    pub fn message_allocator(&self) -> &BufferAllocator {
        self.messages.as_ref().unwrap_or(&self.all)
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
    /// allocators go to the one for the rest. What is charged to the
    /// [allocator for messages](Self::with_messages) moves with its charge, if it fits.
    ///
    /// # Errors
    ///
    /// The same as for [`Accounted::adopt`], and for [`Accounted::try_move_to`] if messages have an
    /// allocator of their own; with the batch. Columns that were adopted by then have been released, and
    /// those that had moved are moved back, if they still fit there.
    #[track_caller]
    pub fn place(&self, batch: RecordBatch) -> Result<RecordBatch, Refused<RecordBatch>> {
        let from = self.messages.as_ref();
        let placed = if !self.columns.is_empty() {
            self.place_columns(&batch, from)
        } else if from.is_some() {
            moved(&batch, &self.all, from)
        } else {
            return batch.adopt(&self.all);
        };
        placed.map_err(|source| Refused {
            value: batch,
            source,
        })
    }

    /// As `place`, but what is charged to the allocator for messages stays there, and is shared: for
    /// memory that the reader keeps.
    #[allow(dead_code, reason = "for a reader behind a feature")]
    #[track_caller]
    pub(crate) fn share(&self, batch: RecordBatch) -> Result<RecordBatch, Refused<RecordBatch>> {
        if self.columns.is_empty() {
            return batch.adopt(&self.all);
        }
        let placed = self.place_columns(&batch, None);
        placed.map_err(|source| Refused {
            value: batch,
            source,
        })
    }

    #[track_caller]
    fn place_columns(
        &self,
        batch: &RecordBatch,
        from: Option<&BufferAllocator>,
    ) -> Result<RecordBatch, MemoryError> {
        let allocators = self.columns.iter().chain(std::iter::repeat(&self.all));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
        for (column, allocator) in batch.columns().iter().zip(allocators) {
            let placed = match from {
                None => column.clone().adopt(allocator).map_err(MemoryError::from),
                from => moved(column, allocator, from),
            };
            match placed {
                Ok(placed) => columns.push(placed),
                Err(error) => {
                    if let Some(from) = from {
                        move_back(columns, from);
                    }
                    return Err(error);
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            batch.schema(),
            columns,
            &options,
        )?)
    }
}

/// Moves columns back that the rest of the batch did not follow.
#[cold]
#[track_caller]
fn move_back(columns: Vec<ArrayRef>, from: &BufferAllocator) {
    for column in columns {
        if let Err(error) = column.try_transfer_ownership(from) {
            tracing::warn!(%error, "a column could not be moved back");
        }
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
    pub(crate) fn most_rows(self) -> usize {
        match self {
            Self::Rows(rows) | Self::Headroom { most: rows } => rows.max(1),
        }
    }

    /// How many bytes the next batch should take at most, if it is bounded.
    pub(crate) fn budget(self, destination: &Destination) -> Option<usize> {
        match self {
            Self::Rows(_) => None,
            Self::Headroom { .. } => Some(destination.all.headroom().max(0) as usize / 2),
        }
    }
}
