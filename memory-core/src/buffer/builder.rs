//! Builders of buffers: of bytes, typed values and bits. They are modelled on Arrow C++'s, and return errors where
//! those abort.

use bytemuck::{AnyBitPattern, NoUninit};

use super::{ArrowBuf, ArrowBufMut};
use crate::allocator::BufferAllocator;
use crate::error::AllocError;
use crate::ledger::LedgerRef;

/// Builds a buffer of bytes.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{BufferBuilder, RootAllocator};
///
/// let root = RootAllocator::new(1 << 20);
/// let mut builder = BufferBuilder::new(&root);
/// builder.reserve(4)?; // grows once, for what follows
/// builder.append_slice(b"ab")?;
/// builder.append_n(2, b'c')?;
/// builder.append(b'd')?;
/// assert_eq!(builder.finish().as_slice(), b"abccd");
/// assert!(builder.is_empty());
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Debug)]
pub struct BufferBuilder {
    buffer: ArrowBufMut,
}

impl BufferBuilder {
    /// An empty builder, whose memory comes from `allocator`. Nothing is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            buffer: ArrowBufMut::empty(LedgerRef::pin(&allocator.handle)),
        }
    }

    /// The number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How many bytes fit without growing.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The bytes so far.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    /// The bytes so far, to write.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut builder = arrow_memory_core::BufferBuilder::new(&root);
    /// builder.advance(3)?;
    /// builder.as_mut_slice()[1] = 7;
    /// assert_eq!((builder.as_slice(), builder.len(), builder.capacity()), (&[0, 7, 0][..], 3, 64));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Makes room for `additional` bytes.
    ///
    /// # Errors
    ///
    /// The errors of [`ArrowBufMut::try_reserve`]; the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        self.buffer.try_reserve(additional)
    }

    /// Appends one byte.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, byte: u8) -> Result<(), AllocError> {
        self.append_slice(&[byte])
    }

    /// Appends `value` `n` times.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_n(&mut self, n: usize, value: u8) -> Result<(), AllocError> {
        // A sum that overflows is refused by `reserve`.
        self.reserve(n)?;
        self.buffer.resize(self.len() + n, value)
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_slice(&mut self, bytes: &[u8]) -> Result<(), AllocError> {
        self.buffer.extend_from_slice(bytes)
    }

    /// Appends `n` zero bytes.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[track_caller]
    pub fn advance(&mut self, n: usize) -> Result<(), AllocError> {
        self.append_n(n, 0)
    }

    /// The buffer built so far; the builder is empty then and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> ArrowBuf {
        let next = self.buffer.new_empty();
        std::mem::replace(&mut self.buffer, next).freeze()
    }
}

/// Builds a buffer of plain values.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, TypedBufferBuilder};
///
/// let root = RootAllocator::new(1 << 20);
/// let mut builder = TypedBufferBuilder::<i64>::new(&root);
/// builder.reserve(6)?;
/// builder.append(25)?;
/// builder.append_slice(&[1, 3])?;
/// builder.append_n(2, 7)?;
/// builder.advance(1)?;
/// assert_eq!((builder.len(), builder.capacity(), builder.is_empty()), (6, 8, false));
/// assert_eq!(builder.as_slice(), [25, 1, 3, 7, 7, 0]);
/// assert_eq!(builder.finish().typed::<i64>().unwrap(), [25, 1, 3, 7, 7, 0]);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Debug)]
pub struct TypedBufferBuilder<T> {
    bytes: BufferBuilder,
    item: std::marker::PhantomData<T>,
}

impl<T: NoUninit + AnyBitPattern> TypedBufferBuilder<T> {
    const SIZE: usize = {
        assert!(size_of::<T>() > 0, "values without a size need no buffer");
        assert!(
            align_of::<T>() <= crate::size::ALIGNMENT,
            "buffers are aligned to 64 bytes"
        );
        size_of::<T>()
    };

    /// An empty builder, whose memory comes from `allocator`. Nothing is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            bytes: BufferBuilder::new(allocator),
            item: std::marker::PhantomData,
        }
    }

    /// The number of values.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() / Self::SIZE
    }

    /// Whether there are no values.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many values fit without growing.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() / Self::SIZE
    }

    /// The values so far.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes.as_slice())
    }

    /// Makes room for `additional` values.
    ///
    /// # Errors
    ///
    /// The errors of [`ArrowBufMut::try_reserve`]; the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        self.bytes.reserve(additional.saturating_mul(Self::SIZE))
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: T) -> Result<(), AllocError> {
        self.bytes.append_slice(bytemuck::bytes_of(&value))
    }

    /// Appends `value` `n` times.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_n(&mut self, n: usize, value: T) -> Result<(), AllocError> {
        self.reserve(n)?;
        for _ in 0..n {
            self.append(value)?;
        }
        Ok(())
    }

    /// Appends values.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_slice(&mut self, values: &[T]) -> Result<(), AllocError> {
        self.bytes.append_slice(bytemuck::cast_slice(values))
    }

    /// Appends `n` values whose bytes are zero.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[track_caller]
    pub fn advance(&mut self, n: usize) -> Result<(), AllocError> {
        self.reserve(n)?;
        self.bytes.advance(n * Self::SIZE)
    }

    /// The buffer built so far; the builder is empty then and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> ArrowBuf {
        self.bytes.finish()
    }
}

/// Builds a bitmap: bit i is bit i % 8 of byte i / 8, as Arrow has it.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{BooleanBufferBuilder, RootAllocator};
///
/// let root = RootAllocator::new(1 << 20);
/// let mut builder = BooleanBufferBuilder::new(&root);
/// builder.append_slice(&[true, false, true])?;
/// builder.append_n(6, true)?;
/// assert_eq!((builder.len(), builder.is_empty()), (9, false));
/// assert_eq!(builder.finish().as_slice(), [0b1111_1101, 0b1]);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Debug)]
#[doc(alias = "TypedBufferBuilder")]
pub struct BooleanBufferBuilder {
    bytes: BufferBuilder,
    /// The number of bits; the bits of the last byte beyond it are zero.
    len: usize,
}

impl BooleanBufferBuilder {
    /// An empty builder, whose memory comes from `allocator`. Nothing is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            bytes: BufferBuilder::new(allocator),
            len: 0,
        }
    }

    /// The number of bits.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bits fit without growing.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity().saturating_mul(8)
    }

    /// The bytes so far; unused bits are zero.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Bit `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below the length.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut bits = arrow_memory_core::BooleanBufferBuilder::new(&root);
    /// bits.append(true)?;
    /// bits.advance(9)?;
    /// assert!(bits.bit(0) && !bits.bit(9));
    /// assert_eq!((bits.len(), bits.as_slice(), bits.capacity()), (10, &[1, 0][..], 512));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn bit(&self, index: usize) -> bool {
        assert!(index < self.len, "bit {index} of {}", self.len);
        self.as_slice()[index / 8] & (1 << (index % 8)) != 0
    }

    /// Makes room for `additional` bits.
    ///
    /// # Errors
    ///
    /// The errors of [`ArrowBufMut::try_reserve`]; the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        let bytes = self.len.saturating_add(additional).div_ceil(8);
        self.bytes.reserve(bytes - self.bytes.len())
    }

    /// Appends a bit.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, bit: bool) -> Result<(), AllocError> {
        if self.len.is_multiple_of(8) {
            self.bytes.append(u8::from(bit))?;
        } else if bit {
            let byte = self.len / 8;
            self.bytes.as_mut_slice()[byte] |= 1 << (self.len % 8);
        }
        self.len += 1;
        Ok(())
    }

    /// Appends a bit if it fits into the capacity; as [`ArrowBufMut::push_within_capacity`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut bits = arrow_memory_core::BooleanBufferBuilder::new(&root);
    /// assert!(!bits.push_within_capacity(true)); // there is none yet
    /// bits.reserve(1)?;
    /// assert!(bits.push_within_capacity(true) && bits.bit(0));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn push_within_capacity(&mut self, bit: bool) -> bool {
        let place = self.len % 8;
        if place == 0 {
            if !self.bytes.buffer.push_within_capacity(&[u8::from(bit)]) {
                return false;
            }
        } else if let Some(last) = self.bytes.as_mut_slice().last_mut() {
            *last |= u8::from(bit) << place;
        }
        self.len += 1;
        true
    }

    /// Appends `bit` `n` times.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_n(&mut self, n: usize, bit: bool) -> Result<(), AllocError> {
        self.reserve(n)?;
        let (mut left, end) = (n, self.len + n);
        while left > 0 && !self.len.is_multiple_of(8) {
            self.append(bit)?;
            left -= 1;
        }
        self.bytes.append_n(left / 8, if bit { 0xFF } else { 0 })?;
        self.len += left / 8 * 8;
        while self.len < end {
            self.append(bit)?;
        }
        Ok(())
    }

    /// Appends bits.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[inline]
    #[track_caller]
    pub fn append_slice(&mut self, bits: &[bool]) -> Result<(), AllocError> {
        self.reserve(bits.len())?;
        bits.iter().try_for_each(|&bit| self.append(bit))
    }

    /// Appends `n` zero bits.
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve); the builder is as it was.
    #[track_caller]
    pub fn advance(&mut self, n: usize) -> Result<(), AllocError> {
        self.append_n(n, false)
    }

    /// The bitmap built so far; the builder is empty then and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> ArrowBuf {
        self.len = 0;
        self.bytes.finish()
    }
}
