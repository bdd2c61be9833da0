//! How a reader sizes the batches that it decodes, and what it does with refused ones.

use super::deps::arrow_array::RecordBatch;
use super::{BatchLimit, Destination};
use crate::error::MemoryError;

/// A decoder of batches, for [`Fitted`].
pub(crate) trait Decode {
    /// Decodes the next batch, of `rows` rows or fewer; `None` at the end of the input. There is no further call
    /// after an error.
    fn decode(&mut self, rows: usize) -> Result<Option<RecordBatch>, MemoryError>;

    /// Notes that the batch decoded last was handed out. It has `rows` rows.
    fn handed_out(&mut self, rows: usize);

    /// Goes back to the first row of the batch decoded last, so that it is decoded again. Returns
    /// `false` if this decoder cannot go back; then nothing has changed.
    fn go_back(&mut self) -> bool;
}

/// An iterator of the batches of a decoder, placed at a destination.
///
/// With [`BatchLimit::Headroom`] a batch has as many rows as should take half of the headroom. A batch that
/// was refused is decoded again with half of its rows, if the decoder can go back; otherwise it is kept, and
/// the next call tries again to place it.
#[derive(Debug)]
pub(crate) struct Fitted<D> {
    pub(crate) decoder: D,
    pub(crate) limit: BatchLimit,
    pub(crate) destination: Destination,
    /// Bytes of a row: estimated by the reader, or measured on the last batch. 0 if nothing is known.
    row_bytes: usize,
    /// A batch that was refused.
    refused: Option<RecordBatch>,
    /// Whether decoding failed, which ends the iterator.
    failed: bool,
}

impl<D: Decode> Fitted<D> {
    pub(crate) fn new(
        decoder: D,
        limit: BatchLimit,
        destination: Destination,
        row_bytes: usize,
    ) -> Self {
        Self {
            decoder,
            limit,
            destination,
            row_bytes,
            refused: None,
            failed: false,
        }
    }

    #[track_caller]
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, MemoryError> {
        let mut rows = self.batch_rows();
        let bounded = matches!(self.limit, BatchLimit::Headroom { .. });
        loop {
            let batch = match self.refused.take() {
                Some(batch) => batch,
                None => match self.decoder.decode(rows) {
                    Ok(Some(batch)) => batch,
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        self.failed = true;
                        return Err(error);
                    }
                },
            };
            let tried = batch.num_rows();
            if bounded {
                self.row_bytes = batch.get_array_memory_size() / tried.max(1) + 1;
            }
            match self.destination.place(batch) {
                Ok(placed) => {
                    self.decoder.handed_out(tried);
                    return Ok(Some(placed));
                }
                Err(refused) => {
                    let smaller = bounded && refused.is_out_of_memory() && tried > 1;
                    if !smaller || !self.decoder.go_back() {
                        self.refused = Some(refused.value);
                        return Err(refused.source);
                    }
                    rows = tried / 2;
                }
            }
        }
    }

    /// How many rows the next batch should have.
    fn batch_rows(&self) -> usize {
        let most = self.limit.most_rows();
        let rows = match (self.limit.budget(&self.destination), self.row_bytes) {
            (None, _) => most,
            (Some(budget), 0) => (budget / 256).clamp(1, FIRST_ROWS),
            (Some(budget), bytes) => budget / bytes,
        };
        rows.clamp(1, most)
    }
}

impl<D: Decode> Iterator for Fitted<D> {
    type Item = Result<RecordBatch, MemoryError>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.next_batch().transpose()
    }
}

/// The maximum of rows in a bounded batch as long as nothing is known of the rows.
const FIRST_ROWS: usize = 64;
