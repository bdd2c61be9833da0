//! The C Data Interface: arrays out with their ledgers, arrays in as foreign memory.
#![expect(unsafe_code, reason = "takes and hands out C structures")]

use std::sync::Arc;

use arrow_memory_core::BufferAllocator;

use super::accounted::Accounted;
use super::buffers::{arrow_buf, into_buffer};
use super::deps::arrow_array::{Array, ArrayRef, RecordBatch, StructArray, ffi, make_array};
use super::deps::arrow_buffer::{BooleanBuffer, NullBuffer};
use super::deps::arrow_data::ArrayData;
use super::deps::arrow_schema::{DataType, Field, Schema};
use crate::c_data::{At, RawArray, RawSchema};
use crate::error::MemoryError;
use crate::guard::guarded;

mod check;

use check::check_array;

pub use super::deps::arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};

const _: () = assert!(size_of::<RawArray>() == size_of::<FFI_ArrowArray>());
const _: () = assert!(size_of::<RawSchema>() == size_of::<FFI_ArrowSchema>());

/// Exports an array over the C Data Interface. Its buffers, and their charges, are kept until the
/// consumer calls the release, which it may do on any thread, and which happens exactly once: also
/// when the structure is dropped here without having been consumed.
///
/// A null mask that does not start at a whole byte (of a slice, often) is copied, into memory of the
/// allocator that has it.
///
/// # Errors
///
/// [`MemoryError::Arrow`] if the type has no C format; [`MemoryError::Alloc`] if such a copy does not
/// fit.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::Int32Array;
/// use arrow_memory_arrow::{Accounted, export_array, import_array};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (array, schema) = export_array(&Int32Array::from(vec![1, 2, 3]).adopt(&root)?)?;
/// assert_eq!(root.allocated_memory(), 12);
/// drop(array);
/// assert_eq!(root.allocated_memory(), 0);
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[doc(alias("ExportArray", "exportVector"))]
pub fn export_array(array: &dyn Array) -> Result<(FFI_ArrowArray, FFI_ArrowSchema), MemoryError> {
    Ok(ffi::to_ffi(&with_aligned_nulls(array.to_data())?)?)
}

/// The same array with null masks that need no shifting: arrow-rs would copy them uncounted.
fn with_aligned_nulls(data: ArrayData) -> Result<ArrayData, MemoryError> {
    let shifted = |nulls: &NullBuffer| !nulls.offset().is_multiple_of(8);
    if !data.nulls().is_some_and(shifted) && data.child_data().is_empty() {
        return Ok(data);
    }
    let (data_type, len, mut nulls, offset, buffers, children) = data.into_parts();
    if let Some(mask) = &nulls
        && offset == 0
        && shifted(mask)
        && let Some(ours) = arrow_buf(mask.buffer())
    {
        let copy = ours.allocator().buffer_from_slice(&mask.inner().sliced())?;
        let bits = BooleanBuffer::new(into_buffer(copy), 0, len);
        // SAFETY: the same bits have the same number of zeros.
        nulls = Some(unsafe { NullBuffer::new_unchecked(bits, mask.null_count()) });
    }
    let children = children
        .into_iter()
        .map(with_aligned_nulls)
        .collect::<Result<_, _>>()?;
    let builder = ArrayData::builder(data_type)
        .len(len)
        .nulls(nulls)
        .offset(offset)
        .buffers(buffers)
        .child_data(children);
    // SAFETY: it was valid, with the same bits.
    Ok(unsafe { builder.build_unchecked() })
}

/// As [`export_array`], for a batch, which goes as a struct; the schema has the batch's metadata.
///
/// # Errors
///
/// As there.
pub fn export_batch(batch: &RecordBatch) -> Result<(FFI_ArrowArray, FFI_ArrowSchema), MemoryError> {
    let data = with_aligned_nulls(StructArray::from(batch.clone()).to_data())?;
    let array = FFI_ArrowArray::new(&data);
    let schema = FFI_ArrowSchema::try_from(&**batch.schema_ref())?;
    Ok((array, schema))
}

/// As [`export_array`], into structures that the consumer provides.
///
/// # Errors
///
/// As there; nothing is written then.
///
/// # Safety
///
/// Both pointers are valid for writes and aligned. What is there is overwritten, not released.
pub unsafe fn export_array_into(
    array: &dyn Array,
    array_out: *mut FFI_ArrowArray,
    schema_out: *mut FFI_ArrowSchema,
) -> Result<(), MemoryError> {
    let (array, schema) = export_array(array)?;
    // SAFETY: the caller's promise.
    unsafe { array_out.write(array) };
    // SAFETY: the caller's promise.
    unsafe { schema_out.write(schema) };
    Ok(())
}

/// Takes an array in over the C Data Interface, with every buffer charged to `allocator` as foreign
/// memory, at its size.
///
/// Nothing is copied, but for buffers that are less aligned than arrow-rs needs them: those are
/// copied to arrow-rs' own memory, and adopted. The source is released exactly once: when the last of
/// its buffers goes, or here, if it is refused. Memory that came from this tree, and starts where one
/// of its buffers did, is recognised and not charged again.
///
/// All values are validated, which reads them once: offsets, UTF-8, dictionary keys, views. See
/// [`import_trusted`] for producers that need no checking.
///
/// # Errors
///
/// * [`MemoryError::CData`] if the structure is visibly false: null pointers, negative or
///   overflowing lengths and offsets, wrong counts, unknown formats, structures released before.
/// * [`MemoryError::Arrow`] if the values are not valid for the type.
/// * As [`Accounted::adopt`] if it does not fit, as a whole.
///
/// # Safety
///
/// What the structures point at is as the C Data Interface says, as far as that cannot be checked:
/// pointers that are not null lead to as many bytes as lengths and offsets say, which nobody writes
/// until the release; strings end; the release callbacks may be called from any thread.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{Array, Int32Array};
/// use arrow_memory_arrow::{export_array, import_array};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (array, schema) = export_array(&Int32Array::from(vec![1, 2, 3]))?;
/// // SAFETY: arrow-rs made them.
/// let imported = unsafe { import_array(array, &schema, &root) }?;
/// assert_eq!((imported.len(), root.allocated_memory()), (3, 12));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[track_caller]
#[doc(alias("ImportArray", "importVector"))]
pub unsafe fn import_array(
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
    allocator: &BufferAllocator,
) -> Result<ArrayRef, MemoryError> {
    // SAFETY: the caller's promise.
    let data = unsafe { take(array, schema) }?;
    guarded(|| Ok(data.validate_full()?))?;
    adopt(data, allocator)
}

/// As [`import_array`], without a look at the values.
///
/// # Errors
///
/// As there, but for values.
///
/// # Safety
///
/// As there; and the values are valid for the type.
#[track_caller]
pub unsafe fn import_trusted(
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
    allocator: &BufferAllocator,
) -> Result<ArrayRef, MemoryError> {
    // SAFETY: the caller's promise.
    let data = unsafe { take(array, schema) }?;
    adopt(data, allocator)
}

/// As [`import_array`], for a batch, which comes as a struct without nulls.
///
/// # Errors
///
/// As there; and [`MemoryError::CData`] if it is not a struct, or has nulls of its own.
///
/// # Safety
///
/// As there.
#[track_caller]
pub unsafe fn import_batch(
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
    allocator: &BufferAllocator,
) -> Result<RecordBatch, MemoryError> {
    // SAFETY: the caller's promise.
    unsafe { check_schema(schema) }?;
    // SAFETY: the caller's promise.
    let imported = unsafe { import_array(array, schema, allocator) }?;
    let Some(columns) = imported.as_any().downcast_ref::<StructArray>() else {
        return At::Top("array").error("a batch is a struct");
    };
    let schema = guarded(|| Ok(Schema::try_from(schema)?))?;
    if columns.null_count() > 0 {
        return At::Top("array").error("a batch has no nulls of its own");
    }
    let rows = columns.len();
    let columns = columns.columns().to_vec();
    let options = super::deps::arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema),
        columns,
        &options,
    )?)
}

/// Array data on the source's memory, which is released when its last buffer goes; after an error
/// it has been released.
///
/// # Safety
///
/// As for [`import_array`]; the values are not looked at.
unsafe fn take(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<ArrayData, MemoryError> {
    // SAFETY: the caller's promise.
    unsafe { check_schema(schema) }?;
    let data_type = guarded(|| Ok(Field::try_from(schema)?.data_type().clone()))?;
    // SAFETY: the same layout, by the C Data Interface.
    let raw = unsafe { &*std::ptr::from_ref(&array).cast::<RawArray>() };
    // SAFETY: the caller's promise.
    guarded(|| unsafe { check_array(raw, &data_type, &At::Top("array")) })?;
    // SAFETY: the caller's promise, and the checks above.
    let data = guarded(|| Ok(unsafe { ffi::from_ffi_and_data_type(array, data_type) }?))?;
    let mut data = without_stray_offsets(data);
    guarded(|| {
        data.align_buffers();
        // Offsets against the lengths of values and children, before anything relies on them.
        data.validate()?;
        Ok(())
    })?;
    Ok(data)
}

/// The same array, with empty strings and binaries made anew: arrow-rs takes their values for empty,
/// but keeps their one offset, which may be any number.
fn without_stray_offsets(data: ArrayData) -> ArrayData {
    let (data_type, len, nulls, offset, buffers, children) = data.into_parts();
    let is_bytes = matches!(
        data_type,
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary
    );
    if len == 0 && is_bytes {
        return ArrayData::new_empty(&data_type);
    }
    let children = children.into_iter().map(without_stray_offsets).collect();
    let builder = ArrayData::builder(data_type)
        .len(len)
        .nulls(nulls)
        .offset(offset)
        .buffers(buffers)
        .child_data(children);
    // SAFETY: the caller validates it; nothing reads the values before.
    unsafe { builder.build_unchecked() }
}

/// # Safety
///
/// As for [`import_array`].
unsafe fn check_schema(schema: &FFI_ArrowSchema) -> Result<(), MemoryError> {
    // SAFETY: the same layout, by the C Data Interface.
    let raw = unsafe { &*std::ptr::from_ref(schema).cast::<RawSchema>() };
    // SAFETY: the caller's promise.
    unsafe { raw.check(&At::Top("schema")) }
}

/// Refusal drops the data, which releases the source.
#[track_caller]
fn adopt(data: ArrayData, allocator: &BufferAllocator) -> Result<ArrayRef, MemoryError> {
    let adopted = data.adopt(allocator)?;
    guarded(|| Ok(make_array(adopted)))
}
