//! Bytes as numbers and other plain types.

use bytemuck::{AnyBitPattern, NoUninit, PodCastError};

use super::{ArrowBuf, ArrowBufMut};
use crate::error::{CastError, OutOfBounds};

impl ArrowBuf {
    /// The `T` whose bytes start at `offset`, aligned or not.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if it does not lie within the buffer.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(&[0, 1, 0, 0, 0])?;
    /// assert_eq!(buffer.get::<u32>(1)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[doc(alias = "getInt")]
    pub fn get<T: AnyBitPattern>(&self, offset: usize) -> Result<T, OutOfBounds> {
        read(self, offset)
    }

    /// The bytes as a slice of `T`.
    ///
    /// # Errors
    ///
    /// [`CastError`] if the address is not aligned for `T` (a slice's may not be), or the length
    /// is not a multiple of its size.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(&[1, 0, 2, 0])?;
    /// assert_eq!(buffer.typed::<u16>()?, [1, 2]);
    /// assert!(buffer.slice(1..3).typed::<u16>().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed<T: AnyBitPattern>(&self) -> Result<&[T], CastError> {
        cast(self)
    }
}

impl ArrowBufMut {
    /// Writes `value` at `offset`, within the length.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if it does not lie within the length; nothing is written.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer_zeroed(8)?;
    /// buffer.set(4, 7_u32)?;
    /// assert_eq!((buffer.get::<u32>(4)?, buffer.typed::<u32>()?), (7, &[0, 7][..]));
    /// assert!(buffer.set(5, 7_u32).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[doc(alias = "setInt")]
    pub fn set<T: NoUninit>(&mut self, offset: usize, value: T) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, size_of::<T>(), self.len())
            .map_err(|error| error.with_capacity(self.capacity()))?;
        self[offset..offset + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        Ok(())
    }

    /// The `T` whose bytes start at `offset`, aligned or not, within the length.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if it does not lie within the length.
    #[inline]
    pub fn get<T: AnyBitPattern>(&self, offset: usize) -> Result<T, OutOfBounds> {
        read(self, offset).map_err(|error| error.with_capacity(self.capacity()))
    }

    /// The initialised bytes as a slice of `T`.
    ///
    /// # Errors
    ///
    /// The errors of [`ArrowBuf::typed`].
    pub fn typed<T: AnyBitPattern>(&self) -> Result<&[T], CastError> {
        cast(self)
    }
}

#[inline]
fn read<T: AnyBitPattern>(bytes: &[u8], offset: usize) -> Result<T, OutOfBounds> {
    OutOfBounds::check(offset, size_of::<T>(), bytes.len())?;
    Ok(bytemuck::pod_read_unaligned(
        &bytes[offset..offset + size_of::<T>()],
    ))
}

fn cast<T: AnyBitPattern>(bytes: &[u8]) -> Result<&[T], CastError> {
    let partial = CastError::PartialItem {
        length: bytes.len(),
        size: size_of::<T>(),
    };
    if size_of::<T>() == 0 {
        return Err(partial);
    }
    bytemuck::try_cast_slice(bytes).map_err(|error| match error {
        PodCastError::TargetAlignmentGreaterAndInputNotAligned => CastError::Misaligned {
            address: bytes.as_ptr().addr(),
            alignment: align_of::<T>(),
        },
        _ => partial,
    })
}
