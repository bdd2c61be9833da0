//! Buffers that point into a block: slices of `Bytes`, as of the pages of Parquet.

use std::sync::Arc;

use arrow_memory_arrow::deps::arrow_array::{Array, ArrayRef, RecordBatch, StringViewArray};
use arrow_memory_arrow::deps::arrow_buffer::{Buffer, ScalarBuffer};
use arrow_memory_arrow::{Accounted, adopt_buffer};
use bytes::Bytes;

use crate::Books;

const PAGE: usize = 100_000;

/// A page that is built in the scope.
fn page(books: &Books) -> Bytes {
    books.run(|| Bytes::from(vec![7; PAGE]))
}

#[test]
fn slices_of_a_page_take_their_bytes_and_leave_the_rest_to_the_heap() {
    let books = Books::new();
    let page = page(&books);
    let [head, tail] = [
        Buffer::from(page.slice(40..10_040)),
        Buffer::from(page.slice(50_000..)),
    ];

    let head = head.adopt(&books.join).unwrap();
    assert_eq!(
        books.charged(),
        [PAGE, PAGE - 10_000, PAGE - 10_000, 10_000]
    );
    let tail = tail.adopt(&books.scan).unwrap();
    assert_eq!(
        books.charged(),
        [PAGE, PAGE - 10_000, PAGE - 60_000, 10_000]
    );

    let head = head.try_move_to(&books.scan).unwrap();
    assert_eq!(books.charged(), [PAGE, PAGE, PAGE - 60_000, 0]);
    drop(page);
    assert_eq!(books.charged(), [PAGE, PAGE, PAGE - 60_000, 0]);
    drop(head);
    assert_eq!(books.charged(), [PAGE, PAGE, PAGE - 50_000, 0]);
    drop(tail);
    books.close();
}

#[test]
fn slices_of_the_smallest_pages_are_found() {
    let books = Books::new();
    for size in [512, 1000, 1023] {
        let page = books.run(|| Bytes::from(vec![7; size]));
        let adopted = Buffer::from(page.slice(100..400))
            .adopt(&books.join)
            .unwrap();
        assert_eq!(books.charged(), [size, size - 300, size - 300, 300]);
        drop(page);
        assert_eq!(books.charged(), [size, size - 300, size - 300, 300]);
        drop(adopted);
    }
    books.close();
}

#[test]
fn what_slices_share_is_charged_to_each_of_their_ledgers() {
    let books = Books::new();
    let page = page(&books);
    let whole = Buffer::from(page.clone()).adopt(&books.join).unwrap();
    assert_eq!(books.charged(), [PAGE, 0, 0, PAGE]);

    let part = Buffer::from(page.slice(1000..3000))
        .adopt(&books.scan)
        .unwrap();

    assert_eq!(books.charged(), [PAGE + 2000, 2000, 0, PAGE]);
    drop(whole);
    assert_eq!(books.charged(), [PAGE, PAGE, PAGE - 2000, 0]);
    let again = Buffer::from(page.slice(10..PAGE - 10))
        .adopt(&books.join)
        .unwrap();
    assert_eq!(books.charged(), [PAGE + 1980, 2000, 0, PAGE - 20]);
    drop((page, part, again));
    books.close();
}

#[test]
fn a_batch_of_views_into_one_page_is_charged_once() {
    let books = Books::new();
    let page = page(&books);
    // The views are allocated outside the scope; each column's bytes are a slice of the page.
    let column = |number: usize| {
        let start = number * 10_000 + 13;
        let bytes = Buffer::from(page.slice(start..start + 10_000));
        let view = 100_u128 | u128::from(0x0707_0707_u32) << 32;
        let views = ScalarBuffer::from(vec![view; 50]);
        let array = StringViewArray::try_new(views, vec![bytes], None).unwrap();
        Arc::new(array) as ArrayRef
    };
    let columns = (0..9).map(|number| (format!("c{number}"), column(number)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    drop(page);
    let views = 9 * 50 * 16;

    let adopted = batch.adopt(&books.join).unwrap();

    let rest = PAGE - 90_000;
    assert_eq!(books.charged(), [PAGE + views, rest, rest, 90_000 + views]);
    let first = adopted.column(0).slice(0, 1);
    drop(adopted);
    assert_eq!(books.charged()[0], PAGE + 50 * 16);
    drop(first);
    books.close();
}

#[test]
fn a_scope_that_ends_leaves_the_rest_of_a_page_to_the_retained() {
    let mut books = Books::new();
    let page = page(&books);
    let head = adopt_buffer(&Buffer::from(page.slice(16..1016)), &books.join).unwrap();
    assert_eq!(books.charged(), [PAGE, PAGE - 1000, PAGE - 1000, 1000]);

    books.scope = None;

    assert_eq!(books.charged(), [PAGE, 0, 0, 1000]);
    assert_eq!(books.retained(), PAGE - 1000);
    drop(head);
    assert_eq!(books.retained(), PAGE);
    drop(page);
    books.close();
}

#[test]
fn a_page_that_another_scope_of_the_allocator_outlives_stays_in_the_heap() {
    let mut books = Books::new();
    let page = page(&books);
    let head = adopt_buffer(&Buffer::from(page.slice(16..1016)), &books.join).unwrap();
    let second = arrow_memory_global::Scope::new(&books.scan).unwrap();

    books.scope = None;
    assert_eq!(books.charged(), [PAGE, PAGE - 1000, PAGE - 1000, 1000]);
    drop(second);

    assert_eq!(
        (books.charged(), books.retained()),
        ([PAGE, 0, 0, 1000], PAGE - 1000)
    );
    drop((head, page));
    books.close();
}
