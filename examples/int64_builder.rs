//! Builds arrays of 64-bit integers from an allocator. This is the first program of the article on Arrow's
//! memory in Go.
//!
//! `cargo run --example int64_builder --features arrow`

use arrow_memory::RootAllocator;
use arrow_memory::arrow::builder::Int64Builder;
use arrow_memory::arrow::deps::arrow_array::Int64Array;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = RootAllocator::new(1 << 20);
    let mut builder = Int64Builder::new(&root);

    builder.append(25)?;
    builder.append_null()?;
    builder.append_values(&[1, 2], Some(&[true, false]))?;
    builder.append_values(&[3, 4, 5, 6], None)?;
    let first = builder.finish();
    println!("{}", text(&first));
    assert_eq!(text(&first), "[25 (null) 1 (null) 3 4 5 6]");

    // `finish` left the builder empty, ready for another array.
    assert!(builder.is_empty());
    builder.append_slice(&[7, 8, 9, 10])?;
    let second = builder.finish();
    println!("{}", text(&second));
    assert_eq!(text(&second), "[7 8 9 10]");

    // Three buffers of 64 bytes: the values of each array, and the validity of the first.
    assert_eq!(root.allocated_memory(), 3 * 64);
    drop((first, second, builder));
    assert_eq!(root.allocated_memory(), 0);
    root.close()?;
    Ok(())
}

/// The array in Go's format.
fn text(array: &Int64Array) -> String {
    let values: Vec<String> = array
        .iter()
        .map(|value| value.map_or("(null)".to_owned(), |value| value.to_string()))
        .collect();
    format!("[{}]", values.join(" "))
}
