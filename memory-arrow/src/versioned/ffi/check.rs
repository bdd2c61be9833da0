//! Checks of the buffers, children and dictionary of an array of a known type.
#![expect(unsafe_code, reason = "reads C structures through raw pointers")]

use std::ffi::c_void;

use super::super::deps::arrow_data::layout;
use super::super::deps::arrow_schema::{DataType, UnionMode};
use crate::c_data::{At, RawArray, Rows};
use crate::error::MemoryError;

/// Checks what can be seen of an array of `data_type`.
///
/// # Safety
///
/// The same as for [`import_array`](super::import_array).
pub(super) unsafe fn check_array(
    array: &RawArray,
    data_type: &DataType,
    at: &At<'_>,
) -> Result<(), MemoryError> {
    let rows = array.check_numbers(at)?;
    let children = child_types(data_type, at)?;
    // SAFETY: the caller promises that the buffers are as the C Data Interface says.
    unsafe { check_buffers(array, data_type, rows, at) }?;
    // SAFETY: the caller promises that the children are as the C Data Interface says.
    let arrays = unsafe { array.children(at, children.len()) }?;
    for (index, (child, data_type)) in arrays.into_iter().zip(children).enumerate() {
        // SAFETY: the caller promises that each child is as the C Data Interface says.
        unsafe { check_array(child, data_type, &At::Child(at, index)) }?;
    }
    // SAFETY: the caller promises that the dictionary is valid or null.
    match (unsafe { array.dictionary() }, data_type) {
        (Some(values), DataType::Dictionary(_, value_type)) => {
            // SAFETY: the caller promises that the dictionary is as the C Data Interface says.
            unsafe { check_array(values, value_type, &At::Dictionary(at)) }
        }
        (None, DataType::Dictionary(_, _)) => at.error("the dictionary is null"),
        (Some(_), _) => at.error(format!("a dictionary, but the type is {data_type}")),
        (None, _) => Ok(()),
    }
}

/// The types of the children. Refuses types that no array can have.
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

/// Checks the buffers of an array of `data_type`: how many there are, and that none is null that `rows` need.
///
/// # Safety
///
/// The same as for [`import_array`](super::import_array).
unsafe fn check_buffers(
    array: &RawArray,
    data_type: &DataType,
    rows: Rows,
    at: &At<'_>,
) -> Result<(), MemoryError> {
    let shape = layout(data_type);
    let fixed = shape.buffers.len() as i64 + i64::from(shape.can_contain_null_mask);
    let expected = if shape.variadic {
        // One more buffer has the lengths of the variadic ones, of which there may be any number.
        fixed + 1..=MAX_BUFFERS
    } else {
        fixed..=fixed
    };
    // SAFETY: the caller promises that `buffers` points to as many pointers as `n_buffers` says.
    let buffers = unsafe { array.buffers(at, expected) }?;
    let values = match buffers {
        [mask, values @ ..] if shape.can_contain_null_mask => {
            if mask.is_null() && array.null_count > 0 {
                let nulls = array.null_count;
                return at.error(format!("{nulls} nulls, but no mask"));
            }
            values
        }
        values => values,
    };
    // SAFETY: these are the buffers of an array of this type, as many as it has.
    unsafe { check_values(values, data_type, rows, at) }
}

/// Checks the buffers of an array of `data_type` without the null mask.
///
/// # Safety
///
/// There are as many `values` as the type has buffers. Each is null, or points to what the C Data Interface
/// says for the type and `rows`.
unsafe fn check_values(
    values: &[*const c_void],
    data_type: &DataType,
    rows: Rows,
    at: &At<'_>,
) -> Result<(), MemoryError> {
    let needed = |index: usize, bytes: usize| {
        if bytes > 0 && values[index].is_null() {
            return at.error(format!("the pointer to {bytes} bytes of values is null"));
        }
        Ok(())
    };
    match data_type {
        DataType::Utf8 | DataType::Binary => {
            // SAFETY: the caller promises that the first buffer has the offsets of `rows`.
            let last = unsafe { last_offset::<i32>(values[0], rows, at) }?;
            needed(1, last)
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            // SAFETY: the caller promises that the first buffer has the offsets of `rows`.
            let last = unsafe { last_offset::<i64>(values[0], rows, at) }?;
            needed(1, last)
        }
        DataType::List(_) | DataType::Map(_, _) => {
            // SAFETY: the caller promises that the first buffer has the offsets of `rows`.
            unsafe { last_offset::<i32>(values[0], rows, at) }.map(drop)
        }
        DataType::LargeList(_) => {
            // SAFETY: the caller promises that the first buffer has the offsets of `rows`.
            unsafe { last_offset::<i64>(values[0], rows, at) }.map(drop)
        }
        DataType::ListView(_) | DataType::LargeListView(_) => {
            needed(0, rows.end)?;
            needed(1, rows.end)
        }
        DataType::Utf8View | DataType::BinaryView => {
            needed(0, rows.end)?;
            // SAFETY: the caller promises that the last buffer has the lengths of the variadic ones.
            unsafe { check_views(values, at) }
        }
        DataType::Union(_, UnionMode::Sparse) => needed(0, rows.end),
        DataType::Union(_, UnionMode::Dense) => {
            needed(0, rows.end)?;
            needed(1, rows.end)
        }
        DataType::FixedSizeBinary(width) => match rows.end.checked_mul(*width as usize) {
            Some(bytes) if bytes < isize::MAX as usize => needed(0, bytes),
            _ => at.error(format!("{} rows of {width} bytes are too large", rows.end)),
        },
        _ if !values.is_empty() => needed(0, rows.end),
        _ => Ok(()),
    }
}

/// The last offset of `rows`. Refuses offsets that cannot be right, by the first one and the last one.
///
/// # Safety
///
/// `pointer`, if not null and if there are rows, points at one offset more than there are rows.
unsafe fn last_offset<T: Copy + Into<i64>>(
    pointer: *const c_void,
    rows: Rows,
    at: &At<'_>,
) -> Result<usize, MemoryError> {
    if rows.end == 0 {
        // The buffer may have no offset at all, so none is read.
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
    // SAFETY: the caller promises an offset for each row, and `offset` is not beyond the last row.
    let first = unsafe { offsets.add(rows.offset) };
    // SAFETY: the caller promises one offset more than there are rows, so one at `end`.
    let last = unsafe { offsets.add(rows.end) };
    // SAFETY: the pointer is aligned, and within the offsets.
    let first: i64 = unsafe { first.read() }.into();
    // SAFETY: the pointer is aligned, and within the offsets.
    let last: i64 = unsafe { last.read() }.into();
    if first < 0 || last < first || last as usize > isize::MAX as usize / 2 {
        return at.error(format!("offsets from {first} to {last}"));
    }
    Ok(last as usize)
}

/// Checks the variadic buffers of an array of views, by their lengths.
///
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
    // SAFETY: the pointer is not null and is aligned, and the caller promises as many lengths.
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

/// A number that is greater than that of the buffers of any array of views.
const MAX_BUFFERS: i64 = 1 << 24;
