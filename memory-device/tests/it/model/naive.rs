//! The naive model: what two trees hold, computed from scratch after each operation.

/// The capacity of a buffer of that length.
pub(super) fn capacity(len: usize) -> usize {
    len.next_multiple_of(64)
}

/// An allocator: 0 to 2 are a root of the host and its two children, 3 to 5 those of the device.
pub(super) type At = usize;

pub(super) const ALLOCATORS: usize = 6;

pub(super) fn root_of(at: At) -> At {
    at / 3 * 3
}

pub(super) fn is_host(at: At) -> bool {
    at < 3
}

/// An allocation of one of the trees: a block, or a view of another one's.
#[derive(Clone, Debug)]
struct Allocation {
    charge: usize,
    /// The allocators that have buffers on it, and how many, in the order in which they came. `owner` is among them.
    ledgers: Vec<(At, usize)>,
    owner: At,
    /// What a view keeps.
    source: Option<Handle>,
}

/// A buffer: its allocation, and the allocator of its ledger.
pub(super) type Handle = (usize, At);

#[derive(Clone, Debug)]
pub(super) struct Model {
    allocations: Vec<Option<Allocation>>,
    pub(super) limits: [usize; ALLOCATORS],
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            allocations: Vec::new(),
            limits: [usize::MAX; ALLOCATORS],
        }
    }

    fn get(&self, id: usize) -> &Allocation {
        self.allocations[id].as_ref().unwrap()
    }

    fn get_mut(&mut self, id: usize) -> &mut Allocation {
        self.allocations[id].as_mut().unwrap()
    }

    /// What an allocator has allocated, with those below it.
    pub(super) fn allocated(&self, at: At) -> usize {
        let below = |owner: At| owner == at || (root_of(owner) == at && at == root_of(at));
        let live = self.allocations.iter().flatten();
        live.filter(|a| below(a.owner)).map(|a| a.charge).sum()
    }

    /// Whether so many bytes more fit in an allocator and its root.
    fn fits(&self, at: At, bytes: usize) -> bool {
        [at, root_of(at)]
            .iter()
            .all(|&level| self.allocated(level).checked_add(bytes).unwrap() <= self.limits[level])
    }

    fn add(&mut self, at: At, charge: usize, source: Option<Handle>) -> Option<Handle> {
        if !self.fits(at, charge) {
            return None;
        }
        if let Some(source) = source {
            self.clone_handle(source);
        }
        self.allocations.push(Some(Allocation {
            charge,
            ledgers: vec![(at, 1)],
            owner: at,
            source,
        }));
        Some((self.allocations.len() - 1, at))
    }

    pub(super) fn allocate(&mut self, at: At, len: usize) -> Option<Handle> {
        self.add(at, capacity(len), None)
    }

    /// A view from another tree.
    pub(super) fn view(&mut self, source: Handle, at: At) -> Option<Handle> {
        assert_ne!(root_of(source.1), root_of(at));
        self.add(at, 1, Some(source))
    }

    pub(super) fn clone_handle(&mut self, (id, at): Handle) -> Handle {
        let ledgers = &mut self.get_mut(id).ledgers;
        match ledgers.iter_mut().find(|(ledger, _)| *ledger == at) {
            Some((_, count)) => *count += 1,
            None => ledgers.push((at, 1)),
        }
        (id, at)
    }

    pub(super) fn retain(&mut self, (id, from): Handle, at: At) -> Handle {
        assert_eq!(root_of(from), root_of(at));
        self.clone_handle((id, at))
    }

    /// A transfer, and whether it fits; `None` if it is refused since it does not and is not forced.
    pub(super) fn transfer(
        &mut self,
        from: Handle,
        at: At,
        forced: bool,
    ) -> Option<(Handle, bool)> {
        let (id, ledger) = from;
        let (owner, charge) = (self.get(id).owner, self.get(id).charge);
        let moves = owner == ledger && owner != at;
        // No level from the target up may be over its limit afterwards. The sum of the root, which is above both, stays.
        let root = root_of(at);
        let added = if at == root { 0 } else { charge };
        let fits = !moves
            || self.allocated(at) + added <= self.limits[at]
                && self.allocated(root) <= self.limits[root];
        if !fits && !forced {
            return None;
        }
        let handle = self.retain(from, at);
        if moves {
            self.get_mut(id).owner = at;
        }
        Some((handle, fits))
    }

    pub(super) fn release(&mut self, (id, at): Handle) {
        let allocation = self.get_mut(id);
        let index = allocation
            .ledgers
            .iter()
            .position(|(ledger, _)| *ledger == at)
            .unwrap();
        allocation.ledgers[index].1 -= 1;
        if allocation.ledgers[index].1 > 0 {
            return;
        }
        allocation.ledgers.remove(index);
        match allocation.ledgers.first() {
            Some(&(oldest, _)) if allocation.owner == at => allocation.owner = oldest,
            Some(_) => {}
            None => {
                let source = allocation.source;
                self.allocations[id] = None;
                if let Some(source) = source {
                    self.release(source);
                }
            }
        }
    }

    /// How many buffers share a handle's ledger.
    pub(super) fn ref_count(&self, (id, at): Handle) -> usize {
        let ledgers = &self.get(id).ledgers;
        ledgers.iter().find(|(ledger, _)| *ledger == at).unwrap().1
    }
}
