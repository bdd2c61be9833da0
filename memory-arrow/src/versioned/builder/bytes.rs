//! Strings and binaries, with offsets.
#![expect(
    unsafe_code,
    reason = "its offsets and bytes are valid by construction"
)]

use arrow_memory_core::{ArrowBufMut, BufferAllocator};

use super::{Appended, Validity, array_builder, check_lengths, empty, take, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::types::{
    BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type,
};
use super::super::deps::arrow_array::{GenericByteArray, OffsetSizeTrait};
use super::super::deps::arrow_buffer::{ArrowNativeType, OffsetBuffer, ScalarBuffer, ToByteSlice};

/// Builds arrays of strings with 32-bit offsets.
pub type StringBuilder = GenericBytesBuilder<Utf8Type>;
/// Builds arrays of strings with 64-bit offsets.
pub type LargeStringBuilder = GenericBytesBuilder<LargeUtf8Type>;
/// Builds arrays of binaries with 32-bit offsets.
pub type BinaryBuilder = GenericBytesBuilder<BinaryType>;
/// Builds arrays of binaries with 64-bit offsets.
pub type LargeBinaryBuilder = GenericBytesBuilder<LargeBinaryType>;

/// Builds an array of strings or binaries.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::StringBuilder;
///
/// let mut builder = StringBuilder::new(&root);
/// builder.append("columnar")?;
/// builder.append_null()?;
/// builder.append_slice(&["", "memory"])?;
/// let array = builder.finish();
/// assert_eq!((array.value(0), array.value(3)), ("columnar", "memory"));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct GenericBytesBuilder<T: ByteArrayType> {
    /// Whole values of `T::Native`, one after the other.
    values: ArrowBufMut,
    /// A zero, and then the end of each value; empty before the first append.
    offsets: ArrowBufMut,
    validity: Validity,
    allocator: BufferAllocator,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: ByteArrayType> GenericBytesBuilder<T> {
    const SIZE: usize = size_of::<T::Offset>();

    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            values: empty(allocator),
            offsets: empty(allocator),
            validity: Validity::new(allocator),
            allocator: allocator.clone(),
            kind: std::marker::PhantomData,
        }
    }

    /// Makes an empty builder with room for `rows` values, of `bytes` bytes together.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the memory for them does not fit.
    #[track_caller]
    pub fn with_capacity(
        allocator: &BufferAllocator,
        rows: usize,
        bytes: usize,
    ) -> Result<Self, MemoryError> {
        let mut builder = Self::new(allocator);
        builder.reserve(rows, bytes)?;
        Ok(builder)
    }

    /// The number of rows so far.
    #[inline]
    pub fn len(&self) -> usize {
        (self.offsets.len() / Self::SIZE).saturating_sub(1)
    }

    /// The bytes of all values so far.
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// Makes room for `rows` more values, of `bytes` bytes together.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn reserve(&mut self, rows: usize, bytes: usize) -> Result<(), MemoryError> {
        self.offsets
            .try_reserve(rows.saturating_add(1).saturating_mul(Self::SIZE))?;
        self.values.try_reserve(bytes)?;
        Ok(())
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes outgrow the
    /// offsets. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: impl AsRef<T::Native>) -> Result<(), MemoryError> {
        let bytes: &[u8] = value.as_ref().as_ref();
        let fits = self.offsets.capacity() - self.offsets.len() >= Self::SIZE
            && !self.offsets.is_empty()
            && self.validity.has_room();
        if fits
            && let Some(end) = T::Offset::from_usize(self.values.len() + bytes.len())
            && self.values.push_within_capacity(bytes)
        {
            let pushed = self.offsets.push_within_capacity(end.to_byte_slice());
            debug_assert!(pushed, "there is room");
            self.validity.push_valid();
            return Ok(());
        }
        self.append_growing(bytes)
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn append_growing(&mut self, bytes: &[u8]) -> Result<(), MemoryError> {
        self.prepare()?;
        // The offset gets its room first: then the bytes come last of what may fail.
        self.offsets.try_reserve(Self::SIZE)?;
        let end = self.end(bytes.len())?;
        self.values.extend_from_slice(bytes)?;
        self.offsets.extend_from_slice(end.to_byte_slice())?;
        self.validity.append_valid()?;
        Ok(())
    }

    /// Appends a null row.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes outgrow the
    /// offsets. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append_null(&mut self) -> Result<(), MemoryError> {
        // Where there are bits, a row was appended before, so there is an offset.
        if let Some(bits) = &mut self.validity.bits
            && bits.len() < bits.capacity()
            && let Some(end) = T::Offset::from_usize(self.values.len())
            && self.offsets.push_within_capacity(end.to_byte_slice())
        {
            let pushed = bits.push_within_capacity(false);
            debug_assert!(pushed, "there is room");
            return Ok(());
        }
        self.append_nulls(1)
    }

    /// Appends `n` null rows.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes outgrow the
    /// offsets. The builder is as it was then.
    #[inline(never)]
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        let rows = self.len();
        self.prepare()?;
        self.offsets.try_reserve(n.saturating_mul(Self::SIZE))?;
        let end = self.end(0)?;
        self.validity.append_nulls(rows, n)?;
        for _ in 0..n {
            self.offsets.extend_from_slice(end.to_byte_slice())?;
        }
        Ok(())
    }

    /// Appends values, none of them null: all, or none after an error.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes outgrow the
    /// offsets. The builder is as it was then.
    #[track_caller]
    pub fn append_slice(&mut self, values: &[impl AsRef<T::Native>]) -> Result<(), MemoryError> {
        self.append_all(values, None)
    }

    /// Appends values, and null rows in place of those where `valid` is false. Without `valid`, no row is null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the bytes outgrow the
    /// offsets, or if `values` and `valid` have different lengths. The builder is as it was then.
    #[track_caller]
    pub fn append_values(
        &mut self,
        values: &[impl AsRef<T::Native>],
        valid: Option<&[bool]>,
    ) -> Result<(), MemoryError> {
        if let Some(valid) = valid {
            check_lengths(values.len(), valid.len())?;
        }
        self.append_all(values, valid)
    }

    #[track_caller]
    fn append_all(
        &mut self,
        values: &[impl AsRef<T::Native>],
        valid: Option<&[bool]>,
    ) -> Result<(), MemoryError> {
        let is_valid = |index: usize| valid.is_none_or(|valid| valid[index]);
        let mut total = 0_usize;
        for (index, value) in values.iter().enumerate() {
            if is_valid(index) {
                let bytes: &[u8] = value.as_ref().as_ref();
                total = total.saturating_add(bytes.len());
            }
        }
        let rows = self.len();
        self.prepare()?;
        self.end(total)?;
        self.offsets
            .try_reserve(values.len().saturating_mul(Self::SIZE))?;
        self.values.try_reserve(total)?;
        let nulls = valid.is_some_and(|valid| valid.contains(&false));
        self.validity.reserve(rows, values.len(), nulls)?;
        // Each value is asked for its bytes a second time here. It may panic, or may have become longer.
        let to = Appended::new(&mut self.values);
        let offsets = Appended::new(&mut self.offsets);
        for (index, value) in values.iter().enumerate() {
            if is_valid(index) {
                to.bytes.extend_from_slice(value.as_ref().as_ref())?;
            }
            let end = offset_at::<T::Offset>(to.bytes.len())?;
            offsets.bytes.extend_from_slice(end.to_byte_slice())?;
        }
        // There is room, so this does not fail. It comes last, since it is not undone by `Appended`.
        match valid {
            Some(valid) => self.validity.append_slice(rows, valid)?,
            None => self.validity.append_n_valid(values.len())?,
        }
        to.keep();
        offsets.keep();
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> GenericByteArray<T> {
        let rows = self.len();
        if self.offsets.is_empty() {
            return GenericByteArray::new_null(0);
        }
        let nulls = self.validity.finish(rows);
        let values = take(&mut self.values, &self.allocator);
        let offsets = take(&mut self.offsets, &self.allocator);
        let offsets = ScalarBuffer::<T::Offset>::new(offsets, 0, rows + 1);
        // SAFETY: the offsets start at zero, and each further one is the length of `values` after an append.
        let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
        // SAFETY: the bytes between two offsets are a whole value, and the last offset is the length.
        unsafe { GenericByteArray::new_unchecked(offsets, values, nulls) }
    }

    /// Appends the zero that the offsets start with, and makes room for the validity of a row.
    #[cold]
    #[track_caller]
    fn prepare(&mut self) -> Result<(), MemoryError> {
        if self.offsets.is_empty() {
            self.offsets
                .extend_from_slice(T::Offset::default().to_byte_slice())?;
        }
        self.validity.reserve(self.len(), 1, false)?;
        Ok(())
    }

    /// The offset behind `more` bytes.
    #[inline]
    fn end(&self, more: usize) -> Result<T::Offset, MemoryError> {
        offset_at(self.values.len().saturating_add(more))
    }
}

/// The offset behind `bytes` bytes.
#[inline]
fn offset_at<O: OffsetSizeTrait>(bytes: usize) -> Result<O, MemoryError> {
    match O::from_usize(bytes) {
        Some(end) => Ok(end),
        None => wrong(format!(
            "{bytes} bytes are more than offsets of {} bytes can say",
            size_of::<O>()
        )),
    }
}

array_builder! {
    impl[T: ByteArrayType] for GenericBytesBuilder<T>;
    data_type: |_builder| T::DATA_TYPE;
    finish: |builder| builder.finish();
    methods: is_empty, append_option(impl AsRef<T::Native>);
}
