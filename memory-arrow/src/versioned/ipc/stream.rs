//! Streams of Arrow IPC.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use super::super::deps::arrow_array::RecordBatch;
use super::super::deps::arrow_buffer::Buffer;
use super::super::deps::arrow_ipc::reader::StreamDecoder;
use super::super::deps::arrow_ipc::root_as_message;
use super::super::deps::arrow_schema::{Schema, SchemaRef};
use super::super::{Destination, into_buffer};
use super::{bad, read_exactly, truncated};
use crate::error::MemoryError;
use crate::guard::guarded;

/// Reads an Arrow IPC stream. An iterator of batches.
///
/// Each message body is read into one buffer of the destination's
/// [allocator for messages](Destination::with_messages), aligned to 64 bytes, and decoded in place: the arrays
/// of a batch share it. arrow-rs copies values that the writer aligned less than their type needs; the copies
/// are adopted.
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
    /// Makes a reader, and reads the stream up to its schema. Reads are large, so a `BufReader` helps only with
    /// small batches.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] if reading fails, [`MemoryError::Arrow`] if this is not a stream of Arrow IPC, or
    /// [`MemoryError::Alloc`] if a message does not fit.
    #[track_caller]
    pub fn new(reader: R, destination: impl Into<Destination>) -> Result<Self, MemoryError> {
        let mut this = Self {
            reader,
            decoder: StreamDecoder::new(),
            schema: Arc::new(Schema::empty()),
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

    /// The allocators that are charged for the batches.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Sets the allocators for later batches: [`Destination::columns`] of the schema, for instance.
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
            // The stream may end after the marker, too.
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
                .map_err(|error| bad(format!("not a valid message: {error}")))?;
            usize::try_from(message.bodyLength())
                .map_err(|_| bad(format!("a body of {} bytes", message.bodyLength())))?
        };
        let body = read_exactly(&mut self.reader, body_size, 0, allocator)?;
        // The decoder is shown a stream with continuation markers, and each marker already after the message
        // before it: it completes a message without a body only when it sees the next marker.
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

    /// Reads four bytes; `None` at the end of the input.
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

const CONTINUATION: [u8; 4] = [0xFF; 4];
