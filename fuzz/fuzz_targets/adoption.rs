//! Arrays and batches of any type, adopted by allocators of two trees, moved between them, handed over, sliced,
//! cloned, detached and dropped in any order, with what is shared (`Shares`) or kept (`Kept`).
//!
//! The values stay what they were. A refusal hands the value back and leaves every allocator charged as it was. A
//! tree is charged at most for what the values have, and for nothing once they were dropped. `verify` finds all
//! sums right after each step.
#![no_main]

use std::ptr::NonNull;

use arrow_memory_arrow::{Accounted, HandOver, Kept, Refused, Shares};
use arrow_memory_core::{AllocationReservation, BufferAllocator, RootAllocator};
use arrow_memory_fuzz::deps::arrow_array::{Array, ArrayRef, RecordBatch, make_array};
use arrow_memory_fuzz::{Input, print_panics};
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

/// The maximum number of steps, and of values.
const STEPS: usize = 100;
const VALUES: usize = 12;

/// An array, beside one of the same values in memory of its own.
type Value = (ArrayRef, ArrayRef);

struct Case {
    roots: [RootAllocator; 2],
    /// The roots, and allocators below the first one.
    allocators: Vec<BufferAllocator>,
    /// Room in the first tree.
    room: AllocationReservation,
    values: Vec<Value>,
    /// For hand-overs from the second allocator to the third one of the first tree.
    shares: Shares,
    kept: Kept,
    /// Whether these two may have what no value has.
    is_listed: bool,
}

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let mut input = Input(bytes);
    let mut case = Case::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        case.step(&mut input);
        case.check();
    }
    case.finish(&mut input);
});

impl Case {
    fn new(input: &mut Input<'_>) -> Self {
        let limit = 64 << (input.byte() % 16);
        let root = |limit| {
            let root = RootAllocator::builder().limit(limit);
            root.build().expect("backends are linked")
        };
        let roots = [root(limit), root(usize::MAX)];
        let child = |name, limit| {
            let child = roots[0].child(name).limit(limit);
            child.build().expect("it needs no bytes")
        };
        let allocators = vec![
            BufferAllocator::clone(&roots[0]),
            child("one", usize::MAX),
            child("two", usize::MAX),
            child("small", 256 * input.below(16)),
            BufferAllocator::clone(&roots[1]),
        ];
        Self {
            room: allocators[1].new_reservation(),
            roots,
            allocators,
            values: Vec::new(),
            shares: Shares::new(),
            kept: Kept::new(),
            is_listed: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 20 {
            0..4 => {
                let mut again = *input;
                let (array, same) = (input.array(), again.array());
                self.keep((array, same));
            }
            4 => {
                let allocator = self.allocator(input);
                allocator.set_limit(input.size());
            }
            5 => drop(self.room.resize(input.size().min(1 << 16))),
            6 => {
                self.kept.sweep(input.below(4));
                self.shares.sweep();
            }
            _ if self.values.is_empty() => {}
            7 => {
                let at = input.below(self.values.len());
                drop(self.values.swap_remove(at));
            }
            8 => {
                let (array, same) = self.value(input).clone();
                let offset = input.below(array.len() + 1);
                let length = input.below(array.len() - offset + 1);
                self.keep((array.slice(offset, length), same.slice(offset, length)));
            }
            9 => {
                let (array, same) = self.value(input);
                // It is on the same memory, and charged as long as the other one is there.
                let detached = (array.detach(), same.clone());
                self.keep(detached);
            }
            10 => {
                let (array, same) = self.value(input).clone();
                self.keep((make_array(array.to_data()), same));
            }
            11 => self.transfer(input),
            12 => self.hand_over_batch(input),
            kind => self.consume(kind, input),
        }
    }

    fn allocator(&self, input: &mut Input<'_>) -> BufferAllocator {
        self.allocators[input.below(self.allocators.len())].clone()
    }

    fn value(&self, input: &mut Input<'_>) -> &Value {
        &self.values[input.below(self.values.len())]
    }

    fn keep(&mut self, value: Value) {
        if self.values.len() < VALUES {
            self.values.push(value);
        }
    }

    /// The bytes that each allocator is charged for.
    fn charged(&self) -> Vec<usize> {
        self.allocators
            .iter()
            .map(|it| it.allocated_memory())
            .collect()
    }

    /// Moves the charge of a value, which stays.
    fn transfer(&mut self, input: &mut Input<'_>) {
        let (target, before) = (self.allocator(input), self.charged());
        let (array, same) = self.value(input).clone();
        let moved = if input.flag() {
            let moved = array.transfer_ownership(&target);
            moved.ok().map(|it| it.value)
        } else {
            array.try_transfer_ownership(&target).ok()
        };
        match moved {
            Some(moved) => self.keep((moved, same)),
            None => assert_eq!(self.charged(), before),
        }
    }

    /// Adopts a value, moves it or hands it over.
    fn consume(&mut self, kind: u8, input: &mut Input<'_>) {
        let at = input.below(self.values.len());
        let (from, target) = (self.allocator(input), self.allocator(input));
        let (array, same) = self.values.swap_remove(at);
        let before = (self.charged(), self.room.size());
        let result = match kind {
            13 => array.adopt(&target),
            14 => array.adopt_from(&mut self.room),
            15 => array.try_move_to(&target),
            _ => {
                let left = first_buffer(&array);
                self.hand_over(array, &from, &target, kind, left, input)
            }
        };
        let array = match result {
            Ok(array) => array,
            Err(refused) => {
                assert_eq!((self.charged(), self.room.size()), before);
                refused.value
            }
        };
        assert_eq!(array.to_data(), same.to_data());
        self.values.push((array, same));
    }

    /// Hands a value over, perhaps without the memory that starts at `left`.
    fn hand_over<T: Accounted>(
        &mut self,
        value: T,
        from: &BufferAllocator,
        to: &BufferAllocator,
        kind: u8,
        left: Option<NonNull<u8>>,
        input: &mut Input<'_>,
    ) -> Result<T, Refused<T>> {
        let how = input.byte();
        let except = |start| Some(start) == left;
        let listed = [&self.allocators[1], &self.allocators[2]];
        let mut by = match kind {
            16 => {
                self.is_listed = true;
                HandOver::new(listed[0], listed[1]).shares(&self.shares)
            }
            17 => {
                self.is_listed = true;
                HandOver::new(listed[0], listed[1]).kept(&self.kept)
            }
            _ => HandOver::new(from, to),
        };
        if how & 1 > 0 {
            by = by.forced();
        }
        if how & 2 > 0 {
            by = by.except(&except);
        }
        value.hand_over(&by).map(|handed| handed.value)
    }

    /// Hands a batch of two values over, and takes it apart.
    fn hand_over_batch(&mut self, input: &mut Input<'_>) {
        let (one, two) = (self.value(input).clone(), self.value(input).clone());
        let rows = one.0.len().min(two.0.len());
        let sliced = [one, two].map(|it| (it.0.slice(0, rows), it.1.slice(0, rows)));
        let [one, two] = sliced;
        let left = first_buffer(&two.0);
        let columns = [("one", one.0), ("two", two.0)];
        // Runs that are not at the start of their values cannot be nullable columns.
        let Ok(batch) = RecordBatch::try_from_iter(columns) else {
            return;
        };
        let (from, to, kind) = (self.allocator(input), self.allocator(input), input.byte());
        let before = self.charged();
        let handed = self.hand_over(batch, &from, &to, 16 + kind % 4, left, input);
        let batch = match handed {
            Ok(batch) => batch,
            Err(refused) => {
                assert_eq!(self.charged(), before);
                refused.value
            }
        };
        for (column, same) in batch.columns().iter().zip([one.1, two.1]) {
            assert_eq!(column.to_data(), same.to_data());
            self.keep((column.clone(), same));
        }
    }

    fn check(&self) {
        for root in &self.roots {
            assert_eq!(root.verify(), Ok(()));
        }
        if !self.is_listed {
            let sizes = self.values.iter().map(|it| it.0.accounted_size());
            let charged = self.roots.iter().map(|it| it.allocated_memory());
            let charged: usize = charged.sum();
            let most = 2 * sizes.sum::<usize>() + self.room.size();
            assert!(charged <= most, "{charged} charged, values of {most}");
        }
    }

    fn finish(self, input: &mut Input<'_>) {
        let Self {
            roots,
            allocators,
            room,
            mut values,
            shares,
            kept,
            ..
        } = self;
        for (array, same) in &values {
            array.to_data().validate_full().expect("it is valid");
            assert_eq!(array.to_data(), same.to_data());
        }
        let lists_first = input.flag();
        if lists_first {
            shares.clear();
            kept.clear();
        }
        while !values.is_empty() {
            drop(values.swap_remove(input.below(values.len())));
        }
        shares.clear();
        kept.clear();
        drop(room);
        for allocator in allocators.iter().rev() {
            assert_eq!(allocator.allocated_memory(), 0);
            allocator.close().expect("nothing is outstanding");
        }
        drop(roots);
    }
}

/// Where the first buffer of an array starts.
fn first_buffer(array: &ArrayRef) -> Option<NonNull<u8>> {
    let data = array.to_data();
    data.buffers().first().map(|buffer| buffer.data_ptr())
}
