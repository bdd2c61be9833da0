//! Arrow IPC: read into memory of a tree, or mapped, and decoded where it lies. Longer than most:
//! streams and files share how messages are read.
//!
//! Longer than most files: half of it is what the public methods promise.
#![cfg_attr(unix, expect(unsafe_code, reason = "maps files"))]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

#[cfg(unix)]
use arrow_memory_core::ForeignAllocation;
use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::deps::arrow_array::RecordBatch;
use super::deps::arrow_buffer::Buffer;
use super::deps::arrow_ipc::reader::{FileDecoder, StreamDecoder, read_footer_length};
use super::deps::arrow_ipc::{Block, root_as_footer, root_as_message};
use super::deps::arrow_schema::SchemaRef;
use super::{Destination, into_buffer, try_fb_to_schema};
use crate::error::MemoryError;
use crate::guard::guarded;

/// Reads an Arrow IPC stream. An iterator of batches.
///
/// Each message body is read into one buffer of the destination's
/// [allocator for messages](Destination::with_messages), aligned to 64 bytes, and
/// decoded there: the arrays of a batch share it. What arrow-rs copies nevertheless (values less
/// aligned than their type needs, since the writer put them so) is adopted.
///
/// After an error the iterator ends.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
/// use arrow_memory_arrow::deps::arrow_ipc::writer::StreamWriter;
/// use arrow_memory_arrow::ipc::IpcStreamReader;
/// use arrow_memory_core::RootAllocator;
///
/// let column: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2, 3]));
/// let batch = RecordBatch::try_from_iter([("a", column)])?;
/// let mut stream = Vec::new();
/// let mut writer = StreamWriter::try_new(&mut stream, &batch.schema())?;
/// writer.write(&batch)?;
/// writer.finish()?;
/// drop(writer);
///
/// let root = RootAllocator::new(1 << 20);
/// let batches = IpcStreamReader::new(&stream[..], &*root)?.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(batches, [batch]);
/// assert!(root.allocated_memory() > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct IpcStreamReader<R> {
    reader: R,
    decoder: StreamDecoder,
    schema: SchemaRef,
    destination: Destination,
    ready: VecDeque<RecordBatch>,
    finished: bool,
}

impl<R: Read> IpcStreamReader<R> {
    /// Reads up to the schema. Reads are large; a `BufReader` helps only with small batches.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] if reading fails, [`MemoryError::Arrow`] if this is no such stream,
    /// [`MemoryError::Alloc`] if a message does not fit.
    #[track_caller]
    pub fn new(reader: R, destination: impl Into<Destination>) -> Result<Self, MemoryError> {
        let mut this = Self {
            reader,
            decoder: StreamDecoder::new(),
            schema: Arc::new(super::deps::arrow_schema::Schema::empty()),
            destination: destination.into(),
            ready: VecDeque::new(),
            finished: false,
        };
        feed(
            &mut this.decoder,
            &mut this.ready,
            Buffer::from(CONTINUATION),
        )?;
        while this.decoder.schema().is_none() {
            if !this.read_message()? {
                return Err(bad("the stream has no schema"));
            }
        }
        if let Some(schema) = this.decoder.schema() {
            this.schema = schema;
        }
        Ok(this)
    }

    /// The schema of all batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Where the batches go.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Has later batches go elsewhere: to [`Destination::columns`] of the schema, for instance.
    pub fn set_destination(&mut self, destination: impl Into<Destination>) {
        self.destination = destination.into();
    }

    #[track_caller]
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, MemoryError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(self.destination.place(batch)?));
            }
            if !self.read_message()? {
                return Ok(None);
            }
        }
    }

    /// Reads one message and hands it to the decoder; `false` at the end of the stream.
    #[track_caller]
    fn read_message(&mut self) -> Result<bool, MemoryError> {
        let Some(mut length) = self.read_word()? else {
            return Ok(false);
        };
        if length == CONTINUATION {
            // The stream may end here as well as before.
            length = self.read_word()?.unwrap_or_default();
        }
        let size = u32::from_le_bytes(length) as usize;
        if size == 0 {
            return Ok(false);
        }
        let allocator = self.destination.message_allocator();
        let metadata = read_exactly(&mut self.reader, size, 0, allocator)?;
        let body_size = {
            let message = root_as_message(&metadata)
                .map_err(|error| bad(format!("a message that is none: {error}")))?;
            usize::try_from(message.bodyLength())
                .map_err(|_| bad(format!("a body of {} bytes", message.bodyLength())))?
        };
        let body = read_exactly(&mut self.reader, body_size, 0, allocator)?;
        // The decoder sees a stream with continuation markers, one ahead, so that a message without
        // a body is complete when the next one's marker comes.
        for part in [
            Buffer::from(length),
            into_buffer(metadata),
            into_buffer(body),
            Buffer::from(CONTINUATION),
        ] {
            feed(&mut self.decoder, &mut self.ready, part)?;
        }
        Ok(true)
    }

    /// Four bytes, or `None` at the end of the input.
    fn read_word(&mut self) -> Result<Option<[u8; 4]>, MemoryError> {
        let mut word = [0; 4];
        let mut filled = 0;
        while filled < 4 {
            match self.reader.read(&mut word[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(word))
    }
}

impl<R: Read> Iterator for IpcStreamReader<R> {
    type Item = Result<RecordBatch, MemoryError>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.next_batch().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

fn feed(
    decoder: &mut StreamDecoder,
    ready: &mut VecDeque<RecordBatch>,
    mut part: Buffer,
) -> Result<(), MemoryError> {
    while !part.is_empty() {
        ready.extend(guarded(|| Ok(decoder.decode(&mut part)?))?);
    }
    Ok(())
}

/// Reads an Arrow IPC file, batch by batch, in any order.
///
/// As with [`IpcStreamReader`], each batch is one buffer of the destination's
/// [allocator for messages](Destination::with_messages); or, if the file is
/// [mapped](IpcFileReader::map), all batches are parts of the mapping, which is charged as foreign
/// memory.
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

/// What parts of a file can be had from.
pub trait IpcSource: sealed::Source {}

mod sealed {
    use super::{ArrowBuf, BufferAllocator, MemoryError};

    pub trait Source {
        /// Whether this keeps the memory that its parts are in.
        const KEEPS: bool;

        fn size(&mut self) -> Result<u64, MemoryError>;

        /// The bytes from `start`, so that the one at `aligned` lies at a multiple of 64 if that
        /// can be chosen.
        #[track_caller]
        fn part(
            &mut self,
            start: u64,
            size: usize,
            aligned: usize,
            allocator: &BufferAllocator,
        ) -> Result<ArrowBuf, MemoryError>;
    }
}

/// A file that is read into buffers.
#[derive(Debug)]
pub struct Seekable<R>(R);

/// A file that lies in memory as a whole.
#[derive(Debug)]
pub struct Mapped(ArrowBuf);

impl<R: Read + Seek> IpcSource for Seekable<R> {}

impl<R: Read + Seek> sealed::Source for Seekable<R> {
    const KEEPS: bool = false;

    fn size(&mut self) -> Result<u64, MemoryError> {
        Ok(self.0.seek(SeekFrom::End(0))?)
    }

    #[track_caller]
    fn part(
        &mut self,
        start: u64,
        size: usize,
        aligned: usize,
        allocator: &BufferAllocator,
    ) -> Result<ArrowBuf, MemoryError> {
        self.0.seek(SeekFrom::Start(start))?;
        let skip = aligned.next_multiple_of(64) - aligned;
        read_exactly(&mut self.0, size, skip, allocator)
    }
}

impl IpcSource for Mapped {}

impl sealed::Source for Mapped {
    const KEEPS: bool = true;

    fn size(&mut self) -> Result<u64, MemoryError> {
        Ok(self.0.len() as u64)
    }

    #[track_caller]
    fn part(
        &mut self,
        start: u64,
        size: usize,
        _: usize,
        _: &BufferAllocator,
    ) -> Result<ArrowBuf, MemoryError> {
        let start = usize::try_from(start).map_err(|_| truncated())?;
        self.0.try_slice(start, size).map_err(|_| truncated())
    }
}

impl<R: Read + Seek> IpcFileReader<Seekable<R>> {
    /// Reads the footer and the dictionaries.
    ///
    /// # Errors
    ///
    /// As [`IpcStreamReader::new`].
    #[track_caller]
    pub fn new(reader: R, destination: impl Into<Destination>) -> Result<Self, MemoryError> {
        Self::open(Seekable(reader), destination.into())
    }
}

impl IpcFileReader<Mapped> {
    /// Maps a file: it is charged as foreign memory, at its size, for as long as a batch of it lives.
    ///
    /// # Errors
    ///
    /// As [`IpcStreamReader::new`]; and [`MemoryError::Io`] if it cannot be mapped.
    ///
    /// # Safety
    ///
    /// Nobody changes or truncates the file as long as its arrays live.
    #[cfg(unix)]
    #[track_caller]
    pub unsafe fn map(
        file: &File,
        destination: impl Into<Destination>,
    ) -> Result<Self, MemoryError> {
        let destination = destination.into();
        // SAFETY: the caller's promise.
        let mapped = unsafe { map(file, destination.message_allocator()) }?;
        Self::open(Mapped(mapped), destination)
    }

    /// Reads a file that lies in a buffer, decoding it there.
    ///
    /// # Errors
    ///
    /// As [`IpcStreamReader::new`].
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
    fn open(mut source: S, destination: Destination) -> Result<Self, MemoryError> {
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
        // Flatbuffers may need it aligned, which a mapping's is not.
        let footer = match footer.as_ptr().addr() % 8 {
            0 => footer,
            _ => footer.compact()?,
        };
        let footer = root_as_footer(&footer)
            .map_err(|error| bad(format!("a footer that is none: {error}")))?;
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

    /// Has batches consist of the columns with these indices.
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

    /// Where the batches go.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Has later batches go elsewhere: to [`Destination::columns`] of the schema, for instance.
    pub fn set_destination(&mut self, destination: impl Into<Destination>) {
        self.destination = destination.into();
    }

    /// The number of batches.
    pub fn num_batches(&self) -> usize {
        self.batches.len()
    }

    /// Reads a batch.
    ///
    /// # Errors
    ///
    /// As [`IpcStreamReader::new`]; and [`MemoryError::Value`] if there is no such batch. It can be
    /// tried again.
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
            None => Err(bad(format!("batch {index} is none"))),
        }
    }
}

impl<S: IpcSource> Iterator for IpcFileReader<S> {
    type Item = Result<RecordBatch, MemoryError>;

    /// The next batch; after an error the one after it.
    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.batches.len() {
            return None;
        }
        self.next += 1;
        Some(self.read_batch(self.next - 1))
    }
}

/// A message of the file: its metadata and its body, which is aligned.
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
    // arrow-rs looks at the first eight bytes.
    if end > file_size || metadata < 8 {
        return Err(wrong());
    }
    Ok(into_buffer(source.part(start, size, metadata, allocator)?))
}

/// Exactly `size` bytes, `skip` bytes into a fresh allocation. One that is said to be large grows as
/// the bytes come, so that a false size does not take the memory.
#[track_caller]
fn read_exactly(
    reader: &mut impl Read,
    size: usize,
    skip: usize,
    allocator: &BufferAllocator,
) -> Result<ArrowBuf, MemoryError> {
    let Some(total) = size.checked_add(skip) else {
        return Err(bad(format!("a part of {size} bytes")));
    };
    let mut buffer = allocator.buffer(total.min(AT_ONCE))?;
    buffer.resize(skip, 0)?;
    while buffer.len() < total {
        let next = (buffer.len().saturating_mul(2)).clamp(AT_ONCE, total.max(AT_ONCE));
        let (start, end) = (buffer.len(), next.min(total));
        buffer.resize(end, 0)?;
        reader.read_exact(&mut buffer[start..end])?;
    }
    let whole = buffer.freeze();
    Ok(whole.slice(skip..))
}

/// # Safety
///
/// Nobody changes or truncates the file as long as the buffer lives.
#[cfg(unix)]
#[track_caller]
unsafe fn map(file: &File, allocator: &BufferAllocator) -> Result<ArrowBuf, MemoryError> {
    use std::os::fd::AsRawFd;
    use std::ptr::NonNull;

    let size = usize::try_from(file.metadata()?.len())
        .ok()
        .filter(|&size| size <= isize::MAX as usize)
        .ok_or_else(|| bad("the file is too large to map"))?;
    if size == 0 {
        return Ok(allocator.empty());
    }
    let fd = file.as_raw_fd();
    // SAFETY: a new mapping of an open file, wherever the system likes.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            fd,
            0,
        )
    };
    let Some(start) = NonNull::new(start).filter(|start| start.as_ptr() != libc::MAP_FAILED) else {
        return Err(io::Error::last_os_error().into());
    };
    let address = start.addr();
    let unmap = move || {
        let start = std::ptr::with_exposed_provenance_mut(address.get());
        // SAFETY: the mapping that was made above; its last buffer has gone.
        unsafe { libc::munmap(start, size) };
    };
    start.as_ptr().expose_provenance();
    // SAFETY: mapped for reading until `unmap`; not written, by the caller's promise.
    let mapping = unsafe { ForeignAllocation::new(start.cast(), size, unmap) };
    Ok(allocator.wrap_foreign_allocation(mapping)?)
}

#[cold]
fn bad(message: impl Into<String>) -> MemoryError {
    MemoryError::Arrow(message.into().into())
}

#[cold]
fn truncated() -> MemoryError {
    MemoryError::Io(io::ErrorKind::UnexpectedEof.into())
}

const CONTINUATION: [u8; 4] = [0xFF; 4];

/// The length of the footer and the magic.
const TRAILER: usize = 10;

/// What is allocated on the word of the input.
const AT_ONCE: usize = 16 << 20;

#[cfg(test)]
#[path = "ipc_tests.rs"]
mod tests;
