//! Strings and binaries as views: short ones inline, long ones in blocks.
#![expect(unsafe_code, reason = "its views and bytes are valid by construction")]

use arrow_memory_core::{ArrowBufMut, BufferAllocator};

use super::{Validity, array_builder, empty, take, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::GenericByteViewArray;
use super::super::deps::arrow_array::types::{BinaryViewType, ByteViewType, StringViewType};
use super::super::deps::arrow_buffer::Buffer;
use super::super::deps::arrow_data::{ArrayData, ByteView};

/// Builds arrays of string views.
pub type StringViewBuilder = GenericViewBuilder<StringViewType>;
/// Builds arrays of binary views.
pub type BinaryViewBuilder = GenericViewBuilder<BinaryViewType>;

/// Builds an array of views.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::StringViewBuilder;
///
/// let mut builder = StringViewBuilder::new(&root);
/// builder.append("inline")?;
/// builder.append("more than twelve bytes")?;
/// builder.append_null()?;
/// let array = builder.finish();
/// assert_eq!((array.value(0), array.value(1)), ("inline", "more than twelve bytes"));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct GenericViewBuilder<T: ByteViewType> {
    views: ArrowBufMut,
    /// The block that long values are appended to.
    block: ArrowBufMut,
    /// The full blocks.
    blocks: Vec<Buffer>,
    /// The size of the next block in bytes.
    block_size: usize,
    validity: Validity,
    allocator: BufferAllocator,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: ByteViewType> GenericViewBuilder<T> {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            views: empty(allocator),
            block: empty(allocator),
            blocks: Vec::new(),
            block_size: FIRST_BLOCK,
            validity: Validity::new(allocator),
            allocator: allocator.clone(),
            kind: std::marker::PhantomData,
        }
    }

    /// The number of rows so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.views.len() / VIEW
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if the value is longer than
    /// 2 GiB. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: impl AsRef<T::Native>) -> Result<(), MemoryError> {
        let bytes: &[u8] = value.as_ref().as_ref();
        self.views.try_reserve(VIEW)?;
        self.validity.reserve(self.len(), 1, false)?;
        let view = if bytes.len() <= INLINE {
            inline(bytes)
        } else {
            self.append_long(bytes)?
        };
        self.views.extend_from_slice(&view.to_le_bytes())?;
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
        let rows = self.len();
        self.views.try_reserve(n.saturating_mul(VIEW))?;
        self.validity.append_nulls(rows, n)?;
        self.views.resize((rows + n) * VIEW, 0)?;
        Ok(())
    }

    /// Appends values, none of them null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if a value is longer than
    /// 2 GiB. The values before the one that failed are there then.
    #[track_caller]
    pub fn append_slice(&mut self, values: &[impl AsRef<T::Native>]) -> Result<(), MemoryError> {
        self.views.try_reserve(values.len().saturating_mul(VIEW))?;
        for value in values {
            self.append(value.as_ref())?;
        }
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> GenericByteViewArray<T> {
        let rows = self.len();
        let nulls = self.validity.finish(rows);
        let mut buffers = vec![take(&mut self.views, &self.allocator)];
        buffers.append(&mut self.blocks);
        if !self.block.is_empty() {
            buffers.push(take(&mut self.block, &self.allocator));
        }
        self.block_size = FIRST_BLOCK;
        let data = ArrayData::builder(T::DATA_TYPE)
            .len(rows)
            .nulls(nulls)
            .buffers(buffers);
        // SAFETY: each view holds a whole value, or leads to one in the block that it was appended to.
        GenericByteViewArray::from(unsafe { data.build_unchecked() })
    }

    /// Appends to a block, and returns the view.
    #[track_caller]
    fn append_long(&mut self, bytes: &[u8]) -> Result<u128, MemoryError> {
        if bytes.len() > MAX_BYTES {
            return wrong(format!("a value of {} bytes", bytes.len()));
        }
        if room_in(self.block.len(), self.block.capacity()) < bytes.len() {
            let size = self.block_size.max(bytes.len());
            // A block for this value alone will do if the next size does not fit.
            let next = match self.allocator.buffer(size) {
                Ok(next) => next,
                Err(_) => self.allocator.buffer(bytes.len())?,
            };
            let full = std::mem::replace(&mut self.block, next);
            if !full.is_empty() {
                self.blocks.push(super::into_buffer(full.freeze()));
            }
            self.block_size = (self.block_size * 2).min(LAST_BLOCK);
        }
        let offset = self.block.len() as u32;
        self.block.extend_from_slice(bytes)?;
        let prefix = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let view = ByteView::new(bytes.len() as u32, &prefix.to_le_bytes())
            .with_buffer_index(self.blocks.len() as u32)
            .with_offset(offset);
        Ok(view.as_u128())
    }
}

array_builder! {
    impl[T: ByteViewType] for GenericViewBuilder<T>;
    data_type: |_builder| T::DATA_TYPE;
    finish: |builder| builder.finish();
    methods: is_empty, append_null, append_option(impl AsRef<T::Native>),
        append_values(impl AsRef<T::Native>, |value| value.as_ref());
}

/// The number of bytes that fit behind `len` bytes in a block of `capacity` bytes. The rounding policy may have
/// made the block larger than the offsets of views can reach.
#[inline]
fn room_in(len: usize, capacity: usize) -> usize {
    capacity.min(MAX_OFFSET).saturating_sub(len)
}

/// The view of [`INLINE`] bytes or fewer: their number, followed by the bytes.
fn inline(bytes: &[u8]) -> u128 {
    let mut view = [0; VIEW];
    view[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    view[4..4 + bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(view)
}

const VIEW: usize = size_of::<u128>();

/// Values up to this length are in the view itself.
const INLINE: usize = 12;

const FIRST_BLOCK: usize = 8 << 10;
const LAST_BLOCK: usize = 2 << 20;

/// The maximum length of a value: lengths and offsets are signed 32-bit numbers.
const MAX_BYTES: usize = i32::MAX as usize - LAST_BLOCK;

/// The maximum offset of a value in a block, also in a larger one. Tests have a bound that they can reach.
const MAX_OFFSET: usize = if cfg!(test) {
    4 << 20
} else {
    i32::MAX as usize
};
