//! What a giver is charged for that has handed memory over and keeps it.
#![expect(unsafe_code, reason = "makes a buffer of memory that a test owns")]

use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_system as _;

use super::super::deps::arrow_array::types::Int32Type;
use super::super::deps::arrow_array::*;
use super::super::deps::arrow_buffer::Buffer;
use super::super::{Accounted, known};
use super::{array, batch, child};
use crate::hand_over::HandOver;
use crate::kept::Kept;

fn giver_and_receiver(root: &BufferAllocator) -> [BufferAllocator; 2] {
    ["giver", "receiver"].map(|name| child(root, name))
}

#[test]
fn between_slices_the_giver_pays_for_what_it_slices() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let groups = batch();
    let charges = || (giver.allocated_memory(), receiver.allocated_memory());

    for at in 0..10 {
        let slice = groups.slice(10 * at, 10).hand_over(&by).unwrap().value;
        kept.sweep(256);
        assert_eq!(charges(), (0, 1600));
        drop(slice);
        assert_eq!(charges(), (1600, 0));
        kept.sweep(256);
        assert_eq!(charges(), (1600, 0), "the giver has the groups");
    }
    let last = groups.slice(0, 1).hand_over(&by).unwrap().value;
    drop(groups);
    kept.sweep(256);
    assert_eq!(charges(), (0, 1600));
    drop(last);
    assert_eq!(root.allocated_memory(), 0);
    giver.close().unwrap();
}

#[test]
fn what_the_giver_let_go_of_is_not_kept() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let names: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let of_texts = StringArray::from_iter_values(["a", "b", "c"]);
    let columns: [ArrayRef; 4] = [
        Arc::new(names),
        Arc::new(of_texts),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int64Array::from(vec![1, 2, 3])),
    ];
    let named = columns.into_iter().enumerate();
    let named = named.map(|(at, column)| (format!("{at}"), column));
    let whole = RecordBatch::try_from_iter(named).unwrap();

    let handed = whole.hand_over(&by).unwrap().value;

    assert_eq!(format!("{kept:?}"), "Kept { len: 0, .. }");
    giver.close().unwrap();
    drop(handed);
    assert_eq!(root.allocated_memory(), 0);
}

/// The owner of an array is counted, and its buffers are not: a shared array must not look as if nobody else had it.
#[test]
fn an_array_that_the_giver_has_as_it_is_counts_like_a_buffer() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let arrays: [ArrayRef; 2] = [
        Arc::new(array()),
        Arc::new(BooleanArray::from(vec![true; 100])),
    ];
    for array in arrays {
        let size = array.clone().adopt(&root).unwrap().accounted_size();
        drop(array.clone().hand_over(&by).unwrap());

        assert_eq!(giver.allocated_memory(), size, "{}", array.data_type());
        drop(array);
        kept.sweep(256);
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn a_refusal_keeps_nothing_and_a_forced_hand_over_keeps() {
    let root = RootAllocator::new(1 << 20);
    let giver = child(&root, "giver");
    let small = root.child("small").limit(100).build().unwrap();
    let kept = Kept::new();
    let by = HandOver::new(&giver, &small).kept(&kept);
    let groups = batch();

    let refused = groups.slice(0, 1).hand_over(&by).unwrap_err();
    assert_eq!(root.allocated_memory(), 0);
    let handed = refused.value.hand_over(&by.forced()).unwrap();
    drop(handed);

    assert_eq!(
        (giver.allocated_memory(), small.allocated_memory()),
        (1600, 0)
    );
    kept.clear();
    assert_eq!(root.allocated_memory(), 0);
    drop(groups);
}

#[test]
fn nothing_is_kept_for_a_closed_giver() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    giver.close().unwrap();
    let kept = Kept::new();
    let groups = batch();

    let by = HandOver::new(&giver, &receiver).kept(&kept);
    drop(groups.slice(0, 1).hand_over(&by).unwrap());

    assert_eq!(root.allocated_memory(), 0);
    drop(groups);
}

/// More than one sweep looks at. Each is let go of in the end, and steps stay few while they are not.
#[test]
fn a_giver_that_keeps_many_is_swept_in_parts() {
    const MANY: usize = 1000;
    let root = RootAllocator::unlimited();
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let all: Vec<_> = (0..MANY).map(|_| array()).collect();
    for array in &all {
        drop(array.clone().hand_over(&by).unwrap());
        kept.sweep(256);
    }
    assert_eq!(giver.allocated_memory(), 800 * MANY);

    // Parts of them at a time.
    let (gone, stay): (Vec<_>, Vec<_>) =
        all.into_iter().enumerate().partition(|(at, _)| at % 3 > 0);
    drop(gone);
    for _ in 0..2 * MANY.div_ceil(256) {
        kept.sweep(256);
    }

    assert_eq!(giver.allocated_memory(), 800 * stay.len());
    drop(stay);
    for _ in 0..MANY.div_ceil(256) {
        kept.sweep(256);
    }
    assert_eq!(root.allocated_memory(), 0);
    let before = known::looked_at();
    kept.sweep(256);
    assert_eq!(known::looked_at(), before);
}

/// Whoever sweeps while another thread hands over loses nothing, and drops nothing that is kept.
#[test]
fn sweeps_and_hand_overs_of_several_threads() {
    let root = RootAllocator::unlimited();
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let by = HandOver::new(&giver, &receiver).kept(&kept);
                for _ in 0..200 {
                    let groups = array();
                    drop(groups.clone().hand_over(&by).unwrap());
                    kept.sweep(256);
                    assert!(giver.allocated_memory() >= 800);
                    drop(groups);
                    kept.sweep(usize::MAX);
                }
            });
        }
    });
    // The last sweep of each thread was for all, whether or not another thread was sweeping.
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

/// A slice of an array of views has the array's own list of buffers.
#[test]
fn the_texts_that_views_lead_to_are_kept_too() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let texts = StringViewArray::from_iter_values((0..100).map(|at| format!("a long text, {at}")));

    let slice: ArrayRef = Arc::new(texts.slice(0, 10));
    let handed = slice.hand_over(&by).unwrap().value;
    let all = receiver.allocated_memory();
    assert!(all > 100 * 14, "{all}");
    drop(handed);

    assert_eq!(giver.allocated_memory(), all);
    drop(texts);
    kept.sweep(256);
    assert_eq!(root.allocated_memory(), 0);
}

/// Each tree charges its own giver as long as that has a buffer, and no longer, although the registry has a buffer for
/// each tree.
#[test]
fn givers_of_two_trees_keep_the_same_memory() {
    let trees = [(); 2].map(|()| RootAllocator::new(1 << 20));
    let operators = trees.each_ref().map(|root| giver_and_receiver(root));
    let kept = [(); 2].map(|()| Kept::new());
    let charges = || trees.each_ref().map(|root| root.allocated_memory());
    let groups = array();
    for ([giver, receiver], kept) in operators.iter().zip(&kept) {
        let by = HandOver::new(giver, receiver).kept(kept);
        drop(groups.slice(0, 10).hand_over(&by).unwrap());
    }
    let sweep = || kept.iter().map(|kept| kept.sweep(256)).sum::<usize>();

    sweep();
    assert_eq!(charges(), [800, 800]);
    drop(groups);
    sweep();
    assert_eq!(charges(), [0, 0]);

    // A cache of one tree does not make a giver of the other one pay.
    let cached = array().adopt(&trees[0]).unwrap();
    let [giver, receiver] = &operators[1];
    let by = HandOver::new(giver, receiver).kept(&kept[1]);
    let handed = cached.slice(0, 10).hand_over(&by).unwrap();
    assert_eq!(charges(), [800, 800]);
    drop(handed);
    assert_eq!(charges(), [800, 0]);
}

#[test]
fn a_sweep_of_all_looks_at_all_wherever_the_last_one_ended() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Kept::new();
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let mut arrays = [(); 6].map(|()| Some(array()));
    for array in arrays.iter().flatten() {
        drop(array.clone().hand_over(&by).unwrap());
    }
    // They stay, so that the next sweep of a part would begin behind them.
    assert_eq!(kept.sweep(3), 0);
    arrays[..4].fill(None);

    assert_eq!(kept.sweep(6), 4);

    assert_eq!(giver.allocated_memory(), 2 * 800);
    drop(arrays);
    assert_eq!(kept.sweep(2), 2);
    assert_eq!(root.allocated_memory(), 0);
}

/// The owner of some memory, which lets go of an array when it is dropped, and sweeps.
struct Sweeper {
    bytes: Box<[u8]>,
    kept: Arc<Kept>,
    array: Option<Int64Array>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.array.take());
        self.kept.sweep(usize::MAX);
    }
}

/// What is let go of after a sweep has looked at it, by code that asks for another sweep meanwhile.
#[test]
fn a_sweep_of_all_that_meets_another_one_is_not_lost() {
    let root = RootAllocator::new(1 << 20);
    let [giver, receiver] = giver_and_receiver(&root);
    let kept = Arc::new(Kept::new());
    let by = HandOver::new(&giver, &receiver).kept(&kept);
    let first = array();
    drop(first.clone().hand_over(&by).unwrap());
    let owner = Sweeper {
        bytes: vec![0; 64].into(),
        kept: Arc::clone(&kept),
        array: Some(first),
    };
    let bytes = NonNull::from(&owner.bytes[..]).cast();
    // SAFETY: the owner has these bytes for as long as it lives, and does not change them.
    let second = unsafe { Buffer::from_custom_allocation(bytes, 64, Arc::new(owner)) };
    drop(second.clone().hand_over(&by).unwrap());
    assert_eq!(giver.allocated_memory(), 864);

    drop(second);
    kept.sweep(usize::MAX);

    assert_eq!(root.allocated_memory(), 0);
}
