//! What a refusal says of reservations: those that it is about, and those that are why.

use arrow_memory_core::TransferError;

use super::{both, line};
use crate::support::{child, ones, tracked};

#[test]
fn a_refused_child_is_named_with_its_reservation() {
    let (_, root) = tracked(1 << 20);

    let (above, _) = both(&root.child("x").reservation(2 << 20).build().unwrap_err());
    let own = root.child("bad").reservation(2000).limit(1000).build();
    root.close().unwrap();

    assert_eq!(
        above,
        "allocator `ROOT` is out of room: 2097152 bytes (2.0 MiB) requested for the reservation of \
         child `x`, 1048576 (1.0 MiB) left of its limit of 1048576 (1.0 MiB)"
    );
    assert_eq!(
        line(&own.unwrap_err()),
        "allocator `bad` is out of room: 2000 bytes requested for the reservation of child `bad`, \
         1000 left of its limit of 1000"
    );
    assert_eq!(
        line(&root.child("late").build().unwrap_err()),
        "allocator `ROOT` is closed: child `late` refused"
    );
    assert_eq!(
        line(&root.child("late").reservation(10).build().unwrap_err()),
        "allocator `ROOT` is closed: child `late` with a reservation of 10 bytes refused"
    );
}

#[test]
fn a_refused_reservation_tells_what_it_has_and_what_it_was_to_have() {
    let (_, root) = tracked(120);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();

    let add = reservation.add(28).unwrap_err();
    let resize = reservation.resize(128).unwrap_err();
    let (buffer, mut reservation) = reservation.allocate_buffer().unwrap_err();

    let left = "20 left of its limit of 120";
    assert_eq!(
        [line(&add), line(&resize), line(&buffer)],
        [
            format!(
                "allocator `ROOT` is out of room: 28 bytes requested (a reservation of 100 bytes \
                 was to have 128), {left}"
            ),
            format!(
                "allocator `ROOT` is out of room: 128 bytes requested (a reservation of 100 bytes \
                 was to have 128), {left}"
            ),
            format!(
                "allocator `ROOT` is out of room: 100 bytes requested (a reservation of 100 bytes \
                 was to become a buffer of 128), {left}"
            ),
        ]
    );
    assert!(root.close().is_err());
    assert_eq!(
        line(&reservation.add(1).unwrap_err()),
        "allocator `ROOT` is closed: 1 byte refused (a reservation of 100 bytes was to have 101)"
    );
}

#[test]
fn a_refused_transfer_says_what_was_to_move_and_which_reservation_is_why() {
    let (_, root) = tracked(30_000);
    let query = root.child("query").reservation(30_000).build().unwrap();
    let scan = child(&query, "scan");
    let results = child(&root, "results");
    let buffer = ones(&scan, 26_640);
    let slice = buffer.slice(8..32);

    let (whole_buffer, levels) = both(&buffer.try_transfer_ownership(&results).unwrap_err());
    let slice = slice.try_transfer_ownership(&results).unwrap_err();

    assert_eq!(
        whole_buffer,
        "allocator `ROOT` is out of room: a buffer of 26640 bytes (26688 after rounding) was to move \
         from `scan` to `results`, 0 left of its limit of 30000; the reservation of `query` keeps \
         26688 bytes charged"
    );
    assert_eq!(
        levels,
        format!(
            "{whole_buffer}\n  \
               allocator `results`: requested 26688, allocated 0, limit none, reservation 0\n  \
               allocator `ROOT`: requested 26688, allocated 30000, limit 30000, reservation 0 (refused)"
        )
    );
    assert_eq!(
        line(&slice),
        "allocator `ROOT` is out of room: a buffer of 24 bytes, which keeps an allocation of 26688 \
         bytes alive, was to move from `scan` to `results`, 0 left of its limit of 30000; the \
         reservation of `query` keeps 26688 bytes charged"
    );
    assert!(slice.is_out_of_memory());
    let TransferError::DoesNotFit {
        length, outcome, ..
    } = slice
    else {
        panic!("{slice}");
    };
    assert_eq!(
        (length, outcome.kept),
        (24, Some((query.info().clone(), 26_688)))
    );
    root.verify().unwrap();
}

#[test]
fn a_transfer_that_the_target_itself_refuses_blames_no_reservation() {
    let (_, root) = tracked(1 << 20);
    let query = root.child("query").reservation(1000).build().unwrap();
    let small = root.child("small").limit(10).build().unwrap();
    let buffer = ones(&query, 64);

    let refused = buffer.try_transfer_ownership(&small).unwrap_err();

    assert_eq!(
        line(&refused),
        "allocator `small` is out of room: a buffer of 64 bytes was to move from `query` to `small`, \
         10 left of its limit of 10"
    );
}

#[test]
fn a_part_of_a_reservation_that_stays_charged_is_counted_to_the_byte() {
    let (_, root) = tracked(1100);
    // 640 bytes are 40 more than the reservation of 600, so if 128 of them move, the root is charged 40 less.
    let query = root.child("query").reservation(600).build().unwrap();
    let (moves, _stays) = (ones(&query, 128), ones(&query, 512));
    let results = child(&root, "results");
    root.allocate_bytes(450).unwrap();

    let refused = moves.try_transfer_ownership(&results).unwrap_err();

    assert_eq!(
        line(&refused),
        "allocator `ROOT` is out of room: a buffer of 128 bytes was to move from `query` to \
         `results`, 50 left of its limit of 1100; the reservation of `query` keeps 88 bytes charged"
    );
    root.release_bytes(450);
}
