//! Readers of files: the whole of one is read in each run.

use std::io::{Cursor, Write};
use std::sync::Arc;

use arrow_memory_arrow::csv::CsvReader;
use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_memory_arrow::deps::arrow_csv::reader::Format;
use arrow_memory_arrow::deps::arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, Schema};
use arrow_memory_arrow::ipc::{IpcFileReader, IpcStreamReader};
use arrow_memory_arrow::{BatchLimit, Destination, MemoryError};

use crate::state::Opaque;
use crate::sweep::{Operation, op};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("IpcStreamReader::new", |w| {
        let bytes = stream();
        w.act(&mut (), |()| {
            let reader = IpcStreamReader::new(Cursor::new(&bytes), &w.leaf)?;
            reader.collect::<Result<Vec<_>, _>>()
        });
    }),
    op("IpcFileReader::new", |w| {
        let bytes = file();
        w.act(&mut (), |()| {
            let mut reader = IpcFileReader::new(Cursor::new(&bytes), &w.leaf)?;
            (0..reader.num_batches())
                .map(|it| reader.read_batch(it))
                .collect::<Result<Vec<_>, _>>()
        });
    }),
    op("IpcFileReader::new with columns", |w| {
        let bytes = file();
        w.act(&mut (), |()| {
            let destination = Destination::columns(&w.leaf, &batch().schema())?;
            let reader = IpcFileReader::new(Cursor::new(&bytes), destination)?;
            let mut reader = reader.with_projection(vec![1])?;
            // The columns' allocators are dropped before what they hold.
            reader.read_batch(0)
        });
    }),
    op("IpcFileReader::from_buffer", |w| {
        let file = w.leaf.buffer_from_slice(&file()).unwrap();
        w.act(&mut Opaque(file), |it| {
            let mut reader = IpcFileReader::from_buffer(it.0.clone(), &w.right)?;
            reader.read_batch(0).map(Opaque)
        });
    }),
    op("IpcFileReader::read_batch", |w| {
        let bytes = file();
        let reader = IpcFileReader::new(Cursor::new(&bytes), &w.leaf).unwrap();
        w.act(&mut Opaque(reader), |it| it.0.read_batch(0));
    }),
    op("CsvReader::new", |w| {
        let text = csv();
        w.act(&mut (), |()| {
            let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
            let format = Format::default().with_header(true);
            let limit = BatchLimit::Rows(100);
            let reader = CsvReader::new(&text[..], Arc::new(schema), format, limit, &w.leaf);
            reader.collect::<Result<Vec<_>, MemoryError>>()
        });
    }),
];

fn batch() -> RecordBatch {
    let text: StringArray = (0..500).map(|it| Some(format!("row {it}"))).collect();
    let numbers = Int64Array::from(vec![7; 500]);
    let columns: [(&str, ArrayRef); 2] = [("numbers", Arc::new(numbers)), ("text", Arc::new(text))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stream() -> Vec<u8> {
    let batch = batch();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn file() -> Vec<u8> {
    let batch = batch();
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn csv() -> Vec<u8> {
    let mut text = b"a\n".to_vec();
    for number in 0..300 {
        writeln!(text, "{number}").unwrap();
    }
    text
}
