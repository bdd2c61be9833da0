//! Where registrations are found in a tree, while they come and go and allocators leave.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arrow_memory_core::{
    AllocationReservation, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard, RootAllocator,
};
use arrow_memory_system as _;

use crate::reclaim::{Cache, LONG, Log, asked, balanced, child};

type Asked = Arc<Mutex<BTreeSet<usize>>>;
type Held = Arc<Mutex<Option<AllocationReservation>>>;

/// Notes that it was asked, and releases what its allocator holds.
struct Releases {
    number: usize,
    asked: Asked,
    held: Held,
}

impl Reclaim for Releases {
    fn reclaimable(&self) -> usize {
        64
    }

    fn reclaim(&self, _ask: Ask) {
        self.asked.lock().unwrap().insert(self.number);
        self.held.lock().unwrap().take();
    }
}

struct Member {
    allocator: BufferAllocator,
    parent: Option<usize>,
    held: Held,
    guards: Vec<ReclaimGuard>,
    closed: bool,
}

impl Member {
    fn new(allocator: BufferAllocator, parent: Option<usize>) -> Self {
        Self {
            held: Held::default(),
            allocator,
            parent,
            guards: Vec::new(),
            closed: false,
        }
    }
}

struct Family {
    members: Vec<Member>,
    asked: Asked,
}

impl Family {
    fn register(&mut self, number: usize) {
        let member = &mut self.members[number];
        let releases = Releases {
            number,
            asked: Arc::clone(&self.asked),
            held: Arc::clone(&member.held),
        };
        let guard = member.allocator.on_shortage(Cost::Drop, releases);
        member.guards.push(guard);
    }

    fn is_below(&self, number: usize, top: usize) -> bool {
        let mut at = Some(number);
        while let Some(number) = at {
            if number == top {
                return true;
            }
            at = self.members[number].parent;
        }
        false
    }

    /// Asks all below a member, and checks that those were asked below whom something is held.
    fn ask(&mut self, top: usize) {
        for number in 0..self.members.len() {
            // Nobody is left alone for having freed nothing.
            let guards = std::mem::take(&mut self.members[number].guards);
            guards.iter().for_each(|_| self.register(number));
            drop(guards);
            let member = &self.members[number];
            let mut held = member.held.lock().unwrap();
            if held.is_none() {
                // Refused where the allocator is closed.
                *held = member.allocator.wait().reserve(64).ok();
            }
        }
        let expected = (0..self.members.len()).filter(|&number| {
            let member = &self.members[number];
            let holds = (0..self.members.len()).any(|other| {
                self.is_below(other, number) && self.members[other].held.lock().unwrap().is_some()
            });
            !member.guards.is_empty() && holds && self.is_below(number, top)
        });
        let expected: BTreeSet<usize> = expected.collect();
        self.members[0].allocator.verify().unwrap();

        self.members[top].allocator.reclaim(usize::MAX);

        assert_eq!(std::mem::take(&mut *self.asked.lock().unwrap()), expected);
        self.members[0].allocator.verify().unwrap();
    }
}

#[test]
fn all_that_are_registered_at_or_below_an_allocator_are_found_and_no_others() {
    let root = RootAllocator::new(1 << 20);
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut family = Family {
            members: vec![Member::new(root.clone().into(), None)],
            asked: Asked::default(),
        };
        for step in 0..400 {
            let number = random.usize(..family.members.len());
            let closed = family.members[number].closed;
            match random.usize(..8) {
                0 | 1 if !closed => {
                    let parent = &family.members[number].allocator;
                    if let Ok(child) = parent.child(&format!("{step}")).build() {
                        family.members.push(Member::new(child, Some(number)));
                    }
                }
                2 | 3 => family.register(number),
                4 | 5 => drop(family.members[number].guards.pop()),
                6 if number > 0 && random.usize(..4) == 0 => {
                    let member = &mut family.members[number];
                    drop(member.allocator.close());
                    member.closed = true;
                }
                _ => family.ask(number),
            }
        }
        drop(family);
        balanced(&root);
    }
}

#[test]
fn an_admission_gives_its_child_the_priority() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let admitted = |name: &str, priority, bytes| {
        let admission = root.admit(name).priority(priority);
        Cache::new(admission.blocking(LONG).unwrap(), Cost::Drop, bytes, &log)
    };
    // With equal priorities the larger one would be asked first.
    let caches = [admitted("later", 1, 600), admitted("first", 0, 400)];
    let query = child(&root, "query");

    let held = query.wait().reserve(300).unwrap();

    assert_eq!(asked(&log), ["first"]);
    drop((held, query, caches));
    balanced(&root);
}
