//! The C Data Interface: arrays out with their ledgers, arrays in as foreign memory.
#![expect(unsafe_code, reason = "takes and hands out C structures")]

use std::ffi::c_void;
use std::sync::Arc;

use arrow_memory_core::BufferAllocator;

use super::accounted::Accounted;
use super::buffers::{arrow_buf, into_buffer};
use super::deps::arrow_array::{Array, ArrayRef, RecordBatch, StructArray, ffi, make_array};
use super::deps::arrow_buffer::{BooleanBuffer, NullBuffer};
use super::deps::arrow_data::{ArrayData, layout};
use super::deps::arrow_schema::{DataType, Field, Schema, UnionMode};
use crate::c_data::{At, RawArray, RawSchema, Rows};
use crate::error::MemoryError;
use crate::guard::guarded;

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

/// Checks what can be seen of an array of `data_type`.
///
/// # Safety
///
/// As for [`import_array`].
unsafe fn check_array(
    array: &RawArray,
    data_type: &DataType,
    at: &At<'_>,
) -> Result<(), MemoryError> {
    let rows = array.check_numbers(at)?;
    let children = child_types(data_type, at)?;
    // SAFETY: the caller's promise.
    unsafe { check_buffers(array, data_type, rows, at) }?;
    // SAFETY: the caller's promise.
    let arrays = unsafe { array.children(at, children.len()) }?;
    for (index, (child, data_type)) in arrays.into_iter().zip(children).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { check_array(child, data_type, &At::Child(at, index)) }?;
    }
    // SAFETY: the caller's promise.
    match (unsafe { array.dictionary() }, data_type) {
        (Some(values), DataType::Dictionary(_, value_type)) => {
            // SAFETY: the caller's promise.
            unsafe { check_array(values, value_type, &At::Dictionary(at)) }
        }
        (None, DataType::Dictionary(_, _)) => at.error("the dictionary is null"),
        (Some(_), _) => at.error(format!("a dictionary, but the type is {data_type}")),
        (None, _) => Ok(()),
    }
}

/// The types of the children; refuses types that no array can have.
fn child_types<'a>(data_type: &'a DataType, at: &At<'_>) -> Result<Vec<&'a DataType>, MemoryError> {
    Ok(match data_type {
        DataType::FixedSizeList(_, size) | DataType::FixedSizeBinary(size) if *size < 0 => {
            return at.error(format!("a fixed size of {size}"));
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => vec![entries.data_type()],
            other => return at.error(format!("a map of {other}, not of a struct of two")),
        },
        DataType::RunEndEncoded(ends, values) => match ends.data_type() {
            DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                vec![ends.data_type(), values.data_type()]
            }
            other => return at.error(format!("runs that end at a {other}")),
        },
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _) => vec![child.data_type()],
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::Union(fields, _) => fields.iter().map(|(_, field)| field.data_type()).collect(),
        _ => Vec::new(),
    })
}

/// # Safety
///
/// As for [`import_array`].
unsafe fn check_buffers(
    array: &RawArray,
    data_type: &DataType,
    rows: Rows,
    at: &At<'_>,
) -> Result<(), MemoryError> {
    let shape = layout(data_type);
    let fixed = shape.buffers.len() as i64 + i64::from(shape.can_contain_null_mask);
    let expected = if shape.variadic {
        // And the lengths of the others, of which there may be any number.
        fixed + 1..=MOST_BUFFERS
    } else {
        fixed..=fixed
    };
    // SAFETY: the caller's promise.
    let buffers = unsafe { array.buffers(at, expected) }?;
    let values = if shape.can_contain_null_mask {
        if buffers[0].is_null() && array.null_count > 0 {
            let nulls = array.null_count;
            return at.error(format!("{nulls} nulls, but no mask"));
        }
        &buffers[1..]
    } else {
        buffers
    };
    let needed = |index: usize, bytes: usize| {
        if bytes > 0 && values[index].is_null() {
            return at.error(format!("the pointer to {bytes} bytes of values is null"));
        }
        Ok(())
    };
    match data_type {
        DataType::Utf8 | DataType::Binary => {
            // SAFETY: the caller's promise.
            let last = unsafe { last_offset::<i32>(values[0], rows, at) }?;
            needed(1, last)
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            // SAFETY: the caller's promise.
            let last = unsafe { last_offset::<i64>(values[0], rows, at) }?;
            needed(1, last)
        }
        DataType::List(_) | DataType::Map(_, _) => {
            // SAFETY: the caller's promise.
            unsafe { last_offset::<i32>(values[0], rows, at) }.map(drop)
        }
        DataType::LargeList(_) => {
            // SAFETY: the caller's promise.
            unsafe { last_offset::<i64>(values[0], rows, at) }.map(drop)
        }
        DataType::ListView(_) => needed(0, rows.end).and_then(|()| needed(1, rows.end)),
        DataType::LargeListView(_) => needed(0, rows.end).and_then(|()| needed(1, rows.end)),
        DataType::Utf8View | DataType::BinaryView => {
            needed(0, rows.end)?;
            // SAFETY: the caller's promise.
            unsafe { check_views(values, at) }
        }
        DataType::Union(_, mode) => {
            needed(0, rows.end)?;
            match mode {
                UnionMode::Dense => needed(1, rows.end),
                UnionMode::Sparse => Ok(()),
            }
        }
        DataType::FixedSizeBinary(width) => match rows.end.checked_mul(*width as usize) {
            Some(bytes) if bytes < isize::MAX as usize => needed(0, bytes),
            _ => at.error(format!("{} rows of {width} bytes are too large", rows.end)),
        },
        _ if !values.is_empty() => needed(0, rows.end),
        _ => Ok(()),
    }
}

/// The last offset of `rows`, if the first and the last can be.
///
/// # Safety
///
/// `pointer`, if not null, points at one offset more than there are rows, if there are any.
unsafe fn last_offset<T: Copy + Into<i64>>(
    pointer: *const c_void,
    rows: Rows,
    at: &At<'_>,
) -> Result<usize, MemoryError> {
    if rows.end == 0 {
        // May have no offsets at all; one is not looked at.
        return match pointer.is_null() || pointer.cast::<T>().is_aligned() {
            true => Ok(0),
            false => at.error("the offsets are not aligned"),
        };
    }
    if pointer.is_null() {
        return at.error("the pointer to the offsets is null");
    }
    let offsets = pointer.cast::<T>();
    if !offsets.is_aligned() {
        return at.error("the offsets are not aligned");
    }
    // SAFETY: within the offsets, by the caller's promise.
    let first = unsafe { offsets.add(rows.offset) };
    // SAFETY: as above.
    let last = unsafe { offsets.add(rows.end) };
    // SAFETY: as above; aligned.
    let first: i64 = unsafe { first.read() }.into();
    // SAFETY: as above.
    let last: i64 = unsafe { last.read() }.into();
    if first < 0 || last < first || last as usize > isize::MAX as usize / 2 {
        return at.error(format!("offsets from {first} to {last}"));
    }
    Ok(last as usize)
}

/// # Safety
///
/// The last of `values` points at as many lengths as there are buffers between it and the first.
unsafe fn check_views(values: &[*const c_void], at: &At<'_>) -> Result<(), MemoryError> {
    let variadic = &values[1..values.len() - 1];
    if variadic.is_empty() {
        return Ok(());
    }
    let lengths = values[values.len() - 1].cast::<i64>();
    if lengths.is_null() || !lengths.is_aligned() {
        return at.error("the pointer to the lengths of buffers is null or not aligned");
    }
    // SAFETY: not null, aligned, as many by the caller's promise.
    let lengths = unsafe { std::slice::from_raw_parts(lengths, variadic.len()) };
    for (index, (&length, pointer)) in lengths.iter().zip(variadic).enumerate() {
        if !(0..=i64::MAX / 2).contains(&length) || (length > 0 && pointer.is_null()) {
            return at.error(format!(
                "buffer {index} of {length} bytes, null: {}",
                pointer.is_null()
            ));
        }
    }
    Ok(())
}

/// More than the buffers of any array of views.
const MOST_BUFFERS: i64 = 1 << 24;
