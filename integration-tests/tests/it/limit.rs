//! Many threads at a tight limit: nothing passes it, and nothing that fits is refused.
//!
//! Every call is noted with the ticks around it and judged afterwards, see
//! [`arrow_memory_integration_tests::history`]; the manager counts the bytes of live blocks as they
//! come and go.
//!
//! That these tests can fail was tried, with one change of the accounting at a time:
//!
//! | change | what was noticed |
//! |---|---|
//! | a request is refused without recalling credit first | a refusal of what fitted throughout |
//! | bytes are given back to a shut word | the same; and sums that do not add up at the end |
//! | one in a thousand releases gives nothing back | the same; and a tree that cannot be closed |
//! | credit is taken by a load and a store | more bytes released than were charged |
//! | recall folds a node's credit before all below are stopped | a refusal of what fitted throughout |
//! | credit below a tight level is kept as elsewhere | the same |
//! | credit is handed out beyond the limit | a peak above the limit; live bytes above it |
//! | a charge goes before its block | live bytes above the limit |
//! | a child is opened below a tight parent | the tree's own assertions |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use arrow_memory_core::{
    AllocError, AllocationManager, AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator,
    RootAllocator,
};
use arrow_memory_integration_tests::for_every_backend;
use arrow_memory_integration_tests::history::{
    History, Level, Log, OpenCharge, OpenLevel, Span, Summary,
};
use arrow_memory_integration_tests::managers::TrackingManager;

type Backend = Arc<dyn AllocationManager>;

/// Of the root, in bytes.
const LIMIT: usize = 48 * 1024;

/// On two cores, enough to be interrupted in the middle of anything.
const THREADS: u64 = 4;

/// What each thread does, per run.
const STEPS: usize = 10_000;

for_every_backend!(
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_the_default_credit,
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_without_credit,
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_little_credit,
    whoever_looks_on_sees_no_level_above_its_limit,
    levels_that_many_threads_fought_for_keep_their_limits,
    a_client_that_keeps_asking_too_much_refuses_nobody_else,
);

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_the_default_credit(
    backend: &Backend,
) {
    for seed in 1..4 {
        contend(backend, None, seed, Onlooker::No);
    }
}

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_without_credit(backend: &Backend) {
    contend(backend, Some(0), 4, Onlooker::No);
}

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_little_credit(
    backend: &Backend,
) {
    contend(backend, Some(1500), 5, Onlooker::No);
}

fn whoever_looks_on_sees_no_level_above_its_limit(backend: &Backend) {
    contend(backend, None, 6, Onlooker::Yes);
}

/// A node on which threads collide often may serve them in another way from then on.
fn levels_that_many_threads_fought_for_keep_their_limits(backend: &Backend) {
    let fight = |levels: &[Node]| {
        for level in [8, 2, 0] {
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    // All of them fit at once, so that all is done without the tree's lock.
                    scope.spawn(move || {
                        for _ in 0..50_000 {
                            drop(levels[level].allocator.buffer(64).unwrap());
                        }
                    });
                }
            });
        }
    };
    contend_after(backend, None, 7, Onlooker::No, fight);
}

fn a_client_that_keeps_asking_too_much_refuses_nobody_else(backend: &Backend) {
    let root = RootAllocator::builder()
        .limit(LIMIT)
        .allocation_manager(Arc::clone(backend))
        .build()
        .unwrap();
    let modest = root.child("modest").build().unwrap();
    let greedy = root.child("greedy").build().unwrap();
    let _held = greedy.buffer(LIMIT / 4).unwrap();
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: only the flag matters.
            while !done.load(Ordering::Relaxed) {
                greedy.buffer(LIMIT * 3 / 4 + 1).unwrap_err();
            }
        });
        let workers = [1, 2].map(|seed| {
            let modest = &modest;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut held: Vec<ArrowBufMut> = Vec::new();
                for _ in 0..4 * STEPS {
                    // Six buffers of at most a sixteenth, on two threads, and the quarter: fits.
                    if held.len() == 6 {
                        held.swap_remove(random.below(6));
                    }
                    held.push(modest.buffer(1 + random.below(LIMIT / 16)).unwrap());
                }
            })
        });
        let results = workers.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onlooker {
    Yes,
    No,
}

fn contend(backend: &Backend, credit: Option<usize>, seed: u64, onlooker: Onlooker) {
    contend_after(backend, credit, seed, onlooker, |_| ());
}

/// Threads that do everything that keeps within limits, at random levels of one tree, after
/// `first`.
fn contend_after(
    backend: &Backend,
    credit: Option<usize>,
    seed: u64,
    onlooker: Onlooker,
    first: impl FnOnce(&[Node]),
) {
    let manager = TrackingManager::yielding(backend);
    let history = History::default();
    let mut log = Log::default();
    let levels = tree(&manager, credit, &history);
    first(&levels);
    let shared = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    let start = Barrier::new(usize::try_from(THREADS).unwrap());

    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (levels, history, shared, start) = (&levels, &history, &shared, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut worker = Worker::new(levels, history, shared, seed * 100 + thread);
                    worker.work();
                })
            })
            .collect();
        if onlooker == Onlooker::Yes {
            scope.spawn(|| {
                // Relaxed: only the flag matters.
                while !done.load(Ordering::Relaxed) {
                    look(&levels);
                }
            });
        }
        let results: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });

    let rest = shared.into_inner().unwrap();
    rest.into_iter()
        .for_each(|held| release(held, &history, &mut log));
    finish(levels, &history, &mut log);
    history.add(log);
    assert!(
        manager.most() <= LIMIT,
        "{} bytes were live",
        manager.most()
    );
    assert_eq!(manager.live(), 0);
    let Summary {
        granted,
        refused,
        undisturbed,
    } = history
        .judge()
        .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    assert!(
        granted > STEPS && refused > STEPS / 4,
        "{granted} granted, {refused} refused"
    );
    println!("{granted} granted, {refused} refused, of which {undisturbed} undisturbed");
}

/// One level of the tree on which all threads work.
struct Node {
    allocator: BufferAllocator,
    open: OpenLevel,
}

/// The root, two branches and a chain; some of it reserved, most of it over-committed.
fn tree(manager: &Arc<TrackingManager>, credit: Option<usize>, history: &History) -> Vec<Node> {
    const KIB: usize = 1024;
    let (root, span) = history.timed(|| {
        let mut builder = RootAllocator::builder()
            .limit(LIMIT)
            .allocation_manager(Arc::clone(manager) as Arc<dyn AllocationManager>);
        if let Some(credit) = credit {
            builder = builder.credit(credit);
        }
        BufferAllocator::from(builder.build().unwrap())
    });
    let open = history.level(None, 0, LIMIT, span);
    let mut nodes = vec![Node {
        allocator: root,
        open,
    }];
    let children = [
        // parent, reservation, limit
        (0, 0, 30 * KIB),
        (0, 12 * KIB, 24 * KIB),
        (1, 5 * KIB, 16 * KIB + 1),
        (1, 0, usize::MAX),
        (2, 7 * KIB, 20 * KIB),
        (4, 0, usize::MAX),
        (6, 3 * KIB, usize::MAX),
        (7, 0, 25 * KIB),
    ];
    for (index, (parent, reservation, limit)) in children.into_iter().enumerate() {
        let at: &Node = &nodes[parent];
        let (child, span) = history.timed(|| {
            at.allocator
                .new_child_allocator(&format!("level {}", index + 1), reservation, limit)
                .unwrap()
        });
        let open = history.level(Some(at.open.level), reservation, limit, span);
        nodes.push(Node {
            allocator: child,
            open,
        });
    }
    nodes
}

/// Reads whatever can be read while others work.
fn look(levels: &[Node]) {
    for node in levels {
        let it = &node.allocator;
        let (allocated, limit) = (it.allocated_memory(), it.limit());
        assert!(
            allocated <= limit,
            "`{}`: {allocated} of {limit}",
            it.name()
        );
        assert!(it.headroom() >= 0, "`{}`", it.name());
        assert!(!it.is_over_limit(), "`{}`", it.name());
        assert!(it.peak_memory_allocation() <= limit, "`{}`", it.name());
    }
    assert_eq!(levels[0].allocator.verify(), Ok(()));
}

/// Closes the tree, from the leaves.
fn finish(levels: Vec<Node>, history: &History, log: &mut Log) {
    for node in &levels {
        let it = &node.allocator;
        let below = it.child_allocators();
        assert_eq!(it.allocated_memory(), below.iter().map(counted).sum());
        assert!(it.peak_memory_allocation() <= it.limit(), "`{}`", it.name());
    }
    assert_eq!(levels[0].allocator.verify(), Ok(()));
    for node in levels.into_iter().rev() {
        let (closed, span) = history.timed(|| node.allocator.close().is_ok());
        assert!(closed, "`{}`", node.allocator.name());
        log.removed(node.open, span);
    }
}

/// What a child counts for its parent.
fn counted(child: &BufferAllocator) -> usize {
    child.allocated_memory().max(child.init_reservation())
}

/// Something that is charged.
struct Held {
    what: Memory,
    charges: Vec<OpenCharge>,
    level: Place,
}

#[expect(dead_code, reason = "most are only held to be dropped")]
enum Memory {
    Writable(ArrowBufMut),
    Buffer(ArrowBuf),
    Reservation(AllocationReservation),
    External(BufferAllocator, usize),
    /// A child whose last handle this may be.
    Child(BufferAllocator),
}

/// Where something is charged.
#[derive(Clone)]
enum Place {
    Fixed(Level),
    /// A child of a thread's own, which leaves the tree when nothing holds it any more.
    Own(Arc<OwnLevel>),
}

struct OwnLevel {
    open: OpenLevel,
    left: Mutex<Option<Span>>,
}

impl Place {
    fn level(&self) -> Level {
        match self {
            Self::Fixed(level) => *level,
            Self::Own(own) => own.open.level,
        }
    }

    /// One of those that hold a level lets go.
    fn leave(self, span: Span, log: &mut Log) {
        if let Self::Own(own) = self {
            {
                let left = &mut *own.left.lock().unwrap();
                *left = Some(left.map_or(span, |earlier| earlier.last(span)));
            }
            if let Some(own) = Arc::into_inner(own) {
                let left = own.left.into_inner().unwrap();
                log.removed(own.open, left.expect("somebody left"));
            }
        }
    }
}

fn release(held: Held, history: &History, log: &mut Log) {
    let Held {
        what,
        charges,
        level,
    } = held;
    let ((), span) = history.timed(|| match what {
        Memory::External(allocator, bytes) => allocator.release_bytes(bytes),
        other => drop(other),
    });
    for charge in charges {
        log.ended(charge, span);
    }
    level.leave(span, log);
}

struct Worker<'a> {
    levels: &'a [Node],
    history: &'a History,
    /// Where threads leave buffers for others to release.
    shared: &'a Mutex<Vec<Held>>,
    held: Vec<Held>,
    log: Log,
    random: Random,
}

impl<'a> Worker<'a> {
    fn new(
        levels: &'a [Node],
        history: &'a History,
        shared: &'a Mutex<Vec<Held>>,
        seed: u64,
    ) -> Self {
        Self {
            levels,
            history,
            shared,
            held: Vec::new(),
            log: Log::default(),
            random: Random::new(seed),
        }
    }

    fn work(&mut self) {
        for _ in 0..STEPS {
            match self.random.below(20) {
                0..8 => self.allocate(),
                8 => self.allocate_bytes(),
                9 => self.reserve(),
                10 => self.grow(),
                11 => self.use_reservation(),
                12 => self.transfer(),
                13 => self.own_child(),
                14 => self.exchange(),
                _ => self.release_any(),
            }
            while self.held.len() > 10 {
                self.release_any();
            }
        }
        while !self.held.is_empty() {
            self.release_any();
        }
        self.history.add(std::mem::take(&mut self.log));
    }

    fn allocate(&mut self) {
        let (allocator, place) = self.place();
        let size = self.size(&allocator);
        self.buffer(&allocator, place, size);
    }

    fn buffer(&mut self, allocator: &BufferAllocator, place: Place, size: usize) {
        let (result, span) = self.history.timed(|| allocator.buffer(size));
        let capacity = size.next_multiple_of(64);
        if let Some(buffer) = self.outcome(result, &place, capacity, span) {
            assert_eq!(buffer.capacity(), capacity);
            let what = if self.random.below(2) == 0 {
                Memory::Writable(buffer)
            } else {
                Memory::Buffer(buffer.freeze())
            };
            self.hold(what, capacity, place, span);
        }
    }

    fn allocate_bytes(&mut self) {
        let (allocator, place) = self.place();
        let bytes = self.size(&allocator);
        let (result, span) = self.history.timed(|| allocator.allocate_bytes(bytes));
        if self.outcome(result, &place, bytes, span).is_some() {
            self.hold(Memory::External(allocator, bytes), bytes, place, span);
        }
    }

    fn reserve(&mut self) {
        let (allocator, place) = self.place();
        let bytes = self.size(&allocator);
        let mut reservation = allocator.new_reservation();
        let (result, span) = self.history.timed(|| reservation.add(bytes));
        if self.outcome(result, &place, bytes, span).is_some() {
            self.hold(Memory::Reservation(reservation), bytes, place, span);
        }
    }

    /// Makes a held buffer larger, by the least step that is charged.
    fn grow(&mut self) {
        let writable = |held: &Held| matches!(held.what, Memory::Writable(_));
        let Some(index) = self.held.iter().position(writable) else {
            return;
        };
        let mut held = self.held.swap_remove(index);
        if let Memory::Writable(buffer) = &mut held.what {
            let before = buffer.capacity();
            let length = before + 1 + self.random.below(1000);
            let (result, span) = self.history.timed(|| buffer.resize(length, 7));
            let after = buffer.capacity();
            let asked = length.next_multiple_of(64) - before;
            if self.outcome(result, &held.level, asked, span).is_some() {
                let level = held.level.level();
                held.charges
                    .push(self.log.granted(level, after - before, span));
            } else {
                assert_eq!(after, before, "a refused growth changes nothing");
            }
        }
        self.held.push(held);
    }

    fn use_reservation(&mut self) {
        let reservation = |held: &Held| matches!(held.what, Memory::Reservation(_));
        let Some(index) = self.held.iter().position(reservation) else {
            return;
        };
        let Held {
            what,
            mut charges,
            level,
        } = self.held.swap_remove(index);
        let Memory::Reservation(reservation) = what else {
            unreachable!("that is what was looked for");
        };
        let remainder = reservation.size().next_multiple_of(64) - reservation.size();
        let (result, span) = self.history.timed(|| reservation.allocate_buffer());
        let what = match result {
            Ok(buffer) => {
                charges.push(self.log.granted(level.level(), remainder, span));
                Memory::Writable(buffer)
            }
            Err((error, reservation)) => {
                let refused: Result<(), _> = Err(error);
                self.outcome(refused, &level, remainder, span);
                Memory::Reservation(reservation)
            }
        };
        self.held.push(Held {
            what,
            charges,
            level,
        });
    }

    /// Moves a buffer to another level, if it fits.
    fn transfer(&mut self) {
        let frozen = |held: &Held| matches!(held.what, Memory::Buffer(_));
        let Some(index) = self.held.iter().position(frozen) else {
            return;
        };
        let (target, place) = self.place();
        let Memory::Buffer(buffer) = &self.held[index].what else {
            unreachable!("that is what was looked for");
        };
        let (result, span) = self
            .history
            .timed(|| buffer.try_transfer_ownership(&target));
        let Ok(moved) = result else {
            return;
        };
        let bytes = moved.accounted_size();
        let source = self.held.swap_remove(index);
        let Held {
            what,
            charges,
            level,
        } = source;
        // In this tree a buffer has one ledger: the source's is gone with its handle.
        let ((), dropped) = self.history.timed(|| drop(what));
        for charge in charges {
            self.log.ended(charge, span);
        }
        level.leave(dropped, &mut self.log);
        self.hold(Memory::Buffer(moved), bytes, place, span);
    }

    /// A child with a reservation, which lives until its handle and its buffers are gone.
    fn own_child(&mut self) {
        let node = self.any_node();
        let (parent, level) = (node.allocator.clone(), node.open.level);
        let reservation = self.size(&parent);
        let limit = if self.random.below(2) == 0 {
            usize::MAX
        } else {
            reservation + self.random.below(4000)
        };
        let (result, span) = self
            .history
            .timed(|| parent.new_child_allocator("own", reservation, limit));
        let Some(child) = self.outcome(result, &Place::Fixed(level), reservation, span) else {
            return;
        };
        let open = self.history.level(Some(level), reservation, limit, span);
        let place = Place::Own(Arc::new(OwnLevel {
            open,
            left: Mutex::new(None),
        }));
        for _ in 0..self.random.below(4) {
            let size = self.size(&child);
            self.buffer(&child, place.clone(), size);
        }
        self.held.push(Held {
            what: Memory::Child(child),
            charges: Vec::new(),
            level: place,
        });
    }

    /// Leaves something for another thread to release, and takes something.
    fn exchange(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len());
        let given = self.held.swap_remove(index);
        let taken = {
            let shared = &mut *self.shared.lock().unwrap();
            shared.push(given);
            (shared.len() > 4).then(|| shared.remove(0))
        };
        self.held.extend(taken);
    }

    fn release_any(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len());
        let held = self.held.swap_remove(index);
        release(held, self.history, &mut self.log);
    }

    /// What was granted, or `None` after a refusal, which is noted.
    fn outcome<T>(
        &mut self,
        result: Result<T, AllocError>,
        place: &Place,
        bytes: usize,
        span: Span,
    ) -> Option<T> {
        match result {
            Ok(granted) => Some(granted),
            Err(AllocError::OutOfMemory { .. }) => {
                self.log.refused(place.level(), bytes, span);
                None
            }
            Err(other) => panic!("only limits refuse here: {other}"),
        }
    }

    fn hold(&mut self, what: Memory, bytes: usize, level: Place, made: Span) {
        let charge = self.log.granted(level.level(), bytes, made);
        self.held.push(Held {
            what,
            charges: vec![charge],
            level,
        });
    }

    fn any_node(&mut self) -> &'a Node {
        &self.levels[self.random.below(self.levels.len())]
    }

    fn place(&mut self) -> (BufferAllocator, Place) {
        let node = self.any_node();
        (node.allocator.clone(), Place::Fixed(node.open.level))
    }

    /// Often small, often about what is left, now and then hopeless.
    fn size(&mut self, allocator: &BufferAllocator) -> usize {
        let left = || usize::try_from(allocator.headroom()).unwrap_or(0);
        match self.random.below(16) {
            0 => left(),
            1 => left() / 2 + 1,
            2 => left() + 1 + self.random.below(200),
            3 => LIMIT + 1,
            4..8 => 1 + self.random.below(8000),
            _ => 1 + self.random.below(1500),
        }
        .max(1)
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits fit") % bound
    }
}
