//! The node of the same path on a device.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow_memory_core::{AllocError, RootAllocator};
use arrow_memory_device::{AnyBuffer, DeviceRoot, SimDevice, TwinExt};

fn trees() -> (RootAllocator, DeviceRoot) {
    let gpu = DeviceRoot::builder()
        .limit(1 << 20)
        .manager(SimDevice::new());
    (RootAllocator::new(1 << 20), gpu.build().unwrap())
}

#[test]
fn the_twin_of_a_root_is_the_root_of_the_device() {
    let (host, gpu) = trees();

    assert_eq!(host.twin(&gpu).unwrap(), gpu.to_allocator());
    assert_eq!(
        RootAllocator::new(0).twin(&gpu).unwrap(),
        gpu.to_allocator()
    );
}

#[test]
fn a_twin_has_the_path_of_its_node_and_is_made_once() {
    let (host, gpu) = trees();
    let query = host.child("query").priority(3).build().unwrap();
    let scan = query.child("scan").build().unwrap();

    let twin = scan.twin(&gpu).unwrap();
    assert_eq!((twin.name(), twin.device()), ("scan", gpu.device()));
    assert_eq!(twin.accounting().priority(), 3);
    let above = twin.accounting().parent_allocator().unwrap();
    assert_eq!(&above, query.twin(&gpu).unwrap().accounting());
    assert_eq!(above.parent_allocator().as_ref(), Some(gpu.accounting()));
    assert_eq!(scan.twin(&gpu).unwrap(), twin);
    assert_eq!(gpu.snapshot().entries.len(), 3);
}

#[test]
fn nodes_of_one_name_have_twins_of_their_own() {
    let (host, gpu) = trees();
    let (one, two) = (
        host.child("q").build().unwrap(),
        host.child("q").build().unwrap(),
    );

    let twins = (one.twin(&gpu).unwrap(), two.twin(&gpu).unwrap());
    assert_eq!((twins.0.name(), twins.1.name()), ("q", "q"));
    assert_ne!(twins.0, twins.1);
}

#[test]
fn a_twin_is_kept_while_its_node_is_in_the_tree() {
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();

    let first = query.twin(&gpu).unwrap().accounting().id();
    assert_eq!(query.twin(&gpu).unwrap().accounting().id(), first); // no handle of ours in between
    assert_eq!(gpu.accounting().child_allocators().len(), 1);
}

#[test]
fn a_twin_is_retired_once_its_node_has_left() {
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();
    let twin = query.twin(&gpu).unwrap();
    let buffer = host
        .buffer_from_slice(&[1; 100])
        .unwrap()
        .copy_to(&twin)
        .unwrap();

    drop(query);
    assert!(!twin.is_closed()); // nobody has looked yet
    host.twin(&gpu).unwrap();
    assert!(twin.is_closed() && twin.allocate(64).is_err());
    assert_eq!(twin.allocated_memory(), 128);
    drop((buffer, twin));
    assert!(gpu.accounting().child_allocators().is_empty());
}

#[test]
fn a_node_that_is_closed_and_held_has_left_too() {
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();
    let twin = query.twin(&gpu).unwrap();

    query.close().unwrap();
    let refused = query.twin(&gpu).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
    assert!(twin.is_closed());
}

#[test]
fn a_twin_below_a_closed_one_is_refused() {
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();
    let scan = query.child("scan").build().unwrap();

    query.twin(&gpu).unwrap().close().unwrap();
    let refused = scan.twin(&gpu).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
}

#[test]
fn threads_that_ask_at_once_get_the_same_twin() {
    let (host, gpu) = trees();

    for _ in 0..20 {
        let query = host.child("query").build().unwrap();
        let twins: Vec<_> = thread::scope(|scope| {
            let ask = || scope.spawn(|| query.twin(&gpu).unwrap());
            let threads: Vec<_> = (0..4).map(|_| ask()).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(twins.iter().all(|twin| *twin == twins[0]));
        assert_eq!(gpu.accounting().child_allocators().len(), 1);
        drop(query);
        host.twin(&gpu).unwrap();
    }
}

#[test]
fn a_node_that_leaves_meanwhile_never_has_the_root_for_its_twin() {
    let (host, gpu) = trees();

    for round in 0..1000 {
        let query = host.child("query").build().unwrap();
        let scan = query.child("scan").build().unwrap();
        let started = AtomicBool::new(false);
        let twin = thread::scope(|scope| {
            scope.spawn(|| {
                // Release: partner of the Acquire below.
                started.store(true, Ordering::Release);
                for _ in 0..round % 100 {
                    hint::spin_loop();
                }
                scan.close().unwrap();
                query.close().unwrap();
            });
            // Acquire: partner of the Release above. Both threads run from here on.
            while !started.load(Ordering::Acquire) {
                thread::yield_now();
            }
            scan.twin(&gpu)
        });
        match twin {
            Ok(twin) => {
                assert_eq!(twin.name(), "scan");
                // The twin of `query` was made above it; either may have been retired meanwhile.
                let above = twin.accounting().parent_allocator();
                assert!(above.is_none_or(|above| above.name() == "query"));
            }
            Err(refused) => assert!(matches!(refused, AllocError::Closed { .. }), "{refused}"),
        }
    }
}

#[test]
fn the_twins_of_nodes_that_have_left_do_not_keep_the_device_open() {
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();
    query.twin(&gpu).unwrap();

    assert!(gpu.close().is_err()); // the node is in its tree
    drop(query);
    gpu.close().unwrap();
    let (host, gpu) = trees();
    let query = host.child("query").build().unwrap();
    let twin = query.twin(&gpu).unwrap();
    drop(query);
    gpu.retire();
    assert!(twin.is_closed() && gpu.is_closed());
}

#[test]
fn devices_have_twins_of_their_own() {
    let (host, gpu) = trees();
    let other = DeviceRoot::builder()
        .manager(SimDevice::builder().id(1).build())
        .build()
        .unwrap();
    let query = host.child("query").build().unwrap();

    let (one, two) = (query.twin(&gpu).unwrap(), query.twin(&other).unwrap());
    one.set_limit(100);
    assert!(one.allocate(101).is_err() && two.allocate(101).is_ok());
}
