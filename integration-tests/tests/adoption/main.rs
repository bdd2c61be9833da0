//! Arrays that are built in scopes and then adopted: they are charged once, at every instant, and to whom they belong.
//!
//! The program's allocator attributes. What a test allocates outside its scopes is no part of the books.
//!
//! Each of these mutations makes some of them fail: a release, a veto or a panic that does not return what moved, or
//! returns what another ledger is charged for; a refusal that does not put it back; a reservation that does not get its
//! bytes back then; an adoption that does not look whose tree pays; a scope that ends without the accounts of blocks; a
//! shared name whose count is not kept; a release that keeps no pin of the node that it empties; a manager that
//! allocates, clears or grows a block in the scope.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

use std::alloc::System;
use std::sync::Arc;

use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_global::{Attributed, Scope};
use arrow_memory_system as _;

mod anew;
mod interior;
mod managers;
mod random;
mod refused;
mod single;
mod together;
mod withheld;

#[global_allocator]
static GLOBAL: Attributed<System> = Attributed::new(System);

/// A tree with two queries. The first one has a scope.
struct Books {
    root: RootAllocator,
    scan: BufferAllocator,
    join: BufferAllocator,
    scope: Option<Scope>,
}

impl Books {
    fn new() -> Self {
        Self::with_root(RootAllocator::new(1 << 30))
    }

    /// A tree without credit, whose peaks are exact.
    fn without_credit() -> Self {
        Self::with_root(RootAllocator::builder().credit(0).build().unwrap())
    }

    fn with_root(root: RootAllocator) -> Self {
        let scan = root.child("scan").build().unwrap();
        let join = root.child("join").build().unwrap();
        let scope = Some(Scope::new(&scan).unwrap());
        Self {
            root,
            scan,
            join,
            scope,
        }
    }

    /// Calls `work` in the scope of the scan.
    fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        self.scope.as_ref().unwrap().run(work)
    }

    /// An array of `bytes`, a multiple of 8, which is built in the scope.
    fn array(&self, bytes: usize) -> Int64Array {
        self.run(|| Int64Array::from(vec![7; bytes / 8]))
    }

    /// A buffer of `bytes`, which is built in the scope.
    fn buffer(&self, bytes: usize) -> Buffer {
        self.run(|| Buffer::from_vec(vec![7_u8; bytes]))
    }

    /// A batch of many columns of `bytes` each, which is built in the scope.
    fn batch(&self, columns: usize, bytes: usize) -> RecordBatch {
        let arrays: Vec<_> = (0..columns).map(|_| self.array(bytes)).collect();
        let columns = arrays
            .into_iter()
            .enumerate()
            .map(|(number, array)| (format!("c{number}"), Arc::new(array) as ArrayRef));
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// What is allocated in the root, the scan, the heap of the scan, and the join, at one instant.
    #[track_caller]
    fn charged(&self) -> [usize; 4] {
        self.root.verify().unwrap();
        let books = self.root.snapshot();
        let of = |name: &str, below: &BufferAllocator| {
            let found = books
                .entries
                .iter()
                .find(|entry| &*entry.allocator.name == name && entry.parent == Some(below.id()));
            found.map_or(0, |entry| entry.allocated)
        };
        [
            books.entries[0].allocated,
            of("scan", &self.root),
            of("(heap)", &self.scan),
            of("join", &self.root),
        ]
    }

    /// What outlived its scope.
    fn retained(&self) -> usize {
        let books = self.root.snapshot();
        let mut retained = books.entries.iter();
        let retained = retained.find(|entry| &*entry.allocator.name == "(retained)");
        retained.map_or(0, |entry| entry.allocated)
    }

    /// Ends all, and checks that nothing is left.
    #[track_caller]
    fn close(mut self) {
        assert_eq!(self.charged(), [0; 4]);
        self.scope = None;
        self.scan.close().unwrap();
        self.join.close().unwrap();
        self.root.close().unwrap();
    }
}
