//! What allocators are charged is what is live, to the byte, after each of a million random operations.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]
#![expect(unsafe_code, reason = "calls a global allocator by hand")]

mod common;

use std::alloc::{GlobalAlloc, Layout};

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_global::{Attributed, Scope};
use arrow_memory_system as _;
use common::Hostile;

/// Not the program's allocator: what the test itself allocates is no part of the books.
static ALLOCATOR: Attributed<Hostile> = Attributed::new(Hostile::new());

const OPERATIONS: usize = if cfg!(debug_assertions) {
    1_000_000
} else {
    4_000_000
};

/// A block, and what pays for it: the number of an allocator, [`RETAINED`], or nobody.
struct Block {
    start: *mut u8,
    layout: Layout,
    payer: Option<usize>,
    /// What its first bytes say.
    tag: u8,
}

/// The allocators of a tree, and what they should be charged.
struct Books {
    root: RootAllocator,
    allocators: Vec<BufferAllocator>,
    scopes: Vec<Scope>,
    /// The bytes of each allocator, and those that were left by scopes that ended.
    charged: Vec<usize>,
}

impl Books {
    fn new(credit: Option<usize>) -> Self {
        let builder = RootAllocator::builder();
        let builder = match credit {
            Some(credit) => builder.credit(credit),
            None => builder,
        };
        let root = builder.build().unwrap();
        // One without a limit, one that is over its limit most of the time, and one below it.
        let free = root.child("free").build().unwrap();
        let tight = root.child("tight").limit(300_000).build().unwrap();
        let below = tight.child("below").build().unwrap();
        let allocators = vec![free, tight, below];
        let scopes = allocators.iter().map(|a| Scope::new(a).unwrap()).collect();
        Self {
            root,
            charged: vec![0; allocators.len() + 1],
            allocators,
            scopes,
        }
    }

    fn retained(&self) -> usize {
        self.allocators.len()
    }

    /// Ends a scope: its bytes stay, and nobody asked for them. Another scope of the allocator begins.
    fn end(&mut self, number: usize, blocks: &mut [Block]) {
        let allocator = &self.allocators[number];
        let scope = Scope::new(allocator).unwrap();
        drop(std::mem::replace(&mut self.scopes[number], scope));
        let retained = self.retained();
        for block in blocks.iter_mut().filter(|it| it.payer == Some(number)) {
            block.payer = Some(retained);
            self.charged[number] -= block.layout.size();
            self.charged[retained] += block.layout.size();
        }
    }

    fn check(&self) {
        let [free, tight, below, retained] = self.charged[..] else {
            unreachable!();
        };
        assert_eq!(self.allocators[0].allocated_memory(), free);
        assert_eq!(self.allocators[1].allocated_memory(), tight + below);
        assert_eq!(self.allocators[2].allocated_memory(), below);
        assert_eq!(
            self.root.allocated_memory(),
            free + tight + below + retained
        );
    }
}

fn random_layout() -> Layout {
    let size = match fastrand::u8(..) {
        0..60 => fastrand::usize(1..600),
        60..70 => [511, 512, 1023, 1024][fastrand::usize(..4)],
        70..200 => fastrand::usize(512..4096),
        200..255 => fastrand::usize(4096..100_000),
        255 => fastrand::usize(100_000..3_000_000),
    };
    let align = [1, 8, 16, 64, 4096][fastrand::usize(..5)];
    Layout::from_size_align(size, align).unwrap()
}

fn allocate(books: &mut Books, scope: Option<usize>) -> Option<Block> {
    let layout = random_layout();
    let call = || match fastrand::bool() {
        // SAFETY: the size is not zero.
        true => unsafe { ALLOCATOR.alloc(layout) },
        // SAFETY: the same.
        false => unsafe { ALLOCATOR.alloc_zeroed(layout) },
    };
    let start = match scope {
        Some(number) => books.scopes[number].run(call),
        None => call(),
    };
    let payer = scope.filter(|_| layout.size() >= 512);
    (!start.is_null()).then(|| {
        if let Some(payer) = payer {
            books.charged[payer] += layout.size();
        }
        let tag = fastrand::u8(..);
        // SAFETY: the block has at least one byte.
        unsafe { start.write(tag) };
        Block {
            start,
            layout,
            payer,
            tag,
        }
    })
}

/// Whoever paid pays on. A small block that grows is as good as a new one.
fn reallocate(books: &mut Books, scope: Option<usize>, block: &mut Block) {
    let new = random_layout().size();
    // SAFETY: the block is of this allocator, and the new size is not zero.
    let call = || unsafe { ALLOCATOR.realloc(block.start, block.layout, new) };
    let moved = match scope {
        Some(number) => books.scopes[number].run(call),
        None => call(),
    };
    if moved.is_null() {
        return;
    }
    let old = block.layout.size();
    if let Some(payer) = block.payer {
        books.charged[payer] -= old;
    }
    let pays = if old < 512 { scope } else { block.payer };
    block.payer = pays.filter(|_| new >= 512);
    if let Some(payer) = block.payer {
        books.charged[payer] += new;
    }
    block.start = moved;
    block.layout = Layout::from_size_align(new, block.layout.align()).unwrap();
}

fn free(books: &mut Books, block: Block) {
    // SAFETY: the block is live, and its first byte was written.
    assert_eq!(unsafe { block.start.read() }, block.tag);
    if let Some(payer) = block.payer {
        books.charged[payer] -= block.layout.size();
    }
    // SAFETY: the block is of this allocator, with this layout, and it is not used afterwards.
    unsafe { ALLOCATOR.dealloc(block.start, block.layout) };
}

fn run(mut books: Books, operations: usize) {
    let mut blocks: Vec<Block> = Vec::new();
    for _ in 0..operations {
        let scope = Some(fastrand::usize(..books.allocators.len() + 1))
            .filter(|&scope| scope < books.allocators.len());
        let some = (!blocks.is_empty()).then(|| fastrand::usize(..blocks.len()));
        match (fastrand::u32(..10_000), some) {
            (0..5, _) => books.end(fastrand::usize(..books.allocators.len()), &mut blocks),
            (5..4000, Some(index)) if blocks.len() > 50 => {
                free(&mut books, blocks.swap_remove(index))
            }
            (4000..7000, Some(index)) => reallocate(&mut books, scope, &mut blocks[index]),
            _ => blocks.extend(allocate(&mut books, scope)),
        }
        books.check();
    }
    let live: usize = blocks.iter().map(|block| block.layout.size()).sum();
    assert_eq!(ALLOCATOR.inner().live(), live);
    books.root.verify().unwrap();

    for block in blocks {
        free(&mut books, block);
        books.check();
    }
    books.scopes.clear();
    books.allocators.clear();
    assert_eq!(ALLOCATOR.inner().live(), 0);
    assert_eq!(books.root.allocated_memory(), 0);
    books.root.close().unwrap();
}

#[test]
fn the_books_are_exact_after_each_of_a_million_operations() {
    fastrand::seed(11);
    ALLOCATOR.inner().fail(300);
    run(Books::new(None), OPERATIONS);
    run(Books::new(Some(0)), OPERATIONS / 20);
}
