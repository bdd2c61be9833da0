//! Collections in the tree's memory.

use allocator_api2::vec::Vec;
use arrow_memory_core::{AccountedVec, TreeAllocator};

use crate::state::{Charges, State, digest};
use crate::sweep::{Operation, op};
use crate::world::World;

pub(crate) const OPERATIONS: &[Operation] = &[
    op("AccountedVec::with_capacity", |w| {
        w.act(&mut (), |()| {
            AccountedVec::<u64>::with_capacity(&w.leaf, 100)
        });
    }),
    op("AccountedVec::reserve", |w| {
        let mut values = values(w);
        w.act(&mut values, |it| it.reserve(100));
    }),
    op("AccountedVec::reserve when memory is short", |w| {
        let mut values = values(w);
        w.fill_cache();
        w.act(&mut values, |it| it.reserve(1000));
    }),
    op("AccountedVec::reserve_exact", |w| {
        let mut values = values(w);
        w.act(&mut values, |it| it.reserve_exact(100));
    }),
    op("AccountedVec::push", |w| {
        let mut values = values(w);
        w.act(&mut values, |it| it.push(1));
    }),
    op("AccountedVec::extend_from_slice", |w| {
        let mut values = values(w);
        w.act(&mut values, |it| it.extend_from_slice(&[1; 100]));
    }),
    op("AccountedVec::try_extend", |w| {
        let mut values = values(w);
        w.act(&mut values, |it| it.try_extend(0..100));
    }),
    op("AccountedVec::drop", |w| {
        let mut values = Some(values(w));
        w.act_quietly(&mut values, |it| drop(it.take()));
    }),
    op("TreeAllocator::check", |w| {
        let allocator = TreeAllocator::new(&w.leaf);
        let layout = std::alloc::Layout::new::<[u64; 100]>();
        w.act(&mut (), |()| allocator.check(layout));
    }),
    op("TreeAllocator::allocate", |w| {
        let mut values = Values(Vec::new_in(TreeAllocator::new(&w.leaf)));
        w.act(&mut values, |it| it.0.try_reserve_exact(100));
    }),
    op("TreeAllocator::grow", |w| {
        let mut values = tree_values(w);
        w.act(&mut values, |it| it.0.try_reserve_exact(1000));
    }),
    op("TreeAllocator::grow when memory is short", |w| {
        let mut values = tree_values(w);
        w.fill_cache();
        w.act(&mut values, |it| it.0.try_reserve_exact(1000));
    }),
    op("TreeAllocator::deallocate", |w| {
        let mut values = Some(tree_values(w));
        w.act_quietly(&mut values, |it| drop(it.take()));
    }),
];

fn values(w: &World) -> AccountedVec<u64> {
    let mut values = AccountedVec::with_capacity(&w.leaf, 8).unwrap();
    values.extend_from_slice(&[7; 8]).unwrap();
    values
}

fn tree_values(w: &World) -> Values {
    let mut values = Vec::new_in(TreeAllocator::new(&w.leaf));
    values.try_reserve_exact(8).unwrap();
    values.extend_from_slice(&[7; 8]);
    Values(values)
}

/// A vector that asks the tree as any collection does.
struct Values(Vec<u64, TreeAllocator>);

impl State for Values {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes((self.0.capacity() * 8).next_multiple_of(64));
    }

    fn describe(&self) -> String {
        format!("{} {} {}", self.0.len(), self.0.capacity(), digest(&self.0))
    }
}
