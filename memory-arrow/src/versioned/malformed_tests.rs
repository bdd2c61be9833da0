//! C structures that cannot be arrays: each is refused with an error, and released once.
#![expect(unsafe_code, reason = "breaks C structures on purpose")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::deps::arrow_array::types::Int32Type;
use super::deps::arrow_array::{
    Array, ArrayRef, DictionaryArray, FixedSizeListArray, Int32Array, ListArray, StringArray,
    StringViewArray, StructArray, make_array,
};
use super::deps::arrow_schema::{DataType, Field};
use super::{Accounted, FFI_ArrowArray, FFI_ArrowSchema, export_array, import_array, import_batch};
use crate::c_data::{RawArray, RawSchema};

fn array_of(raw: &mut FFI_ArrowArray) -> &mut RawArray {
    // SAFETY: both types have the layout that the C Data Interface defines.
    unsafe { &mut *std::ptr::from_mut(raw).cast::<RawArray>() }
}

fn schema_of(raw: &mut FFI_ArrowSchema) -> &mut RawSchema {
    // SAFETY: both types have the layout that the C Data Interface defines.
    unsafe { &mut *std::ptr::from_mut(raw).cast::<RawSchema>() }
}

fn child(raw: &mut RawArray, index: usize) -> &mut RawArray {
    // SAFETY: the tests ask for children that are there.
    let child = unsafe { raw.children.add(index) };
    // SAFETY: arrow-rs made the array of pointers.
    let child = unsafe { *child };
    // SAFETY: arrow-rs made the child, which only `raw` owns.
    unsafe { &mut *child }
}

fn buffer(raw: &mut RawArray, index: usize) -> &mut *const c_void {
    // SAFETY: the tests ask for buffers that are there.
    let buffer = unsafe { raw.buffers.cast_mut().add(index) };
    // SAFETY: arrow-rs made the array of pointers, which only `raw` owns.
    unsafe { &mut *buffer }
}

/// Exports `array`, breaks it, and checks that it is refused with a message that has `reason`, and
/// released.
#[track_caller]
fn refuses(
    array: &dyn Array,
    reason: &str,
    break_it: impl FnOnce(&mut RawArray, &mut RawSchema) -> Option<Repair>,
) {
    let (held, into) = (RootAllocator::unlimited(), RootAllocator::unlimited());
    let adopted = make_array(array.to_data()).adopt(&held).unwrap();
    let (mut c_array, mut c_schema) = export_array(&adopted).unwrap();
    drop(adopted);
    assert!(held.allocated_memory() > 0, "nothing to release");

    let repair = break_it(array_of(&mut c_array), schema_of(&mut c_schema));
    // SAFETY: the structure was valid, and the import can detect what was changed.
    let refused = unsafe { import_array(c_array, &c_schema, &into) };

    if let Some(repair) = repair {
        // The schema's own release needs this.
        repair(schema_of(&mut c_schema));
    }
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains(reason), "{refused}");
    assert_eq!((held.allocated_memory(), into.allocated_memory()), (0, 0));
}

type Repair = Box<dyn FnOnce(&mut RawSchema)>;

fn ints() -> Int32Array {
    Int32Array::from(vec![Some(1), None, Some(3)])
}

fn strings() -> StringArray {
    StringArray::from(vec!["one", "two", "three"])
}

fn lists() -> ListArray {
    ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), Some(2)]), None])
}

fn structs() -> StructArray {
    let field = Arc::new(Field::new("a", DataType::Int32, true));
    StructArray::from(vec![(field, Arc::new(ints()) as ArrayRef)])
}

#[test]
fn numbers_that_no_array_has_are_refused() {
    refuses(&ints(), "length -1", |array, _| {
        array.length = -1;
        None
    });
    refuses(&ints(), "offset -1", |array, _| {
        array.offset = -1;
        None
    });
    refuses(&ints(), "too large", |array, _| {
        array.length = i64::MAX;
        None
    });
    refuses(&ints(), "too large", |array, _| {
        (array.length, array.offset) = (1 << 56, 1 << 56);
        None
    });
    refuses(&ints(), "-2 nulls in 3 rows", |array, _| {
        array.null_count = -2;
        None
    });
    refuses(&ints(), "4 nulls in 3 rows", |array, _| {
        array.null_count = 4;
        None
    });
}

#[test]
fn wrong_counts_are_refused() {
    for found in [-1, 0, 1, 3, i64::MAX] {
        refuses(&ints(), "buffers instead of 2", |array, _| {
            array.n_buffers = found;
            None
        });
    }
    for found in [-1, 1, i64::MAX] {
        refuses(&ints(), "children instead of 0", |array, _| {
            array.n_children = found;
            None
        });
    }
    refuses(&structs(), "0 children instead of 1", |array, _| {
        array.n_children = 0;
        None
    });
    let views = StringViewArray::from(vec!["a string that is not inlined"]);
    refuses(&views, "2 buffers instead of 3", |array, _| {
        array.n_buffers = 2;
        None
    });
}

#[test]
fn null_pointers_are_refused() {
    refuses(&ints(), "buffers is null", |array, _| {
        array.buffers = null();
        None
    });
    refuses(&ints(), "no mask", |array, _| {
        *buffer(array, 0) = null();
        None
    });
    refuses(&ints(), "bytes of values is null", |array, _| {
        *buffer(array, 1) = null();
        None
    });
    refuses(&strings(), "offsets is null", |array, _| {
        *buffer(array, 1) = null();
        None
    });
    refuses(&strings(), "11 bytes of values is null", |array, _| {
        *buffer(array, 2) = null();
        None
    });
    refuses(&structs(), "children is null", |array, _| {
        array.children = null_mut();
        None
    });
    let dictionary: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    refuses(&dictionary, "dictionary is null", |array, _| {
        array.dictionary = null_mut();
        None
    });
}

#[test]
fn lengths_of_view_buffers_that_cannot_be_are_refused() {
    let views = StringViewArray::from(vec!["a string that is not inlined"]);
    refuses(&views, "null or not aligned", |array, _| {
        *buffer(array, 3) = null();
        None
    });
    refuses(&views, "buffer 0 of -1 bytes", |array, _| {
        let lengths = Box::leak(Box::new([-1_i64]));
        *buffer(array, 3) = lengths.as_ptr().cast();
        None
    });
    refuses(&views, "bytes, null: true", |array, _| {
        *buffer(array, 2) = null();
        None
    });
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let mut array: ArrayRef = Arc::new(ints());
    for _ in 0..70 {
        let field = Arc::new(Field::new("item", array.data_type().clone(), true));
        array = Arc::new(FixedSizeListArray::new(field, 1, array, None));
    }
    refuses(&array, "nested more than 64 deep", |_, _| None);
}

#[test]
fn a_structure_within_is_named_by_its_path() {
    refuses(&structs(), "array.children[0]: length -5", |array, _| {
        child(array, 0).length = -5;
        None
    });
    refuses(&lists(), "array.children[0]", |array, _| {
        child(array, 0).n_buffers = 7;
        None
    });
}

#[test]
fn offsets_that_run_backwards_are_refused() {
    for (first, last) in [(-1, 11), (5, 4), (0, -1)] {
        refuses(&strings(), "offsets from", |array, _| {
            let offsets = Box::leak(Box::new([first, 3_i32, 6, last]));
            *buffer(array, 1) = offsets.as_ptr().cast();
            None
        });
    }
    refuses(&strings(), "not aligned", |array, _| {
        let offsets = *buffer(array, 1);
        *buffer(array, 1) = offsets.cast::<u8>().wrapping_add(1).cast();
        None
    });
    refuses(&strings(), "", |array, _| {
        let offsets = Box::leak(Box::new([0, 9_i32, 6, 11]));
        *buffer(array, 1) = offsets.as_ptr().cast();
        None
    });
    refuses(&lists(), "", |array, _| {
        child(array, 0).length = 1;
        None
    });
}

#[test]
fn values_that_are_not_of_the_type_are_refused() {
    refuses(&strings(), "", |array, _| {
        let bytes = Box::leak(Box::new([0xFF_u8; 11]));
        *buffer(array, 2) = bytes.as_ptr().cast();
        None
    });
    let dictionary: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    refuses(&dictionary, "", |array, _| {
        let keys = Box::leak(Box::new([0_i32, 1, 2]));
        *buffer(array, 1) = keys.as_ptr().cast();
        None
    });
}

#[test]
fn formats_that_are_not_known_are_refused() {
    for format in [
        c"", c"?", c"d:99", c"w:-1", c"+w:x", c"+us:a", c"+l", c"ts", c"\xFF",
    ] {
        refuses(&ints(), "", |_, schema| {
            let before = std::mem::replace(&mut schema.format, format.as_ptr());
            Some(Box::new(move |schema| schema.format = before))
        });
    }
    refuses(&ints(), "the format is null", |_, schema| {
        let before = std::mem::replace(&mut schema.format, null());
        Some(Box::new(move |schema| schema.format = before))
    });
    refuses(
        &structs(),
        "children[0]: the schema is null",
        |_, schema| {
            let nothing = Box::leak(Box::new([null_mut::<RawSchema>()]));
            let before = std::mem::replace(&mut schema.children, nothing.as_mut_ptr());
            Some(Box::new(move |schema| schema.children = before))
        },
    );
    refuses(&structs(), "-1 children", |_, schema| {
        let before = std::mem::replace(&mut schema.n_children, -1);
        Some(Box::new(move |schema| schema.n_children = before))
    });
}

#[test]
fn metadata_with_negative_lengths_are_refused() {
    for metadata in [&[-1_i32, 0, 0, 0], &[1, -7, 0, 0], &[1, 0, -9, 0]] {
        refuses(&ints(), "of the metadata is -", |_, schema| {
            let bytes = Box::leak(Box::new(*metadata));
            schema.metadata = bytes.as_ptr().cast();
            None
        });
    }
}

#[test]
fn structures_that_were_released_are_refused() {
    let root = RootAllocator::unlimited();
    let (array, schema) = export_array(&ints()).unwrap();

    // SAFETY: an empty structure is a released one.
    let refused = unsafe { import_array(FFI_ArrowArray::empty(), &schema, &root) }.unwrap_err();
    assert!(refused.to_string().contains("released before"), "{refused}");
    // SAFETY: an empty structure is a released one.
    let refused = unsafe { import_array(array, &FFI_ArrowSchema::empty(), &root) }.unwrap_err();
    assert!(refused.to_string().contains("released before"), "{refused}");
    refuses(&structs(), "released before", |array, _| {
        let release = child(array, 0).release.take();
        let child: *mut RawArray = child(array, 0);
        // A structure that was moved out of it is released by its new owner.
        if let Some(release) = release {
            // SAFETY: the callback was taken from this child, and is called once.
            unsafe { release(child) };
        }
        None
    });
}

#[test]
fn a_batch_that_is_no_struct_is_refused() {
    let root = RootAllocator::unlimited();
    let (array, schema) = export_array(&ints()).unwrap();
    // SAFETY: the array is valid.
    let refused = unsafe { import_batch(array, &schema, &root) }.unwrap_err();
    assert!(refused.to_string().contains("a batch is a struct"));
    assert_eq!(root.allocated_memory(), 0);
}
