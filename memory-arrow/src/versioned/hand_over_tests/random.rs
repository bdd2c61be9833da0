//! Random hand-overs of batches that share buffers, beside a naive model.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_system as _;
use proptest::prelude::*;

use super::super::Accounted;
use super::super::deps::arrow_array::*;
use super::child;
use crate::hand_over::HandOver;

/// The number of allocators, of which the last ones have limits.
const ALLOCATORS: usize = 4;
const LIMITS: [usize; ALLOCATORS] = [usize::MAX, usize::MAX, 1200, 700];

/// The number of arrays, each of which has an allocation of its own.
const ARRAYS: usize = 5;

/// An allocation as the model sees it.
#[derive(Clone, Default)]
struct Allocation {
    size: usize,
    /// The allocators that have buffers on it, by the time of association, and how many those are.
    ledgers: Vec<(usize, usize)>,
    /// Who is charged.
    owner: Option<usize>,
}

/// A buffer: an allocation, and the allocator whose ledger it holds, if any.
type Held = Rc<(usize, Option<usize>)>;

struct Value {
    batch: RecordBatch,
    held: Vec<Held>,
}

struct Both {
    root: RootAllocator,
    allocators: Vec<BufferAllocator>,
    /// Arrays that nobody is charged for.
    arrays: Vec<ArrayRef>,
    allocations: Vec<Allocation>,
    values: Vec<Value>,
}

impl Both {
    fn new() -> Self {
        let root = RootAllocator::unlimited();
        let allocators: Vec<_> = (0..ALLOCATORS)
            .map(|at| child(&root, &format!("{at}")))
            .collect();
        for (allocator, limit) in allocators.iter().zip(LIMITS) {
            allocator.set_limit(limit);
        }
        let sizes: Vec<_> = (0..ARRAYS).map(|at| 80 + 160 * at).collect();
        let array = |&size: &usize| {
            let mut values = Vec::with_capacity(size / 8);
            values.resize(10, 7_i64);
            Arc::new(Int64Array::from(values)) as ArrayRef
        };
        Self {
            root,
            allocators,
            arrays: sizes.iter().map(array).collect(),
            allocations: sizes
                .iter()
                .map(|&size| Allocation {
                    size,
                    ..Allocation::default()
                })
                .collect(),
            values: Vec::new(),
        }
    }

    fn start(&self, allocation: usize) -> NonNull<u8> {
        self.arrays[allocation].to_data().buffers()[0].data_ptr()
    }

    /// A batch of some of the arrays that nobody is charged for.
    fn make(&mut self, which: u32) {
        let some: Vec<_> = (0..ARRAYS).filter(|at| which >> at & 1 == 1).collect();
        self.keep(
            some.iter().map(|&at| self.arrays[at].clone()).collect(),
            some.into_iter().map(|at| Rc::new((at, None))).collect(),
        );
    }

    /// A batch of the columns of two others, or of slices of them.
    fn join(&mut self, one: usize, two: usize, slice: bool) {
        let columns = [one, two].map(|at| self.values[at].batch.columns().to_vec());
        let columns = columns.concat().into_iter();
        let columns = columns.map(|it| {
            if slice {
                it.slice(it.len() / 2, it.len().div_ceil(2))
            } else {
                it
            }
        });
        let held = [one, two].map(|at| self.values[at].held.clone()).concat();
        if self.values[one].batch.num_rows() == self.values[two].batch.num_rows() {
            let columns: Vec<_> = columns.collect();
            if columns.iter().all(|it| !it.is_empty()) {
                self.keep(columns, held);
            }
        }
    }

    fn keep(&mut self, columns: Vec<ArrayRef>, held: Vec<Held>) {
        if columns.is_empty() {
            return;
        }
        let named = columns.into_iter().enumerate();
        let named = named.map(|(at, column)| (format!("{at}"), column));
        let batch = RecordBatch::try_from_iter(named).unwrap();
        self.values.push(Value { batch, held });
    }

    fn hand_over(&mut self, value: usize, [from, to]: [usize; 2], forced: bool, except: u32) {
        let Value { batch, held } = self.values.swap_remove(value);
        let distinct: BTreeSet<_> = held.iter().map(|it| it.0).collect();
        let left = |at: &usize| except >> at & 1 == 1;
        let gained: usize = distinct
            .iter()
            .filter(|at| !left(at))
            .map(|&at| &self.allocations[at])
            .filter(|it| it.owner.is_none() || (it.owner == Some(from) && from != to))
            .map(|it| it.size)
            .sum();
        let fits = gained == 0 || self.charged(to) + gained <= LIMITS[to];
        let starts: Vec<_> = (0..ARRAYS).filter(left).map(|at| self.start(at)).collect();
        let leave = |start| starts.contains(&start);
        let allocators = [from, to].map(|at| self.allocators[at].clone());
        let by = HandOver::new(&allocators[0], &allocators[1]).except(&leave);

        let handed = batch.hand_over(&if forced { by.forced() } else { by });

        match handed {
            Err(refused) => {
                assert!(!forced && !fits, "{refused}");
                self.values.push(Value {
                    batch: refused.value,
                    held,
                });
            }
            Ok(handed) => {
                assert!((forced || fits) && handed.allocation_fit == fits);
                let mut new = Vec::new();
                for at in distinct {
                    if left(&at) {
                        new.extend(held.iter().find(|it| it.0 == at).cloned());
                        continue;
                    }
                    let allocation = &mut self.allocations[at];
                    if allocation.owner.is_none_or(|owner| owner == from) {
                        allocation.owner = Some(to);
                    }
                    let ledgers = &mut allocation.ledgers;
                    match ledgers.iter_mut().find(|(of, _)| *of == to) {
                        Some((_, buffers)) => *buffers += 1,
                        None => ledgers.push((to, 1)),
                    }
                    new.push(Rc::new((at, Some(to))));
                }
                let columns = held.iter().map(|it| {
                    let new = new.iter().find(|new| new.0 == it.0).unwrap();
                    if left(&it.0) { it.clone() } else { new.clone() }
                });
                let columns = columns.collect();
                drop(new);
                self.values.push(Value {
                    batch: handed.value,
                    held: columns,
                });
                self.release(held);
            }
        }
    }

    fn drop_one(&mut self, value: usize) {
        let Value { batch, held } = self.values.swap_remove(value);
        drop(batch);
        self.release(held);
    }

    /// What the model does at the drop of buffers.
    fn release(&mut self, held: Vec<Held>) {
        for held in held {
            let Some((at, Some(of))) = Rc::into_inner(held) else {
                continue;
            };
            let allocation = &mut self.allocations[at];
            let ledgers = &mut allocation.ledgers;
            let ledger = ledgers.iter().position(|ledger| ledger.0 == of).unwrap();
            ledgers[ledger].1 -= 1;
            if ledgers[ledger].1 == 0 {
                ledgers.remove(ledger);
                if allocation.owner == Some(of) {
                    allocation.owner = ledgers.first().map(|&(next, _)| next);
                }
            }
        }
    }

    fn charged(&self, allocator: usize) -> usize {
        let owned = self
            .allocations
            .iter()
            .filter(|it| it.owner == Some(allocator));
        owned.map(|it| it.size).sum()
    }

    fn compare(&self) {
        let found: Vec<_> = self
            .allocators
            .iter()
            .map(|it| it.allocated_memory())
            .collect();
        let expected: Vec<_> = (0..ALLOCATORS).map(|at| self.charged(at)).collect();
        assert_eq!(found, expected);
        assert_eq!(self.root.allocated_memory(), expected.iter().sum());
        self.root.verify().unwrap();
    }

    fn step(&mut self, [kind, a, b, c]: [u32; 4]) {
        let pick = |number: u32| number as usize % self.values.len().max(1);
        let (one, two) = (pick(a), pick(b));
        let allocators = [a >> 16, b >> 16].map(|it| it as usize % ALLOCATORS);
        match kind % 10 {
            0 | 1 => self.make(a),
            _ if self.values.is_empty() => {}
            2 => self.join(one, two, c.is_multiple_of(3)),
            3 => self.drop_one(one),
            kind => self.hand_over(one, allocators, kind.is_multiple_of(2), b & c),
        }
        self.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn random_hand_overs_agree_with_the_model(
        steps in proptest::collection::vec(any::<[u32; 4]>(), 40),
    ) {
        let mut both = Both::new();
        for step in steps {
            both.step(step);
        }
        while !both.values.is_empty() {
            both.drop_one(0);
            both.compare();
        }
        prop_assert_eq!(both.root.allocated_memory(), 0);
        for allocator in &both.allocators {
            allocator.close().unwrap();
        }
    }
}
