//! CSV: its options, the types of its columns, and messages for text that cannot be parsed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::str::FromStr;
use std::sync::Arc;

use arrow_memory_arrow::arrow_60::deps::arrow_csv;
use arrow_memory_arrow::arrow_60::deps::arrow_csv::reader::Format;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::{
    DataType, Field, Schema, SchemaRef, TimeUnit,
};
use flate2::read::MultiGzDecoder;
use regex::Regex;

use super::format::{CsvOptions, Decoded, Reading};
use super::records::BoundedRecords;
use super::selection::{Selection, narrowed};
use super::source::{self, Source};
use super::stop::{io_failure, said};
use crate::failure::Failure;
use crate::text::{cut, escaped};

/// An open file with the types of its columns.
pub(super) struct Opened {
    pub(super) schema: SchemaRef,
    pub(super) hints: Vec<String>,
    pub(super) batches: Decoded,
}

/// The maximum length of a record in bytes.
const LONGEST_RECORD: usize = 64 << 20;

/// The number of rows from which the types of a large file's columns are inferred.
const INFERRED_ROWS: usize = 100_000;

/// The maximum length in bytes of a file of which all rows are read to infer types.
const WHOLLY_INFERRED: u64 = 64 << 20;

/// The approximate ratio by which compression shortens text.
const COMPRESSION: u64 = 8;

type Text = BoundedRecords<Box<dyn Read>>;

/// Checks by its first row that the file has the requested columns.
pub(super) fn check_columns(file: File, source: &Source, reading: &Reading) -> Result<(), Failure> {
    let (delimiter, format) = format(source, &reading.csv)?;
    let (schema, _) = format
        .infer_schema(text(file, delimiter)?, Some(1))
        .map_err(|error| advised(said(error), None, &reading.csv))?;
    Selection::of(&typed(schema, &reading.csv)?, &reading.columns).map(drop)
}

pub(super) fn open(
    file: File,
    length: u64,
    source: &Source,
    reading: &Reading,
) -> Result<Opened, Failure> {
    let options = reading.csv.clone();
    let (delimiter, format) = format(source, &options)?;
    let (first, is_gzip) = first_row(&file, delimiter)?;
    let large = length.saturating_mul(if is_gzip { COMPRESSION } else { 1 }) > WHOLLY_INFERRED;
    let again = file.try_clone().map_err(io_failure)?;
    let (schema, _) = format
        .infer_schema(text(again, delimiter)?, large.then_some(INFERRED_ROWS))
        .map_err(|error| advised(said(error), None, &options))?;
    let whole = Arc::new(typed(schema, &options)?);
    let selection = Selection::of(&whole, &reading.columns)?;
    let reader = arrow_csv::ReaderBuilder::new(Arc::clone(&whole))
        .with_format(format)
        .with_batch_size(reading.batch_size)
        .with_projection(selection.roots())
        .build(text(file, delimiter)?)
        .map_err(said)?;
    let hints = hints(&whole, &first, &options);
    let schema = narrowed(&selection, &whole);
    let inferred = large.then_some(INFERRED_ROWS);
    let batches = reader.map(move |batch| {
        batch.map_err(|error| advised(said(error), Some((&whole, inferred)), &options))
    });
    Ok(Opened {
        schema,
        hints,
        batches: Box::new(batches),
    })
}

/// The text of the file from its start, decompressed.
fn text(mut file: File, delimiter: u8) -> Result<BufReader<Text>, Failure> {
    let is_gzip = is_gzip(&mut file)?;
    let input: Box<dyn Read> = match is_gzip {
        true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(
            64 << 10,
            file,
        ))),
        false => Box::new(file),
    };
    let bounded = BoundedRecords::new(input, delimiter, LONGEST_RECORD);
    Ok(BufReader::with_capacity(64 << 10, bounded))
}

/// Whether the file is compressed. Leaves the file at its start.
fn is_gzip(file: &mut File) -> Result<bool, Failure> {
    source::rewind(file)?;
    let mut magic = Vec::with_capacity(2);
    Read::by_ref(file)
        .take(2)
        .read_to_end(&mut magic)
        .map_err(io_failure)?;
    source::rewind(file)?;
    Ok(magic == [0x1F, 0x8B])
}

/// The first row, or the start of it, and whether the file is compressed.
fn first_row(file: &File, delimiter: u8) -> Result<(String, bool), Failure> {
    let mut file = file.try_clone().map_err(io_failure)?;
    let is_gzip = is_gzip(&mut file)?;
    let mut start = Vec::new();
    // Damage is reported when the file is read.
    let _ = text(file, delimiter)?.take(4096).read_to_end(&mut start);
    let start = String::from_utf8_lossy(&start);
    Ok((start.lines().next().unwrap_or_default().to_owned(), is_gzip))
}

fn format(source: &Source, options: &CsvOptions) -> Result<(u8, Format), Failure> {
    let by_name = match source.extension() {
        Some("tsv") => b'\t',
        _ => b',',
    };
    let delimiter = options.delimiter.unwrap_or(by_name);
    let mut format = Format::default()
        .with_header(!options.no_header)
        .with_delimiter(delimiter);
    if !options.nulls.is_empty() {
        let nulls: Vec<String> = options
            .nulls
            .iter()
            .map(|null| regex::escape(null))
            .collect();
        let pattern = format!("^(?:|{})$", nulls.join("|"));
        let nulls = Regex::new(&pattern).map_err(|error| Failure::usage(error.to_string()))?;
        format = format.with_null_regex(nulls);
    }
    Ok((delimiter, format))
}

/// The schema, with the types that the options give.
fn typed(schema: Schema, options: &CsvOptions) -> Result<Schema, Failure> {
    for (name, _) in &options.types {
        if schema.column_with_name(name).is_none() {
            let element = crate::lists::elements(&format!("\"{}\"", name.replace('"', "\"\"")));
            let columns = element.map_err(Failure::usage)?;
            // The error lists the columns of the file.
            Selection::of(&schema, &columns)?;
        }
    }
    let field = |field: &Field| {
        let given = options.types.iter().find(|(name, _)| name == field.name());
        match given {
            Some((_, data_type)) => field.clone().with_data_type(data_type.clone()),
            None => field.clone(),
        }
    };
    let fields: Vec<Field> = schema.fields().iter().map(|f| field(f)).collect();
    Ok(Schema::new_with_metadata(fields, schema.metadata))
}

/// Hints about options that may be missing or wrong.
fn hints(schema: &Schema, first_row: &str, options: &CsvOptions) -> Vec<String> {
    let mut hints = Vec::new();
    if let [only] = &schema.fields()[..]
        && options.delimiter.is_none()
        && let Some((delimiter, written)) = other_delimiter(first_row)
        && first_row.contains(delimiter)
    {
        hints.push(format!(
            "it has one column, `{}`: to separate fields there, give --delimiter {written}",
            cut(&escaped(only.name()), 60)
        ));
    }
    let is_number = |field: &Arc<Field>| field.name().trim().parse::<f64>().is_ok();
    if !options.no_header && !schema.fields().is_empty() && schema.fields().iter().all(is_number) {
        hints.push(
            "its first row, taken as the names of the columns, is numbers: if it is data, give --no-header"
                .to_owned(),
        );
    }
    hints
}

/// Another character that may separate the fields of this row, and its form on a command line.
fn other_delimiter(row: &str) -> Option<(char, &'static str)> {
    let known = [
        ('\t', "tab"),
        (';', "';'"),
        ('|', "'|'"),
        ('\u{1}', "'\\x01'"),
    ];
    known
        .into_iter()
        .find(|(delimiter, _)| row.contains(*delimiter))
}

/// The failure with advice. `known` has the columns of the file, and the number of rows from which their
/// types were inferred, if those were not all.
fn advised(
    failure: Failure,
    known: Option<(&SchemaRef, Option<usize>)>,
    options: &CsvOptions,
) -> Failure {
    let text = failure.to_string();
    let advice = if text.contains("unequal lengths") {
        match options.delimiter {
            Some(_) => "mend the row, or quote the fields that contain the delimiter".to_owned(),
            None => "mend the row, or say what separates fields with --delimiter".to_owned(),
        }
    } else if text.contains("UTF-8") || text.contains("utf-8") {
        "it is read as UTF-8: convert it first, as with `iconv -f latin1 -t utf-8`".to_owned()
    } else if let Some((schema, rows)) = known
        && text.contains("rror while parsing value")
    {
        typing_advice(&text, schema, rows)
    } else {
        return failure;
    };
    // The library appends the whole row, however long it is.
    let text = text.split(". Row data:").next().unwrap_or(&text);
    Failure::new(format!("{text}: {advice}"))
}

fn typing_advice(text: &str, schema: &SchemaRef, rows: Option<usize>) -> String {
    let after = |words: &str| text.split_once(words).map(|(_, rest)| rest);
    let column =
        after("for column ").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let name = column.and_then(|column| schema.fields().get(column));
    let name = name.map_or("NAME", |field| field.name().as_str());
    let value = after("parsing value '").and_then(|rest| rest.split_once("' as type"));
    let value = value.map_or("TEXT", |(value, _)| value);
    let inferred = match rows {
        Some(rows) => format!(
            "the type was told by the first {} rows; ",
            crate::size::grouped(rows as u64)
        ),
        None => String::new(),
    };
    format!(
        "{inferred}give --types '{name}=Utf8' to read text there, or --null '{value}' if that stands for a null"
    )
}

/// Parses a delimiter.
pub(crate) fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t", _) => Ok(b'\t'),
        ("\\x01", _) => Ok(1),
        (_, [b'"' | b'\n' | b'\r']) | (_, []) => Err("that cannot separate fields".to_owned()),
        (_, [byte]) if byte.is_ascii() => Ok(*byte),
        _ => Err("a delimiter is one ASCII character, or `tab`".to_owned()),
    }
}

/// Parses `NAME=TYPE,…`.
pub(crate) fn types(text: &str) -> Result<Vec<(String, DataType)>, String> {
    let typed = |element: crate::lists::Element| {
        let parts = element.split(b'=');
        match &parts[..] {
            [name, data_type] => Ok((name.clone(), data_type_of(data_type)?)),
            _ => Err(format!(
                "`{}` is no NAME=TYPE: write price=Float64, or \"a=b\"=Utf8 for a name with that sign",
                element.text
            )),
        }
    };
    crate::lists::elements(text)?
        .into_iter()
        .map(typed)
        .collect()
}

fn data_type_of(text: &str) -> Result<DataType, String> {
    let known = match text.to_ascii_lowercase().as_str() {
        "text" | "string" | "utf8" => Some(DataType::Utf8),
        "int" | "integer" | "int64" => Some(DataType::Int64),
        "int32" => Some(DataType::Int32),
        "float" | "double" | "float64" => Some(DataType::Float64),
        "float32" => Some(DataType::Float32),
        "bool" | "boolean" => Some(DataType::Boolean),
        "date" | "date32" => Some(DataType::Date32),
        "timestamp" => Some(DataType::Timestamp(TimeUnit::Microsecond, None)),
        _ => None,
    };
    known.or_else(|| DataType::from_str(text).ok()).ok_or_else(|| {
        format!(
            "`{text}` is no type: write text, int, float, bool, date, timestamp, or one of Arrow's, such as Decimal128(10, 2)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_and_types_are_read_as_people_write_them() {
        assert_eq!(delimiter("tab"), Ok(b'\t'));
        assert_eq!(delimiter("|"), Ok(b'|'));
        for bad in ["", "ab", "\"", "é"] {
            assert!(delimiter(bad).is_err(), "{bad}");
        }
        let types = types("id=text, price=Decimal128(10, 2),\"a=b\"=Int64").unwrap();
        let names: Vec<&str> = types.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "price", "a=b"]);
        assert_eq!(types[1].1, DataType::Decimal128(10, 2));
    }

    #[test]
    fn a_list_of_types_that_is_none_is_told() {
        for (text, words) in [("id", "NAME=TYPE"), ("id=thing", "no type"), ("", "empty")] {
            let error = types(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
