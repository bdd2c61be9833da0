//! Operations on a tree of allocators over one of the backends, beside the naive model of the integration tests:
//! children, limits, caps, buffers that are sliced, shared, moved and released, reservations, forced and external
//! bytes, requests that wait, failed and successful closes.
//!
//! After each step every number of the tree is the model's, and `verify` finds all sums right. At the end
//! everything is released, each close succeeds, and nothing is left.
#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use arrow_memory_arena as _;
use arrow_memory_fuzz::{Input, print_panics};
use arrow_memory_integration_tests::operation::{Operation, Rounding};
use arrow_memory_integration_tests::script::{Draw, Script, Shape, UNLIMITED, overflows, release};
use arrow_memory_integration_tests::side_by_side::{Headroom, SideBySide};
use arrow_memory_integration_tests::tree::Ground;
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

/// The maximum number of operations, without those that release everything: the model takes time for each
/// object.
const STEPS: usize = 120;

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let mut input = Input(bytes);
    let manager = input.manager();
    let credit = [None, Some(0), Some(1000)][input.below(3)];
    let waits = input.flag();
    let rounding = match input.byte() % 5 {
        // Where requests wait, the model knows padding only.
        1 if !waits => Rounding::PowerOfTwo,
        2 if !waits => Rounding::Segment(1024),
        _ => Rounding::Padding,
    };
    let mut case = Case {
        pair: SideBySide::new(Ground::Root { manager, credit }, rounding),
        look_every: if waits { 1 } else { 1 + 8 * input.below(2) },
        steps: 0,
    };
    let result = catch_unwind(AssertUnwindSafe(|| case.run(&mut input, waits)));
    if let Err(panic) = result {
        eprintln!("{}", case.pair.story());
        // After a failure, dropping the tree may fail, too.
        std::mem::forget(case);
        resume_unwind(panic);
    }
});

struct Case {
    pair: SideBySide,
    /// The number of steps between two comparisons of all numbers. A comparison settles pending changes.
    look_every: usize,
    steps: usize,
}

impl Case {
    fn run(&mut self, input: &mut Input<'_>, waits: bool) {
        let mut script = Script::new([Shape::Any, Shape::Deep, Shape::Wide][input.below(3)]);
        let limit = match input.byte() {
            0 if !waits => usize::MAX,
            1 if !waits => UNLIMITED,
            small @ 0..200 => usize::from(small) * 64,
            large => usize::from(large) * 180 + 1,
        };
        let allocator = 0;
        self.step(&Operation::Root { allocator, limit });
        while !input.is_empty() && self.steps < STEPS {
            let draw = draw(input, waits);
            for _ in 0..draw.rounds() {
                let operation = script.operation(&self.pair.model, &draw);
                let operation = operation.filter(|it| !overflows(&self.pair.model, it));
                if let Some(operation) = operation {
                    self.step(&operation);
                }
            }
        }
        while let Some(operation) = release(&self.pair.model) {
            self.step(&operation);
        }
        self.pair.compare(Headroom::Known);
    }

    fn step(&mut self, operation: &Operation) {
        self.pair.apply(operation);
        self.steps += 1;
        if self.steps.is_multiple_of(self.look_every) {
            self.pair.compare(Headroom::Known);
            self.pair.verify();
        }
    }
}

/// A draw is seven bytes.
fn draw(input: &mut Input<'_>, waits: bool) -> Draw {
    let kind = u32::from(input.byte());
    let (first, second) = (u16::from(input.byte()), u16::from(input.byte()));
    let (amount, other) = (u32::from(input.short()), u32::from(input.short()));
    Draw::new((kind, first, second, amount, other), waits)
}
