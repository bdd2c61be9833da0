//! What a client does with arrays of arrow-rs.

use std::sync::Arc;

use arrow_memory_arrow::builder::{Int64Builder, StringBuilder};
use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array};
use arrow_memory_arrow::{Accounted, HandOver, MemoryError, export_array, into_buffer};
use arrow_memory_core::BufferAllocator;
use arrow_memory_integration_tests::load::Count;

use crate::client::{Client, Held};

impl Client {
    /// Adopts, builds, moves, hands over, exports or detaches an array.
    pub(crate) fn arrow(&mut self) {
        let done = match fastrand::u32(..8) {
            0..3 => self.adopt(),
            3 => self.adopt_from_reservation(),
            4 => self.build(),
            5 => self.hand_over(),
            6 => self.export(),
            _ => self.wrap(),
        };
        match done {
            Ok(()) => {}
            Err(MemoryError::Alloc(error)) => self.refused(&error),
            Err(MemoryError::Transfer(error)) => self.server.ground.not_moved(&error),
            Err(error) => self.server.totals().fail(format!("{error:#}")),
        }
    }

    fn adopt(&mut self) -> Result<(), MemoryError> {
        let array = numbers().adopt(&self.allocator)?;
        self.server.totals().add(Count::Adopted);
        let part = array.slice(0, array.len() / 2);
        let arrays: [ArrayRef; 2] = [Arc::new(array), Arc::new(part)];
        self.held.extend(arrays.map(Held::Array));
        Ok(())
    }

    fn adopt_from_reservation(&mut self) -> Result<(), MemoryError> {
        let mut room = self.allocator.new_reservation();
        room.add(32 << 10)?;
        let array = numbers().adopt_from(&mut room)?;
        self.server.totals().add(Count::Adopted);
        self.held.push(Held::Array(Arc::new(array)));
        Ok(())
    }

    fn build(&mut self) -> Result<(), MemoryError> {
        let mut numbers = Int64Builder::new(&self.allocator);
        let mut texts = StringBuilder::new(&self.allocator);
        for number in 0..fastrand::i64(..2000) {
            numbers.append(number)?;
            texts.append("a few bytes of text")?;
        }
        self.held.push(Held::Array(Arc::new(numbers.finish())));
        self.held.push(Held::Array(Arc::new(texts.finish())));
        Ok(())
    }

    /// Hands a new array over to an operator of the client and back.
    fn hand_over(&mut self) -> Result<(), MemoryError> {
        let operator: BufferAllocator = self.allocator.child("operator").build()?;
        let array = numbers().adopt(&self.allocator)?;
        let there = HandOver::new(&self.allocator, &operator);
        let array = array.hand_over(&there)?.value;
        let back = HandOver::new(&operator, &self.allocator).forced();
        let array = array.hand_over(&back)?.value;
        let left = operator.allocated_memory();
        if left != 0 {
            let totals = self.server.totals();
            totals.fail(format!("{left} bytes were left behind by a hand-over"));
        }
        self.held.push(Held::Array(Arc::new(array)));
        Ok(())
    }

    fn export(&mut self) -> Result<(), MemoryError> {
        let last = self.held.iter().rev().find_map(|held| match held {
            Held::Array(array) => Some(Arc::clone(array)),
            _ => None,
        });
        if let Some(array) = last {
            let (exported, _schema) = export_array(&*array)?;
            self.held.push(Held::Exported(exported));
        }
        Ok(())
    }

    /// Makes an array of a buffer of the tree, and copies it out of the tree.
    fn wrap(&mut self) -> Result<(), MemoryError> {
        let buffer = self.allocator.buffer_from_slice(&[5; 4096])?;
        let array = Int64Array::new(into_buffer(buffer).into(), None);
        drop(array.detach());
        self.held.push(Held::Array(Arc::new(array)));
        Ok(())
    }
}

fn numbers() -> Int64Array {
    Int64Array::from(vec![7; fastrand::usize(1..8 << 10)])
}
