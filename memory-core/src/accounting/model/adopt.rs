//! Races of adoptions of heap blocks with each other, with what ends them, and with the end of scope, query and block.
//!
//! A block is kept by a count of owners, as an array's memory is; whoever drops the last one frees it to the account that
//! its label names. It has a datum, which loom sees if the free of the block and a return of its bytes race.
//!
//! Each of these mutations makes some of them fail: bytes that are returned after the owner was dropped; an account of a
//! block that is given back when it has no bytes; a scope that ends without the accounts of blocks; a label that changes
//! without the bytes; two adoptions that both take all the bytes of a block; an adoption that returns bytes that another
//! one is charged for.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::heap::{allocate, free, open};
use super::{at_rest, check, child, root, uncharge};
use crate::accounting::handle::Handle;
use crate::accounting::heap::{HeapHandle, Label, Labels, Piece, return_to_heap};
use crate::sync::{AtomicUsize, Ordering};

/// The only block of a model, and its label.
struct Block {
    size: usize,
    label: AtomicUsize,
    owners: AtomicUsize,
    memory: UnsafeCell<usize>,
}

// SAFETY: the memory is touched by whoever returns bytes, one after another under the mutex, and by the last owner.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Labels for Block {
    fn find(&self, _: std::ptr::NonNull<u8>, _: usize) -> Option<Label> {
        None
    }

    fn id(&self, _: usize) -> u32 {
        // Acquire: as the trait asks.
        self.label.load(Ordering::Acquire) as u32
    }

    fn relabel(&self, _: usize, from: u32, to: u32) -> bool {
        // Release: as the trait asks.
        self.label
            .compare_exchange(
                from as usize,
                to as usize,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }
}

impl Block {
    /// A block of a scope with this many owners.
    fn new(heap: &HeapHandle, size: usize, owners: usize) -> Arc<Self> {
        assert!(allocate(heap.account(), size));
        Arc::new(Self {
            size,
            label: AtomicUsize::new(heap.account().id() as usize),
            owners: AtomicUsize::new(owners),
            memory: UnsafeCell::new(0),
        })
    }

    /// Adopts `bytes` of it for an owner of the block. `None`: refused. The answer is what moved from the heap.
    fn adopt(&self, to: &Handle, bytes: usize) -> Option<Piece> {
        let label = Label {
            id: self.id(0),
            start: 0,
            size: self.size,
        };
        let mut pieces = [Piece::new(label, bytes)];
        let adopted = to.adopt_pieces(bytes, &mut pieces, self, false);
        let [piece] = pieces;
        adopted.ok().map(|_| piece)
    }

    /// Ends an adoption of `bytes`; its owner stays.
    fn end(&self, of: &Handle, bytes: usize, mut piece: Piece) {
        let mut charged = bytes;
        if let Some(moved) = piece.take() {
            // SAFETY: the model's block is read; nobody writes before the last owner.
            self.memory.with(|memory| assert_eq!(unsafe { *memory }, 0));
            // SAFETY: the bytes moved, and the handle keeps the node.
            charged -= unsafe { return_to_heap(of.ptr(), &moved, self) };
        }
        if charged > 0 {
            uncharge(of, charged);
        }
    }

    /// Drops an owner. The last one frees the block.
    fn drop_owner(&self) {
        // AcqRel: as of any count of references.
        if self.owners.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: nobody else has the block.
            self.memory.with_mut(|memory| unsafe { *memory = 1 });
            free(self.id(0), self.size);
        }
    }
}

#[test]
fn two_adoptions_of_a_block_share_its_bytes() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 2);
        let (there, other) = (block.clone(), b.clone());
        let thread = thread::spawn(move || {
            let piece = there.adopt(&other, 16);
            let piece = piece.expect("16 of 64 bytes fit beside 24");
            there.end(&other, 16, piece);
            there.drop_owner();
        });

        let piece = block.adopt(&a, 16).expect("as above");
        block.end(&a, 16, piece);
        block.drop_owner();

        thread.join().unwrap();
        at_rest(&root, 0);
    });
}

#[test]
fn an_adoption_ends_while_the_last_other_owner_frees() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 2);
        let piece = block.adopt(&b, 24).expect("it moves");
        at_rest(&root, 24);
        assert_eq!(b.allocated(), 24);
        let there = block.clone();
        let thread = thread::spawn(move || there.drop_owner());

        block.end(&b, 24, piece);
        block.drop_owner();

        thread.join().unwrap();
        at_rest(&root, 0);
    });
}

#[test]
fn a_block_is_adopted_anew_while_its_last_adoption_ends() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 2);
        let first = block.adopt(&b, 24).expect("it moves");
        let (there, other) = (block.clone(), b.clone());
        let thread = thread::spawn(move || {
            there.end(&other, 24, first);
            there.drop_owner();
        });

        let second = block.adopt(&a, 24).expect("24 of 64 bytes fit beside 24");

        thread.join().unwrap();
        at_rest(&root, 24);
        assert_eq!((a.allocated(), b.allocated()), (24, 0));
        block.end(&a, 24, second);
        at_rest(&root, 24);
        block.drop_owner();
        at_rest(&root, 0);
    });
}

#[test]
fn of_three_adoptions_of_a_block_one_gives_way() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 1);
        let (there, other) = (block.clone(), b.clone());
        let thread = thread::spawn(move || {
            let piece = there.adopt(&other, 24);
            let piece = piece.expect("24 of 64 bytes fit beside 24 and 16");
            there.end(&other, 24, piece);
        });

        let first = block.adopt(&b, 16).expect("16 fit beside 24 and 24");
        let second = block.adopt(&a, 8).expect("it fits beside 24 and 16");

        thread.join().unwrap();
        at_rest(&root, 24);
        assert_eq!((a.allocated(), b.allocated()), (8, 16));
        block.end(&b, 16, first);
        block.end(&a, 8, second);
        at_rest(&root, 24);
        block.drop_owner();
        at_rest(&root, 0);
    });
}

#[test]
fn a_scope_ends_while_its_block_is_adopted_and_released() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 1);
        let there = block.clone();
        let other = b.clone();
        let thread = thread::spawn(move || {
            let piece = there.adopt(&other, 16).expect("it moves");
            there.end(&other, 16, piece);
        });

        drop(heap);
        drop(a);

        thread.join().unwrap();
        at_rest(&root, 24);
        block.drop_owner();
        at_rest(&root, 0);
    });
}

#[test]
fn a_scope_ends_while_all_of_its_block_returns() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 24, 1);
        let piece = block.adopt(&b, 24).expect("it moves");
        let there = block.clone();
        let other = b.clone();
        let thread = thread::spawn(move || {
            there.end(&other, 24, piece);
            there.drop_owner();
        });

        drop(heap);
        drop(a);

        thread.join().unwrap();
        at_rest(&root, 0);
    });
}

#[test]
fn a_charge_moves_while_the_rest_of_its_block_is_adopted() {
    check(|| {
        let root = root(40);
        let (a, b) = (child(&root, 40, 0), child(&root, 40, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 32, 1);
        let first = block.adopt(&a, 16).expect("it moves");
        let there = block.clone();
        let other = b.clone();
        let thread = thread::spawn(move || there.adopt(&other, 8));

        root.tree
            .lock()
            .try_transfer(a.ptr(), b.ptr(), 16)
            .expect("the sum is the same");

        let second = thread.join().unwrap().expect("the sum is the same");
        at_rest(&root, 32);
        assert_eq!((a.allocated(), b.allocated()), (8, 24));
        block.end(&b, 16, first);
        block.end(&b, 8, second);
        block.drop_owner();
        at_rest(&root, 0);
    });
}

#[test]
fn an_adoption_and_a_buffer_see_each_other() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&a);
        let block = Block::new(&heap, 40, 1);
        let there = block.clone();
        let other = b.clone();
        let thread = thread::spawn(move || there.adopt(&other, 40));

        a.charge(24).expect("24 of 64 bytes fit beside 40");
        assert!(a.charge(1).is_err(), "64 are in use at any time");

        let piece = thread.join().unwrap().expect("the sum is the same");
        at_rest(&root, 64);
        block.end(&b, 40, piece);
        block.drop_owner();
        at_rest(&root, 24);
    });
}

#[test]
fn another_tree_reads_a_label_that_changes() {
    check(|| {
        let (one, two) = (root(64), root(64));
        let (a, c) = (child(&one, 64, 0), child(&two, 64, 0));
        let heap = open(&a);
        // The account of this scope is the next one that is taken: for the block.
        drop(open(&c));
        let block = Block::new(&heap, 24, 1);
        let (there, other) = (block.clone(), c.clone());
        let thread = thread::spawn(move || {
            let mut piece = there.adopt(&other, 8).expect("it fits");
            assert!(piece.take().is_none(), "another tree pays");
            uncharge(&other, 8);
        });

        let piece = block.adopt(&a, 16).expect("it moves");

        thread.join().unwrap();
        block.end(&a, 16, piece);
        block.drop_owner();
        at_rest(&one, 0);
        at_rest(&two, 0);
    });
}
