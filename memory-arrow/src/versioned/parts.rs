//! Takes arrays apart into buffers, and puts them together on other buffers.
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

/// A value that consists of arrays.
pub(super) trait Parts: Sized {
    /// The arrays.
    fn parts(&self) -> Vec<Part<'_>>;
    /// The same value of `whole`, which has an array for each of the parts.
    fn assemble(&self, whole: Vec<Whole>) -> Self;
}

/// An array to be taken apart. Columns of the usual types are taken apart as they are, which is faster than
/// by their data. The type is small, since a batch has many columns.
pub(super) enum Part<'a> {
    /// An array of any other type, and whether it has all buffers that the value has, and keeps them on other memory.
    Data(Box<ArrayData>, bool),
    /// An array of a primitive type.
    Primitive(&'a ArrayRef),
    /// Strings or binary, with offsets.
    Bytes(&'a ArrayRef),
    /// Strings or binary, in views.
    Views(&'a ArrayRef),
}

/// An array that was put together on other buffers.
pub(super) enum Whole {
    Data(ArrayData),
    Array(ArrayRef),
}

/// Runs `$run` with the array of strings or binary that `$array` is, if it is of one of the types named.
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

/// Runs `$run` with the array of views that `$array` is.
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
            _ => Self::data(array.to_data(), array.nulls()),
        }
    }

    /// The array with this data and this null mask. A mask without nulls may be left out of the data. Those of children are
    /// not seen.
    fn data(data: ArrayData, mask: Option<&NullBuffer>) -> Self {
        let whole = data.child_data().is_empty() && is_kept(mask);
        Self::Data(Box::new(data), whole)
    }

    /// Whether the array on other memory has a buffer for each that the value has.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Data(_, whole) => *whole,
            Self::Primitive(array) | Self::Bytes(array) | Self::Views(array) => {
                is_kept(array.nulls())
            }
        }
    }

    /// Whether its buffers are clones of those of the value.
    pub(super) fn is_clone(&self) -> bool {
        matches!(self, Self::Data(..))
    }

    /// The number of owners of the array, if each of its buffers has no owner but the array; `None` if that is not known.
    pub(super) fn owners(&self) -> Option<usize> {
        match self {
            // Its buffers are clones, and it is not known what they are clones of.
            Self::Data(..) => None,
            Self::Primitive(array) | Self::Bytes(array) => Some(Arc::strong_count(array)),
            // A slice has the same list of buffers.
            Self::Views(array) => {
                let mut lists = false;
                let array = *array;
                with_views!(array => lists = !array.data_buffers().is_empty());
                (!lists).then(|| Arc::strong_count(array))
            }
        }
    }

    /// Calls `f` with each buffer.
    pub(super) fn visit<'s>(&'s self, f: &mut impl FnMut(&'s Buffer)) {
        self.traverse(&mut Look(f));
    }

    /// The same array with other buffers: `next` gives, for each buffer in the order of
    /// [`visit`](Self::visit), one with the same bytes.
    pub(super) fn replace(&self, next: &mut impl FnMut(&Buffer) -> Buffer) -> Whole {
        self.traverse(&mut Replace(next))
    }

    /// Shows each buffer to `pass` once, and returns what that makes of the array.
    #[inline]
    fn traverse<'s, P: Pass<'s>>(&'s self, pass: &mut P) -> P::Whole {
        let array = match self {
            Self::Data(data, _) => return P::whole(traverse(data, pass)),
            Self::Primitive(array) | Self::Bytes(array) | Self::Views(array) => *array,
        };
        let nulls = array.nulls().map(|nulls| pass.nulls(nulls));
        match self {
            Self::Data(..) => {}
            Self::Primitive(_) => {
                let array = &**array;
                downcast_primitive_array!(
                    array => {
                        let values = pass.buffer(array.values().inner());
                        return P::primitive(array, nulls, values);
                    },
                    _ => {}
                );
            }
            Self::Bytes(_) => with_bytes!(array => {
                let offsets = pass.buffer(array.offsets().inner().inner());
                let values = pass.buffer(array.values());
                return P::bytes(array, nulls, offsets, values);
            }),
            Self::Views(_) => with_views!(array => {
                let views = pass.buffer(array.views().inner());
                let buffers = array.data_buffers().iter().map(|buffer| pass.buffer(buffer));
                return P::views(array, nulls, views, buffers.collect());
            }),
        }
        P::unchanged(array)
    }
}

/// Whether there is no null mask, or one with nulls: others may be left out when an array is made anew.
fn is_kept(mask: Option<&NullBuffer>) -> bool {
    mask.is_none_or(|mask| mask.null_count() > 0)
}

/// Shows each buffer of array data and of its children to `pass` once, and returns what that makes of it.
fn traverse<'s, P: Pass<'s>>(data: &'s ArrayData, pass: &mut P) -> P::Data {
    let nulls = data.nulls().map(|nulls| pass.nulls(nulls));
    let buffers = data.buffers().iter().map(|buffer| pass.buffer(buffer));
    let buffers = buffers.collect();
    let children = data.child_data().iter().map(|child| traverse(child, pass));
    let children = children.collect();
    P::data(data, nulls, buffers, children)
}

/// An operation on the buffers of an array, and the results that it makes of them.
///
/// Buffers are looked at first and replaced later, and the replacement for a buffer is found by its
/// place in the order. `unsafe` code relies on it that both go through the buffers in the same order: so
/// there is one traversal, which is generic over this.
trait Pass<'s> {
    /// The result for a buffer.
    type Buffer;
    /// The results for the buffers of array data.
    type Buffers: FromIterator<Self::Buffer>;
    /// The results for the buffers that views lead to.
    type Viewed: FromIterator<Self::Buffer>;
    /// The result for a null mask.
    type Nulls;
    /// The result for array data.
    type Data;
    /// The results for the children of array data.
    type Children: FromIterator<Self::Data>;
    /// The result for an array.
    type Whole;

    fn buffer(&mut self, buffer: &'s Buffer) -> Self::Buffer;
    fn nulls(&mut self, nulls: &'s NullBuffer) -> Self::Nulls;
    fn primitive<T: ArrowPrimitiveType>(
        array: &PrimitiveArray<T>,
        nulls: Option<Self::Nulls>,
        values: Self::Buffer,
    ) -> Self::Whole;
    fn bytes<T: ByteArrayType>(
        array: &GenericByteArray<T>,
        nulls: Option<Self::Nulls>,
        offsets: Self::Buffer,
        values: Self::Buffer,
    ) -> Self::Whole;
    fn views<T: ByteViewType>(
        array: &GenericByteViewArray<T>,
        nulls: Option<Self::Nulls>,
        views: Self::Buffer,
        buffers: Self::Viewed,
    ) -> Self::Whole;
    fn data(
        data: &ArrayData,
        nulls: Option<Self::Nulls>,
        buffers: Self::Buffers,
        children: Self::Children,
    ) -> Self::Data;
    fn whole(data: Self::Data) -> Self::Whole;
    /// The result for an array of which no buffer was shown.
    fn unchanged(array: &ArrayRef) -> Self::Whole;
}

/// Calls the function with each buffer, and makes nothing.
struct Look<'f, F>(&'f mut F);

impl<'s, F: FnMut(&'s Buffer)> Pass<'s> for Look<'_, F> {
    type Buffer = ();
    type Buffers = ();
    type Viewed = ();
    type Nulls = ();
    type Data = ();
    type Children = ();
    type Whole = ();

    #[inline]
    fn buffer(&mut self, buffer: &'s Buffer) {
        (self.0)(buffer);
    }

    #[inline]
    fn nulls(&mut self, nulls: &'s NullBuffer) {
        self.buffer(nulls.buffer());
    }

    fn primitive<T: ArrowPrimitiveType>(_: &PrimitiveArray<T>, _: Option<()>, (): ()) {}
    fn bytes<T: ByteArrayType>(_: &GenericByteArray<T>, _: Option<()>, (): (), (): ()) {}
    fn views<T: ByteViewType>(_: &GenericByteViewArray<T>, _: Option<()>, (): (), (): ()) {}
    fn data(_: &ArrayData, _: Option<()>, (): (), (): ()) {}
    fn whole((): ()) {}
    fn unchanged(_: &ArrayRef) {}
}

/// Makes the same array on the buffers that the function gives, which have the same bytes as those that it
/// is called with.
struct Replace<'f, F>(&'f mut F);

impl<'s, F: FnMut(&Buffer) -> Buffer> Pass<'s> for Replace<'_, F> {
    type Buffer = Buffer;
    type Buffers = Vec<Buffer>;
    type Viewed = Arc<[Buffer]>;
    type Nulls = NullBuffer;
    type Data = ArrayData;
    type Children = Vec<ArrayData>;
    type Whole = Whole;

    #[inline]
    fn buffer(&mut self, buffer: &'s Buffer) -> Buffer {
        (self.0)(buffer)
    }

    fn nulls(&mut self, nulls: &'s NullBuffer) -> NullBuffer {
        let bits = self.buffer(nulls.buffer());
        let bits = BooleanBuffer::new(bits, nulls.offset(), nulls.len());
        // SAFETY: these are the same bits, so they have the same number of zeros.
        unsafe { NullBuffer::new_unchecked(bits, nulls.null_count()) }
    }

    fn primitive<T: ArrowPrimitiveType>(
        array: &PrimitiveArray<T>,
        nulls: Option<NullBuffer>,
        values: Buffer,
    ) -> Whole {
        // SAFETY: there are as many nulls as before, and as many values.
        let new = unsafe { PrimitiveArray::<T>::new_unchecked(ScalarBuffer::from(values), nulls) };
        Whole::Array(Arc::new(match T::DATA_TYPE {
            DataType::Timestamp(..)
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => new.with_data_type(array.data_type().clone()),
            // All arrays of the type have the same data type.
            _ => new,
        }))
    }

    fn bytes<T: ByteArrayType>(
        _: &GenericByteArray<T>,
        nulls: Option<NullBuffer>,
        offsets: Buffer,
        values: Buffer,
    ) -> Whole {
        // SAFETY: the bytes are those of valid offsets.
        let offsets = unsafe { OffsetBuffer::new_unchecked(ScalarBuffer::from(offsets)) };
        // SAFETY: the offsets, values and nulls are the same as in a valid array.
        let new = unsafe { GenericByteArray::<T>::new_unchecked(offsets, values, nulls) };
        Whole::Array(Arc::new(new))
    }

    fn views<T: ByteViewType>(
        _: &GenericByteViewArray<T>,
        nulls: Option<NullBuffer>,
        views: Buffer,
        buffers: Arc<[Buffer]>,
    ) -> Whole {
        let views = ScalarBuffer::from(views);
        // SAFETY: the views, what they lead to, and the nulls are the same as in a valid array.
        let new = unsafe { GenericByteViewArray::<T>::new_unchecked(views, buffers, nulls) };
        Whole::Array(Arc::new(new))
    }

    fn data(
        data: &ArrayData,
        nulls: Option<NullBuffer>,
        buffers: Vec<Buffer>,
        children: Vec<ArrayData>,
    ) -> ArrayData {
        let built = ArrayDataBuilder::new(data.data_type().clone())
            .len(data.len())
            .nulls(nulls)
            .offset(data.offset())
            .buffers(buffers)
            .child_data(children);
        // SAFETY: the data was valid with the same bytes. The new buffers are aligned like the old ones,
        // since the wrappers start where the regions do; empty buffers are replaced by one that is aligned
        // to 64.
        unsafe { built.build_unchecked() }
    }

    fn whole(data: ArrayData) -> Whole {
        Whole::Data(data)
    }

    fn unchanged(array: &ArrayRef) -> Whole {
        Whole::Array(Arc::clone(array))
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

impl Parts for Buffer {
    fn parts(&self) -> Vec<Part<'_>> {
        let bytes = ArrayDataBuilder::new(DataType::UInt8)
            .len(self.len())
            .add_buffer(self.clone());
        // SAFETY: any bytes are valid values of `UInt8`, and the length is the buffer's.
        vec![Part::data(unsafe { bytes.build_unchecked() }, None)]
    }

    fn assemble(&self, whole: Vec<Whole>) -> Self {
        one(whole).into_data().buffers()[0].clone()
    }
}

impl Parts for ArrayData {
    fn parts(&self) -> Vec<Part<'_>> {
        vec![Part::data(self.clone(), self.nulls())]
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
        // SAFETY: the columns have the same types and lengths as those of this batch.
        unsafe { RecordBatch::new_unchecked(schema, columns, rows) }
    }
}

/// The only array.
fn one(whole: Vec<Whole>) -> Whole {
    match whole.into_iter().next() {
        Some(one) => one,
        None => Whole::Data(ArrayData::new_empty(&DataType::Null)),
    }
}

/// Implements `Parts` for arrays of known types.
macro_rules! typed {
    ($parameter:ident: $bound:path, $array:ty) => {
        impl<$parameter: $bound> Parts for $array {
            fn parts(&self) -> Vec<Part<'_>> {
                vec![Part::data(self.to_data(), self.nulls())]
            }

            fn assemble(&self, whole: Vec<Whole>) -> Self {
                Self::from(one(whole).into_data())
            }
        }
    };
    ($($array:ty),*) => {$(
        impl Parts for $array {
            fn parts(&self) -> Vec<Part<'_>> {
                vec![Part::data(self.to_data(), self.nulls())]
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
