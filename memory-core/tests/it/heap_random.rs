//! Random charges and releases of the program's heap beside those of allocators with limits and reservations, against a
//! naive tree.

use std::mem;

use arrow_memory_core::__private::heap::Heap;
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};

use crate::heap::{Block, block};
use crate::support::child;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// An allocator, its scopes with their blocks, and what is charged to it besides.
struct Query {
    allocator: BufferAllocator,
    limit: usize,
    reservation: usize,
    external: usize,
    buffers: Vec<ArrowBuf>,
    scopes: [(Heap, Vec<(Block, usize)>); 2],
}

impl Query {
    fn new(root: &BufferAllocator, limit: usize, reservation: usize) -> Self {
        let builder = root.child("query").limit(limit).reservation(reservation);
        let allocator = builder.build().unwrap();
        Self {
            scopes: [(); 2].map(|()| (Heap::open(&allocator).unwrap(), Vec::new())),
            allocator,
            limit,
            reservation,
            external: 0,
            buffers: Vec::new(),
        }
    }

    fn used(&self) -> usize {
        let blocks = self.scopes.iter().flat_map(|(_, blocks)| blocks);
        let buffers = self
            .buffers
            .iter()
            .map(ArrowBuf::accounted_size)
            .sum::<usize>();
        self.external + buffers + blocks.map(|(_, size)| size).sum::<usize>()
    }

    fn obtained(&self) -> usize {
        self.used().max(self.reservation)
    }
}

struct World {
    root: BufferAllocator,
    limit: usize,
    queries: Vec<Query>,
    retained: Vec<(Block, usize)>,
    random: Random,
}

impl World {
    fn used(&self) -> usize {
        let queries: usize = self.queries.iter().map(Query::obtained).sum();
        queries + self.retained.iter().map(|(_, size)| size).sum::<usize>()
    }

    fn size(&mut self) -> usize {
        let most = [600, 2000, 20_000, 200_000][self.random.below(4)];
        1 + self.random.below(most)
    }

    /// Charges external bytes, and expects them to be refused exactly if they do not fit.
    fn charge(&mut self, at: usize) {
        let size = self.size();
        let fits = self.fits(&self.queries[at], size);

        let query = &mut self.queries[at];
        let granted = query.allocator.allocate_bytes(size).is_ok();

        assert_eq!(granted, fits, "{size} bytes");
        query.external += if granted { size } else { 0 };
    }

    /// Whether `size` bytes more fit at a query.
    fn fits(&self, query: &Query, size: usize) -> bool {
        let grows = (query.used() + size).saturating_sub(query.obtained());
        let fits = grows == 0 || self.used() + grows <= self.limit;
        query.used() + size <= query.limit && fits
    }

    /// Charges a buffer, and expects it to be refused exactly if it does not fit.
    fn allocate(&mut self, at: usize) {
        let size = 4096 << self.random.below(6);
        let fits = self.fits(&self.queries[at], size);

        let buffer = self.queries[at].allocator.buffer(size);

        assert_eq!(buffer.is_ok(), fits);
        self.queries[at].buffers.extend(buffer.map(|buffer| {
            let buffer = buffer.freeze();
            assert_eq!(buffer.accounted_size(), size);
            buffer
        }));
    }

    /// Moves a buffer to another query, by force or if it fits.
    fn transfer(&mut self, from: usize, to: usize) {
        let Some(buffer) = self.queries[from].buffers.pop().filter(|_| from != to) else {
            return;
        };
        let size = buffer.accounted_size();
        // As if it were dropped already.
        let fits = self.fits(&self.queries[to], size);
        let target = self.queries[to].allocator.clone();
        if self.random.below(2) == 0 {
            match buffer.try_transfer_ownership(&target) {
                Ok(moved) => {
                    assert!(fits);
                    self.queries[to].buffers.push(moved);
                }
                Err(_) => {
                    assert!(!fits);
                    self.queries[from].buffers.push(buffer);
                }
            }
            return;
        }
        let moved = buffer.transfer_ownership(&target).unwrap();
        self.queries[to].buffers.push(moved.buffer);
        let query = &self.queries[to];
        let reaches = size.min(query.used().saturating_sub(query.reservation)) > 0;
        let over = query.used() > query.limit || reaches && self.used() > self.limit;
        assert_eq!(moved.allocation_fit, !over);
    }

    /// Changes a reservation, which is refused exactly if more does not fit or a level is over its limit.
    fn reserve(&mut self, at: usize) {
        let bytes = self.random.below(800_000);
        let query = &self.queries[at];
        let grows = bytes.saturating_sub(query.obtained());
        let over = query.used() > query.limit || self.used() > self.limit;
        let fits =
            bytes <= query.limit && !over && (grows == 0 || self.used() + grows <= self.limit);

        let set = query.allocator.set_reservation(bytes).is_ok();

        assert_eq!(set, fits || bytes <= query.reservation);
        if set {
            self.queries[at].reservation = bytes;
        }
    }

    /// Charges external bytes by force, and expects to hear whether a level is over its limit.
    fn force(&mut self, at: usize) {
        let size = self.size();
        let fits = self.fits(&self.queries[at], size);

        let fitted = self.queries[at].allocator.force_allocate(size);

        assert_eq!(fitted, fits);
        self.queries[at].external += size;
    }

    fn step(&mut self) {
        let (at, scope) = (self.random.below(self.queries.len()), self.random.below(2));
        match self.random.below(44) {
            0..14 => {
                let size = self.size();
                let (heap, blocks) = &mut self.queries[at].scopes[scope];
                blocks.push((block(heap, size), size));
            }
            14..28 => {
                let blocks = &mut self.queries[at].scopes[scope].1;
                if !blocks.is_empty() {
                    blocks.swap_remove(self.random.below(blocks.len()));
                }
            }
            28..33 => self.charge(at),
            33 => {
                let query = &mut self.queries[at];
                let size = self.random.below(query.external + 1);
                query.allocator.release_bytes(size);
                query.external -= size;
            }
            34 => {
                self.limit = 1_000_000 + self.random.below(2_000_000);
                self.root.set_limit(self.limit);
            }
            35 => {
                let query = &mut self.queries[at];
                let heap = Heap::open(&query.allocator).unwrap();
                let (ended, blocks) = mem::replace(&mut query.scopes[scope], (heap, Vec::new()));
                drop(ended);
                self.retained.extend(blocks);
            }
            36 if !self.retained.is_empty() => {
                self.retained
                    .swap_remove(self.random.below(self.retained.len()));
            }
            37 => {
                let query = &self.queries[at];
                assert_eq!(query.allocator.allocated_memory(), query.used());
            }
            38 => {
                let limit = 300_000 + self.random.below(1_000_000);
                let query = Query::new(&self.root, limit, 0);
                let ended = mem::replace(&mut self.queries[at], query);
                ended.allocator.release_bytes(ended.external);
                drop(ended.buffers);
                if self.random.below(2) == 0 {
                    ended.allocator.close().unwrap();
                }
                let [a, b] = ended.scopes;
                drop((a.0, b.0));
                self.retained.extend(a.1.into_iter().chain(b.1));
            }
            39 => self.reserve(at),
            40 => self.force(at),
            41 => self.allocate(at),
            42 => {
                let to = self.random.below(self.queries.len());
                self.transfer(at, to);
            }
            _ => assert_eq!(self.root.allocated_memory(), self.used()),
        }
    }
}

fn run(seed: u64, credit: usize, steps: usize) {
    let limit = 2_000_000;
    let root: BufferAllocator = RootAllocator::builder()
        .credit(credit)
        .limit(limit)
        .build()
        .unwrap()
        .into();
    let mut world = World {
        queries: [(600_000, 0), (900_000, 300_000), (usize::MAX >> 1, 100_000)]
            .map(|(limit, reservation)| Query::new(&root, limit, reservation))
            .into(),
        limit,
        retained: Vec::new(),
        random: Random(seed),
        root,
    };
    for step in 0..steps {
        world.step();
        if step % 7 == 0 {
            world.root.verify().unwrap();
        }
    }
    let root = world.root.clone();
    drop(world);
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn heap_and_allocators_share_limits_to_the_byte() {
    for seed in (1..60).map(|seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        run(seed, 1 << 20, 4000);
        run(seed, 1000, 1000);
        run(seed, 0, 1000);
    }
}

#[test]
fn a_scope_over_the_limit_works_without_the_mutex() {
    let root: BufferAllocator = RootAllocator::new(1 << 20).into();
    let query = child(&root, "query");
    let heap = Heap::open(&query).unwrap();
    let _over = block(&heap, 2 << 20);
    let _first = block(&heap, 1000);
    let account = heap.account();

    let mut fast = 0;
    for _ in 0..1000 {
        if account.take(1000) {
            fast += 1;
            drop(Block::charged(&heap, 1000));
        } else {
            drop(block(&heap, 1000));
        }
    }

    assert!(fast > 990, "{fast}");
    assert!(query.buffer(64).is_err());
    assert_eq!(root.allocated_memory(), (2 << 20) + 1000);
    root.verify().unwrap();
}
