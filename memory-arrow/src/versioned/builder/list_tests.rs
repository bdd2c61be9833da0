//! Lists whose values' builder is tampered with by safe code, which must not make an invalid array.

use std::cell::Cell;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;
use proptest::prelude::*;

use super::super::deps::arrow_array::{Array, ArrayRef, Int32Array, ListArray, OffsetSizeTrait};
use super::super::deps::arrow_buffer::ToByteSlice;
use super::super::deps::arrow_schema::DataType;
use super::*;

fn root() -> RootAllocator {
    RootAllocator::new(1 << 20)
}

fn assert_valid(list: &ListArray) {
    list.to_data().validate_full().unwrap();
    assert!(list.offsets().windows(2).all(|pair| pair[0] <= pair[1]));
}

/// The offsets decreased to 0 here, and readers of arrow's trust them.
#[test]
fn a_list_is_refused_once_its_values_were_taken_out() {
    let root = root();
    let mut builder = ListBuilder::new(&root, StringBuilder::new(&root));
    builder.values().append_slice(&["a"; 5]).unwrap();
    builder.append().unwrap();
    drop(builder.values().finish());

    for refused in [
        builder.append(),
        builder.append_null(),
        builder.append_nulls(0),
        builder.finish().map(drop),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("0 values are left of 5"), "{message}");
    }

    // The list is as it was: once its values are back, it can be continued.
    assert_eq!(builder.len(), 1);
    builder.values().append_slice(&["b"; 6]).unwrap();
    builder.append().unwrap();
    let list = builder.finish().unwrap();
    assert_valid(&list);
    assert_eq!(&list.offsets()[..], [0, 5, 6]);
}

#[test]
fn a_replaced_builder_of_values_is_noticed_at_the_end() {
    let root = root();
    let mut builder = LargeListBuilder::new(&root, Int32Builder::new(&root));
    builder.values().append_slice(&[1, 2, 3]).unwrap();
    builder.append().unwrap();

    let values = std::mem::replace(builder.values(), Int32Builder::new(&root));
    let refused = builder.finish().unwrap_err().to_string();
    assert!(refused.contains("0 values are left of 3"), "{refused}");

    *builder.values() = values;
    let list = builder.finish().unwrap();
    list.to_data().validate_full().unwrap();
    assert_eq!((&list.offsets()[..], builder.len()), (&[0, 3][..], 0));
}

/// A builder that states another length each time, and makes an array of yet another one.
struct Liar {
    lengths: Vec<usize>,
    asked: Cell<usize>,
    real: usize,
}

impl ArrayBuilder for Liar {
    fn data_type(&self) -> DataType {
        DataType::Int32
    }

    fn len(&self) -> usize {
        let asked = self.asked.replace(self.asked.get() + 1);
        self.lengths[asked % self.lengths.len()]
    }

    fn append_nulls(&mut self, _: usize) -> Result<(), MemoryError> {
        Ok(())
    }

    fn finish_array(&mut self) -> Result<ArrayRef, MemoryError> {
        Ok(array_ref(Int32Array::from(vec![7; self.real])))
    }
}

fn lists_of_a_liar<O: OffsetSizeTrait + ToByteSlice>(
    lengths: &[usize],
    real: usize,
    steps: &[u8],
) -> Result<(), TestCaseError> {
    let root = root();
    let liar = Liar {
        lengths: lengths.to_vec(),
        asked: Cell::new(0),
        real,
    };
    let mut builder = GenericListBuilder::<O, _>::new(&root, liar);
    for step in steps {
        // An error is allowed. A panic, or an invalid array, is not.
        let _ = match step {
            0 => builder.append_null(),
            1 => builder.append_nulls(2),
            2 => builder.finish().map(|list| {
                list.to_data().validate_full().unwrap();
            }),
            _ => builder.append(),
        };
    }
    if let Ok(list) = builder.finish() {
        list.to_data().validate_full().unwrap();
    }
    drop(builder);
    prop_assert_eq!(root.allocated_memory(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_127),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_its_values_say_a_list_is_valid_or_refused(
        lengths in prop::collection::vec(0_usize..8, 1..6),
        real in 0_usize..8,
        steps in prop::collection::vec(0_u8..5, 0..12),
    ) {
        lists_of_a_liar::<i32>(&lengths, real, &steps)?;
        lists_of_a_liar::<i64>(&lengths, real, &steps)?;
    }
}

/// The array was made by then, so its values are dropped, and the lists with them.
#[test]
fn values_that_are_fewer_than_said_are_an_error_and_leave_an_empty_builder() {
    let root = root();
    let liar = Liar {
        lengths: vec![5],
        asked: Cell::new(0),
        real: 3,
    };
    let mut builder = ListBuilder::new(&root, liar);
    builder.append().unwrap();

    let refused = builder.finish().unwrap_err();

    assert!(matches!(refused, MemoryError::Arrow(_)), "{refused}");
    assert!(builder.is_empty());
    builder.values().real = 5;
    builder.append().unwrap();
    assert_valid(&builder.finish().unwrap());
}
