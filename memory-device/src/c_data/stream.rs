//! Streams of arrays over the C Device Data Interface.
#![expect(unsafe_code, reason = "calls and implements callbacks of C")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use super::array::DeviceArray;
use super::error::{At, CDataError};
use super::raw::{ArrowDeviceArray, ArrowDeviceArrayStream, ArrowSchema};
use super::schema::DeviceSchema;
use crate::allocator::DeviceAllocator;
use crate::device::DeviceKind;

/// Exports arrays of one type, on devices of one kind, as a stream. Each array is taken from the iterator when the consumer
/// asks for it, on the consumer's thread, and belongs to the consumer from then on.
///
/// An error of the iterator reaches the consumer as a code of `errno` (`ENOMEM` if memory was short, else `EIO`) and a text.
/// A panic of it does so, too. An array of another type, or on a device of another kind, is reported as `EINVAL`, and dropped.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_device::c_data::{DeviceArray, DeviceSchema, ImportedStream, export_stream};
/// use arrow_memory_device::{DeviceRoot, SimDevice};
///
/// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
/// let schema = Arc::new(DeviceSchema::new("i", [])?);
/// let array = DeviceArray::builder(Arc::clone(&schema), gpu.device())
///     .length(4)
///     .buffers([None, Some(gpu.allocate(16)?.freeze())])
///     .build()?;
/// let stream = export_stream(schema, gpu.device().kind(), [Ok(array)].into_iter());
///
/// let query = gpu.child("query").build()?;
/// // SAFETY: this crate made the stream.
/// let mut arrays = unsafe { ImportedStream::import(stream, &query) }?;
/// assert_eq!(arrays.next().transpose()?.map(|array| array.len()), Some(4));
/// assert!(arrays.next().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("ExportDeviceRecordBatchReader"))]
pub fn export_stream(
    schema: impl Into<Arc<DeviceSchema>>,
    kind: DeviceKind,
    arrays: impl Iterator<Item = Result<DeviceArray, CDataError>> + Send + 'static,
) -> ArrowDeviceArrayStream {
    let exported = Box::new(Exported {
        schema: schema.into(),
        kind,
        arrays: Box::new(arrays),
        ended: false,
        message: None,
    });
    ArrowDeviceArrayStream {
        device_type: kind.number(),
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release_stream),
        private_data: Box::into_raw(exported).cast(),
    }
}

/// What an exported stream owns until it is released.
struct Exported {
    schema: Arc<DeviceSchema>,
    kind: DeviceKind,
    arrays: Box<dyn Iterator<Item = Result<DeviceArray, CDataError>> + Send>,
    /// Whether the iterator has ended. It is not asked again, unlike this stream, whose consumer may go on.
    ended: bool,
    /// The text of the last error, which the consumer may read until its next call.
    message: Option<CString>,
}

impl Exported {
    /// Exports the next array; a structure that counts as released at the end.
    fn next(&mut self) -> Result<ArrowDeviceArray, CDataError> {
        if self.ended {
            return Ok(ArrowDeviceArray::empty());
        }
        let Some(array) = self.arrays.next().transpose()? else {
            self.ended = true;
            return Ok(ArrowDeviceArray::empty());
        };
        let at = At::Top("array");
        if !array.schema().is_like(&self.schema) {
            return at.error("the array is of another type than the stream");
        }
        let (found, expected) = (array.device(), self.kind.name());
        if found.kind() != self.kind {
            return at.error(format!(
                "the array is on {found}, the stream's are on devices of kind {expected}"
            ));
        }
        array.export()
    }

    /// Runs a callback's work, and makes its error, or its panic, what C expects.
    fn answer<T>(
        &mut self,
        out: *mut T,
        work: impl FnOnce(&mut Self) -> Result<T, CDataError>,
    ) -> c_int {
        // An error may be the iterator's own, so that its text and its drop may panic as well.
        let answered = catch_unwind(AssertUnwindSafe(|| {
            work(self).map_err(|error| {
                let told = (code_of(&error), error.to_string());
                // Not at the end of the closure, where a panic of it would leak what is returned.
                drop(error);
                told
            })
        }));
        let (code, message) = match answered {
            Ok(Ok(value)) => {
                // SAFETY: the interface has the consumer pass memory for the structure.
                unsafe { out.write(value) };
                return 0;
            }
            Ok(Err(told)) => told,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                arrow_memory_core::__private::events::drop_payload(panic);
                (EIO, format!("a panic: {}", text.unwrap_or_default()))
            }
        };
        self.message = CString::new(message.replace('\0', " ")).ok();
        code
    }
}

/// What `errno` calls an error.
fn code_of(error: &CDataError) -> c_int {
    match error {
        error if error.is_out_of_memory() => ENOMEM,
        CDataError::Malformed { .. } | CDataError::WrongDevice { .. } => EINVAL,
        // 0 would say that there was no error.
        CDataError::Stream { code, .. } if *code != 0 => *code,
        _ => EIO,
    }
}

/// The stream's own part.
///
/// # Safety
///
/// `stream` is a stream of `export_stream` that was not released, and no other call of it runs.
unsafe fn exported<'a>(stream: *mut ArrowDeviceArrayStream) -> &'a mut Exported {
    // SAFETY: the caller promises a valid stream.
    let private = unsafe { (*stream).private_data };
    // SAFETY: `export_stream` set it to a box of this type, which lives until the release. No other call uses it.
    unsafe { &mut *private.cast::<Exported>() }
}

unsafe extern "C" fn get_schema(
    stream: *mut ArrowDeviceArrayStream,
    out: *mut ArrowSchema,
) -> c_int {
    // SAFETY: the interface has the consumer call this with a stream that was not released, one call at a time.
    let exported = unsafe { exported(stream) };
    exported.answer(out, |exported| exported.schema.to_c())
}

unsafe extern "C" fn get_next(
    stream: *mut ArrowDeviceArrayStream,
    out: *mut ArrowDeviceArray,
) -> c_int {
    // SAFETY: the interface has the consumer call this with a stream that was not released, one call at a time.
    let exported = unsafe { exported(stream) };
    exported.answer(out, Exported::next)
}

unsafe extern "C" fn get_last_error(stream: *mut ArrowDeviceArrayStream) -> *const c_char {
    // SAFETY: the interface has the consumer call this with a stream that was not released, one call at a time.
    let exported = unsafe { exported(stream) };
    exported.message.as_deref().map_or(null(), CStr::as_ptr)
}

unsafe extern "C" fn release_stream(stream: *mut ArrowDeviceArrayStream) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let stream = unsafe { &mut *stream };
    stream.release = None;
    let exported = stream.private_data.cast::<Exported>();
    stream.private_data = null_mut();
    // SAFETY: `export_stream` made the box, and the stream is released once.
    let exported = unsafe { Box::from_raw(exported) };
    // The iterator is the caller's, and its drop may panic, which must not unwind into C.
    arrow_memory_core::__private::events::catch(|| drop(exported));
}

/// The arrays of a stream from elsewhere. Each is imported as [`DeviceArray::import`] does it, when it is asked for.
///
/// The iterator ends when the stream ends, and after the first error. The stream is released when this is dropped.
pub struct ImportedStream {
    stream: ArrowDeviceArrayStream,
    schema: Arc<DeviceSchema>,
    allocator: DeviceAllocator,
    ended: bool,
}

impl ImportedStream {
    /// Takes a stream, asks for its type, and charges its arrays to `allocator`. After an error the stream was released.
    ///
    /// # Errors
    ///
    /// * [`CDataError::Malformed`] if the stream was released before, lacks a callback, or its schema cannot be right.
    /// * [`CDataError::UnknownDevice`] or [`CDataError::WrongDevice`] if it is for devices of another kind than the
    ///   allocator's.
    /// * [`CDataError::Stream`] if the stream reports an error.
    ///
    /// # Safety
    ///
    /// The stream fulfils the interface where that cannot be checked, and its arrays do so as
    /// [`DeviceArray::import`] asks for. It may be used and released on any thread, by one call at a time.
    #[doc(alias("ImportDeviceRecordBatchReader"))]
    pub unsafe fn import(
        mut stream: ArrowDeviceArrayStream,
        allocator: &DeviceAllocator,
    ) -> Result<Self, CDataError> {
        let at = At::Top("stream");
        if stream.is_released() {
            return at.error("the stream was released before");
        }
        let (expected, kind) = (allocator.device(), stream.device_type);
        match DeviceKind::from_number(kind) {
            None => return Err(CDataError::UnknownDevice { kind, id: -1 }),
            Some(found) if found != expected.kind() => {
                let found = crate::device::Device::new(found, -1);
                return Err(CDataError::WrongDevice { expected, found });
            }
            Some(_) => {}
        }
        let (Some(get_schema), Some(_)) = (stream.get_schema, stream.get_next) else {
            return at.error("a callback is null");
        };
        let mut schema = ArrowSchema::empty();
        // SAFETY: the stream was not released, and its callback fulfils the interface by the caller's promise.
        let code = unsafe { get_schema(&raw mut stream, &raw mut schema) };
        if code != 0 {
            // SAFETY: the last call of this stream returned an error.
            return Err(unsafe { last_error(&mut stream, code) });
        }
        // SAFETY: the caller promises that the schema fulfils the interface.
        let schema = unsafe { DeviceSchema::from_c(&schema) }?;
        Ok(Self {
            stream,
            schema: Arc::new(schema),
            allocator: allocator.clone(),
            ended: false,
        })
    }

    /// Returns the type of the arrays.
    pub fn schema(&self) -> &Arc<DeviceSchema> {
        &self.schema
    }

    /// Returns the allocator that the arrays are charged to.
    pub fn allocator(&self) -> &DeviceAllocator {
        &self.allocator
    }

    #[track_caller]
    fn advance(&mut self) -> Result<Option<DeviceArray>, CDataError> {
        let Some(get_next) = self.stream.get_next else {
            return Ok(None); // checked by `import`
        };
        let mut array = ArrowDeviceArray::empty();
        // SAFETY: the stream was not released, and its callback fulfils the interface by the promise to `import`.
        let code = unsafe { get_next(&raw mut self.stream, &raw mut array) };
        if code != 0 {
            // SAFETY: the last call of this stream returned an error.
            return Err(unsafe { last_error(&mut self.stream, code) });
        }
        if array.is_released() {
            return Ok(None);
        }
        // SAFETY: the promise to `import` holds for each array.
        unsafe { DeviceArray::import(array, Arc::clone(&self.schema), &self.allocator) }.map(Some)
    }
}

impl Iterator for ImportedStream {
    type Item = Result<DeviceArray, CDataError>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl std::iter::FusedIterator for ImportedStream {}

impl fmt::Debug for ImportedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedStream")
            .field("stream", &self.stream)
            .field("schema", &self.schema)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// The error of a stream, with its text.
///
/// # Safety
///
/// The last call of the stream returned this code, and the stream fulfils the interface.
unsafe fn last_error(stream: &mut ArrowDeviceArrayStream, code: c_int) -> CDataError {
    let text = match stream.get_last_error {
        // SAFETY: the stream was not released, and its last call failed.
        Some(get_last_error) => unsafe { get_last_error(stream) },
        None => null(),
    };
    let message = match text.is_null() {
        true => "no description".to_owned(),
        // SAFETY: the interface promises a C string, which lives until the next call.
        false => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
    };
    CDataError::Stream { code, message }
}

const EIO: c_int = 5;
const ENOMEM: c_int = 12;
const EINVAL: c_int = 22;
