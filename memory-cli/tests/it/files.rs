//! Files that tests write, with types that the generator does not have.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_memory_arrow::arrow_60::deps::arrow_array::types::Int32Type;
use arrow_memory_arrow::arrow_60::deps::arrow_array::{
    ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringViewArray, StructArray,
};
use arrow_memory_arrow::arrow_60::deps::arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_memory_arrow::arrow_60::deps::arrow_schema::{DataType, Field};
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::ArrowWriter;
use arrow_memory_arrow::arrow_60::deps::parquet::file::properties::WriterProperties;

/// The number of rows in a batch of [`write`], and the number of batches.
const ROWS: i64 = 2000;
const BATCHES: i64 = 5;

/// A table with a number, views of long strings with runs of nulls, a dictionary whose values are the same in
/// all batches, and a struct.
pub(crate) fn batches() -> Vec<RecordBatch> {
    (0..BATCHES).map(batch).collect()
}

fn batch(number: i64) -> RecordBatch {
    let rows = number * ROWS..(number + 1) * ROWS;
    let view =
        |row: i64| (row / 150 % 4 != 1).then(|| format!("a string of row {row}, which is long"));
    let views: StringViewArray = rows.clone().map(view).collect();
    let words: Vec<String> = (0..40)
        .map(|word| format!("word {word} of the dictionary"))
        .collect();
    let mut dictionary: Vec<&str> = words.iter().map(String::as_str).collect();
    dictionary.extend(rows.clone().map(|row| words[row as usize % 40].as_str()));
    let dictionary: DictionaryArray<Int32Type> = dictionary.into_iter().collect();
    let dictionary: ArrayRef = Arc::new(dictionary.slice(40, ROWS as usize));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
    let inner: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|row| row * 2)));
    let structs = StructArray::from(vec![
        (
            Arc::new(Field::new("a", DataType::Int64, false)),
            Arc::clone(&inner),
        ),
        (Arc::new(Field::new("b", DataType::Int64, false)), inner),
    ]);
    RecordBatch::try_from_iter([
        ("id", numbers),
        ("view", Arc::new(views) as ArrayRef),
        ("dictionary", dictionary),
        ("s", Arc::new(structs) as ArrayRef),
    ])
    .unwrap()
}

/// Writes the batches to a file, in the format of its extension.
pub(crate) fn write(path: &Path, batches: &[RecordBatch]) -> PathBuf {
    let file = File::create(path).unwrap();
    let schema = batches[0].schema();
    match path.extension().unwrap().to_str().unwrap() {
        "parquet" => {
            // Pages that span several small batches, and some batches that span two pages.
            let properties = WriterProperties::builder()
                .set_data_page_row_count_limit(700)
                .set_write_batch_size(100)
                .build();
            let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.close().unwrap();
        }
        "arrow" => {
            let mut writer = FileWriter::try_new(file, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
        _ => {
            let mut writer = StreamWriter::try_new(file, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
    }
    path.to_owned()
}
