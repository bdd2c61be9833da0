//! The messages of errors: the whole text for each kind of refusal.

mod reservations;

use std::error::Error;
use std::fmt::{Debug, Display};
use std::sync::Arc;

use arrow_memory_core::testing::{FailingManager, TrackingManager};
use arrow_memory_core::{
    AllocError, BackendError, CappedManager, ForeignAllocation, GuardAction, ManagerError,
    OutOfBounds, Purpose, RootAllocator, SegmentRoundingPolicy, Veto,
};

use crate::support::{child, ones, over, tracked};

/// The text in one line, and the text with all details.
fn both(error: &impl Error) -> (String, String) {
    let (line, whole) = (error.to_string(), format!("{error:#}"));
    assert!(!line.contains('\n'), "{line}");
    assert!(whole.starts_with(&line), "{whole}");
    assert_eq!(
        format!("{error:?}"),
        whole,
        "Debug is for `unwrap` and `main`"
    );
    (line, whole)
}

/// The text in one line.
fn line(error: &impl Error) -> String {
    both(error).0
}

#[test]
fn a_refusal_is_one_line_and_has_its_levels_on_request() {
    let (_, root) = tracked(8 << 20);
    let query = root.new_child_allocator("query", 0, 4 << 20).unwrap();

    let (line, whole) = both(&query.buffer(9 << 20).unwrap_err());

    assert_eq!(
        line,
        "allocator `query` is out of room: 9437184 bytes (9.0 MiB) requested, 4194304 (4.0 MiB) \
         left of its limit of 4194304 (4.0 MiB)"
    );
    assert_eq!(
        whole,
        format!(
            "{line}\n  allocator `query`: requested 9437184 (9.0 MiB), allocated 0, limit 4194304 \
             (4.0 MiB), reservation 0 (refused)"
        )
    );
}

#[test]
fn the_fields_show_with_the_alternate_debug_form() {
    let (_, root) = tracked(8 << 20);

    let closed = {
        let closed = child(&root, "closed");
        closed.close().unwrap();
        closed.allocate_bytes(10).unwrap_err()
    };

    let id = closed.allocator().unwrap().id;
    assert_eq!(
        format!("{closed:#?}"),
        format!(
            "Closed {{\n    allocator: AllocatorInfo {{\n        id: AllocatorId(\n            {id},\n        \
             ),\n        name: \"closed\",\n    }},\n    requested: 10,\n    purpose: Bytes,\n}}"
        )
    );
    let none = BackendError::NoneLinked;
    assert_eq!(format!("{none:#?}"), "NoneLinked");
    let veto = Veto::new("not today");
    assert_eq!(
        (format!("{veto:?}"), format!("{veto:#?}")),
        (
            "not today".to_owned(),
            "Veto {\n    reason: \"not today\",\n}".to_owned()
        )
    );
}

#[test]
fn every_small_error_is_readable_when_it_is_unwrapped() {
    fn same(error: &(impl Debug + Display)) -> String {
        assert_eq!(format!("{error:?}"), format!("{error:#}"));
        error.to_string()
    }
    let (_, root) = tracked(1 << 20);
    let buffer = ones(&root, 9);

    assert_eq!(
        [
            same(&buffer.try_slice(8, 2).unwrap_err()),
            same(&buffer.typed::<u32>().unwrap_err()),
            same(&SegmentRoundingPolicy::new(1000).unwrap_err()),
            same(&"loud`".parse::<GuardAction>().unwrap_err()),
            same(&ManagerError::new("gone").with_source(Veto::new("why"))),
            same(&BackendError::NoneLinked).chars().take(27).collect(),
        ],
        [
            "2 bytes at offset 8 are out of bounds of a buffer of 9 bytes",
            "9 bytes are not a whole number of items of 4 bytes",
            "segment of 1000 bytes is not a power of two from 1024",
            "`loud\\`` is none of abort, trap, warn and none",
            "gone",
            "no memory backend is linked",
        ]
    );
    let error = ManagerError::new("gone").with_source(Veto::new("why"));
    assert_eq!(format!("{error:#}"), "gone: why");
}

#[test]
fn a_range_beyond_the_length_says_that_the_capacity_is_not_meant() {
    let (_, root) = tracked(1 << 20);
    let mut buffer = root.buffer(1000).unwrap();

    let (read, write) = (buffer.get::<u32>(0), buffer.set(0, 7_u32));

    let text =
        "4 bytes at offset 0 of a buffer lie beyond the 0 bytes of its length; capacity 1024";
    let error: OutOfBounds = read.unwrap_err();
    assert_eq!((line(&error).as_str(), error.capacity), (text, Some(1024)));
    assert_eq!(line(&write.unwrap_err()), text);
}

#[test]
fn requested_is_the_number_that_the_caller_gave() {
    let (_, root) = tracked(128);
    let mut buffer = root.buffer_zeroed(60).unwrap();

    let refusals = [
        root.buffer(5000).unwrap_err(),
        root.buffer_zeroed(5000).unwrap_err(),
        root.buffer_from_slice(&[1; 5000]).unwrap_err(),
        root.allocate_bytes(5001).unwrap_err(),
        buffer.try_reserve(200).unwrap_err(),
        buffer.resize(200, 0).unwrap_err(),
        buffer.extend_from_slice(&[1; 100]).unwrap_err(),
    ];

    let rounded = "5000 bytes requested (5056 after rounding)";
    let expected = [
        rounded,
        rounded,
        rounded,
        "5001 bytes requested",
        "200 bytes requested (a buffer of 64 bytes was to have 320)",
        "200 bytes requested (a buffer of 64 bytes was to have 256)",
        "100 bytes requested (a buffer of 64 bytes was to have 192)",
    ];
    for (refusal, expected) in refusals.iter().zip(expected) {
        assert_eq!(
            line(refusal),
            format!("allocator `ROOT` is out of room: {expected}, 64 left of its limit of 128")
        );
        assert!(refusal.is_out_of_memory());
    }
    let AllocError::OutOfMemory {
        requested, purpose, ..
    } = &refusals[0]
    else {
        panic!("{}", refusals[0]);
    };
    assert_eq!(
        (*requested, &**purpose),
        (5000, &Purpose::Capacity { capacity: 5056 })
    );
}

#[test]
fn a_veto_and_a_backend_tell_the_callers_number_too() {
    struct No;
    impl arrow_memory_core::AllocationListener for No {
        fn on_pre_allocation(
            &self,
            _at: &arrow_memory_core::AllocatorInfo,
            size: usize,
        ) -> Result<(), Veto> {
            assert_eq!(size, 128, "the listener hears of the capacity");
            Err(Veto::new("not today"))
        }
    }
    let manager = Arc::new(TrackingManager::new());
    let vetoed = over(&manager).listener(Arc::new(No)).build().unwrap();
    let capped = Arc::new(CappedManager::new(manager, 100));
    let capped = RootAllocator::builder()
        .allocation_manager(capped)
        .build()
        .unwrap();

    let veto = vetoed.buffer(100).unwrap_err();
    let (failed, whole) = both(&capped.buffer(100).unwrap_err());

    assert_eq!(
        line(&veto),
        "the listener of allocator `ROOT` vetoed 100 bytes (128 after rounding): not today"
    );
    assert!(!veto.is_out_of_memory());
    assert_eq!(
        failed,
        "backend `tracking` could not serve 100 bytes (128 after rounding) for allocator `ROOT`"
            .replace("tracking", capped.allocation_manager().name())
    );
    let source = capped.buffer(100).unwrap_err();
    let source = source.source().unwrap().to_string();
    assert_eq!(whole, format!("{failed}: {source}"));
}

#[test]
fn the_growth_of_a_buffer_that_the_backend_refuses_is_told_as_growth() {
    let manager = Arc::new(FailingManager::new());
    let builder = RootAllocator::builder().allocation_manager(manager.clone());
    let root = builder.build().unwrap();
    let mut buffer = root.buffer_zeroed(64).unwrap();
    manager.fail_always();

    let refused = buffer.try_reserve(100).unwrap_err();

    assert_eq!(
        line(&refused),
        "backend `std` could not serve 100 bytes (a buffer of 64 bytes was to have 192) for \
         allocator `ROOT`"
    );
}

#[test]
fn foreign_memory_that_is_charged_as_a_whole_says_so() {
    let (_, root) = tracked(1000);
    let foreign = || ForeignAllocation::from_owner(vec![1; 24]).charged_as(800_000);

    let full = root.wrap_foreign_allocation(foreign()).unwrap_err();
    root.close().unwrap();
    let closed = root.wrap_foreign_allocation(foreign()).unwrap_err();

    assert_eq!(
        line(&full),
        "foreign memory of 800000 bytes was not taken in: allocator `ROOT` is out of room: 800000 \
         bytes requested for a slice of 24 bytes, which keeps an allocation of 800000 bytes alive, \
         1000 left of its limit of 1000"
    );
    assert!(full.is_out_of_memory() && full.source().is_none());
    assert_eq!(
        line(&closed),
        "foreign memory of 800000 bytes was not taken in: allocator `ROOT` is closed: a slice of 24 \
         bytes, which keeps an allocation of 800000 bytes alive, refused"
    );
}

#[test]
fn names_are_escaped_wherever_they_print() {
    let root = RootAllocator::builder().limit(1000).debug(false); // whole texts are compared
    let root = root.build().unwrap();
    let odd = child(&root, "a/b`\n\u{1b}[31m\"");
    let nameless = child(&root, "");
    let buffer = ones(&odd, 64);

    let escaped = r#"a\/b\`\n\u{1b}[31m\""#;
    assert_eq!(
        line(&odd.buffer(2000).map(drop).unwrap_err())
            .split(" is")
            .next(),
        Some("allocator `ROOT`")
    );
    let error = odd.close().unwrap_err().to_string();
    assert_eq!(
        error.lines().next().unwrap(),
        format!("allocator `{escaped}` closed with 1 outstanding buffer (64 bytes)")
    );
    assert!(
        error.contains(&format!("\nAllocator({escaped}) 0/64/64/none")),
        "{error}"
    );
    assert!(
        error.contains(&format!("ledger allocator: {escaped}, owning")),
        "{error}"
    );
    assert!(
        odd.to_string()
            .starts_with(&format!("Allocator({escaped}) 0/64/"))
    );
    assert!(
        root.to_verbose_string()
            .contains(&format!("Allocator({escaped}) "))
    );
    nameless.close().unwrap();
    assert_eq!(
        line(&nameless.buffer(1).unwrap_err()),
        "allocator `\"\"` is closed: 1 byte refused"
    );
    drop(buffer);
}

#[test]
fn a_failed_close_is_a_report_and_prints_as_one_when_it_is_unwrapped() {
    let root = over(&Arc::new(TrackingManager::new()))
        .debug(false)
        .build()
        .unwrap();
    let (one, two) = (child(&root, "one"), child(&root, "two"));
    let _large = ones(&one, 3 << 20);
    one.allocate_bytes(2 << 20).unwrap();
    let source = ones(&two, 64);
    let _moved = source.transfer_ownership(&one).unwrap();

    let (one_error, two_error) = (one.close().unwrap_err(), two.close().unwrap_err());

    assert_eq!(
        one_error.to_string().lines().next().unwrap(),
        "allocator `one` closed with 2 outstanding buffers, 2097152 (2.0 MiB) external bytes \
         (5242944 bytes (5.0 MiB))"
    );
    let whole = "allocator `two` closed with 1 outstanding buffer (0 bytes); 1 of the buffers is \
                 charged elsewhere: a transfer moves the charge, and the buffer that it was called \
                 on stays until it is dropped\n\
                 Allocator(two) 0/0/64/none (res/actual/peak/limit)\n  \
                   child allocators: 0\n  \
                   ledgers: 1\n    \
                     ledger allocator: two, owning: false, size: 64, references: 1, holds 1 buffer\n  \
                   reservations: 0";
    assert_eq!(two_error.to_string(), whole);
    assert_eq!(format!("{two_error:?}"), whole);
    assert!(format!("{two_error:#?}").starts_with("CloseError {\n    allocator: AllocatorInfo {"));
    one.release_bytes(2 << 20);
}

#[test]
fn a_chain_tells_nothing_twice() {
    let manager = Arc::new(FailingManager::new());
    let builder = RootAllocator::builder().allocation_manager(manager.clone());
    let root = builder.build().unwrap();
    manager.fail_always();

    let refused = root.buffer(64).unwrap_err();

    // Prints the chain in one line, as anyhow and eyre do.
    let (mut chain, mut next) = (refused.to_string(), refused.source());
    while let Some(source) = next {
        assert!(!chain.contains(&source.to_string()), "{chain}");
        chain += &format!(": {source}");
        next = source.source();
    }
    assert_eq!(
        chain,
        "backend `std` could not serve 64 bytes for allocator `ROOT`: call 0 was to fail"
    );
    assert_eq!(format!("{refused:#}"), chain);
}

#[test]
fn a_root_prints_as_its_allocator() {
    let root = RootAllocator::builder().limit(1 << 20).build().unwrap();

    assert_eq!(root.to_string(), "Allocator(ROOT) 0/0/0/1048576");
    assert_eq!(root.to_string(), (*root).to_string());
}
