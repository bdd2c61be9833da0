//! Writes small Arrow IPC files and streams into DIR/ipc_file and DIR/ipc_stream, as seeds for fuzzing.
//!
//! `cargo run -p arrow-memory-arrow --example ipc_seeds -- DIR`

use std::fs::{File, create_dir_all};
use std::path::Path;

use arrow_memory_arrow::deps::arrow_array::{RecordBatch, new_null_array};
use arrow_memory_arrow::deps::arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, UnionMode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: ipc_seeds DIR")?;
    let (files, streams) = (
        Path::new(&dir).join("ipc_file"),
        Path::new(&dir).join("ipc_stream"),
    );
    create_dir_all(&files)?;
    create_dir_all(&streams)?;
    for (index, data_type) in types().into_iter().enumerate() {
        let column = new_null_array(&data_type, 5);
        let batch = RecordBatch::try_from_iter_with_nullable([("column", column, true)])?;
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
    let field = |name, data_type| std::sync::Arc::new(Field::new(name, data_type, true));
    let item = |data_type| field("item", data_type);
    let key = Field::new("key", DataType::Utf8, false);
    let entries = vec![key.into(), field("value", DataType::Int32)];
    let entries = Field::new("entries", DataType::Struct(entries.into()), false);
    let ends = Field::new("run_ends", DataType::Int32, false);
    let members = || [(0, item(DataType::Utf8)), (1, item(DataType::Int8))];
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
        DataType::ListView(item(DataType::Int32)),
        DataType::Map(entries.into(), false),
        DataType::RunEndEncoded(ends.into(), item(DataType::Utf8)),
        DataType::Union(members().into_iter().collect(), UnionMode::Dense),
        DataType::Union(members().into_iter().collect(), UnionMode::Sparse),
        DataType::Null,
    ]
}
