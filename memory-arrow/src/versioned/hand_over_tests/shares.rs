//! What a receiver shares with a giver that keeps what its values refer to.

use std::sync::Arc;

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_system as _;
use proptest::prelude::*;

use super::super::Accounted;
use super::super::deps::arrow_array::*;
use super::super::deps::arrow_buffer::Buffer;
use super::{array, child};
use crate::hand_over::HandOver;
use crate::kept::Kept;
use crate::shares::Shares;

fn giver_and_receiver(root: &BufferAllocator) -> [BufferAllocator; 2] {
    ["giver", "receiver"].map(|name| child(root, name))
}

fn len(shares: &Shares) -> String {
    format!("{shares:?}")
}

/// Another array on the same buffer, as a join returns one on the strings of its build side.
fn result(of: &Int64Array) -> Int64Array {
    of.slice(0, 10)
}

#[test]
fn the_giver_pays_while_it_has_a_buffer_and_then_the_receiver() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let charges = || (giver.allocated_memory(), receiver.allocated_memory());
    let build_side = array().adopt(&giver).unwrap();
    let shares = Shares::new();
    let by = HandOver::new(&giver, &receiver).shares(&shares);

    for _ in 0..3 {
        let handed = result(&build_side).hand_over(&by).unwrap().value;
        assert_eq!((charges(), handed.values()[0]), ((800, 0), 7));
        drop(handed);
        assert_eq!(shares.sweep(), 0);
        assert_eq!(len(&shares), "Shares { len: 1 }");
    }
    let last = result(&build_side).hand_over(&by).unwrap().value;
    drop(build_side);
    assert_eq!((charges(), shares.sweep()), ((0, 800), 1));
    giver.close().unwrap();
    drop(last);
    assert_eq!(root.allocated_memory(), 0);
    receiver.close().unwrap();
}

#[test]
fn what_the_giver_has_not_moves_as_it_does_without_a_list() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let shares = Shares::new();
    let by = HandOver::new(&giver, &receiver).shares(&shares);
    receiver.set_limit(100);

    let refused = array().adopt(&giver).unwrap().hand_over(&by).unwrap_err();
    assert!(refused.is_out_of_memory());
    receiver.set_limit(800);
    let handed = refused.value.hand_over(&by).unwrap().value;

    assert_eq!(len(&shares), "Shares { len: 0 }");
    assert_eq!(
        (giver.allocated_memory(), receiver.allocated_memory()),
        (0, 800)
    );
    drop(handed);
    assert_eq!(root.allocated_memory(), 0);
}

/// Beside new memory nothing moves in place.
#[test]
fn of_one_value_what_the_giver_has_is_shared_and_the_rest_moves() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let [has, gives] = [(); 2].map(|()| array().adopt(&giver).unwrap());
    let columns = [has.slice(0, 100), gives, array()].map(|array| Arc::new(array) as ArrayRef);
    let named = ["has", "gives", "new"].into_iter().zip(columns);
    let batch = RecordBatch::try_from_iter(named).unwrap();
    let shares = Shares::new();

    let by = HandOver::new(&giver, &receiver).shares(&shares);
    let handed = batch.hand_over(&by).unwrap().value;

    assert_eq!(len(&shares), "Shares { len: 1 }");
    assert_eq!(
        (giver.allocated_memory(), receiver.allocated_memory()),
        (800, 1600)
    );
    drop((has, handed));
    shares.sweep();
    assert_eq!(root.allocated_memory(), 0);
}

/// What is kept by the giver becomes known by the first hand-over, and shared by the second.
#[test]
fn what_the_giver_keeps_is_shared_from_the_second_time_on() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let charges = || (giver.allocated_memory(), receiver.allocated_memory());
    let (kept, shares) = (Kept::new(), Shares::new());
    let by = HandOver::new(&giver, &receiver).kept(&kept).shares(&shares);
    let groups = array();

    drop(result(&groups).hand_over(&by).unwrap());
    assert_eq!((charges(), &*len(&shares)), ((800, 0), "Shares { len: 0 }"));
    let second = result(&groups).hand_over(&by).unwrap().value;
    assert_eq!((charges(), &*len(&shares)), ((800, 0), "Shares { len: 1 }"));
    drop(groups);
    assert_eq!((kept.sweep(256), charges()), (1, (0, 800)));
    assert_eq!(shares.sweep(), 1);
    drop(second);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn what_no_value_refers_to_any_more_leaves_the_list() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let [first, second] = [(); 2].map(|()| array().adopt(&giver).unwrap());
    let shares = Shares::new();
    let by = HandOver::new(&giver, &receiver).shares(&shares);
    drop(result(&first).hand_over(&by).unwrap());

    for _ in 0..64 {
        drop(result(&second).hand_over(&by).unwrap());
        assert_eq!((shares.sweep(), &*len(&shares)), (0, "Shares { len: 2 }"));
    }
    drop(result(&second).hand_over(&by).unwrap());
    assert_eq!((shares.sweep(), &*len(&shares)), (1, "Shares { len: 1 }"));
    shares.clear();
    assert_eq!(len(&shares), "Shares { len: 0 }");
    receiver.close().unwrap();
}

/// A list that served another receiver, and a larger part of the memory than the list has.
#[test]
fn an_entry_serves_its_receiver_and_what_it_shows() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let other = child(&root, "other");
    let whole = Buffer::from_vec((0..100_u8).collect())
        .adopt(&giver)
        .unwrap();
    let shares = Shares::new();
    let by = HandOver::new(&giver, &receiver).shares(&shares);

    drop(whole.slice_with_length(0, 10).hand_over(&by).unwrap());
    let larger = whole
        .slice_with_length(50, 50)
        .hand_over(&by)
        .unwrap()
        .value;
    assert_eq!(
        larger.as_slice(),
        whole.slice_with_length(50, 50).as_slice()
    );
    let by = HandOver::new(&giver, &other).shares(&shares);
    let theirs = whole.clone().hand_over(&by).unwrap().value;
    drop((whole, larger));

    receiver.close().unwrap();
    assert_eq!((shares.sweep(), other.allocated_memory()), (1, 100));
    assert_eq!(theirs[99], 99);
}

/// Arrays of allocators that pass them on, each of which may keep some.
struct Chain {
    root: RootAllocator,
    allocators: Vec<BufferAllocator>,
    /// For each allocator, what it shares with the next one.
    shares: Vec<Shares>,
    /// The arrays of each allocator, with the number of their allocation.
    held: Vec<Vec<(usize, Int64Array)>>,
    made: usize,
}

/// The bytes of an allocation: a power of two for each, so that a sum tells which ones are in it.
fn bytes(allocation: usize) -> usize {
    64 << allocation
}

const MADE: usize = 10;

impl Chain {
    fn new() -> Self {
        let root = RootAllocator::unlimited();
        let names = ["a", "b", "c"];
        Self {
            allocators: names.map(|name| child(&root, name)).to_vec(),
            shares: names.map(|_| Shares::new()).into(),
            held: names.map(|_| Vec::new()).into(),
            root,
            made: 0,
        }
    }

    fn step(&mut self, (what, at, which): (u8, usize, usize)) {
        let len = self.held[at].len();
        match what {
            0 if self.made < MADE => {
                let values = vec![7; bytes(self.made) / 8];
                let array = Int64Array::from(values).adopt(&self.allocators[at]);
                self.held[at].push((self.made, array.unwrap()));
                self.made += 1;
            }
            1 if len > 0 => drop(self.held[at].swap_remove(which % len)),
            2 if len > 0 => {
                let (allocation, array) = &self.held[at][which % len];
                let again = (*allocation, array.slice(0, 1));
                self.held[at].push(again);
            }
            3.. if len > 0 => {
                let (allocation, array) = self.held[at].swap_remove(which % len);
                let next = (at + 1) % self.allocators.len();
                let by = HandOver::new(&self.allocators[at], &self.allocators[next]);
                let by = by.shares(&self.shares[at]);
                let handed = array.hand_over(&by).unwrap().value;
                assert_eq!(handed.values()[0], 7);
                self.held[next].push((allocation, handed));
            }
            _ => {}
        }
    }

    /// Each allocation that somebody has is charged once, to one of those who have it.
    fn check(&self) {
        while self.shares.iter().map(Shares::sweep).sum::<usize>() > 0 {}
        let mut alive = 0;
        for (allocator, held) in self.allocators.iter().zip(&self.held) {
            let charged = allocator.allocated_memory();
            let has = held.iter().fold(0, |sum, (at, _)| sum | bytes(*at));
            assert_eq!(
                charged & !has,
                0,
                "{} has {has}, not {charged}",
                allocator.name()
            );
            alive |= has;
        }
        assert_eq!(self.root.allocated_memory(), alive);
        self.root.verify().unwrap();
    }
}

proptest! {
    #[test]
    fn in_a_chain_each_allocation_is_charged_to_one_of_those_who_have_it(
        steps in prop::collection::vec((0..6_u8, 0..3_usize, any::<usize>()), 1..60)
    ) {
        let mut chain = Chain::new();
        for step in steps {
            chain.step(step);
            chain.check();
        }
        chain.held.clear();
        chain.shares.iter().for_each(Shares::clear);
        prop_assert_eq!(chain.root.allocated_memory(), 0);
    }
}
