//! Structures that cannot be right: each is refused, released once, and charges nothing.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use super::*;

/// Changes the structure of an array, imports it, and returns what the error says.
fn refused(
    root: &DeviceRoot,
    array: &DeviceArray,
    change: impl FnOnce(&mut ArrowDeviceArray),
) -> String {
    let (released, before) = (Count::default(), root.allocated_memory());
    let mut exported = foreign::exported(array, &released);
    change(&mut exported);
    let moved = exported.is_released();

    let error = import(exported, array.schema(), root).unwrap_err();

    assert_eq!(released.get(), usize::from(!moved), "{error}");
    assert_eq!(root.allocated_memory(), before, "{error}");
    error.to_string()
}

#[test]
fn numbers_that_cannot_be_right_are_refused() {
    let root = sim();
    let array = ints(&root, &[1, 2, 3]);
    type Change = fn(&mut ArrowArray);
    let cases: [(Change, &str); 12] = [
        (|array| array.length = -1, "length -1"),
        (|array| array.length = i64::MIN, "length"),
        (|array| array.offset = -4, "offset -4"),
        (|array| array.length = i64::MAX, "too large"),
        (|array| array.offset = i64::MAX - 1, "too large"),
        (|array| array.length = i64::MAX / 9, "do not fit"),
        (|array| array.null_count = -2, "-2 nulls"),
        (|array| array.null_count = 4, "4 nulls in 3 rows"),
        (|array| array.null_count = 1, "buffer 0 is null"),
        (|array| array.n_buffers = -2, "-2 buffers"),
        (|array| array.n_buffers = 3, "3 buffers instead of 2"),
        (|array| array.n_children = 1, "1 children instead of 0"),
    ];
    for (change, text) in cases {
        let message = refused(&root, &array, |exported| change(&mut exported.array));
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn pointers_that_cannot_be_right_are_refused() {
    let root = sim();
    let array = ints(&root, &[1, 2, 3]);

    let message = refused(&root, &array, |exported| {
        exported.array.buffers = null_mut()
    });
    assert!(
        message.contains("the pointer to 2 buffers is null"),
        "{message}"
    );

    let message = refused(&root, &array, |exported| {
        exported.array.buffers = exported.array.buffers.wrapping_byte_add(1);
    });
    assert!(message.contains("not aligned"), "{message}");

    let message = refused(&root, &array, |exported| set_buffer(exported, 1, null()));
    assert!(
        message.contains("12 bytes of buffer 1 is null"),
        "{message}"
    );

    let message = refused(&root, &array, |exported| {
        set_buffer(exported, 1, std::ptr::without_provenance(usize::MAX));
    });
    assert!(message.contains("are too many"), "{message}");

    let message = refused(&root, &array, |exported| {
        exported.array.dictionary = std::ptr::without_provenance_mut(3);
    });
    assert!(message.contains("not aligned"), "{message}");
}

/// Sets a pointer to a buffer.
fn set_buffer(exported: &mut ArrowDeviceArray, index: usize, to: *const c_void) {
    // SAFETY: the test's producer owns as many pointers as the structure says.
    let slot = unsafe { exported.array.buffers.add(index) };
    // SAFETY: the pointer leads to one of them.
    unsafe { slot.write(to) };
}

#[test]
fn devices_that_are_unknown_or_not_the_allocators_are_refused() {
    let root = sim();
    let array = ints(&root, &[1]);

    for kind in [0, 5, 17, -1, i32::MAX] {
        let message = refused(&root, &array, |exported| exported.device_type = kind);
        assert!(
            message.contains(&format!("unknown kind {kind}")),
            "{message}"
        );
    }
    let message = refused(&root, &array, |exported| exported.device_type = 2);
    assert!(message.contains("is on cuda:0"), "{message}");
    let message = refused(&root, &array, |exported| exported.device_id = 7);
    assert!(message.contains("is on ext-dev:7"), "{message}");
}

#[test]
fn a_structure_that_was_released_is_refused_and_not_released_again() {
    let (root, released) = (sim(), Count::default());
    let array = ints(&root, &[1]);
    let mut exported = foreign::exported(&array, &released);
    // SAFETY: the structure is in place; this is how a consumer moves it.
    let moved = unsafe { ArrowDeviceArray::from_raw(&raw mut exported) };

    let message = import(exported, array.schema(), &root)
        .unwrap_err()
        .to_string();

    assert!(message.contains("was released before"), "{message}");
    assert_eq!(released.get(), 0);
    drop(moved);
    assert_eq!(released.get(), 1);
    assert!(
        ArrowDeviceArray::empty().is_released() && ArrowDeviceArray::empty().device().is_none()
    );
}

#[test]
fn children_that_cannot_be_right_are_refused_by_their_place() {
    let root = sim();
    let array = batch([ints(&root, &[1, 2]), ints(&root, &[3, 4])]);
    /// Where the pointer to the second child is.
    fn slot(exported: &mut ArrowDeviceArray) -> &mut *mut ArrowArray {
        // SAFETY: the test's producer owns two pointers.
        let slot = unsafe { exported.array.children.add(1) };
        // SAFETY: the pointer is one of them.
        unsafe { &mut *slot }
    }
    /// The second child.
    fn child(exported: &mut ArrowDeviceArray) -> &mut ArrowArray {
        // SAFETY: the test's producer made two children.
        unsafe { &mut **slot(exported) }
    }
    type Change = fn(&mut ArrowDeviceArray);
    let cases: [(Change, &str); 8] = [
        (|top| top.array.n_children = -1, "-1 children"),
        (|top| top.array.n_children = 3, "3 children instead of 2"),
        (|top| top.array.children = null_mut(), "2 children is null"),
        (
            |top| *slot(top) = null_mut(),
            "array.children[1]: the array is null",
        ),
        (
            |top| *slot(top) = std::ptr::without_provenance_mut(1),
            "array.children[1]: a pointer to a structure is not aligned",
        ),
        (
            |top| child(top).length = 1,
            "array.children[1]: 1 rows instead of 2",
        ),
        (
            |top| child(top).offset = -1,
            "array.children[1]: length 2, offset -1",
        ),
        (
            |top| drop(std::mem::replace(child(top), ArrowArray::empty())),
            "array.children[1]: the array was released before",
        ),
    ];
    for (change, text) in cases {
        let message = refused(&root, &array, change);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn dictionaries_that_are_missing_or_not_expected_are_refused() {
    let root = sim();
    let plain = ints(&root, &[0]);
    let indices = DeviceSchema::new("i", []).unwrap();
    let indices = indices.with_dictionary((*schema("i")).clone()).unwrap();
    let array = DeviceArray::builder(indices, root.device())
        .length(1)
        .buffers([None, plain.buffers()[1].clone()])
        .dictionary(ints(&root, &[7]))
        .build()
        .unwrap();

    let message = refused(&root, &array, |top| top.array.dictionary = null_mut());
    assert!(message.contains("the dictionary is null"), "{message}");

    let released = Count::default();
    let exported = foreign::exported(&array, &released);
    let message = import(exported, plain.schema(), &root)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("a dictionary, but the type has none"),
        "{message}"
    );
    assert_eq!(released.get(), 1);
}

#[test]
fn offsets_and_lengths_that_cannot_be_right_are_refused() {
    let root = sim();
    for (last, text) in [
        (-1, "the last offset is -1"),
        (i32::MIN, "the last offset is -2147483648"),
    ] {
        let array = DeviceArray::builder(schema("u"), root.device())
            .length(1)
            .buffers([
                None,
                buffer(&root, &bytes_of(&[0, last])),
                buffer(&root, b"x"),
            ])
            .build()
            .unwrap();
        let message = refused(&root, &array, |_| ());
        assert!(message.contains(text), "{message}");
    }
    let views = DeviceArray::builder(schema("vz"), root.device())
        .length(1)
        .buffers([None, buffer(&root, &[0; 16]), buffer(&root, &[5; 100])])
        .build()
        .unwrap();
    let wrong = [-1_i64];
    for (lengths, text) in [
        (wrong.as_ptr(), "variadic buffer 0 of -1 bytes"),
        (null(), "lengths of variadic buffers is null"),
        (wrong.as_ptr().wrapping_byte_add(1), "not aligned"),
    ] {
        let message = refused(&root, &views, |top| set_buffer(top, 3, lengths.cast()));
        assert!(message.contains(text), "{message}");
    }
    let message = refused(&root, &views, |top| set_buffer(top, 2, null()));
    assert!(
        message.contains("variadic buffer 0 of 100 bytes, null: true"),
        "{message}"
    );
    let message = refused(&root, &views, |top| top.array.n_buffers = 2);
    assert!(message.contains("2 buffers instead of 3"), "{message}");
}

#[test]
fn types_nested_too_deep_are_refused() {
    let mut nested = (*schema("i")).clone();
    let mut levels = 0;
    let error = loop {
        match DeviceSchema::new("+s", [nested.clone()]) {
            Ok(deeper) => nested = deeper,
            Err(error) => break error.to_string(),
        }
        levels += 1;
    };
    assert_eq!(levels, 64);
    assert!(error.contains("nested more than 64 deep"), "{error}");
}

#[test]
fn schemas_that_cannot_be_right_are_refused() {
    let nested = || {
        let list = DeviceSchema::new("+l", [(*schema("i")).clone()]).unwrap();
        list.with_metadata([("key", "value")]).to_c().unwrap()
    };
    let check = |change: fn(&mut ArrowSchema), text: &str| {
        let mut schema = nested();
        change(&mut schema);
        // SAFETY: pointers that are not null and aligned lead to what they should.
        let error = unsafe { DeviceSchema::from_c(&schema) }
            .unwrap_err()
            .to_string();
        assert!(error.contains(text), "{error}");
    };
    check(|schema| schema.format = null(), "the format is null");
    check(
        |schema| schema.format = c"?".as_ptr(),
        "the format `?` is unknown",
    );
    check(|schema| schema.format = c"\xff".as_ptr(), "not UTF-8");
    check(|schema| schema.name = c"\xff".as_ptr(), "the name");
    check(
        |schema| schema.format = c"i".as_ptr(),
        "has 1 children instead of 0",
    );
    check(
        |schema| schema.format = c"+r".as_ptr(),
        "has 1 children instead of 2",
    );
    check(
        |schema| schema.format = c"+m".as_ptr(),
        "a map of `i` with 0 children",
    );
    check(|schema| schema.n_children = -1, "-1 children");
    check(|schema| schema.n_children = i64::MAX, "are too many");
    check(|schema| schema.children = null_mut(), "1 children is null");
    check(
        |schema| schema.dictionary = std::ptr::without_provenance_mut(1),
        "not aligned",
    );
    check(
        |schema| schema.metadata = [-1_i32].as_ptr().cast(),
        "the number of the metadata is -1",
    );
    check(
        |schema| schema.metadata = [1_i32, -7].as_ptr().cast(),
        "the length of a key of the metadata is -7",
    );
    // SAFETY: an empty structure has no pointers.
    let released = unsafe { DeviceSchema::from_c(&ArrowSchema::empty()) };
    assert!(
        released
            .unwrap_err()
            .to_string()
            .contains("released before")
    );
}

/// Schemas of two children each, which are both the one below: the last one has them all.
#[expect(clippy::vec_box, reason = "the schemas point at one another")]
fn doubled(levels: usize, metadata: &[u8]) -> Vec<Box<ArrowSchema>> {
    let pair = || {
        let child = || (*schema("i")).clone().with_metadata([(metadata, metadata)]);
        Box::new(
            DeviceSchema::new("+s", [child(), child()])
                .unwrap()
                .to_c()
                .unwrap(),
        )
    };
    let mut made = vec![pair()];
    for _ in 0..levels {
        let below = std::ptr::from_mut(&mut **made.last_mut().unwrap());
        let above = pair();
        for index in 0..2 {
            // SAFETY: the structure has two pointers.
            let slot = unsafe { above.children.add(index) };
            // SAFETY: the slot is one of them. The release does not use it.
            unsafe { slot.write(below) };
        }
        made.push(above);
    }
    made
}

#[test]
fn a_schema_whose_children_are_the_same_ones_is_refused() {
    let levels = doubled(30, &[]);

    // SAFETY: pointers lead to what they should.
    let error = unsafe { DeviceSchema::from_c(levels.last().unwrap()) };

    let error = error.unwrap_err().to_string();
    assert!(error.contains("more than 1048576 types in one"), "{error}");
}

#[test]
fn a_schema_with_too_much_text_is_refused() {
    let levels = doubled(12, &[7; 1 << 16]);

    // SAFETY: pointers lead to what they should.
    let error = unsafe { DeviceSchema::from_c(levels.last().unwrap()) };

    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("more than 268435456 bytes of text"),
        "{error}"
    );
}

#[test]
fn a_schema_of_more_children_than_any_has_is_refused_before_they_are_read() {
    let mut structure = DeviceSchema::new("+s", []).unwrap().to_c().unwrap();
    let mut children = vec![null_mut::<ArrowSchema>(); 1 << 20];
    structure.children = children.as_mut_ptr();
    structure.n_children = 1 << 20;

    // SAFETY: there are as many pointers.
    let error = unsafe { DeviceSchema::from_c(&structure) }.unwrap_err();

    let error = error.to_string();
    assert!(error.contains("more than 1048576 types in one"), "{error}");
}

#[test]
fn an_owner_that_panics_when_it_is_dropped_does_not_unwind_into_c() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }
    let (root, bomb) = (sim(), Bomb);
    let at = crate::DeviceAddress::new(1 << 20).unwrap();
    // SAFETY: nothing uses the memory, which does not exist.
    let wrapped = unsafe { root.wrap_foreign(at, 64, None, move || drop(bomb)) }.unwrap();
    let array = DeviceArray::builder(schema("l"), root.device())
        .length(8)
        .buffers([None, Some(wrapped)])
        .build()
        .unwrap();

    let exported = array.export().unwrap();
    drop(array);
    drop(exported);

    assert_eq!(root.allocated_memory(), 0);
}
