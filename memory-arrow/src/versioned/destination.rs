//! Which allocators a reader charges, and how many rows it reads at once.

use arrow_memory_core::{AllocError, BufferAllocator};

use super::accounted::Accounted;
use super::deps::arrow_array::RecordBatch;
use super::deps::arrow_schema::Schema;
use super::handing::moved;
use super::parts::{Parts, Whole};
use super::transfer::Moves;
use crate::error::{MemoryError, Refused};

/// The allocators that a reader charges.
///
/// A reference to an allocator converts into the destination that charges it for whole batches.
#[derive(Clone, Debug)]
pub struct Destination {
    all: BufferAllocator,
    /// The allocator of messages; `None` if `all` is charged for them.
    messages: Option<BufferAllocator>,
    /// An allocator for each column; empty if `all` is charged for all columns.
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
    /// Makes a destination with a child of `file` for each column of `schema`, named like the column.
    ///
    /// A message of Arrow IPC is charged to `file` itself while it is read and decoded, or to the
    /// [allocator for messages](Self::with_messages). All columns of a batch share the memory of its message;
    /// the charge moves to the allocator of the first column that has a buffer in it.
    ///
    /// # Errors
    ///
    /// The same as for [`BufferAllocator::new_child_allocator`].
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

    /// Sets the allocator for messages, which readers of Arrow IPC read messages into. This may be a child of
    /// the destination's allocator: then the messages that are being decoded are bounded by the same
    /// limits, and reports show them separately.
    ///
    /// If the destination is of the same tree, the charge of a message moves to the destination with the batch
    /// that was decoded from it (to the first column's allocator, if each column has one). If the charge
    /// does not fit there, the batch is refused. A dictionary moves with the first batch that uses it.
    ///
    /// A mapped file stays charged to `messages` for as long as the reader has it. Then its charge moves to the
    /// destination of a batch that is still alive, even if that passes a limit.
    ///
    /// If the destination is of another tree, both trees are charged for as long as the batch lives.
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

    /// The allocator that is charged for the messages of Arrow IPC.
    pub fn message_allocator(&self) -> &BufferAllocator {
        self.messages.as_ref().unwrap_or(&self.all)
    }

    /// The allocator that is charged for batches, except for columns with an allocator of their own.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.all
    }

    /// The allocators of the columns; empty if one allocator is charged for whole batches.
    pub fn column_allocators(&self) -> &[BufferAllocator] {
        &self.columns
    }

    /// Adopts a batch: as a whole, or each column by its allocator, in order. Columns without an allocator of
    /// their own are adopted by [`allocator`](Self::allocator). Memory that is charged to the
    /// [allocator for messages](Self::with_messages) moves with its charge, if it fits.
    ///
    /// # Errors
    ///
    /// The same as for [`Accounted::adopt`], and for [`Accounted::try_move_to`] if messages have an
    /// allocator of their own. The batch is handed back. Columns that were adopted by then are released, and
    /// charges that had moved are moved back.
    #[track_caller]
    pub fn place(&self, batch: RecordBatch) -> Result<RecordBatch, Refused<RecordBatch>> {
        let from = self.messages.as_ref();
        let placed = if !self.columns.is_empty() {
            self.place_columns(&batch, from)
        } else if from.is_some() {
            moved(&batch, &self.all, from, &mut Moves::default())
        } else {
            return batch.adopt(&self.all);
        };
        placed.map_err(|source| Refused {
            value: batch,
            source,
        })
    }

    /// Adopts a batch whose memory the reader keeps. Memory that is charged to the allocator for messages stays
    /// charged there, and is shared.
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
        let mut columns = Vec::with_capacity(batch.num_columns());
        let mut moves = Moves::default();
        for (column, allocator) in batch.columns().iter().zip(allocators) {
            columns.push(Whole::Array(match from {
                None => column.clone().adopt(allocator)?,
                from => moved(column, allocator, from, &mut moves)?,
            }));
        }
        Ok(batch.assemble(columns))
    }
}

/// How many rows a reader puts into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchLimit {
    /// This many rows; 0 counts as 1.
    Rows(usize),
    /// As many rows as should take half of the destination's headroom: no more than `most`, and no fewer than
    /// one.
    Headroom {
        /// The maximum of rows; 0 counts as 1.
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
    /// The maximum of rows in a batch, which is 1 or more.
    pub(crate) fn most_rows(self) -> usize {
        match self {
            Self::Rows(rows) | Self::Headroom { most: rows } => rows.max(1),
        }
    }

    /// The maximum of bytes that the next batch should take, if it is bounded by bytes.
    pub(crate) fn budget(self, destination: &Destination) -> Option<usize> {
        match self {
            Self::Rows(_) => None,
            Self::Headroom { .. } => Some(destination.all.headroom().max(0) as usize / 2),
        }
    }
}
