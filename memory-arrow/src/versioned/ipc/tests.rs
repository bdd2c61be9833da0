//! IPC in, whole, cut and corrupt.
#![cfg_attr(unix, expect(unsafe_code, reason = "maps files"))]

#[cfg(unix)]
use std::fs::File;
use std::io::Cursor;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::super::Accounted;
use super::super::Destination;
use super::super::deps::arrow_array::RecordBatch;
use super::super::deps::arrow_array::types::Int32Type;
use super::super::deps::arrow_array::{
    Array, ArrayRef, Decimal128Array, DictionaryArray, Int64Array, StringArray, StringViewArray,
};
use super::super::deps::arrow_ipc::writer::{FileWriter, StreamWriter};
use super::*;

/// The fuzz targets look at every byte.
const STEP: usize = 7;

fn batches() -> Vec<RecordBatch> {
    let batch = |start: i64, rows: i64| {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + rows));
        let texts =
            || (start..start + rows).map(|n| (n % 3 > 0).then(|| format!("text of row {n}")));
        let names: ArrayRef = Arc::new(StringArray::from_iter(texts()));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts()));
        let sums: ArrayRef = Arc::new(Decimal128Array::from_iter_values((0..rows).map(i128::from)));
        let kinds: DictionaryArray<Int32Type> = (0..rows)
            .map(|row| ["one", "two"][row as usize % 2])
            .collect();
        let kinds: ArrayRef = Arc::new(kinds);
        RecordBatch::try_from_iter([
            ("id", ids),
            ("name", names),
            ("view", views),
            ("sum", sums),
            ("kind", kinds),
        ])
        .unwrap()
    };
    let none = batch(0, 4).slice(0, 0);
    vec![batch(0, 100), none, batch(100, 50)]
}

fn stream() -> Vec<u8> {
    let batches = batches();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
    // The dictionaries differ, which a stream may replace.
    for batch in [&batches[0], &batches[1], &batches[2]] {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn file() -> Vec<u8> {
    let batches = batches();
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
    writer.write(&batches[0]).unwrap();
    writer.write(&batches[0].slice(10, 50)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// Messages were charged to the destination, or, by who wanted them apart, to a tree that no limit
/// covered.
#[test]
fn messages_are_charged_to_their_own_allocator_under_the_same_limit() {
    for limit in [100, 1 << 20] {
        let root = RootAllocator::new(limit);
        let scan = root.child("scan").build().unwrap();
        let messages = root.child("messages").build().unwrap();
        let destination = Destination::from(&scan).with_messages(&messages);
        let (stream, file) = (stream(), file());

        let from_stream = IpcStreamReader::new(&stream[..], destination.clone());
        let open_file = || IpcFileReader::new(Cursor::new(&file), destination);
        if limit == 100 {
            assert!(from_stream.unwrap_err().is_out_of_memory());
            assert!(open_file().unwrap_err().is_out_of_memory());
            assert_eq!(root.allocated_memory(), 0);
            continue;
        }
        let mut held = Vec::new();
        for batch in from_stream.unwrap() {
            held.push(batch.unwrap());
        }
        // The reader was dropped, and the batches pay for its messages.
        assert!(messages.peak_memory_allocation() > 1000);
        assert_eq!(messages.allocated_memory(), 0);
        held.push(open_file().unwrap().read_batch(0).unwrap());
        assert_eq!(messages.allocated_memory(), 0);
        assert_eq!(root.allocated_memory(), scan.allocated_memory());
        drop(held);
        assert_eq!(root.allocated_memory(), 0);
        messages.close().unwrap();
    }
}

/// A batch's charge went past the destination's limit when the reader let go of its message.
#[test]
fn a_batch_moves_from_its_message_only_if_it_fits() {
    let column = || -> ArrayRef { Arc::new(Int64Array::from_iter_values(0..100_000)) };
    let batch = RecordBatch::try_from_iter([("a", column()), ("b", column())]).unwrap();
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let mut file = Vec::new();
    let mut writer = FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);

    let root = RootAllocator::unlimited();
    let scan = root.child("scan").limit(1 << 20).build().unwrap();
    let messages = root.child("messages").limit(1 << 30).build().unwrap();
    for columns in [false, true] {
        let destination = match columns {
            false => Destination::from(&scan),
            true => Destination::columns(&scan, &batch.schema()).unwrap(),
        };
        let destination = destination.with_messages(&messages);
        scan.set_limit(1 << 20);

        let mut reader = IpcStreamReader::new(&stream[..], destination.clone()).unwrap();
        let refused = reader.next().unwrap().unwrap_err();
        let mut reader = IpcStreamReader::new(&stream[..], destination.clone()).unwrap();
        assert!(refused.is_out_of_memory());
        assert_eq!(scan.allocated_memory(), 0);
        let mut files = IpcFileReader::new(Cursor::new(&file), destination).unwrap();
        assert!(files.read_batch(0).unwrap_err().is_out_of_memory());
        assert_eq!(scan.allocated_memory(), 0);

        scan.set_limit(2 << 20);
        let read = reader.next().unwrap().unwrap();
        assert_eq!(read, batch);
        let charged = scan.allocated_memory();
        assert!(charged >= 1_600_000 && charged == read.accounted_size());
        assert_eq!(messages.allocated_memory(), 0);
        drop(read);
        // Exactly as much is enough, and a byte less is not.
        let read = files.read_batch(0).unwrap();
        let charged = read.accounted_size();
        drop(read);
        scan.set_limit(charged - 1);
        assert!(files.read_batch(0).unwrap_err().is_out_of_memory());
        scan.set_limit(charged);
        drop(files.read_batch(0).unwrap());
        drop((reader, files));
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn a_stream_comes_back_in_memory_of_the_tree() {
    let root = RootAllocator::new(1 << 20);
    let bytes = stream();

    let mut reader = IpcStreamReader::new(&bytes[..], &*root).unwrap();
    assert_eq!(reader.schema(), batches()[0].schema());
    let read: Vec<RecordBatch> = reader.by_ref().map(Result::unwrap).collect();

    assert_eq!(read, batches());
    // Bodies only, and no copies: about what the stream has.
    assert!(root.allocated_memory() < bytes.len() * 3 / 2);
    assert!(root.allocated_memory() > bytes.len() / 2);
    for column in read[0].columns() {
        for buffer in column.to_data().buffers() {
            assert!(super::super::arrow_buf(buffer).is_some());
            assert_eq!(buffer.as_ptr().addr() % 64, 0);
        }
    }
    drop((reader, read));
    root.close().unwrap();
}

#[test]
fn a_stream_may_end_without_a_mark_but_not_within_a_message() {
    let bytes = stream();
    let root = RootAllocator::new(1 << 20);
    // Without the last eight bytes, the mark of the end.
    let read = IpcStreamReader::new(&bytes[..bytes.len() - 8], &*root).unwrap();
    assert_eq!(read.map(Result::unwrap).count(), 3);

    let mut whole = 0;
    for len in 0..bytes.len() - 8 {
        let Ok(reader) = IpcStreamReader::new(&bytes[..len], &*root) else {
            continue;
        };
        let read: Result<Vec<RecordBatch>, _> = reader.collect();
        whole += usize::from(read.is_ok());
    }
    // These are the ends of the messages: after the schema, the dictionaries, and the batches.
    assert!(whole < 10, "{whole}");
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_stream_that_does_not_fit_is_refused() {
    let root = RootAllocator::new(4096);
    let bytes = stream();

    let read: Result<Vec<RecordBatch>, MemoryError> =
        IpcStreamReader::new(&bytes[..], &*root).and_then(Iterator::collect);

    assert!(read.unwrap_err().is_out_of_memory());
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_file_is_read_in_any_order_and_by_columns() {
    let root = RootAllocator::new(1 << 20);
    let mut reader = IpcFileReader::new(Cursor::new(file()), &*root).unwrap();

    assert_eq!(reader.read_batch(1).unwrap(), batches()[0].slice(10, 50));
    assert_eq!(reader.read_batch(0).unwrap(), batches()[0]);
    assert!(matches!(reader.read_batch(2), Err(MemoryError::Value(_))));
    assert_eq!(reader.by_ref().count(), 2);

    let mut reader = reader.with_projection(vec![3, 0]).unwrap();
    let batch = reader.read_batch(0).unwrap();
    assert_eq!(batch, batches()[0].project(&[3, 0]).unwrap());
    drop((reader, batch));
    root.close().unwrap();
}

#[cfg(unix)]
#[test]
fn a_mapped_file_is_charged_once_and_not_copied() {
    let root = RootAllocator::new(1 << 20);
    let (bytes, path) = (file(), std::env::temp_dir());
    let path = path.join(format!("arrow-memory-{}.arrow", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let opened = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();

    // SAFETY: the file was removed, so no process can open it any more.
    let mut reader = unsafe { IpcFileReader::map(&opened, &*root) }.unwrap();
    assert_eq!(root.allocated_memory(), bytes.len());
    let read: Vec<RecordBatch> = reader.by_ref().map(Result::unwrap).collect();
    drop(reader);

    assert_eq!(read[0], batches()[0]);
    assert_eq!(root.stats().foreign_bytes, bytes.len());
    assert_eq!(root.allocated_memory(), bytes.len());
    drop(read);
    assert_eq!(root.allocated_memory(), 0);
    root.close().unwrap();
}

#[test]
fn cut_and_changed_files_are_errors_and_leave_nothing() {
    let root = RootAllocator::new(1 << 24);
    let bytes = file();
    let read = |bytes: &[u8]| -> Result<usize, MemoryError> {
        let reader = IpcFileReader::new(Cursor::new(bytes.to_vec()), &*root)?;
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Ok(batches.len())
    };
    for len in (0..bytes.len()).step_by(STEP) {
        assert!(read(&bytes[..len]).is_err(), "{len} bytes");
    }
    for at in (0..bytes.len()).step_by(STEP) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x81;
        // May be read all the same; must not crash.
        let _ = read(&changed);
        assert_eq!(root.allocated_memory(), 0, "byte {at}");
    }
}

#[test]
fn changed_streams_do_not_crash() {
    let root = RootAllocator::new(1 << 24);
    let bytes = stream();
    for at in (0..bytes.len()).step_by(STEP) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x81;
        let _ = IpcStreamReader::new(&changed[..], &*root)
            .and_then(Iterator::collect::<Result<Vec<RecordBatch>, MemoryError>>);
        assert_eq!(root.allocated_memory(), 0, "byte {at}");
    }
}
