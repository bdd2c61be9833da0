//! Builders of buffers and of arrays, over one of the backends and within a limit, beside a `Vec` that takes the
//! same steps.
//!
//! After each step a builder has as many rows as its `Vec`: a refusal leaves it as it was. What it finishes is
//! valid and equal to what arrow-rs makes of the `Vec`, and stays so while the builder goes on. The tree is never
//! charged more than its limit, `verify` finds all sums right, and nothing is charged at the end.
#![no_main]

mod builders {
    pub mod arrays;
    pub mod buffers;
    pub mod nested;
}

use arrow_memory_arena as _;
use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_fuzz::deps::arrow_array::{Array, ArrayRef};
use arrow_memory_fuzz::{Input, print_panics};
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

use builders::{arrays, buffers, nested};

/// The maximum number of steps.
const STEPS: usize = 300;

/// A builder and its model.
trait Subject {
    /// Applies one operation to both.
    fn step(&mut self, input: &mut Input<'_>);

    /// Checks that both have the same number of rows.
    fn check(&self);

    /// Finishes what was built, with the array that it has to be.
    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)>;
}

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let mut input = Input(bytes);
    let limit = 64 * (1 + usize::from(input.short() % 2048));
    let root = RootAllocator::builder()
        .limit(limit)
        .allocation_manager(input.manager());
    let root = root.build().expect("a manager was given");
    let allocator = root.child("builder").build().expect("it needs no bytes");
    let kinds = [input.byte(), input.byte()];
    let mut subjects = kinds.map(|kind| subject(kind, &allocator));
    let mut finished = Vec::new();

    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let which = input.byte();
        let subject = &mut subjects[usize::from(which) % 2];
        match which / 2 % 16 {
            0 => finished.extend(subject.finish()),
            1 if !finished.is_empty() => {
                drop(finished.swap_remove(input.below(finished.len())));
            }
            // It refuses everything from now on.
            2 if input.byte() == 7 => drop(allocator.close()),
            _ => subject.step(&mut input),
        }
        subject.check();
        assert!(root.peak_memory_allocation() <= limit);
        assert_eq!(root.verify(), Ok(()));
    }

    for mut subject in subjects {
        finished.extend(subject.finish());
    }
    for (found, expected) in &finished {
        let found = found.to_data();
        found.validate_full().expect("what was built is valid");
        assert_eq!(found, expected.to_data());
    }
    drop(finished);
    assert_eq!(root.allocated_memory(), 0);
    allocator.close().expect("nothing is outstanding");
});

fn subject(kind: u8, allocator: &BufferAllocator) -> Box<dyn Subject> {
    match kind % 16 {
        0 => Box::new(buffers::Bytes::new(allocator)),
        1 => Box::new(buffers::Typed::new(allocator)),
        2 => Box::new(buffers::Bits::new(allocator)),
        3 => Box::new(buffers::Items::new(allocator)),
        kind @ 4..12 => arrays::subject(kind, allocator),
        kind => nested::subject(kind, allocator),
    }
}
