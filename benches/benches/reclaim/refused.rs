//! A request that is refused, by the number of registrations in its tree.

use arrow_memory_benches::harness::{Group, Settings};
use arrow_memory_benches::trees;
use arrow_memory_core::{AllocationReservation, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard};

use crate::{KIB, MIB};

/// Frees nothing, so that the request is refused.
pub(crate) struct Keeps;

impl Reclaim for Keeps {
    fn reclaimable(&self) -> usize {
        0
    }

    fn reclaim(&self, ask: Ask) {
        drop(ask);
    }
}

/// A tree with a full query of 1 MiB, and caches which each hold 64 bytes, at six levels below the root.
struct Full {
    query: BufferAllocator,
    _held: AllocationReservation,
    _caches: Vec<(AllocationReservation, Option<ReclaimGuard>)>,
}

impl Full {
    /// `below` says whether the caches are below the full query, where they could help; otherwise they are elsewhere.
    fn new(caches: usize, registered: bool, below: bool) -> Self {
        let root = trees::root_with("mimalloc", |builder| builder.limit(1024 * MIB));
        let query = root.child("query").limit(MIB).build().expect("it is open");
        let parent = trees::below(if below { &query } else { &root }, 3);
        let caches = (0..caches).map(|_| {
            let cache = trees::below(&parent, 1);
            let mut held = cache.new_reservation();
            held.add(64).expect("it fits");
            let guard = registered.then(|| cache.on_shortage(Cost::Drop, Keeps));
            (held, guard)
        });
        let caches: Vec<_> = caches.collect();
        let mut held = query.new_reservation();
        held.add(MIB - query.allocated_memory()).expect("it fits");
        Self {
            query: trees::below(&query, 1),
            _held: held,
            _caches: caches,
        }
    }
}

/// A request for 4 KiB that is refused.
pub(crate) fn run(settings: &Settings) {
    let cases = [
        ("nobody registered", Full::new(1, false, false)),
        (
            "10,000 allocators below, nobody registered",
            Full::new(10_000, false, true),
        ),
        ("1 registration elsewhere", Full::new(1, true, false)),
        (
            "10,000 registrations elsewhere",
            Full::new(10_000, true, false),
        ),
        ("1 registration below", Full::new(1, true, true)),
        ("100 registrations below", Full::new(100, true, true)),
        ("10,000 registrations below", Full::new(10_000, true, true)),
    ];
    for (name, full) in &cases {
        let mut group = Group::new();
        group.add(*name, || assert!(full.query.buffer(4 * KIB).is_err()));
        let measured = group.measure(settings);
        println!("| a refused request, {name} | {} ns |", measured.time(name));
    }
}
