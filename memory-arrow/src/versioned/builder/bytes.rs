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
    /// Where each ends; without the zero that they start with as long as there are none.
    offsets: ArrowBufMut,
    validity: Validity,
    allocator: BufferAllocator,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: ByteArrayType> GenericBytesBuilder<T> {
    const SIZE: usize = size_of::<T::Offset>();

    /// An empty builder, whose memory comes from `allocator`. Nothing is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            values: empty(allocator),
            offsets: empty(allocator),
            validity: Validity::new(allocator),
            allocator: allocator.clone(),
            kind: std::marker::PhantomData,
        }
    }

    /// As [`new`](Self::new), with room for so many values of so many bytes together.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if that does not fit.
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

    /// The number of values so far.
    #[inline]
    pub fn len(&self) -> usize {
        (self.offsets.len() / Self::SIZE).saturating_sub(1)
    }

    /// The bytes of all values so far.
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// Makes room for so many values of so many bytes together.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if it cannot grow; the builder is as it was. So for all that appends,
    /// and [`MemoryError::Value`] if the bytes outgrow the offsets.
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
    /// As [`reserve`](Self::reserve).
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
        // Room for the offset first: then the bytes are the last thing that fails.
        self.offsets.try_reserve(Self::SIZE)?;
        let end = self.end(bytes.len())?;
        self.values.extend_from_slice(bytes)?;
        self.offsets.extend_from_slice(end.to_byte_slice())?;
        self.validity.append_valid()?;
        Ok(())
    }

    /// Appends a null.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    #[inline]
    #[track_caller]
    pub fn append_null(&mut self) -> Result<(), MemoryError> {
        // With a null there was a value or null before, so an offset.
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

    /// Appends `n` nulls.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
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
    /// As [`reserve`](Self::reserve).
    #[track_caller]
    pub fn append_slice(&mut self, values: &[impl AsRef<T::Native>]) -> Result<(), MemoryError> {
        self.append_all(values, None)
    }

    /// Appends values of which those are null where `valid` is false; none, without it.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve); and [`MemoryError::Value`] if the lengths differ.
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
        // The values are asked for their bytes once more, and may panic then, or have become longer.
        let to = Appended::new(&mut self.values);
        let offsets = Appended::new(&mut self.offsets);
        for (index, value) in values.iter().enumerate() {
            if is_valid(index) {
                to.bytes.extend_from_slice(value.as_ref().as_ref())?;
            }
            let end = offset_at::<T::Offset>(to.bytes.len())?;
            offsets.bytes.extend_from_slice(end.to_byte_slice())?;
        }
        // There is room, so this does not fail. It comes last, so that it has no row that is undone.
        match valid {
            Some(valid) => self.validity.append_slice(rows, valid)?,
            None => self.validity.append_n_valid(values.len())?,
        }
        to.keep();
        offsets.keep();
        Ok(())
    }

    /// The array built so far; the builder is empty then and can be used again.
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
        // SAFETY: they start at zero and each is the length of `values` after an append.
        let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
        // SAFETY: whole values lie between the offsets, of which the last is the length.
        unsafe { GenericByteArray::new_unchecked(offsets, values, nulls) }
    }

    /// Puts the first offset there, and makes room for a row's validity.
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
