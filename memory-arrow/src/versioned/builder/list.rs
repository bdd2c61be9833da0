//! Lists of another builder's values.
#![expect(unsafe_code, reason = "its offsets never decrease")]

use std::sync::Arc;

use arrow_memory_core::{ArrowBufMut, BufferAllocator};

use super::{ArrayBuilder, Validity, array_builder, empty, take, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::{FixedSizeListArray, GenericListArray, OffsetSizeTrait};
use super::super::deps::arrow_buffer::{OffsetBuffer, ScalarBuffer, ToByteSlice};
use super::super::deps::arrow_schema::{DataType, Field, FieldRef};

/// Builds arrays of lists with 32-bit offsets.
pub type ListBuilder<B> = GenericListBuilder<i32, B>;
/// Builds arrays of lists with 64-bit offsets.
pub type LargeListBuilder<B> = GenericListBuilder<i64, B>;

/// Builds an array of lists of any length: append to [`values`](Self::values), then
/// [`append`](Self::append).
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::{Int32Builder, ListBuilder};
/// use arrow_memory_arrow::deps::arrow_array::Array;
///
/// let mut builder = ListBuilder::new(&root, Int32Builder::new(&root));
/// builder.values().append_slice(&[1, 2, 3])?;
/// builder.append()?;
/// builder.append_null()?;
/// builder.append()?;
/// let array = builder.finish()?;
/// assert_eq!((array.value_length(0), array.is_null(1), array.value_length(2)), (3, true, 0));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
// Invariants:
//
// 1. `offsets` is empty, or a zero followed by the end of each list. No end is below the one before
//    it, and `end` is the last of them.
//
// The values' builder is the caller's code, and can be emptied or replaced through `values`. So nothing
// about its length is taken for granted, except what was compared with `end`.
#[derive(Debug)]
pub struct GenericListBuilder<O: OffsetSizeTrait, B> {
    offsets: ArrowBufMut,
    /// The end of the last list, in values; 0 while there is none.
    end: usize,
    values: B,
    validity: Validity,
    field: Option<FieldRef>,
    allocator: BufferAllocator,
    kind: std::marker::PhantomData<fn() -> O>,
}

impl<O: OffsetSizeTrait + ToByteSlice, B: ArrayBuilder> GenericListBuilder<O, B> {
    const SIZE: usize = size_of::<O>();

    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet. The values'
    /// field is called `item`, and is nullable.
    pub fn new(allocator: &BufferAllocator, values: B) -> Self {
        Self {
            offsets: empty(allocator),
            end: 0,
            values,
            validity: Validity::new(allocator),
            field: None,
            allocator: allocator.clone(),
            kind: std::marker::PhantomData,
        }
    }

    /// Sets the field of the values.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if its type is not the values'.
    pub fn with_field(self, field: FieldRef) -> Result<Self, MemoryError> {
        check_field(&field, &self.values)?;
        Ok(Self {
            field: Some(field),
            ..self
        })
    }

    /// The builder of the values. The next list has the values that were appended since the last one.
    #[inline]
    pub fn values(&mut self) -> &mut B {
        &mut self.values
    }

    /// The number of lists so far.
    #[inline]
    pub fn len(&self) -> usize {
        (self.offsets.len() / Self::SIZE).saturating_sub(1)
    }

    /// Ends a list, which has the values that were appended since the last one.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Alloc`] if the builder cannot grow.
    /// * [`MemoryError::Value`] if there are more values than offsets can express, or fewer than there
    ///   were at the end of the last list, because the values' builder was finished or replaced.
    ///
    /// The builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append(&mut self) -> Result<(), MemoryError> {
        self.start()?;
        self.validity.reserve(self.len(), 1, false)?;
        let (end, offset) = self.next_end()?;
        self.offsets.extend_from_slice(offset.to_byte_slice())?;
        self.end = end;
        self.validity.append_valid()?;
        Ok(())
    }

    /// Appends `n` null lists. The values since the last list become those of the first null.
    ///
    /// # Errors
    ///
    /// The same as for [`append`](Self::append).
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        let rows = self.len();
        self.start()?;
        self.offsets.try_reserve(n.saturating_mul(Self::SIZE))?;
        let (end, offset) = self.next_end()?;
        self.validity.append_nulls(rows, n)?;
        for _ in 0..n {
            self.offsets.extend_from_slice(offset.to_byte_slice())?;
            self.end = end;
        }
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again. Values since the
    /// last list are dropped.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Value`] if there are fewer values than the lists have, because the values'
    ///   builder was finished or replaced. The builder is as it was.
    /// * The errors of the values' `finish_array`, and [`MemoryError::Alloc`] if there are no lists and no
    ///   room for the one offset of an empty array. The lists are still in the builder.
    /// * [`MemoryError::Arrow`] if the array that `finish_array` gave has fewer values than it said,
    ///   another type than the field, or nulls that the field does not allow. The values and the lists are
    ///   dropped then, and the builder is empty.
    #[track_caller]
    pub fn finish(&mut self) -> Result<GenericListArray<O>, MemoryError> {
        let rows = self.len();
        let found = self.values.len();
        if found < self.end {
            return self.fewer_values(found);
        }
        self.start()?;
        let field = self.field();
        let values = self.values.finish_array()?;
        let nulls = self.validity.finish(rows);
        let offsets = take(&mut self.offsets, &self.allocator);
        // This follows `take`, which runs code of the allocator's listener. If that panics, the offsets may still
        // be there, and `end` has to be the last of them.
        self.end = 0;
        let offsets = ScalarBuffer::<O>::new(offsets, 0, rows + 1);
        // SAFETY: by invariant 1 the offsets start at zero and never decrease. (`try_new` below checks that the
        // last one does not exceed the number of values.)
        let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
        Ok(GenericListArray::try_new(field, offsets, values, nulls)?)
    }

    /// The field of the values.
    fn field(&self) -> FieldRef {
        self.field.clone().unwrap_or_else(|| item(&self.values))
    }

    /// Appends the zero that the offsets start with, if it is not there yet.
    #[inline]
    #[track_caller]
    fn start(&mut self) -> Result<(), MemoryError> {
        if self.offsets.is_empty() {
            self.offsets
                .extend_from_slice(O::default().to_byte_slice())?;
        }
        Ok(())
    }

    /// The end of a list that ends now, as a number and as an offset. The values' builder is asked for its
    /// length once: a second answer may differ.
    #[inline]
    fn next_end(&self) -> Result<(usize, O), MemoryError> {
        let end = self.values.len();
        if end < self.end {
            return self.fewer_values(end);
        }
        match O::from_usize(end) {
            Some(offset) => Ok((end, offset)),
            None => wrong(format!(
                "{end} values are more than offsets of {} bytes can express",
                Self::SIZE
            )),
        }
    }

    #[cold]
    fn fewer_values<T>(&self, found: usize) -> Result<T, MemoryError> {
        wrong(format!(
            "{found} values are left of {} that are in lists already: the values' builder was \
             finished or replaced",
            self.end
        ))
    }
}

array_builder! {
    impl[O: OffsetSizeTrait + ToByteSlice, B: ArrayBuilder] for GenericListBuilder<O, B>;
    data_type: |builder| GenericListArray::<O>::DATA_TYPE_CONSTRUCTOR(builder.field());
    finish: |builder| builder.finish()?;
    methods: is_empty, append_null;
}

/// Builds an array of lists that all have the same size.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::{FixedSizeListBuilder, Int64Builder};
/// use arrow_memory_arrow::deps::arrow_array::Array;
///
/// let mut builder = FixedSizeListBuilder::new(&root, Int64Builder::new(&root), 3)?;
/// builder.values().append_slice(&[1, 2, 3])?;
/// builder.append()?;
/// builder.append_null()?;
/// let array = builder.finish()?;
/// assert_eq!((array.len(), array.values().len(), array.is_null(1)), (2, 6, true));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct FixedSizeListBuilder<B> {
    values: B,
    size: i32,
    rows: usize,
    validity: Validity,
    field: Option<FieldRef>,
}

impl<B: ArrayBuilder> FixedSizeListBuilder<B> {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet. The values'
    /// field is called `item`, and is nullable.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if the size is negative.
    pub fn new(allocator: &BufferAllocator, values: B, size: i32) -> Result<Self, MemoryError> {
        if size < 0 {
            return wrong(format!("lists of size {size}"));
        }
        Ok(Self {
            values,
            size,
            rows: 0,
            validity: Validity::new(allocator),
            field: None,
        })
    }

    /// Sets the field of the values.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if its type is not the values'.
    pub fn with_field(self, field: FieldRef) -> Result<Self, MemoryError> {
        check_field(&field, &self.values)?;
        Ok(Self {
            field: Some(field),
            ..self
        })
    }

    /// The builder of the values: append as many as a list has, then the list.
    #[inline]
    pub fn values(&mut self) -> &mut B {
        &mut self.values
    }

    /// The number of lists so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Ends a list.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if there are not as many values as a list has, or [`MemoryError::Alloc`] if the
    /// builder cannot grow. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self) -> Result<(), MemoryError> {
        self.check_values(self.rows + 1)?;
        self.validity.reserve(self.rows, 1, false)?;
        self.validity.append_valid()?;
        self.rows += 1;
        Ok(())
    }

    /// Appends `n` null lists, with as many null values as the lists have.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if there are values of a list that was not ended, or [`MemoryError::Alloc`] if the
    /// builder or that of the values cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        self.check_values(self.rows)?;
        self.validity.reserve(self.rows, n, n > 0)?;
        self.values
            .append_nulls(n.saturating_mul(self.size as usize))?;
        self.validity.append_nulls(self.rows, n)?;
        self.rows += n;
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    ///
    /// # Errors
    ///
    /// The errors of the values' `finish_array`; and [`MemoryError::Value`] if there are values of a list that
    /// was not ended.
    #[track_caller]
    pub fn finish(&mut self) -> Result<FixedSizeListArray, MemoryError> {
        self.check_values(self.rows)?;
        let field = self.field();
        let values = self.values.finish_array()?;
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.validity.finish(rows);
        Ok(FixedSizeListArray::try_new_with_length(
            field, self.size, values, nulls, rows,
        )?)
    }

    /// The field of the values.
    fn field(&self) -> FieldRef {
        self.field.clone().unwrap_or_else(|| item(&self.values))
    }

    fn check_values(&self, rows: usize) -> Result<(), MemoryError> {
        let (found, size) = (self.values.len(), self.size as usize);
        if rows.checked_mul(size) != Some(found) {
            return wrong(format!("{found} values in {rows} lists of {size}"));
        }
        Ok(())
    }
}

array_builder! {
    impl[B: ArrayBuilder] for FixedSizeListBuilder<B>;
    data_type: |builder| DataType::FixedSizeList(builder.field(), builder.size);
    finish: |builder| builder.finish()?;
    methods: is_empty, append_null;
}

fn item(values: &impl ArrayBuilder) -> FieldRef {
    Arc::new(Field::new("item", values.data_type(), true))
}

fn check_field(field: &Field, values: &impl ArrayBuilder) -> Result<(), MemoryError> {
    let found = values.data_type();
    if *field.data_type() != found {
        return wrong(format!(
            "a field of {} for values of {found}",
            field.data_type()
        ));
    }
    Ok(())
}
