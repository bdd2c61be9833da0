//! A client with a reservation gets it, and the root stays within its limit, whatever another client asks for.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocationManager, BufferAllocator, RootAllocator};
use arrow_memory_integration_tests::for_every_backend;

use crate::{Attacker, MANNERS, MIB, Manner, alone};

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    a_reservation_is_granted_beside_every_attack,
    no_attack_but_force_pushes_the_root_over_its_limit,
);

const LIMIT: usize = 16 * MIB;
const RESERVED: usize = 4 * MIB;

/// How long one attack takes.
const TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 50 } else { 100 });

/// A root, a client with a reservation, and one without.
fn tree(backend: &Backend) -> (RootAllocator, BufferAllocator, BufferAllocator) {
    let builder = RootAllocator::builder().limit(LIMIT);
    let root = builder.allocation_manager(Arc::clone(backend)).build();
    let root = root.unwrap();
    let reserved = root.child("reserved").reservation(RESERVED).build();
    let greedy = root.child("greedy").limit(LIMIT).build().unwrap();
    (root, reserved.unwrap(), greedy)
}

fn a_reservation_is_granted_beside_every_attack(backend: &Backend) {
    let _alone = alone();
    for manner in MANNERS {
        let (root, reserved, greedy) = tree(backend);
        let attacker = Attacker::new(greedy, manner);
        attacker.start();

        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < TIME || rounds < 2 || attacker.turns() == 0 {
            use_all_of(&reserved, 64 << (rounds % 17));
            rounds += 1;
        }

        drop(attacker);
        root.verify().unwrap();
        assert_eq!(root.allocated_memory(), RESERVED, "{manner:?}");
    }
}

/// Takes all that is reserved, in pieces of this size, some of them in a child, and one of them moved.
fn use_all_of(reserved: &BufferAllocator, piece: usize) {
    let child = reserved.child("child").build().unwrap();
    let mut held = Vec::with_capacity(RESERVED / piece);
    for index in 0..RESERVED / piece {
        let allocator = if index % 3 == 0 { &child } else { reserved };
        let buffer = allocator.buffer(piece);
        held.push(buffer.unwrap_or_else(|error| panic!("{index} of {piece}: {error:#}")));
    }
    assert_eq!(reserved.allocated_memory(), RESERVED);
    drop(held);
    let buffer = child.buffer(piece).unwrap().freeze();
    let moved = buffer.try_transfer_ownership(reserved);
    moved.unwrap_or_else(|error| panic!("{error:#}"));
}

/// A peak is never too low. So it is enough to look at it in the end.
fn no_attack_but_force_pushes_the_root_over_its_limit(backend: &Backend) {
    let _alone = alone();
    for manner in MANNERS.into_iter().filter(|&it| it != Manner::Forces) {
        let (root, reserved, greedy) = tree(backend);
        let another = root.child("another").limit(LIMIT).build().unwrap();
        let attackers = [greedy, another].map(|client| Attacker::new(client, manner));
        attackers.iter().for_each(Attacker::start);

        let began = Instant::now();
        while began.elapsed() < TIME || attackers.iter().any(|it| it.turns() == 0) {
            let allocated = root.allocated_memory();
            assert!(
                (RESERVED..=LIMIT).contains(&allocated),
                "{manner:?}: {allocated}"
            );
            drop(reserved.buffer(RESERVED));
            thread::yield_now();
        }

        drop(attackers);
        let peak = root.peak_memory_allocation();
        assert!(peak <= LIMIT, "{manner:?}: {peak}");
        assert_eq!(root.allocated_memory(), RESERVED);
    }
}
