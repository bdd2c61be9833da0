//! How arrays are taken apart into buffers, and put together on others.
#![expect(
    unsafe_code,
    reason = "rebuilds valid arrays with other buffers of the same bytes"
)]

use std::sync::Arc;

use super::deps::arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, BinaryType, BinaryViewType, ByteArrayType,
    ByteViewType, LargeBinaryType, LargeUtf8Type, RunEndIndexType, StringViewType, Utf8Type,
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
    fn parts(&self) -> Vec<Part<'_>>;
    fn assemble(&self, whole: Vec<Whole>) -> Self;
}

/// An array that is taken apart: as data, or, for the sake of batches of usual columns, as it is.
/// Small, since a batch has many.
pub(super) enum Part<'a> {
    Data(Box<ArrayData>),
    /// An array of a primitive type.
    Primitive(&'a ArrayRef),
    /// Strings or binary, with offsets.
    Bytes(&'a ArrayRef),
    /// Strings or binary, in views.
    Views(&'a ArrayRef),
}

/// An array that was put together again.
pub(super) enum Whole {
    Data(ArrayData),
    Array(ArrayRef),
}

/// Runs `$run` with the array of strings or binary that `$array` is, one of the types named.
macro_rules! with_bytes {
    ($array:ident: $kind:ident<$($name:ident: $type:ty),*> => $run:expr) => {
        match $array.data_type() {
            $(DataType::$name => {
                if let Some($array) = $array.as_any().downcast_ref::<$kind<$type>>() {
                    $run;
                }
            })*
            _ => {}
        }
    };
    ($array:ident => $run:expr) => {
        with_bytes!($array: GenericByteArray<
            Utf8: Utf8Type, LargeUtf8: LargeUtf8Type, Binary: BinaryType, LargeBinary: LargeBinaryType
        > => $run)
    };
}

/// As `with_bytes`, for views.
macro_rules! with_views {
    ($array:ident => $run:expr) => {
        with_bytes!($array: GenericByteViewArray<
            Utf8View: StringViewType, BinaryView: BinaryViewType
        > => $run)
    };
}

impl<'a> Part<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Self::Bytes(array)
            }
            DataType::Utf8View | DataType::BinaryView => Self::Views(array),
            other if other.is_primitive() => Self::Primitive(array),
            _ => Self::data(array.to_data()),
        }
    }

    fn data(data: ArrayData) -> Self {
        Self::Data(Box::new(data))
    }

    /// Calls `f` with each buffer, in the order of [`replace`](Self::replace).
    pub(super) fn visit<'s>(&'s self, f: &mut impl FnMut(&'s Buffer)) {
        let nulls = match self {
            Self::Data(data) => return visit(data, f),
            Self::Primitive(array) | Self::Bytes(array) | Self::Views(array) => array.nulls(),
        };
        if let Some(nulls) = nulls {
            f(nulls.buffer());
        }
        match self {
            Self::Data(_) => {}
            Self::Primitive(array) => {
                let array = &***array;
                downcast_primitive_array!(
                    array => f(array.values().inner()),
                    _ => {}
                );
            }
            Self::Bytes(array) => with_bytes!(array => {
                f(array.offsets().inner().inner());
                f(array.values());
            }),
            Self::Views(array) => with_views!(array => {
                f(array.views().inner());
                array.data_buffers().iter().for_each(f);
            }),
        }
    }

    /// The same with other buffers, as the function `replace`.
    pub(super) fn replace(&self, next: &mut impl FnMut(&Buffer) -> Buffer) -> Whole {
        let array = match self {
            Self::Data(data) => return Whole::Data(replace(data, next)),
            Self::Primitive(array) | Self::Bytes(array) | Self::Views(array) => *array,
        };
        let nulls = array.nulls().map(|nulls| replace_nulls(nulls, next));
        let mut replaced = None;
        match self {
            Self::Data(_) => {}
            Self::Primitive(_) => {
                let array = &**array;
                downcast_primitive_array!(
                    array => replaced = Some(replace_primitive(array, nulls, next)),
                    _ => {}
                );
            }
            Self::Bytes(_) => {
                with_bytes!(array => replaced = Some(replace_bytes(array, nulls, next)));
            }
            Self::Views(_) => {
                with_views!(array => replaced = Some(replace_views(array, nulls, next)));
            }
        }
        Whole::Array(replaced.unwrap_or_else(|| Arc::clone(array)))
    }
}

impl Whole {
    fn into_data(self) -> ArrayData {
        match self {
            Self::Data(data) => data,
            Self::Array(array) => array.to_data(),
        }
    }

    fn into_array(self) -> ArrayRef {
        match self {
            Self::Data(data) => make_array(data),
            Self::Array(array) => array,
        }
    }
}

/// The same values of a primitive type in another buffer.
fn replace_primitive<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    nulls: Option<NullBuffer>,
    next: &mut impl FnMut(&Buffer) -> Buffer,
) -> ArrayRef {
    let values = ScalarBuffer::from(next(array.values().inner()));
    // SAFETY: as many nulls as there were beside as many values.
    let new = unsafe { PrimitiveArray::<T>::new_unchecked(values, nulls) };
    Arc::new(match T::DATA_TYPE {
        DataType::Timestamp(..)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => new.with_data_type(array.data_type().clone()),
        // Nothing but this type.
        _ => new,
    })
}

/// The same strings or binary in other buffers.
fn replace_bytes<T: ByteArrayType>(
    array: &GenericByteArray<T>,
    nulls: Option<NullBuffer>,
    next: &mut impl FnMut(&Buffer) -> Buffer,
) -> ArrayRef {
    let offsets = ScalarBuffer::from(next(array.offsets().inner().inner()));
    // SAFETY: the same offsets.
    let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
    let values = next(array.values());
    // SAFETY: the same offsets, values and nulls, which were an array.
    Arc::new(unsafe { GenericByteArray::<T>::new_unchecked(offsets, values, nulls) })
}

/// The same strings or binary, with the views and what they lead to in other buffers.
fn replace_views<T: ByteViewType>(
    array: &GenericByteViewArray<T>,
    nulls: Option<NullBuffer>,
    next: &mut impl FnMut(&Buffer) -> Buffer,
) -> ArrayRef {
    let views = ScalarBuffer::from(next(array.views().inner()));
    let buffers: Arc<[Buffer]> = array.data_buffers().iter().map(next).collect();
    // SAFETY: the same views into the same bytes, and the same nulls, which were an array.
    Arc::new(unsafe { GenericByteViewArray::<T>::new_unchecked(views, buffers, nulls) })
}

/// The same nulls in another buffer.
fn replace_nulls(nulls: &NullBuffer, next: &mut impl FnMut(&Buffer) -> Buffer) -> NullBuffer {
    let bits = BooleanBuffer::new(next(nulls.buffer()), nulls.offset(), nulls.len());
    // SAFETY: the same bits have the same number of zeros.
    unsafe { NullBuffer::new_unchecked(bits, nulls.null_count()) }
}

/// Calls `f` with each buffer, in the order of [`replace`].
fn visit<'a>(data: &'a ArrayData, f: &mut impl FnMut(&'a Buffer)) {
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
fn replace(data: &ArrayData, next: &mut impl FnMut(&Buffer) -> Buffer) -> ArrayData {
    let nulls = data.nulls().map(|nulls| replace_nulls(nulls, next));
    let buffers = data.buffers().iter().map(&mut *next).collect();
    let children = data.child_data().iter();
    let children = children.map(|child| replace(child, next)).collect();
    let built = ArrayDataBuilder::new(data.data_type().clone())
        .len(data.len())
        .nulls(nulls)
        .offset(data.offset())
        .buffers(buffers)
        .child_data(children);
    // SAFETY: it was valid with the same bytes, at addresses that are aligned as they were: the
    // wrappers start where the regions do. Empty buffers are replaced by one that is aligned to 64.
    unsafe { built.build_unchecked() }
}

impl Parts for Buffer {
    fn parts(&self) -> Vec<Part<'_>> {
        let bytes = ArrayDataBuilder::new(DataType::UInt8)
            .len(self.len())
            .add_buffer(self.clone());
        // SAFETY: any bytes are an array of bytes.
        vec![Part::data(unsafe { bytes.build_unchecked() })]
    }

    fn assemble(&self, whole: Vec<Whole>) -> Self {
        one(whole).into_data().buffers()[0].clone()
    }
}

impl Parts for ArrayData {
    fn parts(&self) -> Vec<Part<'_>> {
        vec![Part::data(self.clone())]
    }

    fn assemble(&self, whole: Vec<Whole>) -> Self {
        one(whole).into_data()
    }
}

impl Parts for ArrayRef {
    fn parts(&self) -> Vec<Part<'_>> {
        vec![Part::of(self)]
    }

    fn assemble(&self, whole: Vec<Whole>) -> Self {
        one(whole).into_array()
    }
}

impl Parts for RecordBatch {
    fn parts(&self) -> Vec<Part<'_>> {
        self.columns().iter().map(Part::of).collect()
    }

    fn assemble(&self, whole: Vec<Whole>) -> Self {
        let columns = whole.into_iter().map(Whole::into_array).collect();
        let (schema, rows) = (Arc::clone(self.schema_ref()), self.num_rows());
        // SAFETY: the same columns, with the same types and lengths, as this batch has.
        unsafe { RecordBatch::new_unchecked(schema, columns, rows) }
    }
}

fn one(whole: Vec<Whole>) -> Whole {
    match whole.into_iter().next() {
        Some(one) => one,
        None => Whole::Data(ArrayData::new_empty(&DataType::Null)),
    }
}

/// Arrays of known types.
macro_rules! typed {
    ($parameter:ident: $bound:path, $array:ty) => {
        impl<$parameter: $bound> Parts for $array {
            fn parts(&self) -> Vec<Part<'_>> {
                vec![Part::data(self.to_data())]
            }

            fn assemble(&self, whole: Vec<Whole>) -> Self {
                Self::from(one(whole).into_data())
            }
        }
    };
    ($($array:ty),*) => {$(
        impl Parts for $array {
            fn parts(&self) -> Vec<Part<'_>> {
                vec![Part::data(self.to_data())]
            }

            fn assemble(&self, whole: Vec<Whole>) -> Self {
                Self::from(one(whole).into_data())
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
