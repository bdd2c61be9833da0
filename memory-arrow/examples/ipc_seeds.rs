//! Writes small Arrow IPC files and streams into DIR/ipc_file and DIR/ipc_stream: seeds for fuzzing.
//!
//! `cargo run -p arrow-memory-arrow --example ipc_seeds -- DIR`

use std::fs::{File, create_dir_all};
use std::path::Path;

use arrow_memory_arrow::builder::make_builder;
use arrow_memory_arrow::deps::arrow_array::RecordBatch;
use arrow_memory_arrow::deps::arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field};
use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: ipc_seeds DIR")?;
    let (files, streams) = (
        Path::new(&dir).join("ipc_file"),
        Path::new(&dir).join("ipc_stream"),
    );
    create_dir_all(&files)?;
    create_dir_all(&streams)?;
    let root = RootAllocator::new(1 << 20);
    for (index, data_type) in types().into_iter().enumerate() {
        let mut builder = make_builder(&data_type, &root)?;
        builder.append_nulls(5)?;
        let batch =
            RecordBatch::try_from_iter_with_nullable([("column", builder.finish_array()?, true)])?;
        let mut writer = FileWriter::try_new(
            File::create(files.join(index.to_string()))?,
            &batch.schema(),
        )?;
        writer.write(&batch)?;
        writer.write(&batch.slice(1, 2))?;
        writer.finish()?;
        let mut writer = StreamWriter::try_new(
            File::create(streams.join(index.to_string()))?,
            &batch.schema(),
        )?;
        writer.write(&batch)?;
        writer.write(&batch.slice(1, 2))?;
        writer.finish()?;
    }
    Ok(())
}

fn types() -> Vec<DataType> {
    let item = |data_type| std::sync::Arc::new(Field::new("item", data_type, true));
    vec![
        DataType::Int64,
        DataType::Boolean,
        DataType::Utf8,
        DataType::Utf8View,
        DataType::FixedSizeBinary(3),
        DataType::Decimal128(10, 2),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        DataType::List(item(DataType::Int32)),
        DataType::FixedSizeList(item(DataType::Utf8), 2),
        DataType::Struct(vec![Field::new("a", DataType::LargeBinary, true)].into()),
    ]
}
