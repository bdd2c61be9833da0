//! Primitive values: numbers, dates, times, decimals.
#![expect(unsafe_code, reason = "its buffer holds whole values of its type")]

use arrow_memory_core::{ArrowBufMut, BufferAllocator};

use super::{ArrayBuilder, Validity, array_builder, check_lengths, empty, take, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::types::*;
use super::super::deps::arrow_array::{ArrowPrimitiveType, PrimitiveArray};
use super::super::deps::arrow_buffer::{ScalarBuffer, ToByteSlice};
use super::super::deps::arrow_schema::DataType;

/// Builds an array of primitive values.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::builder::{ArrayBuilder, Int64Builder};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let mut builder = Int64Builder::new(&root);
/// builder.append(25)?;
/// builder.append_null()?;
/// builder.append_values(&[1, 2], Some(&[true, false]))?;
/// let array = builder.finish();
/// assert_eq!(array.iter().collect::<Vec<_>>(), [Some(25), None, Some(1), None]);
/// assert!(builder.is_empty());
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct PrimitiveBuilder<T: ArrowPrimitiveType> {
    /// Whole values of `T::Native`.
    values: ArrowBufMut,
    validity: Validity,
    data_type: DataType,
    allocator: BufferAllocator,
    native: std::marker::PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType> PrimitiveBuilder<T> {
    const SIZE: usize = size_of::<T::Native>();

    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            values: empty(allocator),
            validity: Validity::new(allocator),
            data_type: T::DATA_TYPE,
            allocator: allocator.clone(),
            native: std::marker::PhantomData,
        }
    }

    /// Makes an empty builder with room for `capacity` values.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the memory for them does not fit.
    #[track_caller]
    pub fn with_capacity(
        allocator: &BufferAllocator,
        capacity: usize,
    ) -> Result<Self, MemoryError> {
        let mut builder = Self::new(allocator);
        builder.reserve(capacity)?;
        Ok(builder)
    }

    /// Sets the data type of the arrays. It may differ from that of `T` in its time zone, or in precision and
    /// scale.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if it differs in something else.
    pub fn with_data_type(self, data_type: DataType) -> Result<Self, MemoryError> {
        if !Self::suits(&data_type) {
            return wrong(format!("{data_type} is not a {}", T::DATA_TYPE));
        }
        Ok(Self { data_type, ..self })
    }

    fn suits(data_type: &DataType) -> bool {
        PrimitiveArray::<T>::is_compatible(data_type)
    }

    /// The number of values that fit without growing.
    pub fn capacity(&self) -> usize {
        self.values.capacity() / Self::SIZE
    }

    /// The number of rows so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.values.len() / Self::SIZE
    }

    /// The values so far. The values of null rows are unspecified.
    pub fn values(&self) -> &[T::Native] {
        let start = self.values.as_slice().as_ptr().cast::<T::Native>();
        // SAFETY: the buffer consists of whole values, and its address is aligned to 64 bytes.
        unsafe { std::slice::from_raw_parts(start, self.len()) }
    }

    /// Makes room for `additional` values.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) -> Result<(), MemoryError> {
        self.values
            .try_reserve(additional.saturating_mul(Self::SIZE))?;
        Ok(())
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append(&mut self, value: T::Native) -> Result<(), MemoryError> {
        if self.validity.has_room() && self.values.push_within_capacity(value.to_byte_slice()) {
            self.validity.push_valid();
            return Ok(());
        }
        self.append_growing(value)
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn append_growing(&mut self, value: T::Native) -> Result<(), MemoryError> {
        // The bit gets its room first: then the value comes last of what may fail.
        self.validity.reserve(self.len(), 1, false)?;
        self.values.extend_from_slice(value.to_byte_slice())?;
        self.validity.append_valid()?;
        Ok(())
    }

    /// Appends a null row.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[inline]
    #[track_caller]
    pub fn append_null(&mut self) -> Result<(), MemoryError> {
        if let Some(bits) = &mut self.validity.bits
            && bits.len() < bits.capacity()
            && self
                .values
                .push_within_capacity(T::Native::default().to_byte_slice())
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
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[inline(never)]
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        let rows = self.len();
        self.reserve(n)?;
        self.validity.append_nulls(rows, n)?;
        self.values.resize((rows + n) * Self::SIZE, 0)?;
        Ok(())
    }

    /// Appends values, none of them null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow. The builder is as it was then.
    #[track_caller]
    pub fn append_slice(&mut self, values: &[T::Native]) -> Result<(), MemoryError> {
        self.validity.reserve(self.len(), values.len(), false)?;
        self.values.extend_from_slice(values.to_byte_slice())?;
        self.validity.append_n_valid(values.len())?;
        Ok(())
    }

    /// Appends values, and null rows in place of those where `valid` is false. Without `valid`, no row is null.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if `values` and `valid` have
    /// different lengths. The builder is as it was then.
    #[track_caller]
    pub fn append_values(
        &mut self,
        values: &[T::Native],
        valid: Option<&[bool]>,
    ) -> Result<(), MemoryError> {
        let Some(valid) = valid else {
            return self.append_slice(values);
        };
        check_lengths(values.len(), valid.len())?;
        let rows = self.len();
        self.reserve(values.len())?;
        self.validity.append_slice(rows, valid)?;
        self.values.extend_from_slice(values.to_byte_slice())?;
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    #[track_caller]
    pub fn finish(&mut self) -> PrimitiveArray<T> {
        let rows = self.len();
        let nulls = self.validity.finish(rows);
        let values = ScalarBuffer::new(take(&mut self.values, &self.allocator), 0, rows);
        PrimitiveArray::new(values, nulls).with_data_type(self.data_type.clone())
    }
}

array_builder! {
    impl[T: ArrowPrimitiveType] for PrimitiveBuilder<T>;
    data_type: |builder| builder.data_type.clone();
    finish: |builder| builder.finish();
    methods: is_empty, append_option(T::Native);
}

/// Names the builder of each primitive type, and makes one by its type.
macro_rules! builders {
    ($($name:ident: $type:ident;)*) => {
        $(
            #[doc = concat!("Builds arrays of [`", stringify!($type), "`].")]
            pub type $name = PrimitiveBuilder<$type>;
        )*

        /// A builder for arrays of `data_type`, if that is primitive.
        pub(super) fn make(
            data_type: &DataType,
            allocator: &BufferAllocator,
        ) -> Option<Result<Box<dyn ArrayBuilder>, MemoryError>> {
            $(if $name::suits(data_type) {
                let builder = $name::new(allocator).with_data_type(data_type.clone());
                return Some(builder.map(|builder| Box::new(builder) as _));
            })*
            None
        }
    };
}

builders! {
    Int8Builder: Int8Type;
    Int16Builder: Int16Type;
    Int32Builder: Int32Type;
    Int64Builder: Int64Type;
    UInt8Builder: UInt8Type;
    UInt16Builder: UInt16Type;
    UInt32Builder: UInt32Type;
    UInt64Builder: UInt64Type;
    Float16Builder: Float16Type;
    Float32Builder: Float32Type;
    Float64Builder: Float64Type;
    Date32Builder: Date32Type;
    Date64Builder: Date64Type;
    Time32SecondBuilder: Time32SecondType;
    Time32MillisecondBuilder: Time32MillisecondType;
    Time64MicrosecondBuilder: Time64MicrosecondType;
    Time64NanosecondBuilder: Time64NanosecondType;
    TimestampSecondBuilder: TimestampSecondType;
    TimestampMillisecondBuilder: TimestampMillisecondType;
    TimestampMicrosecondBuilder: TimestampMicrosecondType;
    TimestampNanosecondBuilder: TimestampNanosecondType;
    DurationSecondBuilder: DurationSecondType;
    DurationMillisecondBuilder: DurationMillisecondType;
    DurationMicrosecondBuilder: DurationMicrosecondType;
    DurationNanosecondBuilder: DurationNanosecondType;
    IntervalYearMonthBuilder: IntervalYearMonthType;
    IntervalDayTimeBuilder: IntervalDayTimeType;
    IntervalMonthDayNanoBuilder: IntervalMonthDayNanoType;
    Decimal32Builder: Decimal32Type;
    Decimal64Builder: Decimal64Type;
    Decimal128Builder: Decimal128Type;
    Decimal256Builder: Decimal256Type;
}
