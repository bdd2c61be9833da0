//! Parquet, which arrow-rs decodes. Each batch is adopted once it is decoded.

use std::sync::Arc;

use super::deps::arrow_array::RecordBatch;
use super::deps::arrow_schema::SchemaRef;
use super::deps::parquet::arrow::ProjectionMask;
use super::deps::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use super::deps::parquet::errors::{ParquetError, Result as ParquetResult};
use super::deps::parquet::file::reader::{ChunkReader, Length};
use super::fitted::{Decode, Fitted};
use super::{BatchLimit, Destination};
use crate::error::MemoryError;
use crate::guard::guarded;

/// Reads a Parquet file. An iterator of batches.
///
/// With [`BatchLimit::Headroom`] the first batch is sized by the bytes of a row that the file's metadata
/// states, and each further one by those that a row of the batch before it took. A batch that is refused
/// nevertheless is decoded again with half of its rows. With [`BatchLimit::Rows`] a refused batch is kept, and
/// the next call tries again to adopt it. After an error of the decoder the iterator ends.
///
/// The memory that arrow-rs needs to decode a row group is not charged.
///
/// ```no_run
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::BatchLimit;
/// use arrow_memory_arrow::parquet::ParquetReader;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(64 << 20);
/// let file = std::fs::File::open("lineitem.parquet")?;
/// let limit = BatchLimit::Headroom { most: 65_536 };
/// for batch in ParquetReader::new(file, limit, &*root)? {
///     println!("{} rows", batch?.num_rows());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ParquetReader<T: ChunkReader + 'static> {
    batches: Fitted<Pages<T>>,
    schema: SchemaRef,
}

/// The file, and arrow-rs' decoder of it.
struct Pages<T: ChunkReader + 'static> {
    input: Shared<T>,
    metadata: ArrowReaderMetadata,
    /// The indices of the columns that batches consist of; `None` for all.
    projection: Option<Vec<usize>>,
    /// The decoder, and the number of rows in its batches.
    reader: Option<(ParquetRecordBatchReader, usize)>,
    /// The number of rows that were handed out.
    done: usize,
}

impl<T: ChunkReader + 'static> ParquetReader<T> {
    /// Makes a reader, and reads the file's metadata.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Arrow`] if this is not a Parquet file.
    pub fn new(
        input: T,
        limit: BatchLimit,
        destination: impl Into<Destination>,
    ) -> Result<Self, MemoryError> {
        let input = Shared(Arc::new(input));
        let metadata = guarded(|| {
            ArrowReaderMetadata::load(&input, ArrowReaderOptions::new()).map_err(parquet)
        })?;
        let schema = Arc::clone(metadata.schema());
        let file = metadata.metadata();
        let rows = file.file_metadata().num_rows().max(1) as usize;
        let bytes: i64 = file
            .row_groups()
            .iter()
            .map(|group| group.total_byte_size().max(0))
            .sum();
        // Four times the encoded size: dictionaries are unfolded, and buffers grow by doubling.
        let row_bytes = (bytes as usize / rows).saturating_mul(4).max(8);
        let pages = Pages {
            input,
            metadata,
            projection: None,
            reader: None,
            done: 0,
        };
        Ok(Self {
            batches: Fitted::new(pages, limit, destination.into(), row_bytes),
            schema,
        })
    }

    /// Restricts batches to the top-level columns with these indices, in the file's order.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Arrow`] if there is no such column.
    pub fn with_projection(mut self, mut columns: Vec<usize>) -> Result<Self, MemoryError> {
        columns.sort_unstable();
        columns.dedup();
        let pages = &mut self.batches.decoder;
        self.schema = Arc::new(pages.metadata.schema().project(&columns)?);
        pages.projection = Some(columns);
        Ok(self)
    }

    /// The schema of all batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The number of rows, as the file's metadata states it.
    pub fn num_rows(&self) -> usize {
        let metadata = self.batches.decoder.metadata.metadata();
        metadata.file_metadata().num_rows().max(0) as usize
    }

    /// The allocators that are charged for the batches.
    pub fn destination(&self) -> &Destination {
        &self.batches.destination
    }

    /// Sets the allocators for later batches: [`Destination::columns`] of the schema, for instance.
    pub fn set_destination(&mut self, destination: impl Into<Destination>) {
        self.batches.destination = destination.into();
    }
}

impl<T: ChunkReader + 'static> Iterator for ParquetReader<T> {
    type Item = Result<RecordBatch, MemoryError>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

impl<T: ChunkReader + 'static> Decode for Pages<T> {
    fn decode(&mut self, rows: usize) -> Result<Option<RecordBatch>, MemoryError> {
        // A decoder keeps its batch size. Another size needs a new decoder that starts at this row, and
        // decodes a part of a page again. So the size changes only if it is too large, or too small by far.
        let size = match &self.reader {
            Some((_, size)) if *size <= rows && *size * 4 > rows => *size,
            _ => rows,
        };
        if self.reader.as_ref().is_none_or(|(_, found)| *found != size) {
            self.reader = Some((self.start(size)?, size));
        }
        let Some((reader, _)) = &mut self.reader else {
            return Ok(None);
        };
        guarded(|| Ok(reader.next().transpose()?))
    }

    fn handed_out(&mut self, rows: usize) {
        self.done += rows;
    }

    fn go_back(&mut self) -> bool {
        self.reader = None;
        true
    }
}

impl<T: ChunkReader + 'static> Pages<T> {
    fn start(&self, rows: usize) -> Result<ParquetRecordBatchReader, MemoryError> {
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.input.clone(),
            self.metadata.clone(),
        )
        .with_batch_size(rows)
        .with_offset(self.done);
        if let Some(columns) = &self.projection {
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        guarded(|| builder.build().map_err(parquet))
    }
}

impl<T: ChunkReader + 'static> std::fmt::Debug for ParquetReader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetReader")
            .field("schema", &self.schema)
            .field("done", &self.batches.decoder.done)
            .finish_non_exhaustive()
    }
}

fn parquet(error: ParquetError) -> MemoryError {
    MemoryError::Arrow(Box::new(error))
}

/// The input, shared by the decoders, which are made one after the other.
struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Length> Length for Shared<T> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<T: ChunkReader> ChunkReader for Shared<T> {
    type T = T::T;

    fn get_read(&self, start: u64) -> ParquetResult<T::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        self.0.get_bytes(start, length)
    }
}

#[cfg(test)]
mod tests {
    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;
    use bytes::Bytes;

    use super::super::deps::arrow_array::{ArrayRef, Int64Array, StringArray};
    use super::super::deps::parquet::arrow::ArrowWriter;
    use super::*;

    fn file(rows: usize) -> Bytes {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let names = (0..rows).map(|row| format!("name of {row}"));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file.into()
    }

    #[test]
    fn all_rows_come_and_are_charged_while_they_live() {
        let root = RootAllocator::new(1 << 20);
        let reader = ParquetReader::new(file(1000), BatchLimit::Rows(300), &*root).unwrap();
        assert_eq!(reader.num_rows(), 1000);

        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();

        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [300, 300, 300, 100]);
        assert!(root.allocated_memory() >= 1000 * 8);
        drop(batches);
        root.close().unwrap();
    }

    #[test]
    fn batches_shrink_to_the_headroom() {
        let root = RootAllocator::new(20 << 10);
        let limit = BatchLimit::Headroom { most: 100_000 };
        let mut next = 0;

        for batch in ParquetReader::new(file(5000), limit, &*root).unwrap() {
            let batch = batch.unwrap();
            let ids = batch
                .column(0)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap();
            for id in ids.values() {
                assert_eq!(*id, next);
                next += 1;
            }
        }

        assert_eq!(next, 5000);
        assert!(root.peak_memory_allocation() <= 20 << 10);
    }

    #[test]
    fn columns_go_to_children_of_their_own() {
        let root = RootAllocator::new(1 << 20);
        let part = root.child("a.parquet").build().unwrap();
        let mut reader = ParquetReader::new(file(100), BatchLimit::default(), &part)
            .unwrap()
            .with_projection(vec![1])
            .unwrap();
        reader.set_destination(Destination::columns(&part, &reader.schema()).unwrap());

        let batch = reader.next().unwrap().unwrap();

        assert_eq!(batch.num_columns(), 1);
        let children = part.child_allocators();
        assert_eq!(children[0].name(), "name");
        assert_eq!(children[0].allocated_memory(), part.allocated_memory());
        assert!(part.allocated_memory() > 0);
    }

    #[test]
    fn what_is_no_parquet_is_an_error() {
        let root = RootAllocator::new(1 << 20);
        let limit = BatchLimit::default();
        for bytes in [&b""[..], b"PAR1", &[0; 100]] {
            assert!(ParquetReader::new(Bytes::from_static(bytes), limit, &*root).is_err());
        }
        let whole = file(100);
        for len in 0..whole.len() {
            let read = ParquetReader::new(whole.slice(..len), limit, &*root)
                .and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
            assert!(read.is_err(), "{len} bytes");
        }
        assert_eq!(root.allocated_memory(), 0);
    }
}
