//! Arrays that are adopted, moved and handed over.

use std::sync::Arc;

use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_arrow::{
    Accounted, Destination, HandOver, Kept, MemoryError, Refused, Shares, adopt_buffer, arrow_buf,
    into_buffer, into_scalar_buffer,
};

use crate::state::Opaque;
use crate::sweep::{Operation, op};
use crate::world::{World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("Accounted::adopt", |w| {
        w.act(&mut Some(batch()), |it| consume(it, |it| it.adopt(&w.leaf)));
    }),
    op("Accounted::adopt when memory is short", |w| {
        w.fill_cache();
        w.act(&mut Some(batch()), |it| consume(it, |it| it.adopt(&w.leaf)));
    }),
    op("Accounted::adopt of an array", |w| {
        w.act(&mut Some(array()), |it| consume(it, |it| it.adopt(&w.leaf)));
    }),
    op("Accounted::adopt of what is charged already", |w| {
        let mut batch = Some(half_adopted(w));
        w.act(&mut batch, |it| consume(it, |it| it.adopt(&w.right)));
    }),
    op("Accounted::adopt_from", |w| {
        let mut reservation = w.leaf.new_reservation();
        reservation.add(1000).unwrap();
        w.fill_cache();
        w.act(&mut (reservation, Some(batch())), |(reservation, it)| {
            consume(it, |it| it.adopt_from(reservation))
        });
    }),
    op("Accounted::try_move_to", |w| {
        let mut batch = Some(half_adopted(w));
        w.act(&mut batch, |it| consume(it, |it| it.try_move_to(&w.right)));
    }),
    op("Accounted::transfer_ownership", |w| {
        let mut batch = Some(half_adopted(w));
        w.act(&mut batch, |it| {
            let moved = it.as_ref().map(|it| it.transfer_ownership(&w.right));
            moved.transpose().map(|it| it.map(|it| it.value))
        });
    }),
    op("Accounted::try_transfer_ownership", |w| {
        let mut batch = half_adopted(w);
        w.act(&mut batch, |it| it.try_transfer_ownership(&w.right));
    }),
    op("Accounted::hand_over", |w| {
        let mut batch = Some(half_adopted(w));
        w.act(&mut batch, |it| {
            consume(it, |it| {
                let by = HandOver::new(&w.leaf, &w.right);
                it.hand_over(&by).map(|it| it.value)
            })
        });
    }),
    op("Accounted::hand_over by force", |w| {
        let mut batch = Some(half_adopted(w));
        let held = w.fill();
        w.act(&mut batch, |it| {
            consume(it, |it| {
                let by = HandOver::new(&w.leaf, &w.right).forced();
                it.hand_over(&by).map(|it| it.value)
            })
        });
        drop(held);
    }),
    op("Accounted::hand_over of what is kept", |w| {
        let (kept, shares) = (Kept::new(), Shares::new());
        let batch = half_adopted(w);
        let clone = batch.clone();
        w.act(&mut (Some(batch), clone), |(it, _)| {
            consume(it, |it| {
                let by = HandOver::new(&w.leaf, &w.right);
                it.hand_over(&by.kept(&kept).shares(&shares))
                    .map(|it| it.value)
            })
        });
        kept.clear();
        shares.clear();
    }),
    op("Kept::sweep", |w| {
        let kept = handed_over(w);
        w.act(&mut Opaque(kept), |it| done(it.0.0.sweep(100)));
    }),
    op("Kept::clear", |w| {
        let kept = handed_over(w);
        w.act(&mut Opaque(kept), |it| done(it.0.0.clear()));
    }),
    op("Shares::sweep", |w| {
        let kept = handed_over(w);
        w.act(&mut Opaque(kept), |it| done(it.0.1.sweep()));
    }),
    op("Shares::clear", |w| {
        let kept = handed_over(w);
        w.act(&mut Opaque(kept), |it| done(it.0.1.clear()));
    }),
    op("Accounted::detach", |w| {
        let mut batch = half_adopted(w);
        w.act(&mut batch, |it| done(it.detach()));
    }),
    op("RecordBatch::drop", |w| {
        let mut batch = Some(half_adopted(w));
        w.act_quietly(&mut batch, |it| drop(it.take()));
    }),
    op("adopt_buffer", |w| {
        let mut buffer = Buffer::from_vec(vec![7_u8; 3000]);
        w.act(&mut buffer, |it| adopt_buffer(it, &w.leaf));
    }),
    op("into_buffer", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 100));
        w.act(&mut buffer, |it| done(it.take().map(into_buffer)));
    }),
    op("into_scalar_buffer", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 800));
        w.act(&mut buffer, |it| {
            done(it.take().map(into_scalar_buffer::<i64>))
        });
    }),
    op("arrow_buf", |w| {
        let buffer = into_buffer(w.buffer(&w.leaf, 100));
        w.act(&mut buffer.clone(), |it| {
            done(arrow_buf(it).map(|it| it.len()))
        });
    }),
    op("Destination::columns", |w| {
        let schema = batch().schema();
        w.act(&mut (), |()| {
            Destination::columns(&w.leaf, &schema).map(Opaque)
        });
    }),
    op("Destination::place", |w| {
        let destination = Destination::columns(&w.leaf, &batch().schema()).unwrap();
        w.act(&mut Some(batch()), |it| {
            consume(it, |it| destination.place(it))
        });
    }),
];

fn array() -> Int64Array {
    (0..500).map(|it| (it % 3 != 0).then_some(it)).collect()
}

/// A batch in the program's own memory.
fn batch() -> RecordBatch {
    let text: StringArray = (0..500).map(|it| Some(format!("row {it}"))).collect();
    let columns: [(&str, ArrayRef); 2] = [("numbers", Arc::new(array())), ("text", Arc::new(text))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A batch of which the leaf is charged for one column.
fn half_adopted(w: &World) -> RecordBatch {
    let (adopted, own) = (batch().adopt(&w.leaf).unwrap(), batch());
    let columns = vec![Arc::clone(adopted.column(0)), Arc::clone(own.column(1))];
    RecordBatch::try_new(own.schema(), columns).unwrap()
}

/// What the giver and the receiver know of a hand-over, and the batch.
fn handed_over(w: &World) -> (Kept, Shares, RecordBatch) {
    let (kept, shares) = (Kept::new(), Shares::new());
    let batch = half_adopted(w);
    let clone = batch.clone();
    let by = HandOver::new(&w.leaf, &w.right);
    let moved = batch.hand_over(&by.kept(&kept).shares(&shares)).unwrap();
    drop(clone);
    (kept, shares, moved.value)
}

/// Passes a value on, and puts it back if it was refused.
fn consume<T, U>(
    slot: &mut Option<T>,
    act: impl FnOnce(T) -> Result<U, Refused<T>>,
) -> Result<U, MemoryError> {
    let value = slot.take().expect("it was put back");
    act(value).map_err(|refused| {
        *slot = Some(refused.value);
        refused.source
    })
}
