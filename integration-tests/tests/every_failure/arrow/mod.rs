//! The operations of `memory-arrow`.

use arrow_memory_arrow::arrow_buf;
use arrow_memory_arrow::deps::arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_memory_arrow::deps::arrow_buffer::{Buffer, ScalarBuffer};
use arrow_memory_arrow::deps::arrow_data::ArrayData;

use crate::state::{Charges, State, digest};
use crate::sweep::Operation;

mod accounted;
mod builders;
mod ffi;
mod nested;
mod readers;

pub(crate) const ALL: &[(&str, &[Operation])] = &[
    ("arrow, arrays", accounted::OPERATIONS),
    ("arrow, builders", builders::OPERATIONS),
    ("arrow, nested builders", nested::OPERATIONS),
    ("arrow, C Data Interface", ffi::OPERATIONS),
    ("arrow, readers", readers::OPERATIONS),
];

impl State for Buffer {
    fn charges(&self, charges: &mut Charges) {
        if let Some(buffer) = arrow_buf(self) {
            charges.add(&buffer);
        }
    }

    fn describe(&self) -> String {
        let of = arrow_buf(self).map(|it| (it.allocator().info().clone(), it.accounted_size()));
        format!("{} {of:?}", digest(self.as_slice()))
    }
}

impl State for ScalarBuffer<i64> {
    fn charges(&self, charges: &mut Charges) {
        self.inner().charges(charges);
    }
}

impl State for ArrayData {
    fn charges(&self, charges: &mut Charges) {
        for buffer in self.buffers() {
            buffer.charges(charges);
        }
        if let Some(nulls) = self.nulls() {
            nulls.buffer().charges(charges);
        }
        for child in self.child_data() {
            child.charges(charges);
        }
    }

    fn describe(&self) -> String {
        let buffers: Vec<_> = self.buffers().iter().map(State::describe).collect();
        format!("{} {} {buffers:?}", self.data_type(), self.len())
    }
}

impl State for ArrayRef {
    fn charges(&self, charges: &mut Charges) {
        self.to_data().charges(charges);
    }

    fn describe(&self) -> String {
        self.to_data().describe()
    }
}

impl State for Int64Array {
    fn charges(&self, charges: &mut Charges) {
        self.to_data().charges(charges);
    }

    fn describe(&self) -> String {
        self.to_data().describe()
    }
}

impl State for RecordBatch {
    fn charges(&self, charges: &mut Charges) {
        self.columns().iter().for_each(|it| it.charges(charges));
    }

    fn describe(&self) -> String {
        self.columns().iter().map(State::describe).collect()
    }
}
