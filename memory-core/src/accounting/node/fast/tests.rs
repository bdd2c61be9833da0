use std::sync::Arc;

use super::*;
use crate::RootAllocator;
use crate::testing::TrackingManager;

fn root() -> RootAllocator {
    let builder = RootAllocator::builder().allocation_manager(Arc::new(TrackingManager::new()));
    builder.build().expect("nothing is missing")
}

#[test]
fn external_bytes_of_one_stripe_are_given_back_on_another() {
    let root = root();
    let node = root.handle.ptr();
    root.node()
        .tree
        .lock()
        .install_stripes(node, &mut Some(Stripes::new(2)));
    root.allocate_bytes(64).unwrap();
    root.release_bytes(64);
    root.allocate_bytes(64).unwrap();

    for _ in 0..4 {
        std::thread::scope(|scope| {
            // One of these numbers has the other stripe.
            scope.spawn(|| {
                // SAFETY: these bytes are charged to the node, which the handle keeps.
                assert!(unsafe { root.handle.ptr().give_after(8, Kind::External, Slow::Mutex) });
            });
        });
    }

    assert_eq!(root.stats().external_bytes, 32);
    root.release_bytes(32);
    root.verify().unwrap();
}

/// Collisions were once counted only where credit was short, too: where as much is given back as
/// taken there were never stripes.
#[test]
fn a_node_on_which_threads_collide_gets_stripes_although_there_is_credit() {
    let root = root();
    drop(root.buffer(4096).unwrap());
    let node = &*root.handle;

    for _ in 0..COLLISIONS / 2 {
        assert!(node.take_after(64, Kind::Held, Slow::Collision));
        // SAFETY: taken above, and the handle keeps the node.
        assert!(unsafe {
            root.handle
                .ptr()
                .give_after(64, Kind::Held, Slow::Collision)
        });
    }
    assert!(node.stripes().is_none());
    assert!(!node.take_after(64, Kind::Held, Slow::Collision));
    let mut stripes = node.stripes_if_contended();
    let mut locked = node.tree.lock();
    locked.install_stripes(root.handle.ptr(), &mut stripes);
    locked.charge(root.handle.ptr(), 64).unwrap();
    drop(locked);

    assert!(node.stripes().is_some());
    // SAFETY: charged above.
    unsafe { root.handle.uncharge(64) };
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}
