//! Copies and views between trees.

use std::io::Read;
use std::sync::Arc;

use super::{host, pattern, tree, tree_of};
use crate::any::AnyBuffer;
use crate::buf::DeviceBuf;
use crate::cpu::CpuManager;
use crate::manager::DeviceManager;
use crate::root::DeviceRoot;
use crate::sim::SimDevice;

/// The bytes of a buffer of a device.
fn read(buffer: &DeviceBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = buffer.reader().read_to_end(&mut bytes);
    read.expect("the device copies");
    bytes
}

/// A copy is charged in the tree that it lands in, and the source stays charged in its own.
///
/// # Panics
///
/// If it is not, or has other bytes.
pub fn a_copy_is_charged_where_it_lands(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree_of(manager, 4096));
    let bytes = pattern(1000, 4);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let there = here.copy_to(&root).expect("it fits");
    assert_eq!(
        (host.allocated_memory(), root.allocated_memory()),
        (1024, 1024)
    );
    let other = there.copy_to(&root).expect("it fits");
    assert_ne!(there.address(), other.address());
    assert_eq!(root.allocated_memory(), 2048);
    let back = other.copy_to(&host).expect("it fits");
    assert_eq!(
        (back.as_slice(), host.allocated_memory()),
        (&bytes[..], 2048)
    );
    drop(there);
    assert_eq!((read(&other), root.allocated_memory()), (bytes, 1024));
    drop(here);
    root.set_limit(1500);
    assert!(
        back.copy_to(&root)
            .expect_err("it does not fit")
            .is_out_of_memory()
    );
    assert_eq!(root.allocated_memory(), 1024);
    host.set_limit(1500);
    assert!(
        other
            .copy_to(&host)
            .expect_err("it does not fit")
            .is_out_of_memory()
    );
    assert_eq!(host.allocated_memory(), 1024);
}

/// A copy of a slice has room for the slice only.
///
/// # Panics
///
/// If it has more, or other bytes.
pub fn a_copy_of_a_slice_has_its_bytes_only(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let bytes = pattern(100_000, 5);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");
    let there = here.copy_to(&root).expect("there is no limit");

    let part = there
        .slice(777..877)
        .copy_to(&root)
        .expect("there is no limit");
    assert_eq!(
        (part.capacity(), read(&part)),
        (128, bytes[777..877].to_vec())
    );
    let part = there
        .slice(777..877)
        .copy_to(&host)
        .expect("there is no limit");
    assert_eq!(
        (part.allocation_size(), part.as_slice()),
        (128, &bytes[777..877])
    );
}

/// Bytes get to other devices and back, over the host if there is no other way.
///
/// # Panics
///
/// If they are other bytes then.
pub fn bytes_travel_over_other_devices(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let other = tree(&(SimDevice::builder().id(77).build() as Arc<dyn DeviceManager>));
    let cpu = cpu(&host);
    let bytes = pattern(150_000, 6); // several pieces
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let mut there = here.copy_to(&root).expect("there is no limit");
    there = there.copy_to(&other).expect("there is no limit");
    there = there.copy_to(&cpu).expect("there is no limit");
    there = there.copy_to(&root).expect("there is no limit");
    assert_eq!(there.device(), manager.device());
    assert!(read(&there) == bytes);
    assert_eq!((other.allocated_memory(), cpu.allocated_memory()), (0, 0));
}

/// The CPU as a device, over the backend of a tree of the host.
fn cpu(host: &arrow_memory_core::BufferAllocator) -> DeviceRoot {
    let manager = CpuManager::over(Arc::clone(host.allocation_manager()));
    tree(&(manager as Arc<dyn DeviceManager>))
}

/// A view on the host, where it can be had, has the bytes, keeps the source, and is not charged again.
///
/// # Panics
///
/// If it does otherwise.
pub fn a_view_on_the_host_is_not_charged_twice(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let bytes = pattern(1000, 7);
    let mut buffer = root.allocate(1000).expect("there is no limit");
    buffer.write_at(0, &bytes).expect("the device copies");
    let buffer = buffer.freeze();

    let Some(view) = buffer.slice(10..).view_on(&host).expect("a byte fits") else {
        assert!(!buffer.is_cpu(), "the CPU may read it");
        return;
    };
    drop(buffer);
    assert_eq!(view.as_slice(), &bytes[10..]);
    assert_eq!(
        (host.allocated_memory(), root.allocated_memory()),
        (1, 1024)
    );
    assert_eq!(
        host.close().expect_err("the view is outstanding").buffers(),
        1
    );
    drop(view);
    assert_eq!((host.allocated_memory(), root.allocated_memory()), (0, 0));
}

/// Another tree over the same device, or over one that sees it, gets a view that is not charged again.
///
/// # Panics
///
/// If it does otherwise.
pub fn a_view_from_another_tree_is_not_charged_twice(manager: &Arc<dyn DeviceManager>) {
    let (host, one, two) = (host(), tree(manager), tree(manager));
    let bytes = pattern(1000, 8);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");
    let buffer = here.copy_to(&one).expect("there is no limit");

    let view = buffer.slice(10..).view_on(&two).expect("a byte fits");
    let view = view.expect("it is the same device");
    assert_eq!((view.address(), view.len()), (buffer.address() + 10, 990));
    assert_eq!(
        (view.accounted_size(), view.allocator()),
        (1, two.to_allocator())
    );
    drop(buffer);
    assert_eq!(read(&view), bytes[10..]);
    assert_eq!((one.allocated_memory(), two.allocated_memory()), (1024, 1));
    drop(view);
    assert_eq!((one.allocated_memory(), two.allocated_memory()), (0, 0));
}

/// Within a tree a view is a share: the charge stays with the owner.
///
/// # Panics
///
/// If it does not.
pub fn a_view_within_the_tree_is_shared(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let join = root.child("join").build().expect("nothing is reserved");
    let buffer = root.allocate(1000).expect("there is no limit").freeze();

    let same = buffer
        .view_on(&root)
        .expect("the same tree")
        .expect("the same tree");
    assert_eq!((same.address(), buffer.ref_count()), (buffer.address(), 2));
    let shared = buffer.view_or_copy(&join).expect("the same tree");
    assert_eq!(
        (shared.address(), shared.accounted_size()),
        (buffer.address(), 0)
    );
    assert_eq!(
        (root.allocated_memory(), join.allocated_memory()),
        (1024, 0)
    );
}

/// View-or-copy gets the bytes to the host and back, and copies only where it must.
///
/// # Panics
///
/// If it does not.
pub fn view_or_copy_gets_the_bytes(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let bytes = pattern(1000, 9);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let there = here.view_or_copy(&root).expect("there is no limit");
    assert_eq!((there.device(), there.len()), (manager.device(), 1000));
    let copied = there.accounted_size() == 1024;
    assert!(copied || there.address() == here.memory_address() as u64);
    assert_eq!(root.allocated_memory(), if copied { 1024 } else { 1 });
    drop(here);
    let back = there.view_or_copy(&host).expect("there is no limit");
    assert_eq!(back.as_slice(), &bytes[..]);
}
