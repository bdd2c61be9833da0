//! Trees that are 10,000 wide or 10,000 deep, on a small stack: no recursion, and no text of quadratic
//! length.

use std::sync::Arc;
use std::thread;

use arrow_memory_core::{
    AllocError, AllocationManager, AllocationOutcome, BufferAllocator, RootAllocator,
};
use arrow_memory_integration_tests::for_every_backend;

type Backend = Arc<dyn AllocationManager>;

/// The number of nodes: 10,000 over the first backend, and a tenth over the others. These tests do not depend
/// on the backend, and the time of a chain is quadratic in its length.
fn many(backend: &Backend) -> usize {
    if backend.name() == "system" {
        10_000
    } else {
        1_000
    }
}

/// The stack of the thread that runs a scenario. A recursion over ten thousand nodes needs more.
const STACK: usize = 192 * 1024;

for_every_backend!(
    ten_thousand_children_share_one_parent,
    ten_thousand_children_close_and_are_reported_in_a_text_as_long,
    ten_thousand_children_that_are_just_dropped_leave_nothing_behind,
    every_operation_works_at_the_end_of_a_chain_of_ten_thousand,
    a_refusal_at_the_top_of_a_deep_chain_is_a_short_text,
    reservations_all_the_way_down_are_charged_once,
    a_deep_chain_can_be_dropped_from_either_end,
    a_buffer_at_the_end_of_a_deep_chain_keeps_it_until_it_goes,
    a_deep_chain_closes_from_the_leaf,
);

fn on_a_small_stack(scenario: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, scenario).unwrap();
        thread.join().unwrap();
    });
}

fn root(backend: &Backend, limit: usize) -> BufferAllocator {
    let builder = RootAllocator::builder().name("root").limit(limit);
    let builder = builder.allocation_manager(Arc::clone(backend));
    builder.build().unwrap().into()
}

/// The maximum bytes of text for one allocator; in debug mode it has a stack.
fn line(root: &BufferAllocator) -> usize {
    if root.is_debug() { 4000 } else { 400 }
}

fn wide(root: &BufferAllocator, reservation: usize) -> Vec<BufferAllocator> {
    let child = |index| {
        let builder = root.child(&format!("c{index}")).reservation(reservation);
        builder.build().unwrap()
    };
    (0..many(root.allocation_manager())).map(child).collect()
}

/// A chain below `root`, the top allocator first.
fn deep(root: &BufferAllocator, reservation: usize) -> Vec<BufferAllocator> {
    let mut chain: Vec<BufferAllocator> = Vec::with_capacity(many(root.allocation_manager()));
    for index in 0..many(root.allocation_manager()) {
        let above = chain.last().unwrap_or(root);
        let builder = above.child(&format!("d{index}")).reservation(reservation);
        chain.push(builder.build().unwrap());
    }
    chain
}

fn ten_thousand_children_share_one_parent(backend: &Backend) {
    let root = root(backend, many(backend) * 128);
    let children = wide(&root, 64);
    assert_eq!(root.allocated_memory(), many(backend) * 64);
    assert_eq!(root.child_allocators().len(), many(backend));

    let held: Vec<_> = children.iter().map(|it| it.buffer(128).unwrap()).collect();

    assert_eq!(
        (root.allocated_memory(), root.headroom()),
        (many(backend) * 128, 0)
    );
    root.buffer(1).unwrap_err();
    for index in [0, many(backend) / 2, many(backend) - 1] {
        let refused = children[index].allocate_bytes(1).unwrap_err();
        assert!(
            matches!(refused, AllocError::OutOfMemory { .. }),
            "{refused}"
        );
    }
    assert_eq!(root.verify(), Ok(()));
    assert_eq!(root.snapshot().entries.len(), many(backend) + 1);
    drop(held);
    assert_eq!(root.allocated_memory(), many(backend) * 64);
    drop(children);
    root.buffer(many(backend) * 128).unwrap();
    root.close().unwrap();
}

fn ten_thousand_children_close_and_are_reported_in_a_text_as_long(backend: &Backend) {
    let root = root(backend, usize::MAX);
    let children = wide(&root, 1);

    let report = root.close().unwrap_err();
    assert_eq!(report.children.len(), many(backend));
    assert!(report.to_string().len() < many(backend) * line(&root));
    assert!(root.to_verbose_string().len() < many(backend) * line(&root));

    for child in &children {
        child.close().unwrap();
    }
    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (0, 0)
    );
    root.close().unwrap();
}

fn ten_thousand_children_that_are_just_dropped_leave_nothing_behind(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, usize::MAX);
        let children = wide(&root, 10);
        let buffers: Vec<_> = children.iter().map(|it| it.buffer(1).unwrap()).collect();

        drop(children);
        assert_eq!(root.allocated_memory(), many(backend) * 64);
        assert_eq!(root.child_allocators().len(), many(backend));
        drop(buffers);

        assert_eq!(
            (root.allocated_memory(), root.child_allocators().len()),
            (0, 0)
        );
        root.close().unwrap();
    });
}

fn every_operation_works_at_the_end_of_a_chain_of_ten_thousand(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, 10_000);
        let chain = deep(&root, 0);
        let leaf = &chain[many(backend) - 1];

        let buffer = leaf.buffer_from_slice(&[1; 640]).unwrap();
        assert_eq!((root.allocated_memory(), leaf.headroom()), (640, 9360));
        leaf.allocate_bytes(60).unwrap();
        let mut reservation = leaf.new_reservation();
        reservation.add(100).unwrap();
        assert_eq!(chain[many(backend) / 2].allocated_memory(), 800);

        let shared = buffer.retain_in(&chain[0]).unwrap();
        let up = buffer.transfer_ownership(&root).unwrap();
        assert!(up.allocation_fit);
        assert_eq!(
            (leaf.allocated_memory(), root.allocated_memory()),
            (160, 800)
        );
        let down = up.buffer.transfer_ownership(leaf).unwrap();
        assert!(down.allocation_fit);
        assert_eq!(
            (chain[5].allocated_memory(), root.allocated_memory()),
            (800, 800)
        );
        drop((buffer, up, down));
        assert_eq!(
            (leaf.allocated_memory(), chain[0].allocated_memory()),
            (160, 800)
        );
        drop(shared);

        chain[many(backend) / 2].set_limit(200);
        leaf.allocate_bytes(41).unwrap_err();
        leaf.allocate_bytes(40).unwrap();
        assert_eq!(leaf.headroom(), 0);
        assert!(!leaf.force_allocate(1));
        assert!(leaf.is_over_limit() && !root.is_over_limit());
        leaf.release_bytes(101);

        assert_eq!(root.verify(), Ok(()));
        let depths = root.snapshot().entries.into_iter().map(|it| it.depth);
        assert_eq!(depths.max(), Some(many(backend)));
        assert!(root.peak_memory_allocation() >= 800);
        assert_eq!(leaf.root_allocator(), root);
        let text = root.to_verbose_string();
        assert!(
            text.len() < many(backend) * 2 * line(&root),
            "{} bytes",
            text.len()
        );
        drop(reservation);
        assert_eq!(root.allocated_memory(), 0);
    });
}

fn a_refusal_at_the_top_of_a_deep_chain_is_a_short_text(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, 1000);
        let chain = deep(&root, 0);

        let refused = chain[many(backend) - 1].buffer(1001).unwrap_err();

        assert!(refused.to_string().len() < 4096, "{refused}");
        let AllocError::OutOfMemory { outcome, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(&*outcome.failed_allocator().name, "root");
        assert_eq!(
            outcome.entries[0].allocator.name,
            format!("d{}", many(backend) - 1).into()
        );
        assert_eq!(outcome.entries.len(), AllocationOutcome::MAX_ENTRIES);
        assert_eq!(outcome.omitted, many(backend) + 1 - outcome.entries.len());
    });
}

fn reservations_all_the_way_down_are_charged_once(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, 1000);
        let chain = deep(&root, 500);
        let leaf = &chain[many(backend) - 1];
        assert_eq!((root.allocated_memory(), leaf.allocated_memory()), (500, 0));

        leaf.allocate_bytes(500).unwrap();
        assert_eq!(
            (root.allocated_memory(), leaf.allocated_memory()),
            (500, 500)
        );
        leaf.allocate_bytes(500).unwrap();
        assert_eq!((root.allocated_memory(), leaf.headroom()), (1000, 0));
        leaf.allocate_bytes(1).unwrap_err();
        leaf.release_bytes(1000);
        assert_eq!(root.allocated_memory(), 500);
    });
}

fn a_deep_chain_can_be_dropped_from_either_end(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, usize::MAX);
        for end in 0..3 {
            let mut chain = deep(&root, 3);
            match end {
                // The handles are dropped from the top; the nodes leave together with the last handle.
                0 => drop(chain),
                1 => chain.into_iter().rev().for_each(drop),
                _ => {
                    let leaf = chain.pop();
                    drop(chain);
                    assert_eq!(root.child_allocators().len(), 1);
                    drop(leaf);
                }
            }
            assert_eq!(
                (root.allocated_memory(), root.child_allocators().len()),
                (0, 0)
            );
        }
        let chain = deep(&root, 0);
        drop(root);
        drop(chain);
    });
}

fn a_buffer_at_the_end_of_a_deep_chain_keeps_it_until_it_goes(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, usize::MAX);
        let chain = deep(&root, 3);
        let buffer = chain[many(backend) - 1]
            .buffer_from_slice(&[4; 64])
            .unwrap();
        let weak = (root.downgrade(), chain[many(backend) / 2].downgrade());

        drop((root, chain));
        assert_eq!(buffer.allocator().root_allocator().allocated_memory(), 64);
        assert!(
            weak.1
                .upgrade()
                .is_some_and(|it| it.allocated_memory() == 64)
        );
        drop(buffer);

        assert!(weak.0.upgrade().is_none() && weak.1.upgrade().is_none());
    });
}

fn a_deep_chain_closes_from_the_leaf(backend: &Backend) {
    on_a_small_stack(|| {
        let root = root(backend, usize::MAX);
        let chain = deep(&root, 0);

        let report = chain[0].close().unwrap_err();
        assert_eq!(report.children.len(), 1);
        for node in chain.iter().rev() {
            node.close().unwrap();
        }

        root.close().unwrap();
    });
}
