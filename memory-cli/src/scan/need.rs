//! The need of a scan: the minimum limits under which it would fit.
//!
//! Every scan reports two needs, whichever of the two it does: that of holding one batch at a time, and that
//! of keeping all batches. The need of the other kind of scan is computed:
//!
//! * A copy of a column takes the size that the allocator rounds it to, and shares no memory.
//! * Adopted buffers may be shared by batches (dictionaries, pages that string views point to). A scan that
//!   keeps nothing adopts them, too, and drops them, except for those that the decoder may return again:
//!   these [recur](Recurring). So a tree counts each buffer once. [`Need::gone`] counts the dropped bytes
//!   that a scan that keeps everything would still hold.
//! * The messages of Arrow IPC are memory of the scan's own tree. When they are adopted, only the need of the
//!   scan that is done is known, and the other one is not reported.

use std::collections::HashMap;

use arrow_memory_arrow::arrow_60::deps::arrow_buffer::Buffer;
use arrow_memory_arrow::arrow_60::deps::arrow_data::ArrayData;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;

/// The needs in bytes. They grow with each batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    /// The need of keeping everything.
    pub(super) kept: usize,
    /// The need of holding one batch at a time.
    pub(super) batch: usize,
    /// Bytes that a scan that keeps everything would hold now, but this one does not.
    gone: isize,
    /// The part of the columns in both needs.
    pub(super) columns: Columns,
    /// The maximum that messages of Arrow IPC took at a time.
    pub(super) messages: Option<usize>,
    /// Whether one of the needs could not be computed.
    pub(super) kept_is_unknown: bool,
    pub(super) batch_is_unknown: bool,
}

/// The bytes of columns, without the memory that is held beside them while they are decoded.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Columns {
    pub(crate) kept: usize,
    pub(crate) batch: usize,
}

impl Need {
    /// Adds a batch whose copies take `placed` bytes, and `passing` more while it arrives.
    pub(super) fn add_copies(&mut self, placed: usize, passing: usize) {
        self.passed(placed + passing);
        self.columns.kept += placed;
        self.columns.batch = self.columns.batch.max(placed);
        self.gone += placed.cast_signed();
    }

    /// Notes that `bytes` were held for a moment, which a scan of either kind holds.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.kept = self.kept.max(self.with_gone(bytes));
        self.batch = self.batch.max(bytes);
    }

    /// Notes that the tree that measures the need of keeping held `bytes`.
    pub(super) fn keeps(&mut self, bytes: usize) {
        self.kept = self.kept.max(self.with_gone(bytes));
        self.columns.kept = self.columns.kept.max(self.kept);
    }

    /// Notes that one batch takes `bytes` when it is adopted.
    pub(super) fn holds_a_batch(&mut self, bytes: usize) {
        self.batch = self.batch.max(bytes);
        self.columns.batch = self.columns.batch.max(bytes);
    }

    /// Notes that the same tree went from `before` to `after` bytes because this scan dropped a batch.
    pub(super) fn let_go(&mut self, before: usize, after: usize) {
        self.gone += before.cast_signed() - after.cast_signed();
    }

    /// Notes that messages took `bytes` at a time.
    pub(super) fn has_messages(&mut self, bytes: usize) {
        self.messages = self.messages.max(Some(bytes));
    }

    fn with_gone(&self, bytes: usize) -> usize {
        usize::try_from(bytes.cast_signed() + self.gone).unwrap_or(0)
    }
}

/// The adopted buffers that a decoder may return again with its next batch: the values of dictionaries, and
/// the buffers that string views point to.
///
/// They are those of each column's last batch that had any: decoders read pages in order, and a batch in
/// which all values are null or short has none.
#[derive(Default)]
pub(super) struct Recurring {
    /// The buffers by column, and by array within the column.
    held: HashMap<(usize, usize), Vec<Buffer>>,
}

impl Recurring {
    /// Replaces the buffers of a column by those of `data`. `views` says whether the buffers of views recur,
    /// too.
    pub(super) fn hold(&mut self, column: usize, data: &ArrayData, views: bool) {
        let mut array = 0;
        self.walk(column, data, (false, views), &mut array);
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    fn walk(
        &mut self,
        column: usize,
        data: &ArrayData,
        (is_dictionary, views): (bool, bool),
        array: &mut usize,
    ) {
        let buffers = match data.data_type() {
            _ if is_dictionary => data.buffers(),
            DataType::Utf8View | DataType::BinaryView if views => {
                data.buffers().get(1..).unwrap_or(&[])
            }
            _ => &[],
        };
        let mut buffers = buffers.to_vec();
        if let Some(nulls) = data.nulls().filter(|_| is_dictionary) {
            buffers.push(nulls.buffer().clone());
        }
        let place = (column, *array);
        *array += 1;
        if !buffers.is_empty() {
            self.held.insert(place, buffers);
        }
        let within = is_dictionary || matches!(data.data_type(), DataType::Dictionary(..));
        for child in data.child_data() {
            self.walk(column, child, (within, views), array);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_the_highest_that_holding_would_reach() {
        let mut need = Need::default();
        need.add_copies(100, 50);
        need.add_copies(10, 200);
        need.add_copies(10, 0);

        assert_eq!((need.kept, need.batch), (310, 210));
        assert_eq!((need.columns.kept, need.columns.batch), (120, 100));
    }

    #[test]
    fn what_recurs_is_counted_once() {
        let mut need = Need::default();
        // A dictionary of 100 bytes recurs, and keys of 10 do not.
        need.keeps(110);
        need.let_go(110, 100);
        need.keeps(110);
        need.let_go(110, 0);
        need.keeps(0);

        assert_eq!(need.kept, 120);
    }
}
