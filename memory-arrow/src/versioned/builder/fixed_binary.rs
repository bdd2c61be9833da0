//! Binaries of one width.

use arrow_memory_core::{ArrowBufMut, BufferAllocator};

use super::{Appended, Validity, array_builder, check_lengths, empty, take, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::FixedSizeBinaryArray;
use super::super::deps::arrow_schema::DataType;

/// Builds an array of binaries that all have the same width.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::FixedSizeBinaryBuilder;
///
/// let mut builder = FixedSizeBinaryBuilder::new(&root, 2)?;
/// builder.append(b"ab")?;
/// builder.append_null()?;
/// assert!(builder.append(b"abc").is_err());
/// assert_eq!(builder.finish()?.value(0), b"ab");
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct FixedSizeBinaryBuilder {
    values: ArrowBufMut,
    rows: usize,
    width: i32,
    validity: Validity,
    allocator: BufferAllocator,
}

impl FixedSizeBinaryBuilder {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if the width is negative.
    pub fn new(allocator: &BufferAllocator, width: i32) -> Result<Self, MemoryError> {
        if width < 0 {
            return wrong(format!("a width of {width}"));
        }
        Ok(Self {
            values: empty(allocator),
            rows: 0,
            width,
            validity: Validity::new(allocator),
            allocator: allocator.clone(),
        })
    }

    /// The number of rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the value has another
    /// width. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: impl AsRef<[u8]>) -> Result<(), MemoryError> {
        let value = value.as_ref();
        if value.len() != self.width as usize {
            return wrong(format!("{} bytes, not {}", value.len(), self.width));
        }
        self.validity.reserve(self.rows, 1, false)?;
        self.values.extend_from_slice(value)?;
        self.validity.append_valid()?;
        self.rows += 1;
        Ok(())
    }

    /// Appends `n` null rows.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        let bytes = n.saturating_mul(self.width as usize);
        self.values.try_reserve(bytes)?;
        self.validity.append_nulls(self.rows, n)?;
        self.values.resize(self.values.len() + bytes, 0)?;
        self.rows += n;
        Ok(())
    }

    /// Appends values that lie one after the other, none of them null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes are not a
    /// multiple of the width, or the width is 0. The builder is as it was then.
    #[track_caller]
    pub fn append_slice(&mut self, values: &[u8]) -> Result<(), MemoryError> {
        let width = self.width as usize;
        if width == 0 || !values.len().is_multiple_of(width) {
            return wrong(format!("{} bytes of width {width}", values.len()));
        }
        let n = values.len() / width;
        self.validity.reserve(self.rows, n, false)?;
        self.values.extend_from_slice(values)?;
        self.validity.append_n_valid(n)?;
        self.rows += n;
        Ok(())
    }

    /// Appends values, and null rows in place of those where `valid` is false. Without `valid`, no row is null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if a value has another width,
    /// or if `values` and `valid` have different lengths. The builder is as it was then.
    #[track_caller]
    pub fn append_values(
        &mut self,
        values: &[impl AsRef<[u8]>],
        valid: Option<&[bool]>,
    ) -> Result<(), MemoryError> {
        let width = self.width as usize;
        if let Some(valid) = valid {
            check_lengths(values.len(), valid.len())?;
        }
        // Each value is asked for its bytes once: a second answer may differ.
        let appended = Appended::new(&mut self.values);
        appended
            .bytes
            .try_reserve(values.len().saturating_mul(width))?;
        for value in values {
            let value = value.as_ref();
            if value.len() != width {
                return wrong(format!("{} bytes, not {width}", value.len()));
            }
            appended.bytes.extend_from_slice(value)?;
        }
        match valid {
            Some(valid) => self.validity.append_slice(self.rows, valid)?,
            None => self.validity.append_n_valid(values.len())?,
        }
        appended.keep();
        self.rows += values.len();
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Arrow`] if arrow refuses the array. The rows are dropped then.
    #[track_caller]
    pub fn finish(&mut self) -> Result<FixedSizeBinaryArray, MemoryError> {
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.validity.finish(rows);
        let values = take(&mut self.values, &self.allocator);
        let array = FixedSizeBinaryArray::try_new_with_len(self.width, values, nulls, rows)?;
        Ok(array)
    }
}

array_builder! {
    impl[] for FixedSizeBinaryBuilder;
    data_type: |builder| DataType::FixedSizeBinary(builder.width);
    finish: |builder| builder.finish()?;
    methods: is_empty, append_null;
}
