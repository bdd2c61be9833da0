//! CSV, which arrow-rs parses. Each batch is adopted once it is parsed.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use super::deps::arrow_array::RecordBatch;
use super::deps::arrow_csv::ReaderBuilder;
use super::deps::arrow_csv::reader::{Decoder, Format};
use super::deps::arrow_schema::SchemaRef;
use super::fitted::{Decode, Fitted};
use super::{BatchLimit, Destination};
use crate::error::MemoryError;

/// Reads CSV. An iterator of batches.
///
/// With [`BatchLimit::Headroom`] the first batch is small, and each further one is sized by the bytes that a
/// row of the batch before it took. A batch that was refused is kept, and the next call tries again to adopt
/// it. After an error of the parser, or of the input, the iterator ends.
///
/// ```
/// # use arrow_memory_system as _;
/// use std::sync::Arc;
///
/// use arrow_memory_arrow::BatchLimit;
/// use arrow_memory_arrow::csv::CsvReader;
/// use arrow_memory_arrow::deps::arrow_csv::reader::Format;
/// use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, Schema};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
/// let format = Format::default().with_header(true);
/// let text = &b"a\n1\n2\n3\n"[..];
/// let reader = CsvReader::new(text, schema, format, BatchLimit::Rows(2), &*root);
/// let batches = reader.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!((batches[0].num_rows(), batches[1].num_rows()), (2, 1));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct CsvReader<R> {
    batches: Fitted<Parser<R>>,
    schema: SchemaRef,
}

/// The text, and arrow-rs' decoder of it.
#[derive(Debug)]
struct Parser<R> {
    input: BufReader<R>,
    decoder: Decoder,
    format: Format,
    /// The columns of the text.
    columns: SchemaRef,
    /// The indices of the columns that batches consist of; `None` for all.
    projection: Option<Vec<usize>>,
    /// The maximum of rows in a batch of this decoder.
    rows: usize,
    /// Whether a batch was decoded, and the header with it.
    started: bool,
    /// The maximum of bytes in one record.
    longest_record: usize,
    /// Bytes that the decoder has of a record that is not complete.
    open_record: usize,
}

impl<R: Read> CsvReader<R> {
    /// A reader of `input` with these columns, in this format.
    pub fn new(
        input: R,
        schema: SchemaRef,
        format: Format,
        limit: BatchLimit,
        destination: impl Into<Destination>,
    ) -> Self {
        let rows = limit.most_rows();
        let parser = Parser {
            input: BufReader::with_capacity(64 << 10, input),
            decoder: decoder(&schema, None, &format, rows),
            columns: Arc::clone(&schema),
            projection: None,
            format,
            rows,
            started: false,
            longest_record: LONGEST_RECORD,
            open_record: 0,
        };
        Self {
            batches: Fitted::new(parser, limit, destination.into(), 0),
            schema,
        }
    }

    /// Restricts batches to the columns with these indices.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Arrow`] if there is no such column.
    pub fn with_projection(mut self, columns: Vec<usize>) -> Result<Self, MemoryError> {
        let parser = &mut self.batches.decoder;
        self.schema = Arc::new(parser.columns.project(&columns)?);
        parser.projection = Some(columns);
        parser.make_decoder(parser.rows);
        Ok(self)
    }

    /// Sets the maximum of bytes in one record, which is 64 MiB by default. A longer record is an error.
    ///
    /// The decoder holds a record in memory that is not charged until the record is complete. Text without line
    /// breaks, or with a quotation mark that is never closed, is one record up to its end. A record may pass
    /// the maximum by up to 64 KiB, which is how much is read at once.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use std::sync::Arc;
    /// # use arrow_memory_arrow::BatchLimit;
    /// # use arrow_memory_arrow::csv::CsvReader;
    /// # use arrow_memory_arrow::deps::arrow_csv::reader::Format;
    /// # use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, Schema};
    /// # use arrow_memory_core::RootAllocator;
    /// # let root = RootAllocator::new(1 << 20);
    /// # let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)]));
    /// let text = "x".repeat(1 << 20);
    /// let reader = CsvReader::new(text.as_bytes(), schema, Format::default(), BatchLimit::Rows(10), &*root);
    /// let mut reader = reader.with_longest_record(256 << 10);
    /// assert!(reader.next().unwrap().unwrap_err().to_string().contains("longer than 262144 bytes"));
    /// ```
    pub fn with_longest_record(mut self, bytes: usize) -> Self {
        self.batches.decoder.longest_record = bytes;
        self
    }

    /// The schema of all batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The allocators that are charged for the batches.
    pub fn destination(&self) -> &Destination {
        &self.batches.destination
    }
}

impl<R: Read> Iterator for CsvReader<R> {
    type Item = Result<RecordBatch, MemoryError>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

impl<R: Read> Decode for Parser<R> {
    fn decode(&mut self, rows: usize) -> Result<Option<RecordBatch>, MemoryError> {
        // A new decoder can take over here: the old one has no part of a row between two batches.
        if rows < self.rows || rows / 2 > self.rows {
            self.make_decoder(rows);
        }
        loop {
            let available = self.input.fill_buf()?;
            let end = available.is_empty();
            let before = self.decoder.capacity();
            let consumed = self.decoder.decode(available)?;
            self.input.consume(consumed);
            // As long as no record is complete, all consumed bytes belong to one record.
            self.open_record = match self.decoder.capacity() == before {
                true => self.open_record.saturating_add(consumed),
                false => 0,
            };
            if self.open_record > self.longest_record {
                let message = format!("a record is longer than {} bytes", self.longest_record);
                return Err(MemoryError::Arrow(message.into()));
            }
            if consumed == 0 || self.decoder.capacity() == 0 {
                self.started |= !end;
                return Ok(self.decoder.flush()?);
            }
        }
    }

    fn handed_out(&mut self, _: usize) {}

    fn go_back(&mut self) -> bool {
        false
    }
}

impl<R> Parser<R> {
    /// Replaces the decoder by one for batches of `rows` rows.
    fn make_decoder(&mut self, rows: usize) {
        let mut format = self.format.clone();
        if self.started {
            // The first decoder has read the header.
            format = format.with_header(false);
        }
        self.decoder = decoder(&self.columns, self.projection.as_ref(), &format, rows);
        self.rows = rows;
    }
}

fn decoder(
    columns: &SchemaRef,
    projection: Option<&Vec<usize>>,
    format: &Format,
    rows: usize,
) -> Decoder {
    let mut builder = ReaderBuilder::new(Arc::clone(columns))
        .with_format(format.clone())
        .with_batch_size(rows);
    if let Some(projection) = projection {
        builder = builder.with_projection(projection.clone());
    }
    builder.build_decoder()
}

/// The maximum of bytes in a record unless another bound was set.
const LONGEST_RECORD: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;

    use super::super::deps::arrow_schema::{DataType, Field, Schema};
    use super::*;

    fn text(rows: usize) -> String {
        let mut text = String::from("id,name\n");
        for row in 0..rows {
            writeln!(text, "{row},name of {row}").unwrap();
        }
        text
    }

    fn schema() -> SchemaRef {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        Arc::new(schema)
    }

    fn format() -> Format {
        Format::default().with_header(true)
    }

    #[test]
    fn all_rows_come_and_are_charged_while_they_live() {
        let root = RootAllocator::new(1 << 20);
        let text = text(1000);
        let reader = CsvReader::new(
            text.as_bytes(),
            schema(),
            format(),
            BatchLimit::Rows(300),
            &*root,
        );

        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();

        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [300, 300, 300, 100]);
        assert!(root.allocated_memory() >= 1000 * 8 + text.len() / 2);
        drop(batches);
        root.close().unwrap();
    }

    #[test]
    fn batches_shrink_to_the_headroom() {
        let root = RootAllocator::new(8 << 10);
        let text = text(2000);
        let limit = BatchLimit::Headroom { most: 100_000 };
        let mut rows = 0;

        for batch in CsvReader::new(text.as_bytes(), schema(), format(), limit, &*root) {
            rows += batch.unwrap().num_rows();
        }

        assert_eq!(rows, 2000);
        assert!(root.peak_memory_allocation() <= 8 << 10);
    }

    #[test]
    fn batches_have_the_columns_that_were_asked_for_also_when_they_shrink() {
        let root = RootAllocator::new(8 << 10);
        let (text, limit) = (text(2000), BatchLimit::Headroom { most: 100_000 });
        let reader = CsvReader::new(text.as_bytes(), schema(), format(), limit, &*root);
        assert!(reader.with_projection(vec![2]).is_err());
        let reader = CsvReader::new(text.as_bytes(), schema(), format(), limit, &*root);

        let reader = reader.with_projection(vec![1]).unwrap();
        let batches = reader.inspect(|batch| {
            let batch = batch.as_ref().unwrap();
            assert_eq!(batch.schema().field(0).name(), "name");
            assert_eq!(batch.num_columns(), 1);
        });
        assert_eq!(
            batches
                .map(|batch| batch.unwrap().num_rows())
                .sum::<usize>(),
            2000
        );
    }

    #[test]
    fn a_refused_batch_is_not_lost() {
        let root = RootAllocator::new(100);
        let text = text(100);
        let mut reader = CsvReader::new(
            text.as_bytes(),
            schema(),
            format(),
            BatchLimit::Rows(100),
            &*root,
        );

        assert!(reader.next().unwrap().unwrap_err().is_out_of_memory());
        root.set_limit(1 << 20);

        assert_eq!(reader.next().unwrap().unwrap().num_rows(), 100);
        assert!(reader.next().is_none());
    }

    #[test]
    fn records_are_bounded_and_text_of_any_length_is_not() {
        let root = RootAllocator::new(64 << 20);
        let text = text(60_000);
        let reader = |text: &'static [u8]| {
            let limit = BatchLimit::Rows(100_000);
            CsvReader::new(text, schema(), format(), limit, &*root).with_longest_record(100_000)
        };
        let text: &'static str = text.leak();
        assert!(text.len() > 10 * 100_000);
        assert_eq!(
            reader(text.as_bytes()).next().unwrap().unwrap().num_rows(),
            60_000
        );

        let open_quote: &'static str = text.replacen("name of 7\n", "\"name of 7\n", 1).leak();
        let long_line: &'static str = format!("id,name\n1,{}\n", "x".repeat(300_000)).leak();
        for text in [open_quote, long_line] {
            let error = reader(text.as_bytes()).next().unwrap().unwrap_err();
            assert!(
                error.to_string().contains("longer than 100000 bytes"),
                "{error}"
            );
        }
        let long_enough: &'static str = format!("id,name\n1,{}\n", "x".repeat(90_000)).leak();
        assert!(reader(long_enough.as_bytes()).next().unwrap().is_ok());
    }

    #[test]
    fn text_that_does_not_parse_is_an_error_once() {
        let root = RootAllocator::new(1 << 20);
        let limit = BatchLimit::default();
        let mut reader = CsvReader::new(&b"id,name\nx,y\n"[..], schema(), format(), limit, &*root);

        assert!(reader.next().unwrap().is_err());
        assert!(reader.next().is_none());
    }
}
