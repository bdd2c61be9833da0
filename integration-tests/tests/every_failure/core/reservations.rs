//! Bytes that are set aside.

use arrow_memory_core::AllocationReservation;

use crate::sweep::{Operation, op};
use crate::world::{World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("BufferAllocator::new_reservation", |w| {
        w.act(&mut (), |()| done(w.leaf.new_reservation()));
    }),
    op("AllocationReservation::add", |w| {
        let mut reservation = reserved(w, 100);
        w.act(&mut reservation, |it| it.add(5000));
    }),
    op("AllocationReservation::add when memory is short", |w| {
        let mut reservation = reserved(w, 100);
        w.fill_cache();
        w.act(&mut reservation, |it| it.add(5000));
    }),
    op("AllocationReservation::force_add", |w| {
        let mut reservation = reserved(w, 100);
        let held = w.fill();
        w.act(&mut reservation, |it| done(it.force_add(5000)));
        drop(held);
    }),
    op("AllocationReservation::shrink", |w| {
        let mut reservation = reserved(w, 5000);
        w.act(&mut reservation, |it| done(it.shrink(100)));
    }),
    op("AllocationReservation::resize", |w| {
        let mut reservation = reserved(w, 100);
        w.fill_cache();
        w.act(&mut reservation, |it| it.resize(5000));
    }),
    op("AllocationReservation::resize to less", |w| {
        let mut reservation = reserved(w, 5000);
        w.act(&mut reservation, |it| it.resize(100));
    }),
    op("AllocationReservation::split", |w| {
        let mut reservation = reserved(w, 5000);
        w.act(&mut reservation, |it| done(it.split(100)));
    }),
    op("AllocationReservation::allocate_buffer", |w| {
        let mut reservation = Some(reserved(w, 700));
        w.act(&mut reservation, |it| {
            let used = it.take().expect("it was put back").allocate_buffer();
            used.map_err(|(error, unused)| {
                *it = Some(unused);
                error
            })
        });
    }),
    op("AllocationReservation::allocate_buffer of nothing", |w| {
        let mut reservation = Some(reserved(w, 0));
        w.act(&mut reservation, |it| {
            let used = it.take().expect("it was put back").allocate_buffer();
            used.map_err(|(error, unused)| {
                *it = Some(unused);
                error
            })
        });
    }),
    op("AllocationReservation::wrap_foreign_allocation", |w| {
        let state = (reserved(w, 5000), Some(w.foreign(300)));
        wrap(w, state);
    }),
    op(
        "AllocationReservation::wrap_foreign_allocation beyond it",
        |w| {
            let state = (reserved(w, 100), Some(w.foreign(300)));
            w.fill_cache();
            wrap(w, state);
        },
    ),
    op("AllocationReservation::drop", |w| {
        let mut reservation = Some(reserved(w, 5000));
        w.act_quietly(&mut reservation, |it| drop(it.take()));
    }),
    op(
        "AllocationReservation::drop of the last one of a closed allocator",
        |w| {
            let child = w.leaf.child("child").build().unwrap();
            let mut reservation = child.new_reservation();
            reservation.add(5000).unwrap();
            child.close().unwrap_err();
            drop(child);
            w.act_quietly(&mut Some(reservation), |it| drop(it.take()));
        },
    ),
];

fn reserved(w: &World, bytes: usize) -> AllocationReservation {
    let mut reservation = w.leaf.new_reservation();
    reservation.add(bytes).unwrap();
    reservation
}

type Wraps = (
    AllocationReservation,
    Option<arrow_memory_core::ForeignAllocation>,
);

fn wrap(w: &World, mut state: Wraps) {
    w.act(&mut state, |(reservation, foreign)| {
        let taken = foreign.take().expect("it was put back");
        reservation.wrap_foreign_allocation(taken).map_err(|error| {
            *foreign = Some(error.allocation);
            error.source
        })
    });
}
