//! How arrays are taken apart into buffers, and put together on others.
#![expect(
    unsafe_code,
    reason = "rebuilds valid arrays with other buffers of the same bytes"
)]

use std::sync::Arc;

use super::deps::arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, BinaryType, ByteArrayType, ByteViewType,
    LargeBinaryType, LargeUtf8Type, RunEndIndexType, Utf8Type,
};
use super::deps::arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray,
    GenericByteArray, GenericByteViewArray, GenericListArray, GenericListViewArray, MapArray,
    NullArray, OffsetSizeTrait, PrimitiveArray, RecordBatch, RunArray, StructArray, UnionArray,
    downcast_primitive_array, make_array,
};
use super::deps::arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use super::deps::arrow_data::{ArrayData, ArrayDataBuilder};
use super::deps::arrow_schema::DataType;

/// Something that can be taken apart into parts, and put together again.
pub(super) trait Parts: Sized {
    fn parts(&self) -> Vec<Part>;
    fn assemble(&self, parts: Vec<Part>) -> Self;
}

/// Runs `$run` with the array of strings or binary that `$array` is.
macro_rules! with_bytes {
    ($array:ident => $run:expr) => {
        match $array.data_type() {
            DataType::Utf8 => with_bytes!($array, Utf8Type, $run),
            DataType::LargeUtf8 => with_bytes!($array, LargeUtf8Type, $run),
            DataType::Binary => with_bytes!($array, BinaryType, $run),
            DataType::LargeBinary => with_bytes!($array, LargeBinaryType, $run),
            _ => {}
        }
    };
    ($array:ident, $type:ty, $run:expr) => {{
        if let Some($array) = $array.as_any().downcast_ref::<GenericByteArray<$type>>() {
            $run;
        }
    }};
}

/// An array that is taken apart: as data, or, for the sake of wide batches, as it is. Small, since a
/// batch has many.
pub(super) enum Part {
    Data(Box<ArrayData>),
    /// An array of a primitive type.
    Primitive(ArrayRef),
    /// Strings or binary, with offsets.
    Bytes(ArrayRef),
}

impl Part {
    fn of(array: &ArrayRef) -> Self {
        if array.data_type().is_primitive() {
            return Self::Primitive(Arc::clone(array));
        }
        match array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Self::Bytes(Arc::clone(array))
            }
            _ => Self::data(array.to_data()),
        }
    }

    fn data(data: ArrayData) -> Self {
        Self::Data(Box::new(data))
    }

    fn into_data(self) -> ArrayData {
        match self {
            Self::Data(data) => *data,
            Self::Primitive(array) | Self::Bytes(array) => array.to_data(),
        }
    }

    fn into_array(self) -> ArrayRef {
        match self {
            Self::Data(data) => make_array(*data),
            Self::Primitive(array) | Self::Bytes(array) => array,
        }
    }

    /// Calls `f` with each buffer, in the order of [`replace`](Self::replace).
    pub(super) fn visit(&self, f: &mut impl FnMut(&Buffer)) {
        match self {
            Self::Data(data) => visit(data, f),
            Self::Primitive(array) => {
                let array = &**array;
                if let Some(nulls) = array.nulls() {
                    f(nulls.buffer());
                }
                downcast_primitive_array!(
                    array => f(array.values().inner()),
                    _ => {}
                );
            }
            Self::Bytes(array) => with_bytes!(array => {
                if let Some(nulls) = array.nulls() {
                    f(nulls.buffer());
                }
                f(array.offsets().inner().inner());
                f(array.values());
            }),
        }
    }

    /// The same with other buffers, as the function `replace`.
    pub(super) fn replace(self, next: &mut impl FnMut(&Buffer) -> Buffer) -> Self {
        match self {
            Self::Data(data) => Self::data(replace(*data, next)),
            Self::Primitive(array) => {
                let this = &*array;
                let nulls = this.nulls().map(|nulls| replace_nulls(nulls, next));
                Self::Primitive(downcast_primitive_array!(
                    this => {
                        let (old, len) = (this.values().inner(), this.len());
                        let values = ScalarBuffer::new(next(old), 0, len);
                        like(this, values, nulls)
                    },
                    _ => Arc::clone(&array)
                ))
            }
            Self::Bytes(array) => {
                let mut replaced = None;
                with_bytes!(array => replaced = Some(replace_bytes(array, next)));
                Self::Bytes(replaced.unwrap_or(array))
            }
        }
    }
}

/// The same strings or binary in other buffers.
fn replace_bytes<T: ByteArrayType>(
    array: &GenericByteArray<T>,
    next: &mut impl FnMut(&Buffer) -> Buffer,
) -> ArrayRef {
    let nulls = array.nulls().map(|nulls| replace_nulls(nulls, next));
    let offsets = ScalarBuffer::new(next(array.offsets().inner().inner()), 0, array.len() + 1);
    // SAFETY: the same offsets.
    let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
    let values = next(array.values());
    // SAFETY: the same offsets, values and nulls, which were an array.
    Arc::new(unsafe { GenericByteArray::<T>::new_unchecked(offsets, values, nulls) })
}

/// An array of the type of `array`, with other buffers of the same length.
fn like<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    values: ScalarBuffer<T::Native>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    let data_type = array.data_type().clone();
    Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(data_type))
}

/// The same nulls in another buffer.
fn replace_nulls(nulls: &NullBuffer, next: &mut impl FnMut(&Buffer) -> Buffer) -> NullBuffer {
    let bits = BooleanBuffer::new(next(nulls.buffer()), nulls.offset(), nulls.len());
    // SAFETY: the same bits have the same number of zeros.
    unsafe { NullBuffer::new_unchecked(bits, nulls.null_count()) }
}

/// Calls `f` with each buffer, in the order of [`replace`].
fn visit(data: &ArrayData, f: &mut impl FnMut(&Buffer)) {
    if let Some(nulls) = data.nulls() {
        f(nulls.buffer());
    }
    data.buffers().iter().for_each(&mut *f);
    for child in data.child_data() {
        visit(child, f);
    }
}

/// The same array with other buffers, each of which `next` gives for the one that it replaces, with
/// the same bytes.
fn replace(data: ArrayData, next: &mut impl FnMut(&Buffer) -> Buffer) -> ArrayData {
    let (data_type, len, nulls, offset, mut buffers, mut children) = data.into_parts();
    let nulls = nulls.map(|nulls| replace_nulls(&nulls, next));
    for buffer in &mut buffers {
        *buffer = next(buffer);
    }
    for child in &mut children {
        let empty = ArrayDataBuilder::new(DataType::Null);
        // SAFETY: an array of no nulls has no buffers to be wrong.
        let empty = unsafe { empty.build_unchecked() };
        *child = replace(std::mem::replace(child, empty), next);
    }
    let built = ArrayDataBuilder::new(data_type)
        .len(len)
        .nulls(nulls)
        .offset(offset)
        .buffers(buffers)
        .child_data(children);
    // SAFETY: it was valid with the same bytes, at addresses that are aligned as they were: the
    // wrappers start where the regions do. Empty buffers are replaced by one that is aligned to 64.
    unsafe { built.build_unchecked() }
}

impl Parts for Buffer {
    fn parts(&self) -> Vec<Part> {
        let bytes = ArrayDataBuilder::new(DataType::UInt8)
            .len(self.len())
            .add_buffer(self.clone());
        // SAFETY: any bytes are an array of bytes.
        vec![Part::data(unsafe { bytes.build_unchecked() })]
    }

    fn assemble(&self, parts: Vec<Part>) -> Self {
        one(parts).into_data().buffers()[0].clone()
    }
}

impl Parts for ArrayData {
    fn parts(&self) -> Vec<Part> {
        vec![Part::data(self.clone())]
    }

    fn assemble(&self, parts: Vec<Part>) -> Self {
        one(parts).into_data()
    }
}

impl Parts for ArrayRef {
    fn parts(&self) -> Vec<Part> {
        vec![Part::of(self)]
    }

    fn assemble(&self, parts: Vec<Part>) -> Self {
        one(parts).into_array()
    }
}

impl Parts for RecordBatch {
    fn parts(&self) -> Vec<Part> {
        self.columns().iter().map(Part::of).collect()
    }

    fn assemble(&self, parts: Vec<Part>) -> Self {
        let columns = parts.into_iter().map(Part::into_array).collect();
        let (schema, rows) = (Arc::clone(self.schema_ref()), self.num_rows());
        // SAFETY: the same columns, with the same types and lengths, as this batch has.
        unsafe { RecordBatch::new_unchecked(schema, columns, rows) }
    }
}

fn one(parts: Vec<Part>) -> Part {
    match parts.into_iter().next() {
        Some(part) => part,
        None => Part::data(ArrayData::new_empty(&DataType::Null)),
    }
}

/// Arrays of known types.
macro_rules! typed {
    ($parameter:ident: $bound:path, $array:ty) => {
        impl<$parameter: $bound> Parts for $array {
            fn parts(&self) -> Vec<Part> {
                vec![Part::data(self.to_data())]
            }

            fn assemble(&self, parts: Vec<Part>) -> Self {
                Self::from(one(parts).into_data())
            }
        }
    };
    ($($array:ty),*) => {$(
        impl Parts for $array {
            fn parts(&self) -> Vec<Part> {
                vec![Part::data(self.to_data())]
            }

            fn assemble(&self, parts: Vec<Part>) -> Self {
                Self::from(one(parts).into_data())
            }
        }
    )*};
}

typed!(NullArray, BooleanArray, FixedSizeBinaryArray);
typed!(FixedSizeListArray, StructArray, UnionArray, MapArray);
typed!(T: ArrowPrimitiveType, PrimitiveArray<T>);
typed!(T: ByteArrayType, GenericByteArray<T>);
typed!(T: ByteViewType, GenericByteViewArray<T>);
typed!(O: OffsetSizeTrait, GenericListArray<O>);
typed!(O: OffsetSizeTrait, GenericListViewArray<O>);
typed!(K: ArrowDictionaryKeyType, DictionaryArray<K>);
typed!(R: RunEndIndexType, RunArray<R>);
