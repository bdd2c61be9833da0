//! Copies columns, buffer by buffer, into memory of a backend.

use arrow_memory_arrow::arrow_60::deps::arrow_data::ArrayData;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::DataType;
use arrow_memory_core::{AllocError, ArrowBuf, BufferAllocator};

/// Copies the buffers of an array, its children and dictionaries into memory of `allocator`.
pub(crate) fn copy_into(
    data: &ArrayData,
    allocator: &BufferAllocator,
) -> Result<Vec<ArrowBuf>, AllocError> {
    let mut buffers = Vec::new();
    for_each_piece(data, &mut |piece| {
        if piece.len() > 0 {
            buffers.push(piece.copy(allocator)?);
        }
        Ok(())
    })?;
    Ok(buffers)
}

/// The bytes that [`copy_into`] charges.
pub(crate) fn copied_size(data: &ArrayData, allocator: &BufferAllocator) -> usize {
    let mut size = 0_usize;
    let measured = for_each_piece(data, &mut |piece| {
        if piece.len() > 0 {
            let rounded = allocator.rounding_policy().rounded_size(piece.len());
            size = size.saturating_add(rounded);
        }
        Ok(())
    });
    debug_assert!(measured.is_ok(), "measuring asks for nothing");
    size
}

/// The source of one copied buffer.
enum Piece<'a> {
    /// Bytes that are copied as they are.
    Bytes(&'a [u8]),
    /// The bytes of `views` that are too long to be stored in the view itself, one after another. (The
    /// buffers of a view array may be whole pages of its file, shared by many batches.)
    Viewed { data: &'a ArrayData, len: usize },
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Viewed { len, .. } => *len,
        }
    }

    fn copy(&self, allocator: &BufferAllocator) -> Result<ArrowBuf, AllocError> {
        match self {
            Self::Bytes(bytes) => allocator.buffer_from_slice(bytes),
            Self::Viewed { data, len } => {
                let mut buffer = allocator.buffer(*len)?;
                for bytes in viewed(data) {
                    buffer.extend_from_slice(bytes)?;
                }
                Ok(buffer.freeze())
            }
        }
    }
}

fn for_each_piece(
    data: &ArrayData,
    f: &mut impl FnMut(Piece<'_>) -> Result<(), AllocError>,
) -> Result<(), AllocError> {
    if let Some(nulls) = data.nulls() {
        f(Piece::Bytes(nulls.validity()))?;
    }
    match data.data_type() {
        DataType::Utf8View | DataType::BinaryView => {
            f(Piece::Bytes(views(data)))?;
            let len = viewed(data).map(<[u8]>::len).sum();
            f(Piece::Viewed { data, len })?;
        }
        _ => {
            for buffer in data.buffers() {
                f(Piece::Bytes(buffer.as_slice()))?;
            }
        }
    }
    for child in data.child_data() {
        for_each_piece(child, f)?;
    }
    Ok(())
}

/// The size of one view in bytes.
const VIEW: usize = 16;

/// Values up to this length are stored in their view.
const INLINE: usize = 12;

/// The views of a view array's values.
fn views(data: &ArrayData) -> &[u8] {
    let all = data.buffers().first().map_or(&[][..], |views| views);
    let (start, end) = (data.offset() * VIEW, (data.offset() + data.len()) * VIEW);
    all.get(start..end).unwrap_or(all)
}

/// The values of a view array that are not stored in their view.
fn viewed(data: &ArrayData) -> impl Iterator<Item = &[u8]> {
    views(data).chunks_exact(VIEW).filter_map(|view| {
        let field = |index: usize| {
            let bytes = view.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let (length, buffer, offset) = (field(0)?, field(2)?, field(3)?);
        if length <= INLINE {
            return None;
        }
        data.buffers().get(1 + buffer)?.get(offset..offset + length)
    })
}
