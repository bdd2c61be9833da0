//! The first line of a leak report, of sampling and of a profile is the user's, also for memory that was
//! adopted from arrow or made by a builder.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::Read;

use arrow_memory_arrow::builder::{Int64Builder, StringBuilder};
use arrow_memory_arrow::deps::arrow_array::{Int64Array, RecordBatch};
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, Schema};
use arrow_memory_arrow::{Accounted, adopt_buffer, into_buffer};
use arrow_memory_core::{BufferAllocator, RootAllocator, sampling};
use arrow_memory_system as _;
use pprof::protos::{Message, Profile};

/// The place, `file:line`, of the line in this file that ends with this comment.
fn place(comment: &str) -> String {
    let beside = format!("// {comment}");
    let found = include_str!("frames.rs")
        .lines()
        .position(|line| line.trim_end().ends_with(&beside));
    format!("tests/frames.rs:{}", 1 + found.unwrap())
}

#[inline(never)]
fn adopted(allocator: &BufferAllocator, values: &Int64Array) -> Int64Array {
    values.clone().adopt(allocator).ok().unwrap() // an array is adopted
}

#[inline(never)]
fn adopted_batch(allocator: &BufferAllocator, values: &Int64Array) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("key", DataType::Int64, false)]);
    let column = std::sync::Arc::new(values.clone());
    let batch = RecordBatch::try_new(schema.into(), vec![column]).unwrap();
    batch.adopt(allocator).ok().unwrap() // a batch is adopted
}

#[inline(never)]
fn built(allocator: &BufferAllocator) -> Int64Builder {
    let mut builder = Int64Builder::new(allocator);
    builder.append(7).unwrap(); // a number is appended
    builder
}

#[inline(never)]
fn built_text(allocator: &BufferAllocator) -> StringBuilder {
    let mut builder = StringBuilder::new(allocator);
    builder.append("seven").unwrap(); // a text is appended
    builder
}

fn values() -> Int64Array {
    (0..1000).collect()
}

/// The first lines of the live allocations in the error of a failed close, in debug mode.
fn told(allocator: &BufferAllocator) -> Vec<String> {
    let error = allocator.close().unwrap_err().to_string();
    let created = error
        .lines()
        .filter_map(|line| line.trim().strip_prefix("created at "));
    created.map(str::to_owned).collect()
}

fn assert_all_at(lines: &[String], comment: &str, function: &str) {
    let expected = format!("{} in frames::{function}", place(comment));
    assert!(!lines.is_empty());
    for line in lines {
        // The path is relative to the package or to the workspace.
        let line = line.strip_prefix("memory-arrow/").unwrap_or(line);
        let (line, _operation) = line.split_once(" (").unwrap_or((line, ""));
        assert_eq!(line, expected);
    }
}

#[test]
fn a_failed_close_names_the_line_that_adopted() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let (one, two) = (
        root.child("one").build().unwrap(),
        root.child("two").build().unwrap(),
    );
    let array = adopted(&one, &values());
    let batch = adopted_batch(&two, &values());

    assert_all_at(&told(&one), "an array is adopted", "adopted");
    assert_all_at(&told(&two), "a batch is adopted", "adopted_batch");
    drop((array, batch));
}

#[test]
fn a_failed_close_names_the_line_that_appended_to_a_builder() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let (one, two) = (
        root.child("one").build().unwrap(),
        root.child("two").build().unwrap(),
    );
    let numbers = built(&one);
    let texts = built_text(&two);

    // An empty builder may have made its buffers earlier; the last line is of the one that holds the values.
    let line = told(&one).pop().unwrap();
    assert_all_at(&[line], "a number is appended", "built");
    let line = told(&two).pop().unwrap();
    assert_all_at(&[line], "a text is appended", "built_text");
    drop((numbers, texts));
}

/// Asserts that `line` of this file made the memory that `allocator` holds.
fn assert_made_here(allocator: &BufferAllocator, line: u32) {
    let text = allocator.to_verbose_string();
    let here = format!("created at {}:{line} ", file!());
    assert!(text.contains(&here), "{here} is not in\n{text}");
}

#[test]
fn debug_mode_names_the_line_that_adopted_or_built() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let child = root.child("child").build().unwrap();
    let array = || Int64Array::from(vec![7; 100]);

    let adopted = array().adopt(&root).unwrap();
    assert_made_here(&root, line!() - 1);
    let again = adopted.slice(1, 2).adopt(&child).unwrap();
    assert_made_here(&child, line!() - 1);
    let known = adopted.clone().adopt(&root).unwrap();
    assert_made_here(&root, line!() - 1);
    drop((adopted, again, known));
    let mut room = root.new_reservation();
    room.add(800).unwrap();
    let from = array().adopt_from(&mut room).unwrap();
    assert_made_here(&root, line!() - 1);
    drop((from, room));
    let moved = array().adopt(&root).unwrap();
    let moved = moved.try_move_to(&child).unwrap();
    assert_made_here(&child, line!() - 1);
    drop(moved);
    let found = adopt_buffer(&Buffer::from_vec(vec![1_u8; 100]), &root).unwrap();
    assert_made_here(&root, line!() - 1);
    let wrapped = into_buffer(found);
    let shared = wrapped.adopt(&child).unwrap();
    assert_made_here(&child, line!() - 1);
    drop(shared);

    let mut numbers = Int64Builder::new(&root);
    numbers.append(1).unwrap();
    assert_made_here(&root, line!() - 1);
    let numbers = numbers.finish();
    drop(numbers);
    let mut texts = StringBuilder::new(&root);
    texts.append_slice(&["a", "b"]).unwrap();
    assert_made_here(&root, line!() - 1);
}

#[cfg(feature = "ipc")]
#[test]
fn debug_mode_names_the_line_that_read() {
    use std::io::Cursor;

    use arrow_memory_arrow::deps::arrow_ipc::writer::FileWriter;
    use arrow_memory_arrow::ipc::IpcFileReader;

    let root = RootAllocator::builder().debug(true).build().unwrap();
    let schema = Schema::new(vec![Field::new("key", DataType::Int64, false)]);
    let column = std::sync::Arc::new(values());
    let batch = RecordBatch::try_new(schema.into(), vec![column]).unwrap();
    let mut file = Vec::new();
    let mut writer = FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);

    let mut reader = IpcFileReader::new(Cursor::new(file), &*root).unwrap();
    let batch = reader.read_batch(0).unwrap();
    assert_made_here(&root, line!() - 1);
    drop(batch);
}

#[test]
fn sampling_and_profiles_name_the_same_lines() {
    let root = RootAllocator::builder().debug(false).build().unwrap();
    sampling::start("sampled-*", 512);
    let one = root.child("sampled-array").build().unwrap();
    let two = root.child("sampled-builder").build().unwrap();
    // On average one sample is taken in 512 bytes.
    let arrays: Vec<_> = (0..10).map(|_| adopted(&one, &values())).collect();
    let builders: Vec<_> = (0..1000).map(|_| built(&two)).collect();

    let report = sampling::report();
    sampling::stop_all();

    let mut bytes = Vec::new();
    let zipped = arrow_memory_profile::to_pprof(&report);
    flate2::read::GzDecoder::new(&zipped[..])
        .read_to_end(&mut bytes)
        .unwrap();
    let profile = Profile::decode(&bytes[..]).unwrap();
    let text = |index: i64| profile.string_table[index as usize].clone();
    for (name, comment, function) in [
        ("sampled-array", "an array is adopted", "frames::adopted"),
        ("sampled-builder", "a number is appended", "frames::built"),
    ] {
        let site = report.sites.iter().find(|site| {
            site.live
                .iter()
                .any(|(allocator, _)| &*allocator.name == name)
        });
        let frame = site.unwrap().stack.unwrap().resolve().remove(0);
        let (file, line) = place(comment)
            .rsplit_once(':')
            .map(|(file, line)| (file.to_owned(), line.parse::<u32>().unwrap()))
            .unwrap();
        assert_eq!(frame.function, function);
        assert!(frame.file.unwrap().ends_with(&file));
        assert_eq!(frame.line, Some(line));

        let sample = profile
            .sample
            .iter()
            .find(|sample| sample.label.iter().any(|label| text(label.str) == name));
        let first = sample.unwrap().location_id[0];
        let location = profile.location.iter().find(|it| it.id == first).unwrap();
        let at = &location.line[0];
        let named = profile
            .function
            .iter()
            .find(|it| it.id == at.function_id)
            .unwrap();
        assert_eq!(
            (text(named.name), at.line),
            (function.to_owned(), i64::from(line))
        );
        assert!(text(named.filename).ends_with(&file));
    }
    drop((arrays, builders));
}
