//! Device memory that is allocated, wrapped, moved and dropped.
#![expect(unsafe_code, reason = "wraps memory of a device")]

use std::alloc::Layout;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_memory_device::{
    DeviceBuf, DeviceBufMut, DeviceManager, DeviceRoot, Event, SimDevice, TwinExt,
};

use super::Gpu;
use crate::hooks::{Listener, waker};
use crate::plan::{Point, panics, pause};
use crate::state::Opaque;
use crate::sweep::{Operation, op};
use crate::world::done;

pub(crate) const OPERATIONS: &[Operation] = &[
    op("DeviceRootBuilder::build", |w| {
        w.act(&mut (), |()| {
            let root = DeviceRoot::builder().manager(SimDevice::new());
            let root = root.options(|root| root.listener(Arc::new(Listener)));
            root.build().map(Opaque)
        });
    }),
    op("DeviceRoot::close", |w| {
        let root = DeviceRoot::builder().manager(SimDevice::new()).build();
        w.act(&mut Opaque(root.unwrap()), |it| it.0.close());
    }),
    op("DeviceRoot::retire", |w| {
        let root = DeviceRoot::builder().manager(SimDevice::new()).build();
        w.act(&mut Opaque(root.unwrap()), |it| done(it.0.retire()));
    }),
    op("DeviceChildBuilder::build", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| {
            gpu.root.child("child").reservation(300).build().map(Opaque)
        });
    }),
    op("DeviceAllocator::close", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| gpu.query.close());
    }),
    op("DeviceAllocator::retire", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| done(gpu.query.retire()));
    }),
    op("DeviceAllocator::set_limit", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| done(gpu.query.set_limit(1000)));
    }),
    op("DeviceAllocator::stream", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| gpu.query.stream().map(Opaque));
    }),
    op("DeviceAllocator::allocate", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| gpu.query.allocate(1000));
    }),
    op("DeviceAllocator::allocate of nothing", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| gpu.query.allocate(0));
    }),
    op("DeviceAllocator::allocate_on", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        w.act(&mut (), |()| gpu.query.allocate_on(1000, &stream));
    }),
    op("DeviceAllocator::allocate_from", |w| {
        let gpu = Gpu::new(w);
        let mut reservation = gpu.query.accounting().new_reservation();
        reservation.add(500).unwrap();
        // Its bytes are given back where the device has no block.
        w.act_consuming(&mut reservation, |it| gpu.query.allocate_from(it, 1000));
    }),
    op("DeviceWait::allocate", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| gpu.query.wait().allocate(1000));
    }),
    op("DeviceWait::allocate_async", |w| {
        let gpu = Gpu::new(w);
        let held = gpu.query.allocate(crate::world::LIMIT).unwrap();
        w.act_consuming(&mut Some(held), |held| {
            let mut future = Box::pin(gpu.query.wait().allocate_async(1000));
            let waker = pause(waker);
            let mut context = Context::from_waker(&waker);
            let first = future.as_mut().poll(&mut context);
            drop(held.take());
            let polled = match first.is_ready() {
                true => first,
                false => future.as_mut().poll(&mut context),
            };
            pause(|| drop(waker));
            polled.map_or_pending()
        });
    }),
    op("DeviceAllocator::wrap_foreign", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| wrapped(&gpu));
    }),
    op("DeviceBuf::drop of foreign memory", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = wrapped(&gpu).ok();
        w.act_quietly(&mut buffer, |it| drop(it.take()));
    }),
    op("TwinExt::twin", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut (), |()| w.leaf.twin(&gpu.root).map(Opaque));
    }),
    op("DeviceBufMut::write_at", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = gpu.query.allocate(1000).unwrap();
        w.act(&mut buffer, |it| it.write_at(10, &[1; 100]));
    }),
    op("DeviceBufMut::read_at", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = gpu.query.allocate(1000).unwrap();
        buffer.write_at(0, &[7; 1000]).unwrap();
        w.act(&mut buffer, |it| it.read_at(10, &mut [0; 100]));
    }),
    op("DeviceBufMut::written_by", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        let mut buffer = gpu.query.allocate(1000).unwrap();
        w.act(&mut buffer, |it| {
            stream.record().map(|event| it.written_by(event))
        });
    }),
    op("DeviceBufMut::freeze", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        let buffer = gpu.query.allocate_on(1000, &stream).unwrap();
        w.act(&mut Some(buffer), |it| {
            done(it.take().map(DeviceBufMut::freeze))
        });
    }),
    op("DeviceBufMut::synchronize", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        let mut buffer = gpu.query.allocate_on(1000, &stream).unwrap();
        w.act(&mut buffer, |it| it.synchronize());
    }),
    op("DeviceBufMut::drop", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = gpu.query.allocate(1000).ok();
        w.act_quietly(&mut buffer, |it| drop(it.take()));
    }),
    op("DeviceBuf::slice", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| done(Opaque(it.slice(10..20))));
    }),
    op("DeviceBuf::synchronize", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.synchronize());
    }),
    op("DeviceBuf::used_until", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        w.act(&mut gpu.buffer(), |it| {
            stream.record().map(|event| it.used_until(&event))
        });
    }),
    op("DeviceBuf::retain_in", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.retain_in(&gpu.root));
    }),
    op("DeviceBuf::transfer_ownership", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| {
            it.transfer_ownership(&gpu.root).map(|it| it.buffer.len())
        });
    }),
    op("DeviceBuf::try_transfer_ownership", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| {
            it.try_transfer_ownership(&gpu.root).map(|it| it.len())
        });
    }),
    op("DeviceBuf::drop", |w| {
        let gpu = Gpu::new(w);
        w.act_quietly(&mut Some(gpu.buffer()), |it| drop(it.take()));
    }),
    op("DeviceBuf::drop of the owner", |w| {
        let gpu = Gpu::new(w);
        let buffer = gpu.buffer();
        let shared = buffer.retain_in(&gpu.root).unwrap();
        w.act_quietly(&mut (Some(buffer), shared), |it| drop(it.0.take()));
    }),
];

trait MapOrPending<T> {
    /// What is ready.
    fn map_or_pending(self) -> T;
}

impl<T> MapOrPending<T> for Poll<T> {
    fn map_or_pending(self) -> T {
        match self {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("there is room"),
        }
    }
}

/// Memory of the device that is no tree's, in a tree.
fn wrapped(gpu: &Gpu) -> Result<DeviceBuf, arrow_memory_device::DeviceError> {
    let layout = Layout::from_size_align(1000, 64).unwrap();
    // Of the device itself: that is what the test does, and no part of the operation.
    let at = gpu.sim.allocate(layout, None).unwrap();
    let sim = Arc::clone(&gpu.sim);
    let release = move || {
        // SAFETY: the block is released once.
        unsafe { sim.deallocate(at, layout, &[]) };
        panics(Point::Owner);
    };
    // SAFETY: the block lives until the release, and nothing writes it.
    unsafe {
        gpu.query
            .wrap_foreign(at, 1000, Some(Event::done()), release)
    }
}
