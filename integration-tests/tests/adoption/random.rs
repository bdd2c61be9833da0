//! A random script of everything that may happen to adopted memory, with the books checked after each step.

use std::sync::Arc;

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_memory_arrow::deps::arrow_buffer::{Buffer, ScalarBuffer};
use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_global::Scope;
use bytes::Bytes;

const STEPS: usize = if cfg!(debug_assertions) {
    20_000
} else {
    60_000
};

/// A block, and what lies in it. While a value is alive, so is its block.
struct Block {
    size: usize,
    /// Whether it was allocated in a scope of the tree.
    attributed: bool,
    /// Owners that no ledger pays for.
    pages: Vec<Bytes>,
    /// Adopted parts, and the bytes that each charges.
    parts: Vec<(RecordBatch, usize)>,
}

impl Block {
    /// Of a block of a scope: its bytes, or those that ledgers pay for, if they are more, as parts may overlap; of
    /// others: those that ledgers pay for.
    fn charged(&self) -> usize {
        let parts: usize = self.parts.iter().map(|(_, bytes)| bytes).sum();
        if self.attributed {
            self.size.max(parts)
        } else {
            parts
        }
    }
}

struct Script {
    root: RootAllocator,
    queries: Vec<BufferAllocator>,
    scopes: Vec<Option<Scope>>,
    blocks: Vec<Block>,
}

impl Script {
    fn new(limit: usize) -> Self {
        let root = RootAllocator::new(1 << 30);
        let query = |number: usize| {
            let name = ["q", "another query, with a longer name"][number % 2];
            let query = root.child(name).limit(limit).build().unwrap();
            let scope = Scope::new(&query).unwrap();
            (query, Some(scope))
        };
        let (queries, scopes) = (0..4).map(query).unzip();
        Self {
            root,
            queries,
            scopes,
            blocks: Vec::new(),
        }
    }

    /// Allocates a block of 8-byte values.
    fn allocate(&mut self) {
        let size = 8 * [64, 65, 100, 127, 128, 1000, 5000, 200_000][fastrand::usize(..8)];
        let make = || Bytes::from(vec![7_u8; size]);
        let scope = fastrand::usize(..self.scopes.len() + 1);
        let scope = self.scopes.get(scope).and_then(Option::as_ref);
        let page = match scope {
            Some(scope) => scope.run(make),
            None => make(),
        };
        self.blocks.push(Block {
            size,
            attributed: scope.is_some(),
            // The whole block, or four parts of a large one. Of these, each overlaps the next one by a half.
            pages: match size {
                0..8192 => vec![page],
                _ => (0..4)
                    .map(|part| page.slice(part * size / 5..(part + 2) * size / 5))
                    .collect(),
            },
            parts: Vec::new(),
        });
    }

    /// Adopts one or several parts of blocks in one batch, to some query.
    fn adopt(&mut self) {
        let target = &self.queries[fastrand::usize(..self.queries.len())];
        let Some(block) = fastrand::choice(&mut self.blocks) else {
            return;
        };
        let Some(page) = fastrand::choice(&block.pages) else {
            return;
        };
        // A second adoption of the same part shares the first one's charge.
        let is_it = |other: &(RecordBatch, usize)| {
            let other = other.0.column(0).to_data().buffers()[0].data_ptr();
            other.addr().get() == page.as_ptr().addr()
        };
        if block.parts.iter().any(is_it) {
            return;
        }
        let bytes = page.len();
        let values = ScalarBuffer::<i64>::from(Buffer::from(page.clone()));
        let column: ArrayRef = Arc::new(Int64Array::new(values, None));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let adopted = match fastrand::bool() {
            true => batch.adopt(target).ok(),
            false => batch
                .transfer_ownership(target)
                .ok()
                .map(|moved| moved.value),
        };
        if let Some(adopted) = adopted {
            block.parts.push((adopted, bytes));
        }
    }

    fn transfer(&mut self) {
        let target = &self.queries[fastrand::usize(..self.queries.len())];
        if let Some(block) = fastrand::choice(&mut self.blocks)
            && let Some((batch, _)) = fastrand::choice(&mut block.parts)
        {
            let moved = match fastrand::bool() {
                true => batch.try_transfer_ownership(target).ok(),
                false => batch
                    .transfer_ownership(target)
                    .ok()
                    .map(|moved| moved.value),
            };
            if let Some(moved) = moved {
                *batch = moved;
            }
        }
    }

    /// Drops an owner of a block, adopted or not; the last one frees it.
    fn release(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let index = fastrand::usize(..self.blocks.len());
        let block = &mut self.blocks[index];
        match fastrand::bool() && !block.parts.is_empty() {
            true => drop(
                block
                    .parts
                    .swap_remove(fastrand::usize(..block.parts.len())),
            ),
            false if fastrand::u8(..4) == 0 => block.pages.clear(),
            false => {}
        }
        if block.pages.is_empty() && block.parts.is_empty() {
            self.blocks.swap_remove(index);
        }
    }

    fn end_or_begin_a_scope(&mut self) {
        let number = fastrand::usize(..self.scopes.len());
        self.scopes[number] = match self.scopes[number].take() {
            Some(_) => None,
            None => Scope::new(&self.queries[number]).ok(),
        };
    }

    /// Closes a query, which may have adopted memory still, and begins another one.
    fn close(&mut self) {
        let number = fastrand::usize(..self.queries.len());
        let _ = self.queries[number].close();
        let limit = self.queries[number].limit();
        let query = self.root.child("next").limit(limit).build().unwrap();
        self.scopes[number] = Scope::new(&query).ok();
        self.queries[number] = query;
    }

    fn check(&self, step: usize) {
        let charged: usize = self.blocks.iter().map(Block::charged).sum();
        assert_eq!(self.root.allocated_memory(), charged, "step {step}");
        if step.is_multiple_of(64) {
            self.root.verify().unwrap();
            let books = self.root.snapshot();
            let below: usize = (books.entries.iter())
                .filter(|entry| entry.parent == Some(self.root.id()))
                .map(|entry| entry.allocated)
                .sum();
            assert_eq!(below, charged, "step {step}");
        }
    }
}

fn run(seed: u64, limit: usize) {
    fastrand::seed(seed);
    let mut script = Script::new(limit);
    for step in 0..STEPS {
        match fastrand::u8(..100) {
            0..25 if script.blocks.len() < 60 => script.allocate(),
            25..55 => script.adopt(),
            55..70 => script.transfer(),
            70..97 => script.release(),
            97..99 => script.end_or_begin_a_scope(),
            _ => script.close(),
        }
        script.check(step);
    }
    // The peak never counted a byte twice: no block was larger than the largest sum that was live.
    script.blocks.clear();
    script.check(0);
    drop((script.scopes, script.queries));
    assert_eq!(script.root.allocated_memory(), 0);
    script.root.close().unwrap();
}

#[test]
fn every_byte_is_charged_once_whatever_happens_to_it() {
    run(1, 1 << 30);
    // The queries are over their limits most of the time.
    run(2, 400_000);
}
