//! Builders of flat arrays.

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::builder::{
    ArrayBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Int64Builder, StringBuilder,
    StringViewBuilder, make_builder,
};
use arrow_memory_arrow::deps::arrow_array::{Array, ArrayRef};
use arrow_memory_arrow::deps::arrow_schema::DataType;
use arrow_memory_core::{BufferAllocator, RootAllocator};

use crate::state::{Charges, Opaque, State};
use crate::sweep::{Operation, op};
use crate::world::World;

pub(crate) const OPERATIONS: &[Operation] = &[
    op("PrimitiveBuilder::with_capacity", |w| {
        w.act(&mut (), |()| {
            Int64Builder::with_capacity(&w.leaf, 100).map(Building)
        });
    }),
    op("PrimitiveBuilder::reserve", |w| {
        building(w, numbers, |it| it.reserve(100));
    }),
    op("PrimitiveBuilder::append", |w| {
        building(w, numbers, |it| it.append(1))
    }),
    op("PrimitiveBuilder::append_null", |w| {
        building(w, numbers, Int64Builder::append_null);
    }),
    op("PrimitiveBuilder::append_nulls", |w| {
        building(w, numbers, |it| it.append_nulls(100));
    }),
    op("PrimitiveBuilder::append_slice", |w| {
        building(w, numbers, |it| it.append_slice(&[1; 100]));
    }),
    op("PrimitiveBuilder::append_values", |w| {
        building(w, numbers, |it| {
            it.append_values(&[1; 100], Some(&[false; 100]))
        });
    }),
    op("PrimitiveBuilder::append_option", |w| {
        building(w, numbers, |it| it.append_option(None));
    }),
    op("PrimitiveBuilder::finish", |w| finishing(w, numbers)),
    op("BooleanBuilder::reserve", |w| {
        building(w, bits, |it| it.reserve(1000))
    }),
    op("BooleanBuilder::append", |w| {
        building(w, bits, |it| it.append(true))
    }),
    op("BooleanBuilder::append_nulls", |w| {
        building(w, bits, |it| it.append_nulls(1000));
    }),
    op("BooleanBuilder::append_slice", |w| {
        building(w, bits, |it| it.append_slice(&[true; 1000]));
    }),
    op("BooleanBuilder::append_values", |w| {
        building(w, bits, |it| {
            it.append_values(&[true; 1000], Some(&[false; 1000]))
        });
    }),
    op("BooleanBuilder::finish", |w| finishing(w, bits)),
    op("GenericBytesBuilder::with_capacity", |w| {
        w.act(&mut (), |()| {
            StringBuilder::with_capacity(&w.leaf, 10, 1000).map(Building)
        });
    }),
    op("GenericBytesBuilder::reserve", |w| {
        building(w, strings, |it| it.reserve(100, 1000));
    }),
    op("GenericBytesBuilder::append", |w| {
        building(w, strings, |it| it.append(LONG))
    }),
    op("GenericBytesBuilder::append to nothing", |w| {
        building(w, StringBuilder::new, |it| it.append(LONG));
    }),
    op("GenericBytesBuilder::append_null", |w| {
        building(w, strings, StringBuilder::append_null);
    }),
    op("GenericBytesBuilder::append_nulls", |w| {
        building(w, strings, |it| it.append_nulls(1000));
    }),
    op("GenericBytesBuilder::append_slice", |w| {
        building(w, strings, |it| it.append_slice(&[LONG; 100]));
    }),
    op("GenericBytesBuilder::append_values", |w| {
        building(w, strings, |it| {
            it.append_values(&[LONG; 100], Some(&[false; 100]))
        });
    }),
    op("GenericBytesBuilder::finish", |w| finishing(w, strings)),
    op("GenericBytesBuilder::finish of nothing", |w| {
        finishing(w, StringBuilder::new)
    }),
    op("GenericViewBuilder::append", |w| {
        building(w, views, |it| it.append(LONG))
    }),
    op("GenericViewBuilder::append_nulls", |w| {
        building(w, views, |it| it.append_nulls(100));
    }),
    op("GenericViewBuilder::append_slice", |w| {
        building(w, views, |it| it.append_slice(&[LONG; 300]));
    }),
    op("GenericViewBuilder::finish", |w| finishing(w, views)),
    op("FixedSizeBinaryBuilder::append", |w| {
        building(w, fixed, |it| it.append([1; 16]));
    }),
    op("FixedSizeBinaryBuilder::append_nulls", |w| {
        building(w, fixed, |it| it.append_nulls(100));
    }),
    op("FixedSizeBinaryBuilder::append_slice", |w| {
        building(w, fixed, |it| it.append_slice(&[1; 160]));
    }),
    op("FixedSizeBinaryBuilder::append_values", |w| {
        building(w, fixed, |it| {
            it.append_values(&[[1; 16]; 20], Some(&[false; 20]))
        });
    }),
    op("FixedSizeBinaryBuilder::finish", |w| finishing(w, fixed)),
    op("make_builder", |w| {
        w.act(&mut (), |()| {
            make_builder(&DataType::Utf8View, &w.leaf).map(Opaque)
        });
    }),
];

pub(crate) const LONG: &str =
    "a string that is too long for a view, whatever it is that it views here";

fn numbers(allocator: &BufferAllocator) -> Int64Builder {
    let mut builder = Int64Builder::new(allocator);
    builder.append_slice(&[7; 8]).unwrap();
    builder
}

fn bits(allocator: &BufferAllocator) -> BooleanBuilder {
    let mut builder = BooleanBuilder::new(allocator);
    builder.append_slice(&[true; 512]).unwrap();
    builder
}

fn strings(allocator: &BufferAllocator) -> StringBuilder {
    let mut builder = StringBuilder::new(allocator);
    // The offsets fill a block.
    builder.append_slice(&["1234"; 15]).unwrap();
    builder
}

fn views(allocator: &BufferAllocator) -> StringViewBuilder {
    let mut builder = StringViewBuilder::new(allocator);
    builder.append_slice(&["1234"; 4]).unwrap();
    builder
}

fn fixed(allocator: &BufferAllocator) -> FixedSizeBinaryBuilder {
    let mut builder = FixedSizeBinaryBuilder::new(allocator, 16).unwrap();
    builder.append_slice(&[7; 64]).unwrap();
    builder
}

/// A builder, of which the docs say that an error may leave it with more capacity.
pub(crate) struct Building<B>(pub(crate) B);

impl<B: ArrayBuilder> State for Building<B> {
    fn charges(&self, _: &mut Charges) {}

    fn describe(&self) -> String {
        format!("{} rows", self.0.len())
    }

    fn may_grow(&self) -> bool {
        true
    }
}

/// Appends to a builder that has rows, and compares the array with that of a builder that met no failure.
pub(crate) fn building<B: ArrayBuilder>(
    w: &World,
    make: impl Fn(&BufferAllocator) -> B,
    append: impl Fn(&mut B) -> Result<(), MemoryError>,
) {
    let elsewhere = RootAllocator::builder()
        .allocation_manager(w.manager.clone())
        .build()
        .unwrap();
    let before = make(&elsewhere).finish_array().unwrap();
    let mut builder = make(&elsewhere);
    append(&mut builder).unwrap();
    let after = builder.finish_array().unwrap();
    let mut state = Building(make(&w.leaf));

    let appended = w.act(&mut state, |it| append(&mut it.0));

    let finished = state.0.finish_array();
    if appended.is_some() {
        assert_eq!(&finished.unwrap(), &after);
    } else if let Ok(array) = finished {
        // It panicked: what was there before still is. (The children of a nested one may have rows of their own.)
        array.to_data().validate_full().unwrap();
        assert!(array.len() >= before.len());
        assert_eq!(&array.slice(0, before.len()), &before);
    }
}

/// Finishes a builder that has rows.
pub(crate) fn finishing<B: ArrayBuilder>(w: &World, make: impl Fn(&BufferAllocator) -> B) {
    let elsewhere = RootAllocator::builder()
        .allocation_manager(w.manager.clone())
        .build()
        .unwrap();
    let expected = make(&elsewhere).finish_array().unwrap();
    let mut state = Building(make(&w.leaf));

    let array: Option<ArrayRef> = w.act(&mut state, |it| it.0.finish_array());

    if let Some(array) = array {
        assert_eq!(&array, &expected);
        assert_eq!(state.0.len(), 0);
    }
}
