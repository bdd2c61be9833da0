//! The C Data Interface: exported arrays keep their ledgers, imported ones are foreign memory.
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

/// Exports an array over the C Data Interface. Its buffers stay charged until the consumer calls the release
/// callback, which it may do on any thread. A structure that is dropped here without having been consumed is
/// released, too.
///
/// A null mask that does not start at a whole byte, which is usual for a slice, is copied into memory of the
/// allocator that is charged for the mask. No other buffer is copied.
///
/// # Errors
///
/// [`MemoryError::Arrow`] if the type has no C format, or [`MemoryError::Alloc`] if the copy of a null mask
/// does not fit.
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

/// The same array with null masks that start at a whole byte. arrow-rs would copy other masks itself, into
/// memory that is not charged.
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
        // SAFETY: these are the same bits, so they have the same number of zeros.
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
    // SAFETY: the data was valid, and its null masks have the same bits as before.
    Ok(unsafe { builder.build_unchecked() })
}

/// Exports a batch over the C Data Interface, as a struct array without nulls. The schema has the batch's
/// metadata. Buffers are kept, and null masks copied, as [`export_array`] says.
///
/// # Errors
///
/// The same as for [`export_array`].
pub fn export_batch(batch: &RecordBatch) -> Result<(FFI_ArrowArray, FFI_ArrowSchema), MemoryError> {
    let data = with_aligned_nulls(StructArray::from(batch.clone()).to_data())?;
    let array = FFI_ArrowArray::new(&data);
    let schema = FFI_ArrowSchema::try_from(&**batch.schema_ref())?;
    Ok((array, schema))
}

/// Exports an array like [`export_array`], into structures that the consumer provides.
///
/// # Errors
///
/// The same as for [`export_array`]. Nothing is written then.
///
/// # Safety
///
/// Both pointers are valid for writes and aligned. The old contents are overwritten, not released.
pub unsafe fn export_array_into(
    array: &dyn Array,
    array_out: *mut FFI_ArrowArray,
    schema_out: *mut FFI_ArrowSchema,
) -> Result<(), MemoryError> {
    let (array, schema) = export_array(array)?;
    // SAFETY: the caller promises that the pointer is aligned and valid for writes.
    unsafe { array_out.write(array) };
    // SAFETY: the caller promises that the pointer is aligned and valid for writes.
    unsafe { schema_out.write(schema) };
    Ok(())
}

/// Imports an array over the C Data Interface. Each buffer is charged to `allocator` as foreign memory, at its
/// size in bytes.
///
/// Nothing is copied, except for buffers that are less aligned than arrow-rs needs them: those are copied to
/// arrow-rs' own memory, and adopted. The source is released exactly once: when the last of its buffers is
/// dropped, or here, if the array is refused. Memory that came from the same tree, and starts where one of the
/// tree's buffers does, is recognised and not charged again.
///
/// All values are validated, which reads them once: offsets, UTF-8, dictionary keys, views. Use
/// [`import_trusted`] for producers that need no such checks.
///
/// # Errors
///
/// * [`MemoryError::CData`] if the structure cannot be right: null pointers, negative or
///   overflowing lengths and offsets, wrong counts, unknown formats, structures released before.
/// * [`MemoryError::Arrow`] if the values are not valid for the type.
/// * [`MemoryError::Alloc`] or [`MemoryError::Transfer`] if the array does not fit as a whole, under the
///   conditions of [`Accounted::adopt`].
///
/// # Safety
///
/// The structures fulfil the C Data Interface where that cannot be checked. Pointers that are not null lead to
/// as many bytes as lengths and offsets state, which no thread writes before the release; strings end with a
/// zero; the release callbacks may be called on any thread.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{Array, Int32Array};
/// use arrow_memory_arrow::{export_array, import_array};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (array, schema) = export_array(&Int32Array::from(vec![1, 2, 3]))?;
/// // SAFETY: arrow-rs made the structures.
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
    // SAFETY: the caller promises what this function asks for, which is the same.
    let data = unsafe { take(array, schema) }?;
    guarded(|| Ok(data.validate_full()?))?;
    adopt(data, allocator)
}

/// Imports an array like [`import_array`], without validating the values.
///
/// # Errors
///
/// * [`MemoryError::CData`] if the structure cannot be right, which is checked as by [`import_array`].
/// * [`MemoryError::Arrow`] if lengths and offsets do not fit the type.
/// * [`MemoryError::Alloc`] or [`MemoryError::Transfer`] if the array does not fit as a whole, under the
///   conditions of [`Accounted::adopt`].
///
/// # Safety
///
/// The same as for [`import_array`]. Besides, the values are valid for the type.
#[track_caller]
pub unsafe fn import_trusted(
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
    allocator: &BufferAllocator,
) -> Result<ArrayRef, MemoryError> {
    // SAFETY: the caller promises what this function asks for, which is the same.
    let data = unsafe { take(array, schema) }?;
    adopt(data, allocator)
}

/// Imports a batch over the C Data Interface, from a struct array without nulls, like [`import_array`].
///
/// # Errors
///
/// The same as for [`import_array`]; and [`MemoryError::CData`] if the array is not a struct, or has nulls of
/// its own.
///
/// # Safety
///
/// The same as for [`import_array`].
#[track_caller]
pub unsafe fn import_batch(
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
    allocator: &BufferAllocator,
) -> Result<RecordBatch, MemoryError> {
    // SAFETY: the caller promises what this function asks for, which is the same.
    unsafe { check_schema(schema) }?;
    // SAFETY: the caller promises what this function asks for, which is the same.
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

/// Makes array data on the source's memory, which is released when its last buffer is dropped. After an error
/// it has been released. The values are not validated.
///
/// # Safety
///
/// The same as for [`import_array`].
unsafe fn take(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<ArrayData, MemoryError> {
    // SAFETY: the caller promises what this function asks for, which is the same.
    unsafe { check_schema(schema) }?;
    let data_type = guarded(|| Ok(Field::try_from(schema)?.data_type().clone()))?;
    // SAFETY: both types have the layout that the C Data Interface defines, and their sizes are compared above.
    let raw = unsafe { &*std::ptr::from_ref(&array).cast::<RawArray>() };
    // SAFETY: the caller promises what this function asks for, which is the same.
    guarded(|| unsafe { check_array(raw, &data_type, &At::Top("array")) })?;
    // SAFETY: the caller's promise holds, and what can be checked was checked above.
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

/// The same array data, with empty arrays of strings and binaries made anew. arrow-rs gives such an array an
/// empty buffer of values, but keeps its one offset, which may be any number.
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
    // SAFETY: the caller validates the result before it reads values.
    unsafe { builder.build_unchecked() }
}

/// Checks what can be seen of a schema.
///
/// # Safety
///
/// The same as for [`import_array`].
unsafe fn check_schema(schema: &FFI_ArrowSchema) -> Result<(), MemoryError> {
    // SAFETY: both types have the layout that the C Data Interface defines, and their sizes are compared above.
    let raw = unsafe { &*std::ptr::from_ref(schema).cast::<RawSchema>() };
    // SAFETY: the caller promises what this function asks for, which is the same.
    unsafe { raw.check(&At::Top("schema")) }
}

/// Adopts the data. A refusal drops it, which releases the source.
#[track_caller]
fn adopt(data: ArrayData, allocator: &BufferAllocator) -> Result<ArrayRef, MemoryError> {
    let adopted = data.adopt(allocator)?;
    guarded(|| Ok(make_array(adopted)))
}
