//! Streams out and in.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use super::*;
use crate::{DeviceError, DeviceKind};

/// An iterator that counts its drops.
struct Arrays<I>(I, Count);

impl<I: Iterator> Iterator for Arrays<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }
}

impl<I> Drop for Arrays<I> {
    fn drop(&mut self) {
        self.1.add();
    }
}

/// Imports a stream of this crate's.
fn imported(stream: ArrowDeviceArrayStream, root: &DeviceRoot) -> ImportedStream {
    // SAFETY: this crate made the stream.
    unsafe { ImportedStream::import(stream, root) }.unwrap()
}

/// A stream of these arrays, which are of int32.
fn exported(
    root: &DeviceRoot,
    arrays: impl IntoIterator<Item = Result<DeviceArray, CDataError>, IntoIter: Send + 'static>,
) -> ArrowDeviceArrayStream {
    export_stream(schema("i"), root.device().kind(), arrays.into_iter())
}

#[test]
fn a_stream_gives_its_arrays_in_order_and_is_released_once() {
    let (root, dropped) = (sim(), Count::default());
    let arrays = [[1, 2], [3, 4]].map(|values| Ok(ints(&root, &values)));
    let arrays = Arrays(arrays.into_iter(), dropped.clone());
    let stream = export_stream(schema("i"), DeviceKind::ExtDev, arrays);

    let mut back = imported(stream, &root);

    assert_eq!(back.schema().format(), "i");
    let first = back.next().unwrap().unwrap();
    let second = back.next().unwrap().unwrap();
    assert!(back.next().is_none() && back.next().is_none());
    assert_eq!(dropped.get(), 0);
    drop(back);
    assert_eq!(dropped.get(), 1);
    assert_eq!(
        read(&first.buffers()[1]),
        bytes_of(&[1, 2]),
        "arrays outlive their stream"
    );
    assert_eq!(read(&second.buffers()[1]), bytes_of(&[3, 4]));
    drop((first, second));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn errors_of_the_producer_arrive_with_their_code_and_text() {
    let root = sim();
    let full = root
        .child("full")
        .limit(0)
        .build()
        .unwrap()
        .allocate(1)
        .unwrap_err();
    for (error, code, text) in [
        (
            CDataError::Device(full),
            12,
            "allocator `full` is out of room",
        ),
        (
            CDataError::Device(DeviceError::unavailable("gone")),
            5,
            "gone",
        ),
        (
            CDataError::Stream {
                code: 77,
                message: "from below".to_owned(),
            },
            77,
            "from below",
        ),
        (
            CDataError::Stream {
                code: 0,
                message: "without a code".to_owned(),
            },
            5,
            "without a code",
        ),
    ] {
        let arrays = [Ok(ints(&root, &[1])), Err(error), Ok(ints(&root, &[2]))];
        let mut back = imported(exported(&root, arrays), &root);
        assert!(back.next().unwrap().is_ok());

        let error = back.next().unwrap().unwrap_err();

        assert!(matches!(error, CDataError::Stream { code: found, .. } if found == code));
        assert!(error.to_string().contains(text), "{error}");
        assert!(back.next().is_none(), "it ends with its first error");
    }
}

#[test]
fn a_panic_of_the_iterator_is_an_error_of_the_stream() {
    let root = sim();
    let arrays = std::iter::once_with(|| panic!("the scan broke"));

    let error = imported(exported(&root, arrays), &root)
        .next()
        .unwrap()
        .unwrap_err();

    assert!(
        matches!(error, CDataError::Stream { code: 5, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("a panic: the scan broke"),
        "{error}"
    );
}

#[test]
fn arrays_that_do_not_belong_in_a_stream_are_reported() {
    let (root, cpu) = (sim(), DeviceRoot::builder().build().unwrap());
    for (array, text) in [
        (
            texts(&root, &[Some("x")]),
            "of another type than the stream",
        ),
        (
            ints(&cpu, &[1]),
            "is on cpu, the stream's are on devices of kind ext-dev",
        ),
    ] {
        let error = imported(exported(&root, [Ok(array)]), &root)
            .next()
            .unwrap()
            .unwrap_err();

        assert!(
            matches!(error, CDataError::Stream { code: 22, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!((root.allocated_memory(), cpu.allocated_memory()), (0, 0));
}

#[test]
fn a_stream_that_is_dropped_unread_releases_what_it_had() {
    let (root, dropped) = (sim(), Count::default());
    let arrays = Arrays([Ok(ints(&root, &[1]))].into_iter(), dropped.clone());

    drop(export_stream(schema("i"), DeviceKind::ExtDev, arrays));

    assert_eq!((dropped.get(), root.allocated_memory()), (1, 0));
}

#[test]
fn an_error_that_panics_is_an_error_of_the_stream() {
    #[derive(Debug)]
    struct Bomb;
    impl std::fmt::Display for Bomb {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("in the text")
        }
    }
    impl std::error::Error for Bomb {}
    #[derive(Debug)]
    struct OnDrop;
    impl std::fmt::Display for OnDrop {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text")
        }
    }
    impl std::error::Error for OnDrop {}
    impl Drop for OnDrop {
        fn drop(&mut self) {
            panic!("in the drop")
        }
    }
    let root = sim();
    let errors = [
        (CDataError::Arrow(Box::new(Bomb)), "in the text"),
        (CDataError::Arrow(Box::new(OnDrop)), "in the drop"),
    ];

    for (error, expected) in errors {
        let arrays = std::iter::once(Err(error));
        let stream = export_stream(schema("i"), root.device().kind(), arrays);
        // SAFETY: this crate made the stream.
        let mut back = unsafe { ImportedStream::import(stream, &root) }.unwrap();
        let error = back.next().unwrap().unwrap_err().to_string();
        assert!(error.contains(&format!("a panic: {expected}")), "{error}");
    }
}

#[test]
fn a_stream_that_panics_when_it_is_dropped_does_not_unwind_into_c() {
    struct Bomb;
    impl Iterator for Bomb {
        type Item = Result<DeviceArray, CDataError>;

        fn next(&mut self) -> Option<Self::Item> {
            None
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }

    drop(export_stream(schema("i"), DeviceKind::ExtDev, Bomb));
}

#[test]
fn a_stream_that_has_ended_stays_ended() {
    let (root, mut calls) = (sim(), 0);
    let array = ints(&root, &[1]);
    let arrays = std::iter::from_fn(move || {
        calls += 1;
        (calls != 2).then(|| Ok(array.clone()))
    });
    let mut stream = export_stream(schema("i"), DeviceKind::ExtDev, arrays);

    let ended = [(); 4].map(|()| {
        let mut out = ArrowDeviceArray::empty();
        // SAFETY: the stream was not released, and `out` is memory for the structure.
        let code = unsafe { stream.get_next.unwrap()(&raw mut stream, &raw mut out) };
        assert_eq!(code, 0);
        out.is_released()
    });

    assert_eq!(ended, [false, true, true, true]);
}
