//! Streams that cannot be right.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::ffi::{c_char, c_int};
use std::ptr::null_mut;

use super::*;
use crate::DeviceKind;

/// A stream of another library, which counts its releases.
fn stream(released: &Count) -> ArrowDeviceArrayStream {
    let mut stream = ArrowDeviceArrayStream::empty();
    stream.device_type = DeviceKind::ExtDev.number();
    stream.get_schema = Some(get_schema);
    stream.get_next = Some(get_next);
    stream.get_last_error = Some(get_last_error);
    stream.release = Some(release);
    stream.private_data = Box::into_raw(Box::new(released.clone())).cast();
    stream
}

unsafe extern "C" fn get_schema(_: *mut ArrowDeviceArrayStream, out: *mut ArrowSchema) -> c_int {
    // SAFETY: the interface has the consumer pass memory for the structure.
    unsafe { out.write(schema("i").to_c().unwrap()) };
    0
}

unsafe extern "C" fn get_next(_: *mut ArrowDeviceArrayStream, _: *mut ArrowDeviceArray) -> c_int {
    0 // nothing was written, so the structure counts as released: the end
}

unsafe extern "C" fn get_last_error(_: *mut ArrowDeviceArrayStream) -> *const c_char {
    c"not \xff today".as_ptr()
}

unsafe extern "C" fn release(stream: *mut ArrowDeviceArrayStream) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let stream = unsafe { &mut *stream };
    assert!(stream.release.take().is_some(), "released twice");
    // SAFETY: `stream` made the box, and the structure is released once.
    unsafe { Box::from_raw(stream.private_data.cast::<Count>()) }.add();
}

/// Changes a stream, imports it, reads it to its end, and returns the error.
fn error_of(change: impl FnOnce(&mut ArrowDeviceArrayStream)) -> CDataError {
    let (root, released) = (sim(), Count::default());
    let mut stream = stream(&released);
    change(&mut stream);
    let moved = stream.is_released();

    // SAFETY: the stream is one of the test's, which is checked before it is relied on.
    let imported = unsafe { ImportedStream::import(stream, &root) };
    let error = match imported {
        Err(error) => error,
        Ok(arrays) => arrays.map(Result::unwrap_err).next().unwrap(),
    };

    assert_eq!(released.get(), usize::from(!moved), "{error}");
    assert_eq!(root.allocated_memory(), 0, "{error}");
    error
}

#[test]
fn a_stream_that_writes_nothing_has_ended() {
    let (root, released) = (sim(), Count::default());

    // SAFETY: the stream fulfils the interface.
    let arrays = unsafe { ImportedStream::import(stream(&released), &root) }.unwrap();

    assert_eq!(arrays.count(), 0);
    assert_eq!(released.get(), 1);
}

#[test]
fn streams_without_callbacks_or_of_other_devices_are_refused() {
    let message = error_of(|stream| stream.get_schema = None).to_string();
    assert!(message.contains("a callback is null"), "{message}");
    let message = error_of(|stream| stream.get_next = None).to_string();
    assert!(message.contains("a callback is null"), "{message}");
    let message = error_of(|stream| stream.device_type = 6).to_string();
    assert!(message.contains("unknown kind 6"), "{message}");
    let message = error_of(|stream| stream.device_type = 2).to_string();
    assert!(message.contains("is on cuda"), "{message}");
}

#[test]
fn a_stream_that_was_released_is_refused_and_not_released_again() {
    let released = Count::default();
    let mut kept = stream(&released);
    // SAFETY: the structure is in place; this is how a consumer moves it.
    let moved = unsafe { ArrowDeviceArrayStream::from_raw(&raw mut kept) };

    // SAFETY: the stream counts as released.
    let refused = unsafe { ImportedStream::import(kept, &sim()) };

    assert!(refused.unwrap_err().to_string().contains("released before"));
    assert_eq!(released.get(), 0);
    drop(moved);
    assert_eq!(released.get(), 1);
}

#[test]
fn codes_and_texts_of_a_stream_are_reported_even_if_they_are_odd() {
    unsafe extern "C" fn fails(_: *mut ArrowDeviceArrayStream, _: *mut ArrowSchema) -> c_int {
        -3
    }
    unsafe extern "C" fn next_fails(
        _: *mut ArrowDeviceArrayStream,
        _: *mut ArrowDeviceArray,
    ) -> c_int {
        c_int::MAX
    }
    unsafe extern "C" fn says_nothing(_: *mut ArrowDeviceArrayStream) -> *const c_char {
        null_mut()
    }

    let error = error_of(|stream| stream.get_schema = Some(fails)).to_string();
    assert_eq!(error, "the stream failed with code -3: not \u{fffd} today");
    let error = error_of(|stream| {
        stream.get_next = Some(next_fails);
        stream.get_last_error = Some(says_nothing);
    });
    assert!(
        matches!(&error, CDataError::Stream { code: c_int::MAX, message } if message == "no description")
    );
    let error = error_of(|stream| {
        stream.get_next = Some(next_fails);
        stream.get_last_error = None;
    });
    assert!(error.to_string().contains("no description"), "{error}");
}

#[test]
fn schemas_and_arrays_of_a_stream_are_checked() {
    unsafe extern "C" fn nothing(_: *mut ArrowDeviceArrayStream, _: *mut ArrowSchema) -> c_int {
        0
    }
    unsafe extern "C" fn elsewhere(
        _: *mut ArrowDeviceArrayStream,
        out: *mut ArrowDeviceArray,
    ) -> c_int {
        let cpu = DeviceRoot::builder().build().unwrap();
        let array = ints(&cpu, &[1]).export().unwrap();
        // SAFETY: the interface has the consumer pass memory for the structure.
        unsafe { out.write(array) };
        0
    }

    let error = error_of(|stream| stream.get_schema = Some(nothing)).to_string();
    assert!(
        error.contains("schema: the schema was released before"),
        "{error}"
    );
    let error = error_of(|stream| stream.get_next = Some(elsewhere));
    assert!(matches!(error, CDataError::WrongDevice { .. }), "{error}");
}
