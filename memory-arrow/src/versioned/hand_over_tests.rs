//! Adoption and moves that consume their source: what is charged when, and what an error leaves.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::testing::RecordingListener;
use arrow_memory_core::{
    AllocationListener, AllocatorInfo, BufferAllocator, RootAllocator, TransferError,
};
use arrow_memory_system as _;

use super::builder::Int64Builder;
use super::deps::arrow_array::*;
use super::deps::arrow_buffer::Buffer;
use super::deps::arrow_schema::ArrowError;
use super::{Accounted, arrow_buf, into_buffer, known};
use crate::error::MemoryError;

/// 800 bytes.
fn array() -> Int64Array {
    Int64Array::from(vec![7; 100])
}

/// Two columns of 800 bytes.
fn batch() -> RecordBatch {
    let column = || Arc::new(array()) as ArrayRef;
    RecordBatch::try_from_iter([("a", column()), ("b", column())]).unwrap()
}

fn child(root: &BufferAllocator, name: &str) -> BufferAllocator {
    root.child(name).build().unwrap()
}

/// What was adopted is the only array there is, so nothing stays uncharged behind it.
#[test]
fn an_adopted_array_takes_its_source_along() {
    let root = RootAllocator::new(1 << 20);
    let theirs = Buffer::from_vec(vec![1_u8; 500]);
    let watched = theirs.clone();

    let ours = theirs.adopt(&root).unwrap();
    drop(ours);

    assert_eq!((root.allocated_memory(), watched.strong_count()), (0, 1));
}

#[test]
fn a_refusal_hands_back_what_was_given() {
    let root = RootAllocator::new(799);

    let refused = array().adopt(&root).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!(refused.value, array());
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a text"; 1000]));
    let refused = text.adopt(&root).unwrap_err();
    assert_eq!(refused.value.len(), 1000);
    assert_eq!((root.allocated_memory(), root.stats().own_bytes), (0, 0));
}

#[test]
fn a_move_leaves_no_handle_behind_on_the_source() {
    let root = RootAllocator::new(1 << 20);
    let (aggregate, results) = (child(&root, "aggregate"), child(&root, "results"));
    let output = batch().adopt(&aggregate).unwrap();
    let built = {
        let mut builder = Int64Builder::new(&aggregate);
        builder.append_slice(&[1, 2, 3]).unwrap();
        builder.finish()
    };

    // Shadowed, as one writes it: with a source that stays alive, `close` failed.
    let output = output.try_move_to(&results).unwrap();
    let built = built.try_move_to(&results).unwrap();
    aggregate.close().unwrap();

    assert_eq!(results.allocated_memory(), 1600 + 64);
    drop((output, built));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_refused_move_says_what_the_core_said_and_changes_nothing() {
    let root = RootAllocator::new(1 << 20);
    let (scan, small) = (child(&root, "scan"), root.child("small").limit(1000));
    let small = small.build().unwrap();
    let moved = batch().adopt(&scan).unwrap();

    let refused = moved.try_move_to(&small).unwrap_err();

    let MemoryError::Transfer(core) = &refused.source else {
        panic!("{refused}");
    };
    assert_eq!(refused.to_string(), core.to_string());
    let TransferError::DoesNotFit { bytes, outcome, .. } = core else {
        panic!("{core}");
    };
    // The second column, beside the first.
    assert_eq!((*bytes, outcome.headroom()), (800, 200));
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (1600, 0)
    );
    small.set_limit(1600);
    let moved = refused.value.try_move_to(&small).unwrap();
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (0, 1600)
    );
    drop(moved);
}

/// Reserve, run the kernel, adopt: without the reservation standing in the way of what it is for.
#[test]
fn a_kernels_output_comes_out_of_the_reservation_exactly() {
    let root = RootAllocator::new(2000);
    let mut room = root.new_reservation();
    room.add(1800).unwrap();

    let output = batch().adopt_from(&mut room).unwrap();

    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    assert_eq!(root.peak_memory_allocation(), 1800);
    // It is known now: nothing more is taken for it.
    let again = output.clone().adopt_from(&mut room).unwrap();
    let slice = output.slice(3, 4).adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    drop((output, again, slice));
    assert_eq!((room.size(), root.allocated_memory()), (200, 200));
}

#[test]
fn what_exceeds_the_reservation_is_charged_besides_or_all_is_refused() {
    let root = RootAllocator::new(1700);
    let mut room = root.new_reservation();
    room.add(1000).unwrap();
    root.allocate_bytes(101).unwrap();

    let refused = batch().adopt_from(&mut room).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!((room.size(), root.allocated_memory()), (1000, 1101));

    root.release_bytes(1);
    let output = refused.value.adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (0, 1700));
    assert_eq!(root.peak_memory_allocation(), 1700);
    drop(output);
}

#[test]
fn a_veto_leaves_the_reservation_as_it_was_and_is_asked_for_once() {
    let listener = Arc::new(RecordingListener::new());
    let root = RootAllocator::builder().limit(2000);
    let root = root.listener(listener.clone()).build().unwrap();
    let mut room = root.new_reservation();
    room.add(1700).unwrap();
    listener.take();

    listener.veto(true);
    let refused = batch().adopt_from(&mut room).unwrap_err();
    assert_eq!((room.size(), root.allocated_memory()), (1700, 1700));
    assert_eq!(listener.take().len(), 1);
    listener.veto(false);
    let output = refused.value.adopt_from(&mut room).unwrap();

    assert_eq!(listener.take().len(), 3, "asked once, told of two columns");
    assert_eq!((room.size(), root.allocated_memory()), (100, 1700));
    drop(output);
}

#[test]
fn a_closed_allocator_takes_nothing_out_of_its_reservation() {
    let root = RootAllocator::new(2000);
    let mut room = root.new_reservation();
    room.add(1700).unwrap();
    root.close().unwrap_err();

    let refused = batch().adopt_from(&mut room).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (1700, 1700));
    assert_eq!(refused.value, batch());
}

/// Nobody else can have the bytes between the reservation and the adoption: another thread asks for
/// them all the time.
#[test]
fn nobody_takes_reserved_bytes_while_they_are_adopted() {
    use std::sync::atomic::AtomicBool;

    let root = RootAllocator::new(200 * 1600);
    let done = AtomicBool::new(false);
    let mut room = root.new_reservation();
    room.add(200 * 1600).unwrap();
    let outputs: Vec<_> = std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(
                    root.allocate_bytes(1).is_err(),
                    "all is reserved, or adopted"
                );
            }
        });
        let adopt = |_| batch().adopt_from(&mut room).unwrap();
        let outputs = (0..200).map(adopt).collect();
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
        outputs
    });
    assert_eq!((room.size(), root.allocated_memory()), (0, 200 * 1600));
    drop(outputs);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn refusals_convert_with_a_question_mark() {
    fn memory(root: &BufferAllocator) -> Result<RecordBatch, MemoryError> {
        Ok(batch().adopt(root)?)
    }
    fn arrow(root: &BufferAllocator) -> Result<RecordBatch, ArrowError> {
        Ok(batch().adopt(root)?)
    }
    fn boxed(root: &BufferAllocator) -> Result<RecordBatch, Box<dyn Error + Send + Sync>> {
        Ok(batch().adopt(root)?)
    }
    fn core(root: &BufferAllocator) -> Result<(), MemoryError> {
        root.root_allocator().empty().try_move_to(root)?;
        let ours = root.root_allocator().buffer_from_slice(&[1])?;
        ours.try_move_to(root)?;
        Ok(())
    }
    fn transfer(from: &BufferAllocator, to: &BufferAllocator) -> Result<(), TransferError> {
        from.empty().adopt(to)?;
        from.empty().try_move_to(to)?;
        Ok(())
    }
    fn io(from: &BufferAllocator, to: &BufferAllocator) -> Result<(), std::io::Error> {
        from.buffer_from_slice(&[1])?.try_move_to(to)?;
        Ok(())
    }
    let root = RootAllocator::new(100);
    let none = root.child("none").limit(0).build().unwrap();

    let text = memory(&none).unwrap_err().to_string();
    let error = arrow(&none).unwrap_err();
    assert!(MemoryError::from(error).is_out_of_memory());
    let error = boxed(&none).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert!(
        error
            .downcast_ref::<MemoryError>()
            .is_some_and(MemoryError::is_out_of_memory)
    );
    assert!(core(&none).unwrap_err().is_out_of_memory());
    let elsewhere = transfer(&RootAllocator::new(0), &none).unwrap_err();
    assert!(matches!(elsewhere, TransferError::DifferentRoots { .. }));
    let error = io(&root, &none).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    let refused = batch().adopt(&none).unwrap_err();
    assert_eq!(format!("{refused:?}"), format!("{:?}", refused.source));
    assert_eq!(format!("{refused}"), text);
    assert_eq!(root.allocated_memory(), 0);
}

/// Adopts an array, once, when it hears that memory is adopted: between the charge of an adoption and
/// the entry that it is found by.
struct Overtaking {
    array: Int64Array,
    root: OnceLock<BufferAllocator>,
    winner: Mutex<Option<Int64Array>>,
}

impl AllocationListener for Overtaking {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        // What this adopts is told of, too, with the root taken out.
        let Some(root) = self.root.get() else { return };
        let mut winner = match self.winner.try_lock() {
            Ok(winner) if winner.is_none() => winner,
            _ => return,
        };
        *winner = Some(self.array.clone().adopt(root).unwrap());
    }
}

/// The one who comes too late took bytes out of its reservation by then, and gave them to whoever came.
#[test]
fn who_is_overtaken_has_its_reserved_bytes_again() {
    for debug in [false, true] {
        let overtaking = Arc::new(Overtaking {
            array: array(),
            root: OnceLock::new(),
            winner: Mutex::new(None),
        });
        let root = RootAllocator::builder()
            .limit(2000)
            .debug(debug)
            .listener(overtaking.clone())
            .build()
            .unwrap();
        let mut room = root.new_reservation();
        room.add(900).unwrap();
        overtaking.root.set(root.root_allocator()).unwrap();

        let late = overtaking.array.clone().adopt_from(&mut room).unwrap();

        assert!(overtaking.winner.lock().unwrap().is_some(), "overtaken");
        assert_eq!((room.size(), root.allocated_memory()), (900, 1700));
        assert_eq!(root.stats().foreign_bytes, 800);
        root.verify().unwrap();
        *overtaking.winner.lock().unwrap() = Some(array());
        drop(late);
        assert_eq!((room.size(), root.allocated_memory()), (900, 900));
    }
}

#[test]
fn adoptions_of_the_same_memory_out_of_two_reservations_take_it_from_one() {
    use std::sync::Barrier;

    const ROUNDS: usize = 2000;
    let root = RootAllocator::new(4000);
    let start = Barrier::new(2);
    let sources: Vec<_> = (0..ROUNDS).map(|_| array()).collect();
    let mut rooms = [root.new_reservation(), root.new_reservation()];
    for room in &mut rooms {
        room.add(2000).unwrap();
    }

    std::thread::scope(|threads| {
        for room in &mut rooms {
            threads.spawn(|| {
                for source in &sources {
                    start.wait();
                    let ours = source.clone().adopt_from(room).unwrap();
                    start.wait();
                    // All that there is is reserved, or adopted.
                    assert_eq!(root.allocated_memory(), 4000);
                    drop(ours);
                    // What was adopted is free now, for the next round.
                    start.wait();
                    room.add(2000 - room.size()).unwrap();
                }
            });
        }
    });

    assert_eq!(root.peak_memory_allocation(), 4000);
    drop(rooms);
    assert_eq!(root.allocated_memory(), 0);
}

struct Panics;

impl AllocationListener for Panics {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        panic!("told of an allocation");
    }
}

#[test]
fn a_listener_that_panics_leaves_the_reservation_as_it_was() {
    let root = RootAllocator::builder().limit(1000);
    let root = root.listener(Arc::new(Panics)).build().unwrap();
    let child = child(&root, "child");
    let mut room = child.new_reservation();
    room.add(900).unwrap();

    let adopt = || array().adopt_from(&mut room).is_ok();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(adopt)).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (900, 900));
    root.verify().unwrap();
}

/// Counts what it is told of, and runs a hook when it is told of an allocation.
struct Nth<F> {
    told: AtomicUsize,
    at: usize,
    run: F,
}

impl<F: Fn() + Send + Sync> AllocationListener for Nth<F> {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        // Relaxed: one thread.
        if self.told.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            (self.run)();
        }
    }
}

/// The piece that the listener was told of went back to the reservation, and the one before it to the allocator.
#[test]
fn a_listener_that_panics_at_the_second_column_leaves_the_reservation_as_it_was() {
    let listener = Nth {
        told: AtomicUsize::new(0),
        at: 2,
        run: || panic!("told of the second column"),
    };
    let root = RootAllocator::builder().limit(2000);
    let root = root.listener(Arc::new(listener)).build().unwrap();
    let mut room = root.new_reservation();
    room.add(1800).unwrap();
    let batch = batch();

    let adopt = || batch.clone().adopt_from(&mut room).is_ok();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(adopt)).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (1800, 1800));
    root.verify().unwrap();
    let adopted = batch.adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    drop(adopted);
}

/// The second column is adopted elsewhere, and the allocator closed, while the first one is adopted: so the
/// second cannot be shared, when bytes of the reservation were charged for the first.
#[test]
fn a_close_in_the_middle_of_an_adoption_leaves_the_reservation_as_it_was() {
    let root = OnceLock::<BufferAllocator>::new();
    let batch = batch();
    let second = batch.column(1).clone();
    let overtaken = Arc::new((root, Mutex::new(None)));
    let listener = Nth {
        told: AtomicUsize::new(0),
        at: 1,
        run: {
            let overtaken = overtaken.clone();
            move || {
                let (root, winner) = &*overtaken;
                let [late, other] = &root.get().unwrap().child_allocators()[..] else {
                    panic!("two children");
                };
                *winner.lock().unwrap() = Some(second.clone().adopt(other).unwrap());
                late.close().unwrap_err();
            }
        },
    };
    let root = RootAllocator::builder().limit(4000);
    let root = root.listener(Arc::new(listener)).build().unwrap();
    overtaken.0.set(root.root_allocator()).unwrap();
    let (late, _other) = (child(&root, "late"), child(&root, "other"));
    let mut room = late.new_reservation();
    room.add(1800).unwrap();

    let refused = batch.adopt_from(&mut room).unwrap_err();

    assert!(overtaken.1.lock().unwrap().is_some(), "overtaken");
    assert!(matches!(refused.source, MemoryError::Transfer(_)));
    assert_eq!((room.size(), late.allocated_memory()), (1800, 1800));
    assert_eq!(root.allocated_memory(), 1800 + 800);
    root.verify().unwrap();
    *overtaken.1.lock().unwrap() = None;
}

/// The registry looked at every entry of an address, and collected them, at each lookup: 16 times as
/// many slices took 256 times as long. Counted rather than timed, so that it does not depend on what
/// else runs.
#[test]
fn many_buffers_at_one_address_are_looked_up_in_a_few_steps_each() {
    const COUNT: usize = 2000;

    let root = RootAllocator::unlimited();
    let other = child(&root, "other");
    let ours = into_buffer(root.buffer_from_slice(&[7; 20_000]).unwrap());
    let held = root.buffer_from_slice(&[7; 20_000]).unwrap();
    let theirs = Buffer::from_vec(vec![7_u8; 20_000]);
    let slices = |of: &Buffer| -> Vec<Buffer> {
        let slice = |at| of.slice_with_length(at, 4);
        (0..COUNT).map(slice).collect()
    };
    let adopted = |of: &Buffer, by: &BufferAllocator| -> Vec<Buffer> {
        let adopt = |slice: Buffer| slice.adopt(by).unwrap();
        slices(of).into_iter().map(adopt).collect()
    };
    let moved = |buffers: Vec<Buffer>, to: &BufferAllocator| -> Vec<Buffer> {
        let moved = |slice: Buffer| slice.try_move_to(to).unwrap();
        buffers.into_iter().map(moved).collect()
    };
    let recognised = |buffers: Vec<Buffer>| -> Vec<Buffer> {
        assert!(buffers.iter().all(|buffer| arrow_buf(buffer).is_some()));
        buffers
    };
    let ways: [(&str, &dyn Fn() -> Vec<Buffer>); 8] = [
        ("slices of ours", &|| adopted(&ours, &root)),
        ("slices of ours, elsewhere", &|| adopted(&ours, &other)),
        ("slices of theirs", &|| adopted(&theirs, &root)),
        ("handed on", &|| moved(adopted(&ours, &root), &other)),
        ("handed on twice", &|| {
            moved(moved(adopted(&theirs, &root), &other), &root)
        }),
        ("clones", &|| {
            let clone = |_| into_buffer(held.clone());
            recognised((0..COUNT).map(clone).collect())
        }),
        ("ever wider", &|| {
            let prefix = |len| into_buffer(held.slice(..len));
            recognised((1..=COUNT).map(prefix).collect())
        }),
        ("ever narrower", &|| {
            let prefix = |len| into_buffer(held.slice(..len));
            recognised((1..=COUNT).rev().map(prefix).collect())
        }),
    ];
    for (name, run) in ways {
        let before = known::looked_at();
        drop(run());
        let steps = (known::looked_at() - before) as f64 / COUNT as f64;
        assert!(steps <= 20.0, "{name}: {steps} entries for each");
    }
    assert_eq!(root.allocated_memory(), 2 * 20_032);
}
