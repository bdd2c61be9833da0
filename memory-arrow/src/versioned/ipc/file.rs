//! Files of Arrow IPC, of which batches are read in any order.

use std::io::{Read, Seek};
use std::sync::Arc;

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::super::deps::arrow_array::RecordBatch;
use super::super::deps::arrow_buffer::Buffer;
use super::super::deps::arrow_ipc::reader::{FileDecoder, read_footer_length};
use super::super::deps::arrow_ipc::{Block, root_as_footer};
use super::super::deps::arrow_schema::SchemaRef;
use super::super::{Destination, into_buffer, try_fb_to_schema};
use super::bad;
use super::source::{IpcSource, Mapped, Seekable, sealed};
use crate::error::MemoryError;
use crate::guard::guarded;

/// Reads an Arrow IPC file, batch by batch, in any order.
///
/// Each batch is read into one buffer of the destination's
/// [allocator for messages](Destination::with_messages), aligned to 64 bytes, and decoded in place. If the file
/// is [mapped](IpcFileReader::map), all batches are parts of the mapping, which is charged as foreign memory.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
/// use arrow_memory_arrow::deps::arrow_ipc::writer::FileWriter;
/// use arrow_memory_arrow::ipc::IpcFileReader;
/// use arrow_memory_core::RootAllocator;
///
/// let column: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2, 3]));
/// let batch = RecordBatch::try_from_iter([("a", column)])?;
/// let mut file = Vec::new();
/// let mut writer = FileWriter::try_new(&mut file, &batch.schema())?;
/// writer.write(&batch)?;
/// writer.finish()?;
/// drop(writer);
///
/// let root = RootAllocator::new(1 << 20);
/// let mut reader = IpcFileReader::new(std::io::Cursor::new(file), &*root)?;
/// assert_eq!(reader.num_batches(), 1);
/// assert_eq!(reader.read_batch(0)?, batch);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct IpcFileReader<S> {
    source: S,
    decoder: FileDecoder,
    schema: SchemaRef,
    batches: Vec<Block>,
    next: usize,
    destination: Destination,
}

impl<R: Read + Seek> IpcFileReader<Seekable<R>> {
    /// Makes a reader, and reads the footer and the dictionaries of the file.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] if reading fails, [`MemoryError::Arrow`] if this is not a file of Arrow IPC, or
    /// [`MemoryError::Alloc`] if a part of it does not fit.
    #[track_caller]
    pub fn new(reader: R, destination: impl Into<Destination>) -> Result<Self, MemoryError> {
        Self::open(Seekable(reader), destination.into())
    }
}

impl IpcFileReader<Mapped> {
    /// Makes a reader of a file that is in a buffer. Batches are decoded in place.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] if reading fails, [`MemoryError::Arrow`] if this is not a file of Arrow IPC, or
    /// [`MemoryError::Alloc`] if a part of it does not fit.
    #[track_caller]
    pub fn from_buffer(
        file: ArrowBuf,
        destination: impl Into<Destination>,
    ) -> Result<Self, MemoryError> {
        Self::open(Mapped(file), destination.into())
    }
}

impl<S: IpcSource> IpcFileReader<S> {
    #[track_caller]
    pub(super) fn open(mut source: S, destination: Destination) -> Result<Self, MemoryError> {
        let allocator = destination.message_allocator();
        let size = source.size()?;
        let Some(end) = size.checked_sub(TRAILER as u64) else {
            return Err(bad("the file is too short"));
        };
        let trailer = source.part(end, TRAILER, 0, allocator)?;
        let mut last = [0; TRAILER];
        last.copy_from_slice(&trailer);
        let length = read_footer_length(last)?;
        let Some(start) = end.checked_sub(length as u64) else {
            return Err(bad(format!("a footer of {length} bytes")));
        };
        let footer = source.part(start, length, 0, allocator)?;
        // Flatbuffers may need the footer aligned; in a mapping it need not be.
        let footer = match footer.as_ptr().addr() % 8 {
            0 => footer,
            _ => footer.compact()?,
        };
        let footer =
            root_as_footer(&footer).map_err(|error| bad(format!("not a valid footer: {error}")))?;
        let schema = footer
            .schema()
            .ok_or_else(|| bad("a footer without a schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(bad("the file has another byte order"));
        }
        let schema = Arc::new(guarded(|| Ok(try_fb_to_schema(schema)?))?);
        let mut decoder = FileDecoder::new(Arc::clone(&schema), footer.version());
        for block in footer.dictionaries().iter().flatten() {
            let part = block_of(&mut source, block, size, allocator)?;
            guarded(|| Ok(decoder.read_dictionary(block, &part)?))?;
        }
        let batches = footer
            .recordBatches()
            .map(|blocks| blocks.iter().copied().collect())
            .unwrap_or_default();
        Ok(Self {
            source,
            decoder,
            schema,
            batches,
            next: 0,
            destination,
        })
    }

    /// Restricts batches to the columns with these indices.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Arrow`] if there is no such column.
    pub fn with_projection(mut self, columns: Vec<usize>) -> Result<Self, MemoryError> {
        self.schema = Arc::new(self.schema.project(&columns)?);
        self.decoder = self.decoder.with_projection(columns);
        Ok(self)
    }

    /// The schema of all batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The allocators that are charged for the batches.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Sets the allocators for later batches: [`Destination::columns`] of the schema, for instance.
    pub fn set_destination(&mut self, destination: impl Into<Destination>) {
        self.destination = destination.into();
    }

    /// The number of batches in the file.
    pub fn num_batches(&self) -> usize {
        self.batches.len()
    }

    /// Reads the batch at `index`.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Value`] if there is no batch `index`.
    /// * [`MemoryError::Io`] if reading fails, [`MemoryError::Arrow`] if the batch cannot be decoded, or
    ///   [`MemoryError::Alloc`] if it does not fit. The batch can be read again.
    #[track_caller]
    pub fn read_batch(&mut self, index: usize) -> Result<RecordBatch, MemoryError> {
        let Some(block) = self.batches.get(index) else {
            return Err(MemoryError::Value(format!(
                "batch {index} of {}",
                self.batches.len()
            )));
        };
        let size = self.source.size()?;
        let part = block_of(
            &mut self.source,
            block,
            size,
            self.destination.message_allocator(),
        )?;
        let batch = guarded(|| Ok(self.decoder.read_record_batch(block, &part)?))?;
        match batch {
            Some(batch) if S::KEEPS => Ok(self.destination.share(batch)?),
            Some(batch) => Ok(self.destination.place(batch)?),
            None => Err(bad(format!("message {index} is not a batch"))),
        }
    }
}

impl<S: IpcSource> Iterator for IpcFileReader<S> {
    type Item = Result<RecordBatch, MemoryError>;

    /// Reads the next batch. After an error, the next call continues with the batch after it.
    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.batches.len() {
            return None;
        }
        self.next += 1;
        Some(self.read_batch(self.next - 1))
    }
}

/// Reads a message of the file: its metadata and its body, which is aligned to 64 bytes if possible.
#[track_caller]
fn block_of(
    source: &mut impl sealed::Source,
    block: &Block,
    file_size: u64,
    allocator: &BufferAllocator,
) -> Result<Buffer, MemoryError> {
    let wrong = || {
        bad(format!(
            "a block at {} of {} and {} bytes in a file of {file_size}",
            block.offset(),
            block.metaDataLength(),
            block.bodyLength()
        ))
    };
    let start = u64::try_from(block.offset()).map_err(|_| wrong())?;
    let metadata = usize::try_from(block.metaDataLength()).map_err(|_| wrong())?;
    let body = usize::try_from(block.bodyLength()).map_err(|_| wrong())?;
    let size = metadata.checked_add(body).ok_or_else(wrong)?;
    let end = start.checked_add(size as u64).ok_or_else(wrong)?;
    // arrow-rs reads the first eight bytes of the metadata unchecked.
    if end > file_size || metadata < 8 {
        return Err(wrong());
    }
    Ok(into_buffer(source.part(start, size, metadata, allocator)?))
}

/// The bytes that end a file: the length of the footer, and the magic.
const TRAILER: usize = 10;
