//! Arrow IPC: reads messages into memory of an allocator, and makes batches that share that memory.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::arrow_60::deps::arrow_ipc;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::SchemaRef;
use arrow_memory_arrow::arrow_60::ipc::{IpcFileReader, IpcStreamReader, Seekable};
use arrow_memory_core::{BufferAllocator, RootAllocator};

use super::format::{Format, Reading};
use super::selection::{Selection, narrowed};
use super::stop::{Stop, arrow_said, io_failure, no_codec, said};
use crate::failure::Failure;
use crate::lists::Element;

/// A file or a stream of messages.
pub(super) struct Messages {
    /// A second handle on the file, to read it again from its start.
    file: File,
    reader: Reader,
    /// The number of batches that were read.
    done: usize,
    selection: Selection,
    schema: SchemaRef,
    allocator: BufferAllocator,
}

enum Reader {
    File(Box<IpcFileReader<Seekable<File>>>),
    Stream(Box<IpcStreamReader<BufReader<File>>>),
}

impl Messages {
    /// Reads the schema, and the dictionaries if it is a file.
    pub(super) fn open(
        file: File,
        format: Format,
        columns: &[Element],
        allocator: &BufferAllocator,
    ) -> Result<Self, Stop> {
        let again = file.try_clone().map_err(io_failure)?;
        let (reader, schema, selection);
        if format == Format::Ipc {
            let mut opened = IpcFileReader::new(file, allocator)?;
            let whole = opened.schema();
            selection = Selection::of(&whole, columns)?;
            schema = narrowed(&selection, &whole);
            if !columns.is_empty() {
                opened = opened.with_projection(selection.roots())?;
            }
            reader = Reader::File(Box::new(opened));
        } else {
            let opened = IpcStreamReader::new(BufReader::new(file), allocator)?;
            selection = Selection::of(&opened.schema(), columns)?;
            schema = narrowed(&selection, &opened.schema());
            reader = Reader::Stream(Box::new(opened));
        }
        Ok(Self {
            file: again,
            reader,
            done: 0,
            selection,
            schema,
            allocator: allocator.clone(),
        })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Reads the next batch. After a refusal, call [`recover`](Self::recover) first.
    pub(super) fn next_batch(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let batch = match &mut self.reader {
            Reader::File(reader) if self.done < reader.num_batches() => {
                reader.read_batch(self.done)?
            }
            Reader::File(_) => return Ok(None),
            Reader::Stream(reader) => match reader.next().transpose()? {
                Some(batch) => batch.project(&self.selection.roots()).map_err(arrow_said)?,
                None => return Ok(None),
            },
        };
        self.done += 1;
        Ok(Some(self.selection.narrow(&batch).map_err(arrow_said)?))
    }

    /// Makes the refused batch the next one. A stream is read again from its start, since a part of the
    /// message was consumed. Returns the batch before the refused one if it was read again.
    pub(super) fn recover(&mut self) -> Result<Option<RecordBatch>, Stop> {
        let Reader::Stream(stream) = &mut self.reader else {
            return Ok(None);
        };
        let mut file = self.file.try_clone().map_err(io_failure)?;
        file.rewind().map_err(io_failure)?;
        **stream = IpcStreamReader::new(BufReader::new(file), &self.allocator)?;
        let mut last = None;
        for _ in 0..std::mem::take(&mut self.done) {
            // Frees the previous batch before the next one is read.
            drop(last.take());
            last = self.next_batch()?;
        }
        Ok(last)
    }
}

/// An unlimited allocator for messages of Arrow IPC where no limit applies. It uses another backend than the
/// one under test.
pub(crate) fn messages() -> Result<RootAllocator, Failure> {
    RootAllocator::builder()
        .name("messages")
        .backend("system")
        .build()
        .map_err(|error| Failure::new(error.to_string()))
}

/// Checks the columns, and whether this build has the codec of the first batch. Reads no values.
pub(super) fn glance(mut file: File, format: Format, reading: &Reading) -> Result<(), Failure> {
    if format == Format::Ipc {
        let mut end = [0; 6];
        file.seek(SeekFrom::End(-6)).map_err(io_failure)?;
        file.read_exact(&mut end).map_err(io_failure)?;
        if end != *b"ARROW1" {
            return Err(Failure::new(
                "it does not end as an Arrow IPC file: it is cut off",
            ));
        }
    }
    let start = match format {
        Format::Ipc => stream_within(&mut file).map_err(io_failure)?,
        _ => 0,
    };
    let start = SeekFrom::Start(start);
    file.seek(start).map_err(io_failure)?;
    let mut copy = file.try_clone().map_err(io_failure)?;
    let allocator = messages()?;
    let schema = IpcStreamReader::new(file, &*allocator)
        .map_err(said)?
        .schema();
    Selection::of(&schema, &reading.columns)?;
    if cfg!(feature = "codecs") {
        return Ok(());
    }
    copy.seek(start).map_err(io_failure)?;
    match is_compressed(&mut copy) {
        Some(true) => Err(no_codec("its first batch")),
        // Damage is reported when the file is read.
        _ => Ok(()),
    }
}

/// The offset of the stream that a file contains: behind the magic and the padding.
fn stream_within(file: &mut File) -> std::io::Result<u64> {
    let mut head = Vec::new();
    file.rewind()?;
    file.take(256).read_to_end(&mut head)?;
    let padding = head.iter().skip(6).take_while(|byte| **byte == 0).count();
    Ok(6 + padding as u64)
}

/// Whether the first message with values is compressed; `None` if there is no such message, or it is invalid.
fn is_compressed(stream: &mut File) -> Option<bool> {
    /// A bound on the length of a message's metadata, larger than any schema.
    const LARGEST: u32 = 64 << 20;

    loop {
        let mut word = [0; 4];
        stream.read_exact(&mut word).ok()?;
        if word == [0xFF; 4] {
            stream.read_exact(&mut word).ok()?;
        }
        let length = u32::from_le_bytes(word);
        if length == 0 || length > LARGEST {
            return None;
        }
        let mut metadata = vec![0; length as usize];
        stream.read_exact(&mut metadata).ok()?;
        let message = arrow_ipc::root_as_message(&metadata).ok()?;
        let batch = message.header_as_record_batch();
        let dictionary = message.header_as_dictionary_batch();
        if let Some(batch) = batch.or_else(|| dictionary?.data()) {
            return Some(batch.compression().is_some());
        }
        stream.seek(SeekFrom::Current(message.bodyLength())).ok()?;
    }
}
