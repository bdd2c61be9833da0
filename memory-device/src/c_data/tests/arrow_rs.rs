//! Arrays of arrow-rs, from and to arrays whose buffers arrow-rs cannot take as they are.
#![expect(unsafe_code, reason = "implements DeviceManager over another one")]

use std::alloc::Layout;
use std::mem::MaybeUninit;

use arrow_array::cast::AsArray;
use arrow_array::{Array, Int32Array, StringArray};

use super::*;
use crate::{Device, DeviceAddress, DeviceError, DeviceManager, Event, Stream};

fn cpu() -> DeviceRoot {
    DeviceRoot::builder().build().unwrap()
}

/// A buffer whose address is this number of bytes beyond an aligned one.
fn beyond(root: &DeviceRoot, skipped: usize, bytes: &[u8]) -> Option<DeviceBuf> {
    let mut all = vec![0; skipped];
    all.extend(bytes);
    Some(buffer(root, &all)?.slice(skipped..))
}

#[test]
fn offsets_that_are_not_aligned_are_copied() {
    let root = cpu();
    let offsets_32 = bytes_of(&[0, 1, 3]);
    let offsets_64: Vec<u8> = [0_i64, 1, 3]
        .into_iter()
        .flat_map(i64::to_ne_bytes)
        .collect();
    for (format, offsets, skipped) in [
        ("u", &offsets_32, 1),
        ("z", &offsets_32, 2),
        ("U", &offsets_64, 4),
    ] {
        let array = DeviceArray::builder(schema(format), root.device())
            .length(2)
            .buffers([
                None,
                beyond(&root, skipped, offsets),
                beyond(&root, 1, b"abc"),
            ])
            .build()
            .unwrap();

        let back = array.to_arrow().unwrap();

        let last: &[u8] = match format {
            "u" => back.as_string::<i32>().value(1).as_bytes(),
            "U" => back.as_string::<i64>().value(1).as_bytes(),
            _ => back.as_binary::<i32>().value(1),
        };
        assert_eq!((back.len(), last), (2, &b"bc"[..]), "{format}");
        drop((array, back));
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn offsets_of_children_and_dictionaries_are_copied_too() {
    let root = cpu();
    let values = |length| {
        DeviceArray::builder(schema("u"), root.device())
            .length(length)
            .buffers([
                None,
                beyond(&root, 3, &bytes_of(&[0, 1, 3])),
                buffer(&root, b"abc"),
            ])
            .build()
            .unwrap()
    };
    let indices = DeviceSchema::new("i", []).unwrap();
    let indices = indices.with_dictionary((*schema("u")).clone()).unwrap();
    let indices = DeviceArray::builder(indices, root.device())
        .length(2)
        .buffers([None, buffer(&root, &bytes_of(&[1, 0]))])
        .dictionary(values(2))
        .build()
        .unwrap();

    let back = batch([values(2), indices]).to_arrow().unwrap();

    let columns = back.as_struct().columns();
    assert_eq!(
        columns[0].as_string::<i32>(),
        &StringArray::from(vec!["a", "bc"])
    );
    let values = columns[1].as_any_dictionary().values();
    assert_eq!(
        values.as_string::<i32>(),
        &StringArray::from(vec!["a", "bc"])
    );
}

#[test]
fn an_array_without_rows_needs_no_offsets() {
    let root = cpu();
    let block = buffer(&root, &[9; 64]).unwrap();
    let list = Arc::new(DeviceSchema::new("+l", [(*schema("i")).clone()]).unwrap());
    for offsets in [None, Some(block.slice(64..)), Some(block.slice(3..5))] {
        for format in ["u", "Z"] {
            let array = DeviceArray::builder(schema(format), root.device())
                .buffers([None, offsets.clone(), None])
                .build()
                .unwrap();
            assert_eq!(array.to_arrow().unwrap().len(), 0, "{format}");
        }
        let array = DeviceArray::builder(Arc::clone(&list), root.device())
            .buffers([None, offsets])
            .children([ints(&root, &[])])
            .build()
            .unwrap();
        assert_eq!(array.to_arrow().unwrap().len(), 0);
    }
}

/// A device that says that it is the CPU, whose addresses the CPU cannot read.
#[derive(Debug)]
struct Elsewhere(Arc<SimDevice>);

// SAFETY: all promises are those of the simulated device.
unsafe impl DeviceManager for Elsewhere {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn name(&self) -> &str {
        "elsewhere"
    }

    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError> {
        self.0.allocate(layout, stream)
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(at, layout, after) }
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.0.copy_in(from, to, stream) }
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.0.copy_out(from, to, stream) }
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.0.copy_within(from, to, len, stream) }
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        self.0.stream()
    }
}

/// A regression: arrow-rs looked for the data or the child's rows before the first offset, which an array without rows need
/// not have.
#[test]
fn an_array_without_rows_may_have_any_offset() {
    let root = cpu();
    let offset = 168_i64.to_ne_bytes();
    let fields = [false, true].map(|nullable| {
        let field = DeviceSchema::new("i", []).unwrap();
        field.with_nullable(nullable)
    });
    let [keys, values] = fields.each_ref().map(|field| {
        let column = DeviceArray::builder(field.clone(), root.device());
        column.length(0).buffers([None, None]).build().unwrap()
    });
    let entries = DeviceSchema::new("+s", fields).unwrap();
    let entries = DeviceArray::builder(entries.with_nullable(false), root.device())
        .length(0)
        .buffers([None])
        .children([keys, values])
        .build()
        .unwrap();
    for format in ["u", "z", "U", "Z", "+l", "+L", "+m"] {
        let narrow = matches!(format, "u" | "z" | "+l" | "+m");
        let offset = &offset[..if narrow { 4 } else { 8 }];
        let (buffers, children) = match format {
            "+m" => (vec![None, buffer(&root, offset)], vec![entries.clone()]),
            "+l" | "+L" => (vec![None, buffer(&root, offset)], vec![ints(&root, &[])]),
            _ => (vec![None, buffer(&root, offset), None], vec![]),
        };
        let types = children.iter().map(|child| (**child.schema()).clone());
        let schema = DeviceSchema::new(format, types).unwrap();
        let array = DeviceArray::builder(schema.clone(), root.device())
            .length(0)
            .buffers(buffers)
            .children(children)
            .build()
            .unwrap();
        let indices = DeviceSchema::new("i", []).unwrap();
        let indices = DeviceArray::builder(indices.with_dictionary(schema).unwrap(), root.device())
            .length(0)
            .buffers([None, None])
            .dictionary(array.clone())
            .build()
            .unwrap();

        for (at, array) in [
            ("top", array.clone()),
            ("child", batch([array.clone(), array])),
            ("dictionary", indices),
        ] {
            let back = array.to_arrow();
            let back = back.unwrap_or_else(|error| panic!("{format}, {at}: {error}"));
            assert_eq!(back.len(), 0, "{format}, {at}");
        }
    }
}

#[test]
fn memory_of_the_cpu_that_it_cannot_read_is_refused() {
    let manager = Arc::new(Elsewhere(SimDevice::new()));
    let root = DeviceRoot::builder().manager(manager).build().unwrap();
    let array = ints(&root, &[1, 2, 3]);
    let text = |error: CDataError| error.to_string();

    for error in [
        text(array.to_arrow().map(drop).unwrap_err()),
        text(array.export().map(drop).unwrap_err()),
        text(
            DeviceArray::from_arrow(&Int32Array::from(vec![1]), &root)
                .map(drop)
                .unwrap_err(),
        ),
        text(
            DeviceArray::from_arrow(&StringArray::from(vec!["x"]), &root)
                .map(drop)
                .unwrap_err(),
        ),
    ] {
        assert!(
            error.contains("the CPU does not read memory of `elsewhere`"),
            "{error}"
        );
    }
    drop(array);
    assert_eq!(root.allocated_memory(), 0);
}
