//! Copies and views.

use std::io::{Read, Write};

use arrow_memory_device::{AnyBuffer, AnyBufferMut, DeviceBuf, DeviceError};

use super::Gpu;
use crate::state::{Charges, Opaque, State};
use crate::sweep::{Operation, op};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("AnyBuffer::copy_to to the host", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.copy_to(&w.leaf));
    }),
    op("AnyBuffer::copy_to to the device", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut w.buffer(&w.leaf, 1000), |it| it.copy_to(&gpu.query));
    }),
    op("AnyBuffer::copy_to within the device", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.copy_to(&gpu.query));
    }),
    op("AnyBuffer::copy_to to another device", |w| {
        let (gpu, other) = (Gpu::new(w), Gpu::new(w));
        w.act(&mut gpu.buffer(), |it| it.copy_to(&other.query));
    }),
    op("AnyBuffer::copy_to within the host", |w| {
        w.act(&mut w.buffer(&w.leaf, 1000), |it| it.copy_to(&w.right));
    }),
    op("AnyBuffer::copy_to_on to the device", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        w.act(&mut w.buffer(&w.leaf, 1000).slice(..), |it| {
            // The work keeps the source until it is over.
            finished(it.copy_to_on(&gpu.query, &stream), &stream)
        });
    }),
    op("AnyBuffer::copy_to_on within the device", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        w.act(&mut gpu.buffer(), |it| {
            finished(it.copy_to_on(&gpu.query, &stream), &stream)
        });
    }),
    op("AnyBuffer::copy_to_on to the host", |w| {
        let gpu = Gpu::late(w);
        let stream = gpu.query.stream().unwrap();
        w.act(&mut gpu.buffer(), |it| it.copy_to_on(&w.leaf, &stream));
    }),
    op("AnyBuffer::copy_to_on to another device", |w| {
        let (gpu, other) = (Gpu::new(w), Gpu::late(w));
        let stream = other.query.stream().unwrap();
        w.act(&mut gpu.buffer(), |it| {
            finished(it.copy_to_on(&other.query, &stream), &stream)
        });
    }),
    op("AnyBuffer::view_on", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| {
            it.view_on(&w.leaf).map(|it| it.is_none())
        });
    }),
    op("AnyBuffer::view_on within the tree", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.view_on(&gpu.root).map(Opaque));
    }),
    op("AnyBuffer::view_on within the host", |w| {
        w.act(&mut w.buffer(&w.leaf, 1000), |it| {
            it.view_on(&w.right).map(Opaque)
        });
    }),
    op("AnyBuffer::view_or_copy", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| it.view_or_copy(&w.leaf));
    }),
    op("AnyBuffer::reader", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut gpu.buffer(), |it| {
            it.reader().read_exact(&mut [0; 500])
        });
    }),
    op("AnyBufferMut::writer", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = gpu.query.allocate(1000).unwrap();
        w.act(&mut buffer, |it| it.writer().write_all(&[7; 500]));
    }),
    op("Stream::wait_for", |w| {
        let gpu = Gpu::late(w);
        let (one, two) = (gpu.query.stream().unwrap(), gpu.query.stream().unwrap());
        w.act(&mut (), |()| {
            one.record().and_then(|event| two.wait_for(&event))
        });
    }),
];

/// A copy whose work is over, and has succeeded. Otherwise the stream, on which all that comes later would fail, is used
/// up.
fn finished(
    copy: Result<DeviceBuf, DeviceError>,
    stream: &arrow_memory_device::Stream,
) -> Result<Finished, DeviceError> {
    let copy = copy?;
    let over = copy.synchronize();
    // Also if it has failed, which is what the copy says.
    let _ = stream.synchronize();
    Ok(Finished(copy, over.is_ok()))
}

struct Finished(DeviceBuf, #[expect(dead_code, reason = "for reports")] bool);

impl State for Finished {
    fn charges(&self, charges: &mut Charges) {
        self.0.charges(charges);
    }
}
