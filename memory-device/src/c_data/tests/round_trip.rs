//! What an import gives back, what it charges, and when the source is released.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::thread;

use super::*;

#[test]
fn an_array_comes_back_and_is_charged_once() {
    let root = sim();
    let array = ints(&root, &[1, 2, 3]);

    let back = import(array.export().unwrap(), array.schema(), &root).unwrap();

    assert_eq!(read(&back.buffers()[1]), bytes_of(&[1, 2, 3]));
    assert_eq!(
        (back.len(), back.null_count(), root.allocated_memory()),
        (3, Some(0), 64)
    );
    drop(array);
    assert_eq!(read(&back.buffers()[1]), bytes_of(&[1, 2, 3]));
    drop(back);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn an_exported_array_stays_charged_until_it_is_released_on_any_thread() {
    let root = sim();
    let exported = ints(&root, &[1; 100]).export().unwrap();
    assert_eq!(root.allocated_memory(), 448);

    thread::spawn(|| drop(exported)).join().unwrap();

    assert_eq!(root.allocated_memory(), 0);
    root.close().unwrap();
}

#[test]
fn an_array_from_elsewhere_is_charged_at_its_size_and_released_with_its_last_buffer() {
    let (root, released) = (sim(), Count::default());
    let query = root.child("query").build().unwrap();
    let array = texts(&root, &[Some("device"), None, Some("data")]);
    let own = root.allocated_memory();

    let exported = foreign::exported(&array, &released);
    // SAFETY: the structure is a valid one.
    let back =
        unsafe { DeviceArray::import(exported, Arc::clone(array.schema()), &query) }.unwrap();

    assert_eq!(query.allocated_memory(), 1 + 4 * 4 + 10);
    assert_eq!(root.allocated_memory(), own + 27);
    let last = back.buffers()[2].clone();
    drop((back, array));
    assert_eq!((read(&last), released.get()), (b"devicedata".to_vec(), 0));
    drop(last);
    assert_eq!((released.get(), root.allocated_memory()), (1, 0));
}

#[test]
fn a_batch_with_a_dictionary_comes_back_on_all_levels() {
    let (root, released) = (sim(), Count::default());
    let values = texts(&root, &[Some("a"), Some("bc")]);
    let indices = DeviceSchema::new("c", []).unwrap();
    let indices = indices
        .with_dictionary((**values.schema()).clone())
        .unwrap();
    let keys = DeviceArray::builder(indices, root.device())
        .length(3)
        .buffers([None, buffer(&root, &[1, 0, 1])])
        .dictionary(values)
        .build()
        .unwrap();
    let array = batch([ints(&root, &[7, 8, 9]), keys]);

    let back = import(foreign::exported(&array, &released), array.schema(), &root).unwrap();

    let [numbers, keys] = back.children() else {
        panic!("{back:?}");
    };
    assert_eq!(read(&numbers.buffers()[1]), bytes_of(&[7, 8, 9]));
    assert_eq!(read(&keys.buffers()[1]), [1, 0, 1]);
    assert_eq!(read(&keys.dictionary().unwrap().buffers()[2]), b"abc");
    drop(back);
    assert_eq!(released.get(), 1);
}

#[test]
fn a_child_that_a_consumer_moves_out_outlives_its_parent() {
    let root = sim();
    let array = batch([ints(&root, &[1, 2]), ints(&root, &[3, 4])]);
    let exported = array.export().unwrap();
    drop(array);

    // SAFETY: an exported batch has two children.
    let child = unsafe { exported.array.children.add(1) };
    // SAFETY: the pointer leads to the second of two pointers.
    let child = unsafe { child.read() };
    // SAFETY: the pointer leads to a child, which is moved as the interface allows it.
    let child = ArrowDeviceArray::new(unsafe { ArrowArray::from_raw(child) }, root.device());
    drop(exported);

    assert_eq!(root.allocated_memory(), 64, "the other column was released");
    let back = import(child, &schema("i"), &root).unwrap();
    assert_eq!(read(&back.buffers()[1]), bytes_of(&[3, 4]));
}

#[test]
fn an_array_of_views_takes_the_lengths_of_its_data_along() {
    let (root, released) = (sim(), Count::default());
    let array = DeviceArray::builder(schema("vu"), root.device())
        .length(2)
        .buffers([
            None,
            buffer(&root, &[0; 32]),
            buffer(&root, &[5; 100]),
            buffer(&root, &[6; 7]),
        ])
        .build()
        .unwrap();

    for recognised in [true, false] {
        let exported = match recognised {
            true => array.export().unwrap(),
            false => foreign::exported(&array, &released),
        };
        assert_eq!(exported.array.n_buffers, 5);
        let back = import(exported, array.schema(), &root).unwrap();

        let lengths: Vec<usize> = back
            .buffers()
            .iter()
            .flatten()
            .map(DeviceBuf::len)
            .collect();
        assert_eq!(lengths, [32, 100, 7]);
        assert_eq!(read(&back.buffers()[3]), [6; 7]);
    }
    assert_eq!(released.get(), 1);
}

#[test]
fn a_slice_is_exported_with_its_offset_and_imported_with_what_its_rows_need() {
    let (root, released) = (sim(), Count::default());
    let array = ints(&root, &[1, 2, 3, 4, 5]).slice(2, 2);

    let back = import(foreign::exported(&array, &released), array.schema(), &root).unwrap();

    assert_eq!(
        (back.offset(), back.len(), back.null_count()),
        (2, 2, Some(0))
    );
    assert_eq!(read(&back.buffers()[1]), bytes_of(&[1, 2, 3, 4]));
}

#[test]
fn arrays_without_rows_need_no_buffers() {
    let (root, released) = (sim(), Count::default());
    for format in ["i", "u", "n", "vz"] {
        let fixed = if format == "n" {
            0
        } else {
            2 + usize::from(format == "u")
        };
        let array = DeviceArray::builder(schema(format), root.device())
            .buffers(vec![None; fixed])
            .build()
            .unwrap();

        let back = import(foreign::exported(&array, &released), array.schema(), &root).unwrap();

        assert!(
            back.is_empty() && back.buffers().iter().all(Option::is_none),
            "{format}"
        );
    }
    assert_eq!((released.get(), root.allocated_memory()), (4, 0));
}

#[test]
fn an_import_that_does_not_fit_charges_nothing_and_releases_once() {
    let (root, released) = (sim(), Count::default());
    let array = batch([ints(&root, &[1; 8]), ints(&root, &[2; 8])]);
    let query = root.child("query").limit(63).build().unwrap();

    let exported = foreign::exported(&array, &released);
    // SAFETY: the structure is a valid one.
    let refused = unsafe { DeviceArray::import(exported, Arc::clone(array.schema()), &query) };

    let error = refused.unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert_eq!((released.get(), query.allocated_memory()), (1, 0));
    query.close().unwrap();
}

#[test]
fn another_tree_of_the_device_is_charged_as_well() {
    let device = SimDevice::new();
    let (one, other) = (sim_with(Arc::clone(&device)), sim_with(device));
    let array = ints(&one, &[1, 2, 3, 4]);

    let back = import(array.export().unwrap(), array.schema(), &other).unwrap();
    drop(array);

    assert_eq!((one.allocated_memory(), other.allocated_memory()), (64, 16));
    drop(back);
    assert_eq!((one.allocated_memory(), other.allocated_memory()), (0, 0));
}

#[test]
fn a_share_in_a_sibling_keeps_the_charge_where_it_is() {
    let root = sim();
    let query = root.child("query").build().unwrap();
    let array = ints(&root, &[1, 2, 3, 4]);

    let exported = array.export().unwrap();
    // SAFETY: this crate made the structure.
    let back =
        unsafe { DeviceArray::import(exported, Arc::clone(array.schema()), &query) }.unwrap();

    assert_eq!((query.allocated_memory(), root.allocated_memory()), (0, 64));
    drop(array);
    assert_eq!(
        (query.allocated_memory(), root.allocated_memory()),
        (64, 64)
    );
    drop(back);
}

#[test]
fn an_array_is_copied_to_another_device_and_back() {
    let (gpu, cpu) = (sim(), DeviceRoot::builder().build().unwrap());
    let array = batch([ints(&cpu, &[1, 2]), texts(&cpu, &[Some("x"), None])]);

    let there = array.copy_to(&gpu).unwrap();
    let back = there.copy_to(&cpu).unwrap();

    assert_eq!(
        (there.device(), back.device()),
        (gpu.device(), cpu.device())
    );
    assert_eq!(read(&back.children()[0].buffers()[1]), bytes_of(&[1, 2]));
    assert_eq!(gpu.allocated_memory(), 4 * 64);
    drop(there);
    assert_eq!(gpu.allocated_memory(), 0);
}

#[test]
fn an_array_that_can_be_seen_is_not_copied() {
    let (gpu, cpu) = (sim(), DeviceRoot::builder().build().unwrap());
    let query = gpu.child("query").build().unwrap();
    let array = ints(&gpu, &[1, 2]);

    let shared = array.view_or_copy(&query).unwrap();
    let copied = array.view_or_copy(&cpu).unwrap();

    assert_eq!((gpu.allocated_memory(), cpu.allocated_memory()), (64, 64));
    let addresses =
        [&shared, &array].map(|array| array.buffers()[1].as_ref().map(DeviceBuf::address));
    assert_eq!(addresses[0], addresses[1]);
    assert_eq!(read(&copied.buffers()[1]), bytes_of(&[1, 2]));
}

#[test]
fn arrays_that_cannot_be_are_not_built() {
    let (root, cpu) = (sim(), DeviceRoot::builder().build().unwrap());
    let four = || buffer(&root, &[0; 4]);
    let build = |format: &str, length, nulls: usize, buffers: Vec<Option<DeviceBuf>>| {
        let array = DeviceArray::builder(schema(format), root.device()).length(length);
        array.null_count(nulls).buffers(buffers).build()
    };
    for (array, text) in [
        (build("i", 1, 0, vec![]), "0 buffers instead of 2"),
        (
            build("i", 1, 0, vec![None, four(), None]),
            "3 buffers instead of 2",
        ),
        (build("i", 2, 0, vec![None, four()]), "4 bytes instead of 8"),
        (
            build("i", 1, 0, vec![None, None]),
            "buffer 1 of 4 bytes is missing",
        ),
        (
            build("i", 1, 1, vec![None, four()]),
            "buffer 0 of 1 bytes is missing",
        ),
        (build("i", 1, 2, vec![four(), four()]), "2 nulls in 1 rows"),
        (build("i", usize::MAX, 0, vec![None, four()]), "too large"),
        (
            build("w:2147483647", 1 << 40, 0, vec![None, four()]),
            "too large",
        ),
        (
            build("i", 1, 0, vec![None, buffer(&cpu, &[0; 4])]),
            "ext-dev",
        ),
    ] {
        let error = array.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_schema_comes_back_with_names_flags_and_metadata() {
    let leaf = DeviceSchema::new("tsn:Europe/Berlin", [])
        .unwrap()
        .with_name("zeit");
    let leaf = leaf
        .with_metadata([("unit", "ns"), ("", "")])
        .with_nullable(false);
    let list = DeviceSchema::new("+l", [leaf]).unwrap().with_name("liste");
    let keys = DeviceSchema::new("s", []).unwrap();
    let keys = keys.with_dictionary(schema("vu").as_ref().clone()).unwrap();
    let batch = DeviceSchema::new("+s", [list, keys]).unwrap();

    let exported = batch.to_c().unwrap();
    // SAFETY: this crate made the structure.
    let back = unsafe { DeviceSchema::from_c(&exported) }.unwrap();

    assert_eq!(back, batch);
    let zeit = &back.children()[0].children()[0];
    assert_eq!((zeit.name(), zeit.is_nullable()), ("zeit", false));
    assert_eq!(zeit.metadata()[0], (b"unit".to_vec(), b"ns".to_vec()));
    assert!(
        DeviceSchema::new("i", [])
            .unwrap()
            .with_name("\0")
            .to_c()
            .is_err()
    );
}

#[test]
fn the_callbacks_mark_their_structures_as_released() {
    let root = sim();
    let array = ints(&root, &[1]);
    let mut exported = array.export().unwrap();
    let mut schema = array.schema().to_c().unwrap();
    let mut stream = export_stream(
        Arc::clone(array.schema()),
        root.device().kind(),
        [].into_iter(),
    );
    drop(array);

    // SAFETY: the structure was not released.
    unsafe { exported.array.release.unwrap()(&raw mut exported.array) };
    // SAFETY: the structure was not released.
    unsafe { schema.release.unwrap()(&raw mut schema) };
    // SAFETY: the structure was not released.
    unsafe { stream.release.unwrap()(&raw mut stream) };

    assert!(exported.is_released() && schema.is_released() && stream.is_released());
    assert_eq!(root.allocated_memory(), 0);
}
