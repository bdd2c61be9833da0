//! Parquet: reads the footer, then batches.

use std::fmt::Display;
use std::fs::File;

use arrow_memory_arrow::arrow_60::deps::arrow_array::RecordBatchReader;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::SchemaRef;
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::ProjectionMask;
use arrow_memory_arrow::arrow_60::deps::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_memory_arrow::arrow_60::deps::parquet::basic::Compression;

use super::encryption;
use super::format::{Decoded, Reading};
use super::selection::Selection;
use super::stop::{io_failure, no_codec, said};
use crate::failure::Failure;

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Checks the footer, and returns the number of rows.
pub(super) fn glance(file: File, reading: &Reading) -> Result<Option<u64>, Failure> {
    let builder = builder(file)?;
    let mask = mask(&builder, reading)?;
    for group in builder.metadata().row_groups() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if mask.leaf_included(leaf) && !is_read(chunk.compression()) {
                return Err(no_codec(&format!("column `{}`", chunk.column_path())));
            }
        }
    }
    Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).ok())
}

pub(super) fn open(file: File, reading: &Reading) -> Result<(SchemaRef, Decoded), Failure> {
    let again = file.try_clone().map_err(io_failure)?;
    let builder = builder(file)?;
    let mask = mask(&builder, reading)?;
    let reader = builder
        .with_batch_size(reading.batch_size)
        .with_projection(mask)
        .build()
        .map_err(said)?;
    let schema = RecordBatchReader::schema(&reader);
    // The footer may be in plain text although columns are encrypted.
    let batches = reader.map(move |batch| batch.map_err(|error| explained(error, &again)));
    Ok((schema, Box::new(batches)))
}

fn builder(file: File) -> Result<Builder, Failure> {
    let again = file.try_clone().map_err(io_failure)?;
    Builder::try_new(file).map_err(|error| explained(error, &again))
}

/// The library's error, or that the file is encrypted, which the library does not detect.
fn explained(error: impl Display, file: &File) -> Failure {
    match encryption::is_encrypted(file) {
        true => Failure::new(encryption::ENCRYPTED),
        false => said(error),
    }
}

/// The leaf columns of the chosen columns.
fn mask(builder: &Builder, reading: &Reading) -> Result<ProjectionMask, Failure> {
    let schema = builder.schema();
    let selection = Selection::of(schema, &reading.columns)?;
    let parquet = builder.parquet_schema();
    let chosen = (0..parquet.num_columns()).filter(|&leaf| {
        let root = parquet.get_column_root_idx(leaf);
        let (Some(choice), Some(field)) = (selection.of_root(root), schema.fields().get(root))
        else {
            return false;
        };
        let column = parquet.column(leaf);
        let below = column.path().parts().get(1..).unwrap_or_default();
        choice.has(field.data_type(), below)
    });
    let chosen: Vec<usize> = chosen.collect();
    Ok(ProjectionMask::leaves(parquet, chosen))
}

/// Whether this build reads this compression.
fn is_read(compression: Compression) -> bool {
    match compression {
        Compression::UNCOMPRESSED | Compression::SNAPPY => true,
        Compression::LZO => false,
        _ => cfg!(feature = "codecs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_known_before_the_work() {
        assert!(is_read(Compression::SNAPPY));
        assert!(!is_read(Compression::LZO));
        assert_eq!(is_read(Compression::LZ4), cfg!(feature = "codecs"));
    }
}
