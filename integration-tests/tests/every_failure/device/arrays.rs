//! Arrays of devices, which come and go over the C Device Data Interface.
#![expect(unsafe_code, reason = "imports what it has just exported")]

use std::sync::Arc;

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_array::{Array, StringArray};
use arrow_memory_device::c_data::{DeviceArray, DeviceSchema, ImportedStream, export_stream};
use arrow_memory_device::{CpuManager, DeviceRoot};

use super::Gpu;
use crate::managers::Hostile;
use crate::state::{Charged, Charges, Opaque, State};
use crate::sweep::{Operation, op};
use crate::world::{World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("DeviceArrayBuilder::build", |w| {
        let gpu = Gpu::new(w);
        let mut buffer = gpu.buffer();
        w.act(&mut buffer, |it| {
            let array = DeviceArray::builder(DeviceSchema::new("i", []).unwrap(), it.device());
            let array = array.length(3).null_count(0);
            array.buffers([None, Some(it.clone())]).build().map(Opaque)
        });
    }),
    op("DeviceArray::synchronize", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| it.synchronize());
    }),
    op("DeviceArray::slice", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| done(Opaque(it.slice(1, 1))));
    }),
    op("DeviceArray::copy_to", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| it.copy_to(&gpu.query));
    }),
    op("DeviceArray::view_or_copy", |w| {
        let gpu = Gpu::new(w);
        let cpu = cpu(w);
        w.act(&mut array(&gpu), |it| it.view_or_copy(&cpu));
    }),
    op("DeviceArray::export", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| it.export().map(Opaque));
    }),
    op("ArrowDeviceArray::drop", |w| {
        let gpu = Gpu::new(w);
        let mut exported = Charged(array(&gpu).export().ok(), 1024);
        w.act_quietly(&mut exported, |it| drop(it.0.take()));
    }),
    op("DeviceArray::import", |w| {
        let (gpu, other) = (Gpu::new(w), Gpu::new(w));
        let array = array(&gpu);
        w.act(&mut array.clone(), |it| {
            let exported = it.export()?;
            // SAFETY: it was exported just now, as a value of this schema.
            unsafe { DeviceArray::import(exported, Arc::clone(it.schema()), &other.query) }
        });
    }),
    op("DeviceArray::import into its own tree", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| {
            let exported = it.export()?;
            // SAFETY: it was exported just now, as a value of this schema.
            unsafe { DeviceArray::import(exported, Arc::clone(it.schema()), &gpu.root) }
                .map(|it| it.len())
        });
    }),
    op("DeviceArray::from_arrow", |w| {
        let cpu = cpu(w);
        let text = text();
        w.act(&mut (), |()| DeviceArray::from_arrow(&text, &cpu));
    }),
    op("DeviceArray::to_arrow", |w| {
        let cpu = cpu(w);
        let mut array = DeviceArray::from_arrow(&text(), &cpu).unwrap();
        w.act(&mut array, |it| it.to_arrow().map(Opaque));
    }),
    op("export_stream", |w| {
        let gpu = Gpu::new(w);
        w.act(&mut array(&gpu), |it| {
            let (schema, kind) = (Arc::clone(it.schema()), it.device().kind());
            let arrays = [it.clone(), it.clone()].map(Ok).into_iter();
            done(Opaque(export_stream(schema, kind, arrays)))
        });
    }),
    op("ImportedStream::import", |w| {
        let (gpu, other) = (Gpu::new(w), Gpu::new(w));
        w.act(&mut array(&gpu), |it| {
            let (schema, kind) = (Arc::clone(it.schema()), it.device().kind());
            let arrays = [it.clone(), it.clone()].map(Ok).into_iter();
            let stream = export_stream(schema, kind, arrays);
            // SAFETY: it was exported just now.
            let stream = unsafe { ImportedStream::import(stream, &other.query) }?;
            let arrays = stream.collect::<Result<Vec<_>, _>>();
            // Each of them as foreign memory of its own.
            arrays.map(|it| Charged(Some(it), 24))
        });
    }),
];

impl State for DeviceArray {
    fn charges(&self, charges: &mut Charges) {
        let buffers = self.buffers().iter().flatten();
        buffers.for_each(|it| it.charges(charges));
    }

    fn describe(&self) -> String {
        let buffers = self.buffers().iter().flatten();
        buffers.map(State::describe).collect()
    }
}

/// Three integers on the device.
fn array(gpu: &Gpu) -> DeviceArray {
    let buffer = gpu.buffer();
    let array = DeviceArray::builder(DeviceSchema::new("i", []).unwrap(), buffer.device());
    let array = array.length(3).null_count(0);
    array.buffers([None, Some(buffer)]).build().unwrap()
}

fn text() -> StringArray {
    let text: StringArray = (0..100).map(|it| Some(format!("row {it}"))).collect();
    assert_eq!((text.len(), text.accounted_size()), (100, 0));
    text
}

/// The memory of the CPU as a device, over the manager that fails.
fn cpu(w: &World) -> DeviceRoot {
    let manager = CpuManager::over(Arc::new(Hostile {
        inner: Arc::clone(&w.manager),
    }));
    let root = DeviceRoot::builder().manager(manager).build().unwrap();
    w.watch(root.accounting());
    root
}
