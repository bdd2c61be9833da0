//! Arrays that go out over the C Device Data Interface and come back.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_system as _;

use super::*;
use crate::any::AnyBuffer;
use crate::{DeviceBuf, DeviceRoot, SimDevice};

#[cfg(feature = "arrow")]
mod arrow_rs;
mod foreign;
mod hostile;
mod hostile_streams;
mod round_trip;
mod streams;
mod sync;

/// A tree of a simulated device.
fn sim() -> DeviceRoot {
    sim_with(SimDevice::new())
}

fn sim_with(device: Arc<SimDevice>) -> DeviceRoot {
    DeviceRoot::builder().manager(device).build().unwrap()
}

fn schema(format: &str) -> Arc<DeviceSchema> {
    Arc::new(DeviceSchema::new(format, []).unwrap())
}

/// A buffer with these bytes on the device.
fn buffer(root: &DeviceRoot, bytes: &[u8]) -> Option<DeviceBuf> {
    let mut buffer = root.allocate(bytes.len()).unwrap();
    buffer.write_at(0, bytes).unwrap();
    Some(buffer.freeze())
}

fn bytes_of(values: &[i32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

/// An array of int32 without nulls.
fn ints(root: &DeviceRoot, values: &[i32]) -> DeviceArray {
    DeviceArray::builder(schema("i"), root.device())
        .length(values.len())
        .null_count(0)
        .buffers([None, buffer(root, &bytes_of(values))])
        .build()
        .unwrap()
}

/// An array of strings, some of them null.
fn texts(root: &DeviceRoot, values: &[Option<&str>]) -> DeviceArray {
    let (mut offsets, mut data, mut valid) = (vec![0], String::new(), 0_u8);
    for (row, value) in values.iter().enumerate() {
        data.push_str(value.unwrap_or_default());
        offsets.push(i32::try_from(data.len()).unwrap());
        valid |= u8::from(value.is_some()) << row;
    }
    DeviceArray::builder(schema("u"), root.device())
        .length(values.len())
        .null_count(values.iter().filter(|value| value.is_none()).count())
        .buffers([
            buffer(root, &[valid]),
            buffer(root, &bytes_of(&offsets)),
            buffer(root, data.as_bytes()),
        ])
        .build()
        .unwrap()
}

/// A batch of the two columns.
fn batch(columns: [DeviceArray; 2]) -> DeviceArray {
    let schemas = columns.each_ref().map(|column| (**column.schema()).clone());
    let (length, device) = (columns[0].len(), columns[0].device());
    DeviceArray::builder(DeviceSchema::new("+s", schemas).unwrap(), device)
        .length(length)
        .null_count(0)
        .buffers([None])
        .children(columns)
        .build()
        .unwrap()
}

/// Bytes of a buffer, by a reader.
fn read(buffer: &Option<DeviceBuf>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = buffer.as_ref().unwrap().reader();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Imports what this crate, or a test's producer over it, exported.
fn import(
    array: ArrowDeviceArray,
    schema: &Arc<DeviceSchema>,
    root: &DeviceRoot,
) -> Result<DeviceArray, CDataError> {
    // SAFETY: the structure is one of ours, or a test's that is checked before it is relied on.
    unsafe { DeviceArray::import(array, Arc::clone(schema), root) }
}

/// A counter of releases.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
