//! Builders of arrays that consist of others.

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::builder::{
    BytesDictionaryBuilder, FixedSizeListBuilder, Int64Builder, ListBuilder,
    PrimitiveDictionaryBuilder, StringBuilder, StructBuilder,
};
use arrow_memory_arrow::deps::arrow_array::types::{Int32Type, Int64Type, Utf8Type};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, Fields};
use arrow_memory_core::BufferAllocator;

use super::builders::{Building, LONG, building, finishing};
use crate::sweep::{Operation, op};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("GenericListBuilder::append", |w| {
        building(w, lists, |it| it.append())
    }),
    op("GenericListBuilder::append_nulls", |w| {
        building(w, lists, |it| it.append_nulls(100));
    }),
    op("GenericListBuilder::finish", |w| finishing(w, lists)),
    op("GenericListBuilder::finish of nothing", |w| {
        finishing(w, |it| ListBuilder::new(it, StringBuilder::new(it)));
    }),
    op("FixedSizeListBuilder::append", |w| {
        building(w, pairs, |it| {
            // The values stay if the list is not appended, and are not appended again.
            if it.values().len() == it.len() * 2 {
                it.values().append_slice(&[1, 2])?;
            }
            it.append()
        });
    }),
    op("FixedSizeListBuilder::append_nulls", |w| {
        building(w, pairs, |it| it.append_nulls(100));
    }),
    op("FixedSizeListBuilder::finish", |w| finishing(w, pairs)),
    op("StructBuilder::new", |w| {
        w.act(&mut (), |()| {
            StructBuilder::new(&w.leaf, fields()).map(Building)
        });
    }),
    op("StructBuilder::with_builders", |w| {
        w.act(&mut (), |()| {
            StructBuilder::with_builders(&w.leaf, fields(), children(&w.leaf)).map(Building)
        });
    }),
    op("StructBuilder::append_nulls", |w| {
        building(w, structs, |it| it.append_nulls(100));
    }),
    op("StructBuilder::append", |w| {
        building(w, structs, |it| {
            row(it)?;
            it.append()
        });
    }),
    op("StructBuilder::finish", |w| finishing(w, structs)),
    op("BytesDictionaryBuilder::append", |w| {
        building(w, words, |it| it.append(LONG).map(drop));
    }),
    op("BytesDictionaryBuilder::append of a known one", |w| {
        building(w, words, |it| it.append("7").map(drop));
    }),
    op("BytesDictionaryBuilder::finish", |w| finishing(w, words)),
    op("PrimitiveDictionaryBuilder::append", |w| {
        building(w, codes, |it| it.append(1000).map(drop));
    }),
    op("PrimitiveDictionaryBuilder::finish", |w| {
        finishing(w, codes)
    }),
];

fn lists(allocator: &BufferAllocator) -> ListBuilder<StringBuilder> {
    let mut builder = ListBuilder::new(allocator, StringBuilder::new(allocator));
    for _ in 0..15 {
        builder.values().append("7").unwrap();
        builder.append().unwrap();
    }
    builder
}

fn pairs(allocator: &BufferAllocator) -> FixedSizeListBuilder<Int64Builder> {
    let values = Int64Builder::new(allocator);
    let mut builder = FixedSizeListBuilder::new(allocator, values, 2).unwrap();
    for _ in 0..4 {
        builder.values().append_slice(&[7; 2]).unwrap();
        builder.append().unwrap();
    }
    builder
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("number", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ])
}

fn children(
    allocator: &BufferAllocator,
) -> Vec<Box<dyn arrow_memory_arrow::builder::ArrayBuilder>> {
    vec![
        Box::new(Int64Builder::new(allocator)),
        Box::new(StringBuilder::new(allocator)),
    ]
}

fn structs(allocator: &BufferAllocator) -> StructBuilder {
    let mut builder = StructBuilder::new(allocator, fields()).unwrap();
    for _ in 0..8 {
        row(&mut builder).unwrap();
        builder.append().unwrap();
    }
    builder
}

/// Appends a row to the children, but to those that have it since an attempt that failed.
fn row(builder: &mut StructBuilder) -> Result<(), MemoryError> {
    let rows = builder.len();
    let numbers = builder.field::<Int64Builder>(0).unwrap();
    if numbers.len() == rows {
        numbers.append(7)?;
    }
    let text = builder.field::<StringBuilder>(1).unwrap();
    if text.len() == rows {
        text.append("7")?;
    }
    Ok(())
}

fn words(allocator: &BufferAllocator) -> BytesDictionaryBuilder<Int32Type, Utf8Type> {
    let mut builder = BytesDictionaryBuilder::new(allocator);
    for _ in 0..16 {
        builder.append("7").unwrap();
    }
    builder
}

fn codes(allocator: &BufferAllocator) -> PrimitiveDictionaryBuilder<Int32Type, Int64Type> {
    let mut builder = PrimitiveDictionaryBuilder::new(allocator);
    for value in 0..16 {
        builder.append(value % 8).unwrap();
    }
    builder
}
