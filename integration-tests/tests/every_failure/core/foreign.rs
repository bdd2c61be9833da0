//! Foreign memory.

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::{ArrowBuf, ForeignAllocation, ForeignError};

use crate::state::{Charges, Opaque, State};
use crate::sweep::{Operation, op};
use crate::world::done;

pub(crate) const OPERATIONS: &[Operation] = &[
    op("ForeignAllocation::from_owner", |w| {
        w.act(&mut (), |()| done(w.foreign(100)));
    }),
    op("ForeignAllocation::drop", |w| {
        let mut foreign = Some(w.foreign(100));
        w.act_quietly(&mut foreign, |it| drop(it.take()));
    }),
    op("BufferAllocator::wrap_foreign_allocation", |w| {
        let mut foreign = Some(w.foreign(5000));
        w.act(&mut foreign, |it| {
            put_back(it, |it| w.leaf.wrap_foreign_allocation(it))
        });
    }),
    op(
        "BufferAllocator::wrap_foreign_allocation when memory is short",
        |w| {
            w.fill_cache();
            let mut foreign = Some(w.foreign(5000));
            w.act(&mut foreign, |it| {
                put_back(it, |it| w.leaf.wrap_foreign_allocation(it))
            });
        },
    ),
    op("BufferAllocator::wrap_foreign_allocation by force", |w| {
        let held = w.fill();
        let mut foreign = Some(w.foreign(5000).forced());
        w.act(&mut foreign, |it| {
            put_back(it, |it| w.leaf.wrap_foreign_allocation(it))
        });
        drop(held);
    }),
    op("BufferAllocator::wrap_foreign_allocation of nothing", |w| {
        let mut foreign = Some(w.foreign(0));
        w.act(&mut foreign, |it| {
            put_back(it, |it| w.leaf.wrap_foreign_allocation(it))
        });
    }),
    op("ArrowBuf::registered", |w| {
        let buffer = w.leaf.wrap_foreign_allocation(w.foreign(100)).unwrap();
        w.act(&mut Some(buffer), |it| {
            done(it.take().map(ArrowBuf::registered))
        });
    }),
    op("ArrowBuf::downgrade", |w| {
        let mut buffer = w.leaf.wrap_foreign_allocation(w.foreign(100)).unwrap();
        w.act(&mut buffer, |it| done(Opaque(it.downgrade())));
    }),
    op("ArrowBuf::drop of foreign memory", |w| {
        let buffer = w.leaf.wrap_foreign_allocation(w.foreign(100)).unwrap();
        w.act_quietly(&mut Some(buffer), |it| drop(it.take()));
    }),
    op("ArrowBuf::drop of foreign memory that is shared", |w| {
        let buffer = w.leaf.wrap_foreign_allocation(w.foreign(100)).unwrap();
        let shared = buffer.retain_in(&w.right).unwrap();
        w.act_quietly(&mut (Some(buffer), Some(shared)), |it| {
            drop(it.0.take());
            drop(it.1.take());
        });
    }),
    op("ForeignRoom::new", |w| {
        w.act(&mut (), |()| {
            ForeignRoom::new(&w.leaf, 5000, &mut []).map(Room)
        });
    }),
    op("ForeignRoom::new when memory is short", |w| {
        w.fill_cache();
        w.act(&mut (), |()| {
            ForeignRoom::new(&w.leaf, 5000, &mut []).map(Room)
        });
    }),
    op("ForeignRoom::forced", |w| {
        let held = w.fill();
        w.act(&mut (), |()| {
            ForeignRoom::forced(&w.leaf, 5000, &mut []).map(|it| Room(it.0))
        });
        drop(held);
    }),
    op("ForeignRoom::out_of", |w| {
        let mut reservation = w.leaf.new_reservation();
        reservation.add(100).unwrap();
        w.act(&mut reservation, |it| {
            // The room borrows the reservation, so that it is dropped here.
            ForeignRoom::out_of(it, 5000, &mut []).map(|room| drop(Opaque(room)))
        });
    }),
    op("ForeignRoom::wrap", |w| {
        let room = Room(ForeignRoom::new(&w.leaf, 5000, &mut []).unwrap());
        w.act(&mut (room, Some(w.foreign(300))), |(room, foreign)| {
            put_back(foreign, |it| room.0.wrap(it))
        });
    }),
    op("ForeignRoom::wrap beyond it", |w| {
        let room = Room(ForeignRoom::new(&w.leaf, 100, &mut []).unwrap());
        w.fill_cache();
        w.act(&mut (room, Some(w.foreign(300))), |(room, foreign)| {
            put_back(foreign, |it| room.0.wrap(it))
        });
    }),
    op("ForeignRoom::take_back", |w| {
        let mut room = ForeignRoom::new(&w.leaf, 5000, &mut []).unwrap();
        let buffer = room.wrap(w.foreign(300)).unwrap();
        w.act(&mut (Room(room), Some(buffer)), |(room, buffer)| {
            done(buffer.take().is_some_and(|it| room.0.take_back(it)))
        });
    }),
    op("ForeignRoom::drop", |w| {
        let room = Room(ForeignRoom::new(&w.leaf, 5000, &mut []).unwrap());
        w.act_quietly(&mut Some(room), |it| drop(it.take()));
    }),
];

struct Room<'a>(ForeignRoom<'a>);

impl State for Room<'_> {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes(self.0.size());
    }

    fn describe(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Passes foreign memory on, and puts it back if it was refused.
fn put_back(
    slot: &mut Option<ForeignAllocation>,
    act: impl FnOnce(ForeignAllocation) -> Result<ArrowBuf, ForeignError>,
) -> Result<ArrowBuf, arrow_memory_core::AllocError> {
    let foreign = slot.take().expect("it was put back");
    act(foreign).map_err(|error| {
        *slot = Some(error.allocation);
        error.source
    })
}
