//! Builders of arrays whose memory comes from an allocator.
//!
//! They work like arrow-rs' builders, with three differences. All growth is charged before it happens. A refusal
//! is an error, never an abort, and leaves the builder as it was. `finish` makes an ordinary arrow array on the
//! tree's memory, and leaves the builder empty, so that it can be used again.
//!
//! Capacity doubles when it grows. Capacity that the array does not need stays charged with it.

use std::any::Any;

use arrow_memory_core::{AllocError, ArrowBufMut, BooleanBufferBuilder, BufferAllocator};

use super::buffers::into_buffer;
use super::deps::arrow_array::{Array, ArrayRef};
use super::deps::arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use super::deps::arrow_schema::{DataType, Field};
use crate::error::MemoryError;

mod boolean;
mod bytes;
mod common;
mod dictionary;
mod fixed_binary;
mod list;
#[cfg(test)]
mod list_tests;
mod primitive;
mod structs;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod values_tests;
mod view;

use common::array_builder;

pub use boolean::BooleanBuilder;
pub use bytes::{
    BinaryBuilder, GenericBytesBuilder, LargeBinaryBuilder, LargeStringBuilder, StringBuilder,
};
pub use dictionary::{BytesDictionaryBuilder, PrimitiveDictionaryBuilder, StringDictionaryBuilder};
pub use fixed_binary::FixedSizeBinaryBuilder;
pub use list::{FixedSizeListBuilder, GenericListBuilder, LargeListBuilder, ListBuilder};
pub use primitive::*;
pub use structs::StructBuilder;
pub use view::{BinaryViewBuilder, GenericViewBuilder, StringViewBuilder};

/// The operations that all builders have.
///
/// An error leaves the builder as it was, except that its capacity may have grown.
pub trait ArrayBuilder: Any + Send {
    /// The type of the array that is built.
    fn data_type(&self) -> DataType;

    /// The number of rows so far.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `n` null rows.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow.
    #[track_caller]
    fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError>;

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if children have the wrong lengths, or [`MemoryError::Alloc`] if memory that the
    /// array needs besides its rows does not fit. The rows are still in the builder then.
    #[track_caller]
    fn finish_array(&mut self) -> Result<ArrayRef, MemoryError>;
}

impl dyn ArrayBuilder {
    /// Returns this builder as a `B`, if it is one.
    pub fn downcast_mut<B: ArrayBuilder>(&mut self) -> Option<&mut B> {
        let any: &mut dyn Any = self;
        any.downcast_mut()
    }
}

impl ArrayBuilder for Box<dyn ArrayBuilder> {
    fn data_type(&self) -> DataType {
        (**self).data_type()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    #[track_caller]
    fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        (**self).append_nulls(n)
    }

    #[track_caller]
    fn finish_array(&mut self) -> Result<ArrayRef, MemoryError> {
        (**self).finish_array()
    }
}

/// Makes a builder for arrays of `data_type`. Its `downcast_mut` returns it as its own type.
///
/// # Errors
///
/// [`MemoryError::Value`] if there is no builder for the type: unions, maps, list views, runs, and
/// dictionaries of other values than strings, binaries and primitives of the common widths.
pub fn make_builder(
    data_type: &DataType,
    allocator: &BufferAllocator,
) -> Result<Box<dyn ArrayBuilder>, MemoryError> {
    if let Some(builder) = primitive::make(data_type, allocator) {
        return builder;
    }
    let values = |field: &Field| make_builder(field.data_type(), allocator);
    Ok(match data_type {
        DataType::Boolean => Box::new(BooleanBuilder::new(allocator)),
        DataType::Utf8 => Box::new(StringBuilder::new(allocator)),
        DataType::LargeUtf8 => Box::new(LargeStringBuilder::new(allocator)),
        DataType::Binary => Box::new(BinaryBuilder::new(allocator)),
        DataType::LargeBinary => Box::new(LargeBinaryBuilder::new(allocator)),
        DataType::Utf8View => Box::new(StringViewBuilder::new(allocator)),
        DataType::BinaryView => Box::new(BinaryViewBuilder::new(allocator)),
        DataType::FixedSizeBinary(width) => {
            Box::new(FixedSizeBinaryBuilder::new(allocator, *width)?)
        }
        DataType::List(field) => {
            let builder = ListBuilder::new(allocator, values(field)?);
            Box::new(builder.with_field(field.clone())?)
        }
        DataType::LargeList(field) => {
            let builder = LargeListBuilder::new(allocator, values(field)?);
            Box::new(builder.with_field(field.clone())?)
        }
        DataType::FixedSizeList(field, size) => {
            let builder = FixedSizeListBuilder::new(allocator, values(field)?, *size)?;
            Box::new(builder.with_field(field.clone())?)
        }
        DataType::Struct(fields) => Box::new(StructBuilder::new(allocator, fields.clone())?),
        DataType::Dictionary(keys, values) => dictionary::make(keys, values, allocator)?,
        other => {
            return Err(MemoryError::Value(format!(
                "there is no builder for {other}"
            )));
        }
    })
}

/// The validity of rows. It has no bits, and takes no memory, until the first null row.
#[derive(Debug)]
struct Validity {
    bits: Option<BooleanBufferBuilder>,
    allocator: BufferAllocator,
}

impl Validity {
    fn new(allocator: &BufferAllocator) -> Self {
        Self {
            bits: None,
            allocator: allocator.clone(),
        }
    }

    /// Makes room for `n` more rows after `rows` rows. With `nulls`, some of them may be null.
    #[inline]
    #[track_caller]
    fn reserve(&mut self, rows: usize, n: usize, nulls: bool) -> Result<(), AllocError> {
        match &mut self.bits {
            Some(bits) => bits.reserve(n),
            None if nulls => self.materialize(rows, n),
            None => Ok(()),
        }
    }

    #[cold]
    #[track_caller]
    fn materialize(&mut self, rows: usize, n: usize) -> Result<(), AllocError> {
        let mut bits = BooleanBufferBuilder::new(&self.allocator);
        bits.reserve(rows.saturating_add(n))?;
        bits.append_n(rows, true)?;
        self.bits = Some(bits);
        Ok(())
    }

    /// Whether a row can be appended without growing.
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.bits
            .as_ref()
            .is_none_or(|bits| bits.len() < bits.capacity())
    }

    /// Appends a valid row, for which there is room.
    #[inline(always)]
    fn push_valid(&mut self) {
        if let Some(bits) = &mut self.bits {
            let pushed = bits.push_within_capacity(true);
            debug_assert!(pushed, "there is room");
        }
    }

    /// Appends a valid row.
    #[inline]
    #[track_caller]
    fn append_valid(&mut self) -> Result<(), AllocError> {
        match &mut self.bits {
            Some(bits) => bits.append(true),
            None => Ok(()),
        }
    }

    /// Appends `n` valid rows.
    #[inline]
    #[track_caller]
    fn append_n_valid(&mut self, n: usize) -> Result<(), AllocError> {
        match &mut self.bits {
            Some(bits) => bits.append_n(n, true),
            None => Ok(()),
        }
    }

    /// Appends `n` null rows after `rows` rows.
    #[track_caller]
    fn append_nulls(&mut self, rows: usize, n: usize) -> Result<(), AllocError> {
        if n == 0 {
            return Ok(());
        }
        self.reserve(rows, n, true)?;
        match &mut self.bits {
            Some(bits) => bits.append_n(n, false),
            None => Ok(()),
        }
    }

    /// Appends a row for each item of `valid`, which is null where the item is false, after `rows` rows.
    #[track_caller]
    fn append_slice(&mut self, rows: usize, valid: &[bool]) -> Result<(), AllocError> {
        self.reserve(rows, valid.len(), valid.contains(&false))?;
        match &mut self.bits {
            Some(bits) => bits.append_slice(valid),
            None => Ok(()),
        }
    }

    #[track_caller]
    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        let mut bits = self.bits.take()?;
        Some(NullBuffer::new(bitmap(&mut bits, rows)))
    }
}

/// Takes the first `rows` bits of a bitmap, and leaves `bits` empty.
#[track_caller]
fn bitmap(bits: &mut BooleanBufferBuilder, rows: usize) -> BooleanBuffer {
    BooleanBuffer::new(into_buffer(bits.finish()), 0, rows)
}

/// Takes the bytes as a buffer of arrow's, and leaves `bytes` empty.
#[track_caller]
fn take(bytes: &mut ArrowBufMut, allocator: &BufferAllocator) -> Buffer {
    // A closed allocator refuses `buffer(0)`, but what was built can be finished.
    let next = empty(allocator);
    into_buffer(std::mem::replace(bytes, next).freeze())
}

/// An empty growable buffer.
fn empty(allocator: &BufferAllocator) -> ArrowBufMut {
    match allocator.empty().try_into_mut() {
        Ok(empty) => empty,
        // The empty buffer is no allocation, so it is never shared.
        Err(_) => unreachable!("an empty buffer is not writable"),
    }
}

/// A guard of bytes: unless it is kept, it cuts off what was appended since it was made.
struct Appended<'a> {
    bytes: &'a mut ArrowBufMut,
    /// The length to return to.
    before: usize,
}

impl<'a> Appended<'a> {
    fn new(bytes: &'a mut ArrowBufMut) -> Self {
        let before = bytes.len();
        Self { bytes, before }
    }

    fn keep(mut self) {
        self.before = self.bytes.len();
    }
}

impl Drop for Appended<'_> {
    fn drop(&mut self) {
        self.bytes.truncate(self.before);
    }
}

/// An error that is the caller's fault.
#[cold]
fn wrong<T>(message: String) -> Result<T, MemoryError> {
    Err(MemoryError::Value(message))
}

/// Checks that there are as many values as items of validity.
fn check_lengths(values: usize, valid: usize) -> Result<(), MemoryError> {
    if values == valid {
        return Ok(());
    }
    wrong(format!("{values} values, validity of {valid}"))
}

fn array_ref(array: impl Array + 'static) -> ArrayRef {
    std::sync::Arc::new(array)
}
