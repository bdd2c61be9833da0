//! Waiting for device memory without blocking, and reclaim.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use arrow_memory_core::{AllocationListener, AllocationOutcome, AllocatorInfo, Veto};
use arrow_memory_device::{DeviceBuf, DeviceError, DeviceRoot, SimDevice};

#[test]
fn a_future_is_granted_memory_once_it_is_released() {
    let gpu = DeviceRoot::builder()
        .limit(4096)
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let held = gpu.allocate(4096).unwrap();
    let mut waiting = pin!(gpu.wait().allocate_async(1000));
    let mut context = Context::from_waker(Waker::noop());

    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert_eq!(gpu.snapshot().waiters.len(), 1);
    drop(held);
    let Poll::Ready(granted) = waiting.as_mut().poll(&mut context) else {
        panic!("the memory was released");
    };
    assert_eq!(
        (granted.unwrap().len(), gpu.allocated_memory()),
        (1000, 1024)
    );
}

#[test]
fn requests_that_can_never_be_granted_do_not_wait() {
    let gpu = DeviceRoot::builder()
        .limit(4096)
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let mut context = Context::from_waker(Waker::noop());

    for (bytes, fits) in [(0, true), (5000, false), (usize::MAX, false)] {
        let Poll::Ready(result) = pin!(gpu.wait().allocate_async(bytes)).poll(&mut context) else {
            panic!("{bytes} bytes wait");
        };
        assert_eq!(result.is_ok(), fits);
    }
    assert!(matches!(
        gpu.wait().allocate(usize::MAX),
        Err(DeviceError::SizeOverflow { .. })
    ));
    assert_eq!(gpu.allocated_memory(), 0);
}

/// Drops a buffer of the device when memory is short, or refuses all.
#[derive(Default)]
struct Cache {
    cached: Mutex<Option<DeviceBuf>>,
    veto: bool,
}

impl AllocationListener for Cache {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, _size: usize) -> Result<(), Veto> {
        if self.veto {
            Err(Veto::new("by the test"))
        } else {
            Ok(())
        }
    }

    fn on_failed_allocation(
        &self,
        _at: &AllocatorInfo,
        _size: usize,
        _outcome: &AllocationOutcome,
    ) -> bool {
        self.cached.lock().unwrap().take().is_some()
    }
}

#[test]
fn a_listener_makes_room_on_the_device() {
    let cache = Arc::new(Cache::default());
    let gpu = DeviceRoot::builder().limit(4096).manager(SimDevice::new());
    let gpu = gpu
        .options(|root| root.listener(cache.clone()))
        .build()
        .unwrap();
    *cache.cached.lock().unwrap() = Some(gpu.allocate(4096).unwrap().freeze());

    let buffer = gpu.allocate(2000).unwrap();
    assert_eq!((buffer.len(), gpu.allocated_memory()), (2000, 2048));
    assert!(gpu.allocate(4096).is_err()); // nothing is cached any more
}

#[test]
fn a_veto_is_heard_before_the_device_is_asked() {
    let (sim, veto) = (
        SimDevice::new(),
        Arc::new(Cache {
            veto: true,
            ..Cache::default()
        }),
    );
    let gpu = DeviceRoot::builder().manager(sim.clone());
    let gpu = gpu.options(|root| root.listener(veto)).build().unwrap();

    let refused = gpu.allocate(100).unwrap_err();
    assert!(refused.to_string().contains("by the test"), "{refused}");
    assert_eq!((sim.used_bytes(), gpu.allocated_memory()), (0, 0));
}
