//! Dictionaries, which have each distinct value once.
#![expect(unsafe_code, reason = "its keys are in range by construction")]

use std::hash::{BuildHasher, RandomState};

use arrow_memory_core::{AllocationReservation, BufferAllocator};
use hashbrown::HashTable;

use super::{ArrayBuilder, GenericBytesBuilder, PrimitiveBuilder, array_builder, array_ref, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::types::*;
use super::super::deps::arrow_array::{ArrowPrimitiveType, DictionaryArray};
use super::super::deps::arrow_buffer::{ArrowNativeType, ToByteSlice};
use super::super::deps::arrow_schema::DataType;

/// Builds dictionaries of strings with 32-bit offsets.
pub type StringDictionaryBuilder<K> = BytesDictionaryBuilder<K, Utf8Type>;

/// Builds a dictionary of strings or binaries. The table that finds values again is charged, too.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::StringDictionaryBuilder;
/// use arrow_memory_arrow::deps::arrow_array::types::Int8Type;
///
/// let mut builder = StringDictionaryBuilder::<Int8Type>::new(&root);
/// builder.append_slice(&["red", "green", "red"])?;
/// builder.append_null()?;
/// let array = builder.finish();
/// assert_eq!((array.values().len(), array.keys().value(2)), (2, 0));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct BytesDictionaryBuilder<K: ArrowDictionaryKeyType, T: ByteArrayType> {
    keys: PrimitiveBuilder<K>,
    values: GenericBytesBuilder<T>,
    /// The end of each value in `values`: the same as the offsets there, but faster to read.
    ends: PrimitiveBuilder<UInt64Type>,
    table: Table,
}

impl<K: ArrowDictionaryKeyType, T: ByteArrayType> BytesDictionaryBuilder<K, T> {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            keys: PrimitiveBuilder::new(allocator),
            values: GenericBytesBuilder::new(allocator),
            ends: PrimitiveBuilder::new(allocator),
            table: Table::new(allocator),
        }
    }

    /// Appends a value, and returns its key.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if there are more distinct
    /// values than keys. No row is added then.
    #[track_caller]
    pub fn append(&mut self, value: impl AsRef<T::Native>) -> Result<K::Native, MemoryError> {
        let native = value.as_ref();
        let bytes: &[u8] = native.as_ref();
        let hash = self.table.hasher.hash_one(bytes);
        let (all, ends) = (self.values.values(), self.ends.values());
        let found = self
            .table
            .find(hash, |index| slot(all, ends, index) == bytes);
        let index = match found {
            Some(index) => index,
            None => {
                let index = self.ends.len();
                key::<K>(index)?;
                self.ends.reserve(1)?;
                let (all, ends) = (self.values.values(), self.ends.values());
                let hasher = &self.table.hasher.clone();
                self.table
                    .reserve(|index| hasher.hash_one(slot(all, ends, index)))?;
                self.values.append(native)?;
                self.ends.append(self.values.values().len() as u64)?;
                let (all, ends) = (self.values.values(), self.ends.values());
                self.table
                    .insert(hash, index, |index| hasher.hash_one(slot(all, ends, index)));
                index
            }
        };
        let key = key::<K>(index)?;
        self.keys.append(key)?;
        Ok(key)
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again with a new
    /// dictionary.
    #[track_caller]
    pub fn finish(&mut self) -> DictionaryArray<K> {
        self.table.clear();
        drop(self.ends.finish());
        let values = array_ref(self.values.finish());
        let keys = self.keys.finish();
        // SAFETY: each key is the index of a value, since `append` made it of one.
        unsafe { DictionaryArray::new_unchecked(keys, values) }
    }
}

/// The bytes of value `index`.
fn slot<'a>(all: &'a [u8], ends: &[u64], index: usize) -> &'a [u8] {
    let start = if index == 0 { 0 } else { ends[index - 1] };
    &all[start as usize..ends[index] as usize]
}

/// Builds a dictionary of primitive values. Values are equal if their bytes are.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::PrimitiveDictionaryBuilder;
/// use arrow_memory_arrow::deps::arrow_array::types::{Int64Type, UInt8Type};
///
/// let mut builder = PrimitiveDictionaryBuilder::<UInt8Type, Int64Type>::new(&root);
/// builder.append_slice(&[500, 700, 500])?;
/// assert_eq!(builder.finish().values().len(), 2);
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct PrimitiveDictionaryBuilder<K: ArrowDictionaryKeyType, V: ArrowPrimitiveType> {
    keys: PrimitiveBuilder<K>,
    values: PrimitiveBuilder<V>,
    table: Table,
}

impl<K: ArrowDictionaryKeyType, V: ArrowPrimitiveType> PrimitiveDictionaryBuilder<K, V> {
    /// Makes an empty builder, whose memory comes from `allocator`. No memory is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            keys: PrimitiveBuilder::new(allocator),
            values: PrimitiveBuilder::new(allocator),
            table: Table::new(allocator),
        }
    }

    /// Appends a value, and returns its key.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the builder cannot grow, or [`MemoryError::Value`] if there are more distinct
    /// values than keys. No row is added then.
    #[track_caller]
    pub fn append(&mut self, value: V::Native) -> Result<K::Native, MemoryError> {
        let bytes = value.to_byte_slice();
        let hash = self.table.hasher.hash_one(bytes);
        let values = self.values.values();
        let found = self
            .table
            .find(hash, |index| values[index].to_byte_slice() == bytes);
        let index = match found {
            Some(index) => index,
            None => {
                let index = self.values.len();
                key::<K>(index)?;
                let (values, hasher) = (self.values.values(), &self.table.hasher.clone());
                self.table
                    .reserve(|index| hasher.hash_one(values[index].to_byte_slice()))?;
                self.values.append(value)?;
                let values = self.values.values();
                self.table.insert(hash, index, |index| {
                    hasher.hash_one(values[index].to_byte_slice())
                });
                index
            }
        };
        let key = key::<K>(index)?;
        self.keys.append(key)?;
        Ok(key)
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again with a new
    /// dictionary.
    #[track_caller]
    pub fn finish(&mut self) -> DictionaryArray<K> {
        self.table.clear();
        let values = array_ref(self.values.finish());
        let keys = self.keys.finish();
        // SAFETY: each key is the index of a value, since `append` made it of one.
        unsafe { DictionaryArray::new_unchecked(keys, values) }
    }
}

array_builder! {
    impl[K: ArrowDictionaryKeyType, T: ByteArrayType] for BytesDictionaryBuilder<K, T>;
    data_type: |_builder| dictionary::<K>(T::DATA_TYPE);
    finish: |builder| builder.finish();
    methods: keys, is_empty, append_option(impl AsRef<T::Native> => drop),
        append_slice(impl AsRef<T::Native>, |value| value.as_ref()),
        append_values(impl AsRef<T::Native>, |value| value.as_ref());
}

array_builder! {
    impl[K: ArrowDictionaryKeyType, V: ArrowPrimitiveType] for PrimitiveDictionaryBuilder<K, V>;
    data_type: |_builder| dictionary::<K>(V::DATA_TYPE);
    finish: |builder| builder.finish();
    methods: keys, is_empty, append_option(V::Native => drop),
        append_slice(V::Native, |value| *value), append_values(V::Native, |value| *value);
}

/// The type of dictionaries with keys of `K`.
fn dictionary<K: ArrowDictionaryKeyType>(values: DataType) -> DataType {
    DataType::Dictionary(Box::new(K::DATA_TYPE), Box::new(values))
}

/// Makes a builder of dictionaries by the types of the keys and the values.
pub(super) fn make(
    keys: &DataType,
    values: &DataType,
    allocator: &BufferAllocator,
) -> Result<Box<dyn ArrayBuilder>, MemoryError> {
    macro_rules! with_keys {
        ($($key_type:pat => $key:ident),*) => {
            match keys {
                $($key_type => with_values::<$key>(values, allocator),)*
                other => wrong(format!("{other} cannot index a dictionary")),
            }
        };
    }
    with_keys!(
        DataType::Int8 => Int8Type,
        DataType::Int16 => Int16Type,
        DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type,
        DataType::UInt8 => UInt8Type,
        DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type,
        DataType::UInt64 => UInt64Type
    )
}

fn with_values<K: ArrowDictionaryKeyType>(
    values: &DataType,
    allocator: &BufferAllocator,
) -> Result<Box<dyn ArrayBuilder>, MemoryError> {
    Ok(match values {
        DataType::Utf8 => Box::new(BytesDictionaryBuilder::<K, Utf8Type>::new(allocator)),
        DataType::LargeUtf8 => Box::new(BytesDictionaryBuilder::<K, LargeUtf8Type>::new(allocator)),
        DataType::Binary => Box::new(BytesDictionaryBuilder::<K, BinaryType>::new(allocator)),
        DataType::LargeBinary => {
            Box::new(BytesDictionaryBuilder::<K, LargeBinaryType>::new(allocator))
        }
        DataType::Int32 => Box::new(PrimitiveDictionaryBuilder::<K, Int32Type>::new(allocator)),
        DataType::Int64 => Box::new(PrimitiveDictionaryBuilder::<K, Int64Type>::new(allocator)),
        DataType::UInt32 => Box::new(PrimitiveDictionaryBuilder::<K, UInt32Type>::new(allocator)),
        DataType::UInt64 => Box::new(PrimitiveDictionaryBuilder::<K, UInt64Type>::new(allocator)),
        DataType::Float32 => Box::new(PrimitiveDictionaryBuilder::<K, Float32Type>::new(allocator)),
        DataType::Float64 => Box::new(PrimitiveDictionaryBuilder::<K, Float64Type>::new(allocator)),
        other => return wrong(format!("there is no builder for dictionaries of {other}")),
    })
}

fn key<K: ArrowDictionaryKeyType>(index: usize) -> Result<K::Native, MemoryError> {
    match K::Native::from_usize(index) {
        Some(key) => Ok(key),
        None => wrong(format!(
            "{} keys are not enough for value {index}",
            K::DATA_TYPE
        )),
    }
}

/// Finds the indices of values by their hashes. Its memory is charged by a reservation.
#[derive(Debug)]
struct Table {
    indices: HashTable<u32>,
    charge: AllocationReservation,
    hasher: RandomState,
}

impl Table {
    fn new(allocator: &BufferAllocator) -> Self {
        Self {
            indices: HashTable::new(),
            charge: allocator.new_reservation(),
            hasher: RandomState::new(),
        }
    }

    #[inline]
    fn find(&self, hash: u64, same: impl Fn(usize) -> bool) -> Option<usize> {
        self.indices
            .find(hash, |&index| same(index as usize))
            .map(|&index| index as usize)
    }

    /// Makes room for one more index.
    #[track_caller]
    fn reserve(&mut self, hash: impl Fn(usize) -> u64) -> Result<(), MemoryError> {
        let len = self.indices.len();
        if len < self.indices.capacity() {
            return Ok(());
        }
        if len >= u32::MAX as usize {
            return wrong(format!("{len} distinct values"));
        }
        // While the table grows, the old one exists beside the new one. At a growth an eighth of the buckets is
        // free, their number is a power of two, and each takes four bytes and a control byte.
        let buckets = (len + 1)
            .max(3)
            .saturating_mul(8)
            .div_ceil(7)
            .next_power_of_two()
            * 2;
        let before = self.charge.size();
        self.charge.add(buckets * 5 + 64)?;
        let grown = self.indices.try_reserve(1, |&index| hash(index as usize));
        let exact = if grown.is_ok() {
            self.indices.allocation_size()
        } else {
            before
        };
        self.charge.resize(exact)?;
        if grown.is_err() {
            return wrong(format!("the table of {len} distinct values cannot grow"));
        }
        Ok(())
    }

    /// Inserts an index that is not there. The caller has made room for it.
    fn insert(&mut self, hash: u64, index: usize, rehash: impl Fn(usize) -> u64) {
        self.indices
            .insert_unique(hash, index as u32, |&index| rehash(index as usize));
    }

    fn clear(&mut self) {
        self.indices = HashTable::new();
        let size = self.charge.size();
        self.charge.shrink(size);
    }
}
