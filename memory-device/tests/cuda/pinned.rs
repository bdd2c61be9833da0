//! Pinned memory: whose bytes it is, and how it is freed.

use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::RootAllocator;
use arrow_memory_device::cuda::{CudaManager, PinnedManager};
use arrow_memory_device::{AnyBuffer, DeviceRoot};

pub(crate) fn all() {
    a_block_is_charged_to_a_node_of_the_host();
    an_arena_over_it_charges_its_chunks();
    a_copy_from_pinned_memory_keeps_its_source();
    a_device_sees_pinned_memory_and_no_other();
}

fn a_block_is_charged_to_a_node_of_the_host() {
    let gpu = CudaManager::new(0).unwrap();
    let host = RootAllocator::new(1 << 20);
    let staging = host.child("pinned").limit(10_000).build().unwrap();
    let pinned =
        RootAllocator::builder().allocation_manager(Arc::new(PinnedManager::new(&gpu, &staging)));
    let pinned = pinned.build().unwrap();

    let buffer = pinned.buffer_from_slice(&[7; 4096]).unwrap();
    assert_eq!(
        (staging.allocated_memory(), host.allocated_memory()),
        (4096, 4096)
    );
    assert_eq!(pinned.allocation_manager().stats().live_bytes, Some(4096));

    let refused = pinned.buffer(8192).unwrap_err();
    assert!(
        format!("{refused:#}").contains("allocator `pinned`"),
        "{refused:#}"
    );
    assert_eq!(
        (staging.allocated_memory(), pinned.allocated_memory()),
        (4096, 4096)
    );

    assert!(staging.close().is_err(), "the block is outstanding");
    drop(buffer);
    assert_eq!(host.allocated_memory(), 0);
}

fn an_arena_over_it_charges_its_chunks() {
    let gpu = CudaManager::new(0).unwrap();
    let host = RootAllocator::new(1 << 30);
    let chunks = Arc::new(PinnedManager::new(&gpu, &host));
    let arena = Arena::builder()
        .parent(chunks)
        .chunk_size(1 << 20)
        .build()
        .unwrap();
    let pinned = RootAllocator::builder()
        .allocation_manager(Arc::new(arena))
        .build()
        .unwrap();

    let buffers: Vec<_> = (0..10).map(|_| pinned.buffer(64 << 10).unwrap()).collect();

    assert_eq!(
        (pinned.allocated_memory(), host.allocated_memory()),
        (640 << 10, 1 << 20)
    );
    drop(buffers);
    drop(pinned);
    assert_eq!(host.allocated_memory(), 0);
}

fn a_copy_from_pinned_memory_keeps_its_source() {
    let gpu = CudaManager::new(0).unwrap();
    let host = RootAllocator::new(1 << 20);
    let pinned =
        RootAllocator::builder().allocation_manager(Arc::new(PinnedManager::new(&gpu, &host)));
    let pinned = pinned.build().unwrap();
    let device = DeviceRoot::builder().manager(gpu).build().unwrap();
    let stream = device.stream().unwrap();

    let source = pinned.buffer_from_slice(b"columnar").unwrap();
    let there = source.copy_to_on(&device.to_allocator(), &stream).unwrap();
    drop(source);
    assert!(
        host.allocated_memory() > 0,
        "the copy has not been waited for"
    );

    let back = there.copy_to(&host).unwrap();
    assert_eq!(back.as_slice(), b"columnar");
    drop((there, back, stream));
    assert_eq!((host.allocated_memory(), pinned.allocated_memory()), (0, 0));
}

fn a_device_sees_pinned_memory_and_no_other() {
    let gpu = CudaManager::new(0).unwrap();
    let host = RootAllocator::new(1 << 20);
    let pinned =
        RootAllocator::builder().allocation_manager(Arc::new(PinnedManager::new(&gpu, &host)));
    let pinned = pinned.build().unwrap();
    let device = DeviceRoot::builder().manager(gpu).build().unwrap();

    let ordinary = host.buffer_from_slice(&[1; 64]).unwrap();
    assert!(ordinary.view_on(&device.to_allocator()).unwrap().is_none());
    let source = pinned.buffer_from_slice(&[2; 64]).unwrap();
    let view = source
        .view_on(&device.to_allocator())
        .unwrap()
        .expect("it is pinned");
    assert_eq!(view.address(), source.as_ptr() as u64);
    assert!(
        device.allocated_memory() <= 1,
        "the bytes are charged on the host"
    );
    let (start, manager) = (NonNull::from(source.as_slice()).cast(), device.manager());
    assert!(manager.view_of_cpu(start, source.len()).is_some());
    assert_eq!(
        manager.view_of_cpu(start, 1 << 20),
        None,
        "it is longer than the block"
    );
}
