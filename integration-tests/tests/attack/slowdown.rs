//! An attack slows the others down by a bounded factor. For release builds only: the times of debug builds mean nothing.
//!
//! Rounds with and without the attack take turns, and the medians are compared, so that other load on the machine
//! affects both. A comparison is made several times, and one of them has to pass.
#![cfg(not(debug_assertions))]

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_system as _;

use crate::{Attacker, MANNERS, MIB, alone};

/// The maximum factor by which the others may become slower.
const ALLOWED: f64 = 3.0;

const TRIES: usize = 5;
/// What the tree's mutex may cost under contention, in nanoseconds.
const MUTEX: f64 = 5000.0;
/// How many requests the attacker must have made in a round, or it did not run.
const ENOUGH: u64 = 50;
const ROUNDS: usize = 25;
/// How long a round takes.
const ROUND: Duration = Duration::from_millis(2);

const LIMIT: usize = 64 * MIB;

/// A client that the others share the root with.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// Its memory is set aside for it.
    Reserved,
    /// It has no reservation, and uses little of what the attacker's limit leaves.
    Small,
    /// It has no reservation, and the attacker no limit.
    Neighbour,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds of one call of `work`, in a round.
fn cost(work: &mut dyn FnMut()) -> f64 {
    let (began, mut calls) = (Instant::now(), 0_u32);
    while began.elapsed() < ROUND {
        for _ in 0..10 {
            work();
        }
        calls += 10;
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

/// The medians without and with the attack; `None` if the attacker did not run beside the others, since the machine has too
/// much other load.
fn compare(attacker: &Attacker, work: &mut dyn FnMut()) -> Option<(f64, f64)> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..4 * ROUNDS {
        let time = cost(work);
        attacker.start();
        let requests = attacker.requests();
        let time_beside = cost(work);
        let under_way = attacker.requests() > requests + ENOUGH;
        attacker.pause();
        if under_way {
            alone.push(time);
            beside.push(time_beside);
        }
        if alone.len() == ROUNDS {
            return Some((median(alone), median(beside)));
        }
    }
    None
}

/// Allocates a buffer of 4 KiB and drops it.
fn pair(client: &BufferAllocator) {
    drop(black_box(client.buffer(4096)).unwrap());
}

/// The same beside an attacker who may have all of the root's memory.
fn try_pair(client: &BufferAllocator) {
    drop(black_box(client.buffer(4096)));
}

/// Allocates a buffer of 64 KiB, writes it, reads it and drops it: the least that a buffer is good for.
fn page(client: &BufferAllocator) {
    let mut buffer = client.buffer(64 << 10).unwrap();
    buffer.resize(64 << 10, 7).unwrap();
    let sum: u64 = buffer.as_slice().iter().map(|&byte| u64::from(byte)).sum();
    black_box(sum);
}

/// Compares a client's work without and with each attack. `is_bounded` decides on the two times of an operation.
fn assert_bounded(other: Other, work: fn(&BufferAllocator), is_bounded: impl Fn(f64, f64) -> bool) {
    let _alone = alone();
    for manner in MANNERS {
        let root = RootAllocator::new(LIMIT);
        let (client, greedy) = (root.child("other"), root.child("greedy"));
        let (client, greedy) = match other {
            // The root refuses what the attacker asks for.
            Other::Reserved => (client.reservation(MIB), greedy),
            // What the other client needs is not the attacker's, since that has a limit.
            Other::Small => (client, greedy.limit(LIMIT - 2 * MIB)),
            Other::Neighbour => (client, greedy),
        };
        let client = client.build().unwrap();
        let attacker = Attacker::new(greedy.build().unwrap(), manner);

        let mut tries = (0..TRIES).map(|_| compare(&attacker, &mut || work(&client)));
        let bounded = tries.any(|times| {
            println!("{manner:?}, {other:?}: ns without and with the attack: {times:.0?}");
            times.is_some_and(|(without, with)| is_bounded(without, with))
        });
        assert!(bounded, "{manner:?}, {other:?}");
    }
}

fn within_three_times(without: f64, with: f64) -> bool {
    with <= without * ALLOWED
}

#[test]
fn a_client_with_a_reservation_is_not_slowed_down_beyond_three_times() {
    assert_bounded(Other::Reserved, page, within_three_times);
}

#[test]
fn a_small_client_is_not_slowed_down_beyond_three_times() {
    assert_bounded(Other::Small, page, within_three_times);
}

#[test]
fn an_allocation_that_nobody_writes_to_is_not_slowed_down_where_the_attacker_has_a_limit() {
    assert_bounded(Other::Small, pair, within_three_times);
}

#[test]
fn an_allocation_that_nobody_writes_to_is_not_slowed_down_where_it_is_within_a_reservation() {
    assert_bounded(Other::Reserved, pair, within_three_times);
}

/// Where the root refuses, all without a reservation take its mutex, and a pair takes more than three times as long. So the
/// bound is absolute: some times the mutex, and no walk over the tree.
#[test]
fn an_allocation_beside_refusals_of_the_root_costs_the_mutex_and_no_more() {
    assert_bounded(Other::Neighbour, try_pair, |without, with| {
        with <= without + MUTEX
    });
}
