//! What a scan needs: the least limits that would do.
//!
//! Two limits are told of every scan: the one for holding a batch at a time, and the one for keeping
//! all batches, whichever of them the scan does. What is not held is computed:
//!
//! * Copies of columns are as large as the allocator rounds them, and nothing else has them.
//! * Adopted buffers may be shared by batches (dictionaries, pages that string views point to). They
//!   are adopted all the same, and let go, except for those that the decoder may hand out again: these
//!   [recur](Recurring). So a tree counts each of them once. What a tree let go of, and a scan that
//!   keeps everything would still hold, is [`Need::gone`].
//! * Messages of Arrow IPC are memory of the scan's own tree. When they are adopted, only the need of
//!   what the scan does is known, and the other one is not told.

use std::collections::HashMap;

use arrow_memory_arrow::arrow_60::deps::arrow_buffer::Buffer;
use arrow_memory_arrow::arrow_60::deps::arrow_data::ArrayData;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;

/// The needs, as they grow with each batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    /// To keep everything.
    pub(super) kept: usize,
    /// To hold a batch at a time.
    pub(super) batch: usize,
    /// Bytes that a scan that keeps everything would hold now, and this one does not.
    gone: isize,
    /// Of all columns, and of the columns of the largest batch.
    pub(super) columns: Columns,
    /// The most that messages of Arrow IPC took at a time.
    pub(super) messages: Option<usize>,
    /// Whether one of the needs could not be computed.
    pub(super) kept_is_unknown: bool,
    pub(super) batch_is_unknown: bool,
}

/// What columns take, without what there is beside them while they arrive.
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

    /// So much was held for a moment, by what a scan of either kind holds.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.kept = self.kept.max(self.with_gone(bytes));
        self.batch = self.batch.max(bytes);
    }

    /// A tree that a scan's keeping is measured by held so much.
    pub(super) fn keeps(&mut self, bytes: usize) {
        self.kept = self.kept.max(self.with_gone(bytes));
        self.columns.kept = self.columns.kept.max(self.kept);
    }

    /// A batch by itself takes so much, adopted.
    pub(super) fn holds_a_batch(&mut self, bytes: usize) {
        self.batch = self.batch.max(bytes);
        self.columns.batch = self.columns.batch.max(bytes);
    }

    /// Such a tree held `before` and holds `after`, since this scan keeps nothing.
    pub(super) fn let_go(&mut self, before: usize, after: usize) {
        self.gone += before.cast_signed() - after.cast_signed();
    }

    /// Messages took so much at a time.
    pub(super) fn has_messages(&mut self, bytes: usize) {
        self.messages = self.messages.max(Some(bytes));
    }

    fn with_gone(&self, bytes: usize) -> usize {
        usize::try_from(bytes.cast_signed() + self.gone).unwrap_or(0)
    }
}

/// The adopted buffers that a decoder may hand out with its next batch again: the values of
/// dictionaries, and what views of strings point to.
///
/// Those of a column's last batch that had any: decoders go through pages in order, and a batch in
/// which all values are null or short has none.
#[derive(Default)]
pub(super) struct Recurring {
    /// By column, and by array within the column.
    held: HashMap<(usize, usize), Vec<Buffer>>,
}

impl Recurring {
    /// Takes the place of what was held of a column before. `views`: whether what views point to
    /// recurs, too.
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
