//! Builders of arrays without children.

use std::sync::Arc;

use arrow_memory_arrow::builder::{
    BooleanBuilder, FixedSizeBinaryBuilder, GenericBytesBuilder, GenericViewBuilder,
    PrimitiveBuilder,
};
use arrow_memory_core::BufferAllocator;
use arrow_memory_fuzz::Input;
use arrow_memory_fuzz::deps::arrow_array::types::*;
use arrow_memory_fuzz::deps::arrow_array::*;
use arrow_memory_fuzz::deps::arrow_buffer::ArrowNativeType;

use crate::Subject;

/// A builder beside its rows.
pub struct Column<B, V> {
    pub builder: B,
    pub rows: Vec<Option<V>>,
}

pub fn column<B, V>(builder: B) -> Box<Column<B, V>> {
    Box::new(Column {
        builder,
        rows: Vec::new(),
    })
}

fn values<B: Values + 'static>(builder: B) -> Box<dyn Subject>
where
    B::Value: 'static,
{
    column::<B, B::Value>(builder)
}

pub fn subject(kind: u8, allocator: &BufferAllocator) -> Box<dyn Subject> {
    match kind {
        4 => values(PrimitiveBuilder::<Int32Type>::new(allocator)),
        5 => values(PrimitiveBuilder::<Decimal128Type>::new(allocator)),
        6 => values(BooleanBuilder::new(allocator)),
        7 => values(GenericBytesBuilder::<Utf8Type>::new(allocator)),
        8 => values(GenericBytesBuilder::<LargeBinaryType>::new(allocator)),
        9 => values(GenericViewBuilder::<StringViewType>::new(allocator)),
        10 => values(GenericViewBuilder::<BinaryViewType>::new(allocator)),
        _ => {
            let builder = FixedSizeBinaryBuilder::new(allocator, WIDTH as i32);
            values(builder.expect("the width is not negative"))
        }
    }
}

/// The width of fixed-size binaries.
const WIDTH: usize = 3;

/// What a builder does on the values of its `Vec`.
pub trait Values {
    type Value: Clone;

    /// Whether a refused `append_slice` leaves the values before the one that was refused.
    const KEEPS_PART: bool = true;

    fn value(input: &mut Input<'_>) -> Self::Value;
    fn len(&self) -> usize;
    fn reserve(&mut self, _additional: usize) {}
    fn append(&mut self, value: &Self::Value) -> bool;
    fn append_nulls(&mut self, n: usize) -> bool;
    fn append_slice(&mut self, values: &[Self::Value]) -> bool;
    /// Appends values with their validity, if there is such a method.
    fn append_values(&mut self, _values: &[Self::Value], _valid: &[bool]) -> bool {
        false
    }
    fn finish(&mut self) -> ArrayRef;
    fn expected(rows: Vec<Option<Self::Value>>) -> ArrayRef;
}

impl<B: Values> Subject for Column<B, B::Value> {
    fn step(&mut self, input: &mut Input<'_>) {
        let (builder, rows) = (&mut self.builder, &mut self.rows);
        match input.byte() % 8 {
            0..3 => {
                let value = B::value(input);
                if builder.append(&value) {
                    rows.push(Some(value));
                }
            }
            3 => {
                if builder.append_nulls(1) {
                    rows.push(None);
                }
            }
            4 => {
                let n = input.size();
                if builder.append_nulls(n) {
                    rows.resize(rows.len() + n, None);
                }
            }
            5 => {
                let values = vec![B::value(input); input.below(20)];
                let all = builder.append_slice(&values);
                let added = builder.len() - rows.len();
                assert!(added == if all { values.len() } else { 0 } || (B::KEEPS_PART && !all));
                rows.extend(values.into_iter().take(added).map(Some));
            }
            6 => {
                let values = vec![B::value(input); input.below(20)];
                let n = input.below(20);
                let valid: Vec<bool> = input.bytes(n).iter().map(|it| it % 3 > 0).collect();
                if builder.append_values(&values, &valid) {
                    assert_eq!(values.len(), valid.len());
                    let values = values.into_iter().zip(valid);
                    rows.extend(values.map(|(value, valid)| valid.then_some(value)));
                }
            }
            _ => builder.reserve(input.size()),
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.len(), self.rows.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let rows = std::mem::take(&mut self.rows);
        Some((self.builder.finish(), B::expected(rows)))
    }
}

impl<T: ArrowPrimitiveType> Values for PrimitiveBuilder<T> {
    type Value = T::Native;
    const KEEPS_PART: bool = false;

    fn value(input: &mut Input<'_>) -> T::Native {
        T::Native::usize_as(input.byte().into())
    }

    fn len(&self) -> usize {
        assert_eq!(self.values().len(), PrimitiveBuilder::len(self));
        PrimitiveBuilder::len(self)
    }

    fn reserve(&mut self, additional: usize) {
        if PrimitiveBuilder::reserve(self, additional).is_ok() {
            assert!(self.capacity() - self.values().len() >= additional);
        }
    }

    fn append(&mut self, value: &T::Native) -> bool {
        PrimitiveBuilder::append(self, *value).is_ok()
    }

    fn append_nulls(&mut self, n: usize) -> bool {
        PrimitiveBuilder::append_nulls(self, n).is_ok()
    }

    fn append_slice(&mut self, values: &[T::Native]) -> bool {
        PrimitiveBuilder::append_slice(self, values).is_ok()
    }

    fn append_values(&mut self, values: &[T::Native], valid: &[bool]) -> bool {
        PrimitiveBuilder::append_values(self, values, Some(valid)).is_ok()
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(PrimitiveBuilder::finish(self))
    }

    fn expected(rows: Vec<Option<T::Native>>) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::from_iter(rows))
    }
}

impl Values for BooleanBuilder {
    type Value = bool;
    const KEEPS_PART: bool = false;

    fn value(input: &mut Input<'_>) -> bool {
        input.flag()
    }

    fn len(&self) -> usize {
        BooleanBuilder::len(self)
    }

    fn reserve(&mut self, additional: usize) {
        drop(BooleanBuilder::reserve(self, additional));
    }

    fn append(&mut self, value: &bool) -> bool {
        BooleanBuilder::append(self, *value).is_ok()
    }

    fn append_nulls(&mut self, n: usize) -> bool {
        BooleanBuilder::append_nulls(self, n).is_ok()
    }

    fn append_slice(&mut self, values: &[bool]) -> bool {
        BooleanBuilder::append_slice(self, values).is_ok()
    }

    fn append_values(&mut self, values: &[bool], valid: &[bool]) -> bool {
        BooleanBuilder::append_values(self, values, Some(valid)).is_ok()
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(BooleanBuilder::finish(self))
    }

    fn expected(rows: Vec<Option<bool>>) -> ArrayRef {
        Arc::new(BooleanArray::from_iter(rows))
    }
}

/// A text of up to 39 bytes: longer ones than views have in place, too.
fn text(input: &mut Input<'_>) -> String {
    let letter = char::from(b'a' + input.byte() % 26);
    let len = input.below(40);
    std::iter::repeat_n(letter, len).collect()
}

/// The builders of strings and binaries. Those of views have no method for values with validity, and keep the values
/// before one that is refused.
macro_rules! texts {
    ($Builder:ty, $Array:ty $(, $append_values:ident)?) => {
        impl Values for $Builder {
            type Value = String;

            fn value(input: &mut Input<'_>) -> String {
                text(input)
            }

            fn len(&self) -> usize {
                <$Builder>::len(self)
            }

            fn append(&mut self, value: &String) -> bool {
                <$Builder>::append(self, value).is_ok()
            }

            fn append_nulls(&mut self, n: usize) -> bool {
                <$Builder>::append_nulls(self, n).is_ok()
            }

            fn append_slice(&mut self, values: &[String]) -> bool {
                <$Builder>::append_slice(self, values).is_ok()
            }

            $(
                const KEEPS_PART: bool = false;

                fn append_values(&mut self, values: &[String], valid: &[bool]) -> bool {
                    <$Builder>::$append_values(self, values, Some(valid)).is_ok()
                }
            )?

            fn finish(&mut self) -> ArrayRef {
                Arc::new(<$Builder>::finish(self))
            }

            fn expected(rows: Vec<Option<String>>) -> ArrayRef {
                Arc::new(<$Array>::from_iter(rows))
            }
        }
    };
}

texts!(GenericBytesBuilder<Utf8Type>, StringArray, append_values);
texts!(
    GenericBytesBuilder<LargeBinaryType>,
    LargeBinaryArray,
    append_values
);
texts!(GenericViewBuilder<StringViewType>, StringViewArray);
texts!(GenericViewBuilder<BinaryViewType>, BinaryViewArray);

impl Values for FixedSizeBinaryBuilder {
    type Value = [u8; WIDTH];
    const KEEPS_PART: bool = false;

    fn value(input: &mut Input<'_>) -> [u8; WIDTH] {
        [input.byte(); WIDTH]
    }

    fn len(&self) -> usize {
        FixedSizeBinaryBuilder::len(self)
    }

    fn append(&mut self, value: &[u8; WIDTH]) -> bool {
        assert!(FixedSizeBinaryBuilder::append(self, [0_u8; WIDTH + 1]).is_err());
        FixedSizeBinaryBuilder::append(self, value).is_ok()
    }

    fn append_nulls(&mut self, n: usize) -> bool {
        FixedSizeBinaryBuilder::append_nulls(self, n).is_ok()
    }

    fn append_slice(&mut self, values: &[[u8; WIDTH]]) -> bool {
        FixedSizeBinaryBuilder::append_slice(self, &values.concat()).is_ok()
    }

    fn append_values(&mut self, values: &[[u8; WIDTH]], valid: &[bool]) -> bool {
        FixedSizeBinaryBuilder::append_values(self, values, Some(valid)).is_ok()
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(FixedSizeBinaryBuilder::finish(self).expect("an array needs no more memory"))
    }

    fn expected(rows: Vec<Option<[u8; WIDTH]>>) -> ArrayRef {
        let rows = rows.into_iter();
        let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows, WIDTH as i32);
        Arc::new(array.expect("all have the width"))
    }
}
