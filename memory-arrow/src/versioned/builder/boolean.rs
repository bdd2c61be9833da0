//! Booleans.

use arrow_memory_core::{BooleanBufferBuilder, BufferAllocator};

use super::{Validity, array_builder, bitmap, check_lengths};
use crate::error::MemoryError;

use super::super::deps::arrow_array::BooleanArray;
use super::super::deps::arrow_schema::DataType;

/// Builds an array of booleans.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::BooleanBuilder;
///
/// let mut builder = BooleanBuilder::new(&root);
/// builder.append(true)?;
/// builder.append_null()?;
/// builder.append_slice(&[false, true])?;
/// let array = builder.finish();
/// assert_eq!(
///     array.iter().collect::<Vec<_>>(),
///     [Some(true), None, Some(false), Some(true)]
/// );
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct BooleanBuilder {
    values: BooleanBufferBuilder,
    validity: Validity,
}

impl BooleanBuilder {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            values: BooleanBufferBuilder::new(allocator),
            validity: Validity::new(allocator),
        }
    }

    /// The number of rows so far.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Makes room for `additional` values.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) -> Result<(), MemoryError> {
        self.values.reserve(additional)?;
        Ok(())
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: bool) -> Result<(), MemoryError> {
        self.validity.reserve(self.len(), 1, false)?;
        self.values.append(value)?;
        self.validity.append_valid()?;
        Ok(())
    }

    /// Appends `n` null rows.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        self.values.reserve(n)?;
        self.validity.append_nulls(self.values.len(), n)?;
        self.values.append_n(n, false)?;
        Ok(())
    }

    /// Appends values, none of them null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn append_slice(&mut self, values: &[bool]) -> Result<(), MemoryError> {
        self.validity.reserve(self.len(), values.len(), false)?;
        self.values.append_slice(values)?;
        self.validity.append_n_valid(values.len())?;
        Ok(())
    }

    /// Appends values, and null rows in place of those where `valid` is false. Without `valid`, no row is null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if `values` and `valid` have
    /// different lengths. The builder is as it was then.
    #[track_caller]
    pub fn append_values(
        &mut self,
        values: &[bool],
        valid: Option<&[bool]>,
    ) -> Result<(), MemoryError> {
        let Some(valid) = valid else {
            return self.append_slice(values);
        };
        check_lengths(values.len(), valid.len())?;
        self.values.reserve(values.len())?;
        self.validity.append_slice(self.values.len(), valid)?;
        self.values.append_slice(values)?;
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> BooleanArray {
        let rows = self.len();
        let nulls = self.validity.finish(rows);
        BooleanArray::new(bitmap(&mut self.values, rows), nulls)
    }
}

array_builder! {
    impl[] for BooleanBuilder;
    data_type: |_builder| DataType::Boolean;
    finish: |builder| builder.finish();
    methods: is_empty, append_null, append_option(bool);
}
