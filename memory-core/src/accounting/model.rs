//! Loom models: every pair of racing operations, in all interleavings that the memory model allows. The table of
//! all pairs is in `pairs`; this file and `external` have the races that ask for more.
//!
//! Run by `RUSTFLAGS='--cfg loom' cargo test --release -p arrow-memory-core --lib model`. Each checks: never over
//! the limit (but by force), never a false refusal, nothing lost at rest.
//!
//! Each of these mutations makes some of them fail: refusing without a recall; a recall that lets each child go on
//! once it was folded; a `give` that ignores SHUT; lowering a limit without a recall; a transfer that charges
//! before it releases; dropping the last handle without the mutex.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread;

use super::handle::Handle;
use super::node::{ModelStripes as Stripes, NodeConfig, NodeKind, TreeConfig};
use crate::testing::StdManager;
use crate::thread::CHOSEN;

mod adopt;
mod covered;
mod external;
mod heap;
mod pairs;
mod reservations;
pub(crate) mod waiting;

/// A root with the default credit.
fn root(limit: usize) -> Handle {
    root_with_credit(limit, 1 << 20)
}

fn root_with_credit(limit: usize, credit: usize) -> Handle {
    root_with(limit, credit, Duration::ZERO)
}

/// A root whose patience does not end while a model runs.
pub(crate) fn patient_root(limit: usize) -> Handle {
    root_with(limit, 1 << 20, PATIENCE)
}

/// The patience of a `patient_root`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

fn root_with(limit: usize, credit: usize, patience: Duration) -> Handle {
    let config = TreeConfig {
        manager: Some(Arc::new(StdManager::default())),
        credit,
        debug: false,
        statistics: false,
        patience,
        own_timer: true,
    };
    Handle::new_root(config, node("root", limit, 0))
}

fn node(name: &str, limit: usize, reservation: usize) -> NodeConfig {
    NodeConfig {
        kind: NodeKind::Allocator,
        name: Arc::from(name),
        group: None,
        limit,
        reservation,
        priority: 0,
        in_reserve: false,
        listener: None,
        policy: None,
    }
}

pub(crate) fn child(parent: &Handle, limit: usize, reservation: usize) -> Handle {
    match parent.new_child(node("child", limit, reservation), false, |refusal, _| {
        Err(refusal)
    }) {
        Ok(child) => child,
        Err(_) => panic!("the child fits"),
    }
}

fn uncharge(handle: &Handle, bytes: usize) {
    // SAFETY: the models give back what they charged.
    unsafe { handle.uncharge(bytes) };
}

/// Runs a model in all interleavings, however often it is preempted.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    explore(None, model);
}

/// Runs a model in all interleavings with at most so many preemptions.
pub(crate) fn check_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(Some(preemptions), model);
}

/// Prints how many interleavings there were.
fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let mut builder = loom::model::Builder::new();
    // For models of many steps: loom's own bound is for loops that do not end.
    builder.max_branches = 10_000;
    if preemptions.is_some() {
        builder.preemption_bound = preemptions;
    }
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} interleavings", count.load(Ordering::Relaxed));
}

/// What `stats` would say of the node's external bytes.
fn external(handle: &Handle) -> usize {
    handle.tree.lock().external(handle.ptr())
}

/// At rest: the books are right, and what is allocated is what the model says.
fn at_rest(root: &Handle, allocated: usize) {
    root.verify().unwrap();
    assert_eq!(root.allocated(), allocated);
}

#[test]
fn two_children_that_fit_together_are_both_granted() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        // Leaves credit with `a`.
        a.charge(8).unwrap();
        let other = a.clone();
        let thread = thread::spawn(move || {
            uncharge(&other, 8);
            other.charge(8).unwrap();
        });

        b.charge(56).expect("56 of 64 bytes fit at any time");

        thread.join().unwrap();
        at_rest(&root, 64);
    });
}

#[test]
fn of_two_requests_that_do_not_fit_together_exactly_one_is_granted() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(8).unwrap();
        uncharge(&a, 8);
        let (left, right) = (a.clone(), b.clone());
        let thread = thread::spawn(move || left.charge(40).is_ok());

        let right = right.charge(40).is_ok();

        assert!(
            thread.join().unwrap() ^ right,
            "one of them fits, two do not"
        );
        at_rest(&root, 40);
    });
}

#[test]
fn bytes_that_move_between_siblings_do_not_make_a_walking_recall_refuse() {
    check(|| {
        let root = root(64);
        let (a, b, c) = (
            child(&root, 64, 0),
            child(&root, 64, 0),
            child(&root, 64, 0),
        );
        for handle in [&a, &b] {
            handle.charge(16).unwrap();
        }
        uncharge(&b, 16);
        let (from, to) = (a.clone(), b.clone());
        // At most 16 bytes are allocated at any time.
        let thread = thread::spawn(move || {
            uncharge(&from, 16);
            to.charge(16).expect("16 of 64 bytes beside 48");
        });

        c.charge(48)
            .expect("48 of 64 bytes fit beside 16, wherever those are");

        thread.join().unwrap();
        at_rest(&root, 64);
    });
}

#[test]
fn a_release_races_with_a_request_that_waits_for_it() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(64).unwrap();
        let other = a.clone();
        let thread = thread::spawn(move || uncharge(&other, 64));

        let granted = root.charge(32).is_ok();

        thread.join().unwrap();
        at_rest(&root, if granted { 32 } else { 0 });
    });
}

#[test]
fn force_races_with_a_request_and_is_seen() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(8).unwrap();
        uncharge(&a, 8);
        let other = root.clone();
        let thread = thread::spawn(move || other.force_external(60).unwrap());

        let granted = a.charge(8).is_ok();

        let fitted = thread.join().unwrap();
        assert_eq!(
            fitted, !granted,
            "the request came before the force, or did not fit"
        );
        at_rest(&root, if granted { 68 } else { 60 });
    });
}

#[test]
fn a_lowered_limit_holds_for_what_comes_after_it() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(8).unwrap();
        uncharge(&a, 8);
        let other = a.clone();
        let thread = thread::spawn(move || other.charge(8).is_ok());

        root.set_limit(4);
        assert!(a.charge(8).is_err(), "the new limit is in force");

        let granted = thread.join().unwrap();
        at_rest(&root, if granted { 8 } else { 0 });
    });
}

#[test]
fn a_close_sees_a_charge_or_refuses_it() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(8).unwrap();
        uncharge(&a, 8);
        let other = a.clone();
        let thread = thread::spawn(move || other.charge(8).is_ok());

        let closed = a.close().is_ok();

        let granted = thread.join().unwrap();
        assert_eq!(closed, !granted);
        at_rest(&root, if granted { 8 } else { 0 });
        if granted {
            uncharge(&a, 8);
        }
        at_rest(&root, 0);
        assert!(
            a.parent().is_none(),
            "it left the tree when the last bytes went"
        );
    });
}

#[test]
fn a_transfer_is_one_step_for_the_common_ancestor() {
    check(|| {
        let root = root(64);
        let (a, b, c) = (
            child(&root, 64, 0),
            child(&root, 64, 0),
            child(&root, 64, 0),
        );
        b.charge(8).unwrap();
        uncharge(&b, 8);
        a.charge(32).unwrap();
        let (from, to) = (a.clone(), b.clone());
        let thread = thread::spawn(move || {
            assert!(from.tree.lock().transfer(from.ptr(), to.ptr(), 32).unwrap());
        });

        c.charge(32).expect("32 bytes are free at any time");
        assert_eq!(root.allocated(), 64);

        thread.join().unwrap();
        at_rest(&root, 64);
        assert_eq!((a.allocated(), b.allocated()), (0, 32));
        assert_eq!(root.peak(), 64, "both sides were never charged at once");
    });
}

#[test]
fn a_transfer_from_below_another_level_is_one_step_for_the_common_ancestor() {
    check(|| {
        let root = root(64);
        let middle = child(&root, 64, 0);
        let (a, b, c) = (
            child(&middle, 64, 0),
            child(&root, 64, 0),
            child(&root, 64, 0),
        );
        a.charge(32).unwrap();
        let (from, to) = (a.clone(), b.clone());
        let thread = thread::spawn(move || {
            assert!(from.tree.lock().transfer(from.ptr(), to.ptr(), 32).unwrap());
        });

        c.charge(32).expect("32 bytes are free at any time");
        assert_eq!(root.allocated(), 64);

        thread.join().unwrap();
        at_rest(&root, 64);
        assert_eq!((a.allocated(), middle.allocated()), (0, 0));
        assert_eq!((b.allocated(), root.peak()), (32, 64));
    });
}

#[test]
fn a_transfer_to_a_striped_node_and_a_request_there_share_its_limit() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 24, 0));
        b.charge(4).unwrap();
        let stripes = &mut Some(Stripes::new(2));
        root.tree.lock().install_stripes(b.ptr(), stripes);
        a.charge(16).unwrap();
        let (from, to) = (a.clone(), b.clone());
        let thread = thread::spawn(move || {
            CHOSEN.with(|number| number.set(1));
            let mut locked = from.tree.lock();
            locked.try_transfer(from.ptr(), to.ptr(), 16).is_ok()
        });

        uncharge(&b, 4);
        let granted = b.charge(12).is_ok();

        assert!(
            thread.join().unwrap() ^ granted,
            "one of them fits, two do not"
        );
        at_rest(&root, if granted { 28 } else { 16 });
        assert_eq!(b.allocated(), if granted { 12 } else { 16 });
        assert!(b.peak() <= 24);
    });
}

#[test]
fn a_refused_transfer_is_never_seen() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 16, 0));
        a.charge(32).unwrap();
        let (from, to) = (a.clone(), b.clone());
        let thread = thread::spawn(move || {
            let refused = from.tree.lock().try_transfer(from.ptr(), to.ptr(), 32);
            assert!(refused.is_err());
        });

        b.charge(16)
            .expect("the transfer that does not fit takes no room");
        assert_eq!(a.allocated(), 32);

        thread.join().unwrap();
        at_rest(&root, 48);
    });
}

#[test]
fn the_last_handle_races_with_the_last_bytes() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(8).unwrap();
        let ptr = a.ptr();
        let thread = thread::spawn(move || {
            // SAFETY: eight bytes are charged to the node, and keep it until here.
            unsafe { ptr.uncharge(8) };
        });

        drop(a);

        thread.join().unwrap();
        at_rest(&root, 0);
        assert!(root.children().is_empty());
    });
}

#[test]
fn the_last_bytes_of_a_tree_race_with_its_last_handle() {
    check(|| {
        let root = root(64);
        root.charge(8).unwrap();
        let ptr = root.ptr();
        let thread = thread::spawn(move || {
            // SAFETY: as above; the last one frees the tree.
            unsafe { ptr.uncharge(8) };
        });

        drop(root);

        thread.join().unwrap();
    });
}

#[test]
fn a_weak_handle_is_upgraded_or_not_while_the_last_one_goes() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        let weak = a.downgrade();
        let thread = thread::spawn(move || drop(a));

        if let Some(again) = Handle::upgrade(&weak) {
            again.charge(8).unwrap();
            uncharge(&again, 8);
        }

        thread.join().unwrap();
        at_rest(&root, 0);
        assert!(Handle::upgrade(&weak).is_none());
    });
}

#[test]
fn what_a_later_handle_charges_does_not_go_with_the_last_one_before_it() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        a.charge(8).unwrap();
        let ptr = a.ptr();
        let thread = thread::spawn(move || {
            // SAFETY: eight bytes are charged to the node, and keep it until the end.
            let again = unsafe { ptr.handle() };
            again.charge_external(4).unwrap();
            again.release_external(4);
        });

        drop(a);

        thread.join().unwrap();
        at_rest(&root, 8);
        // SAFETY: as above.
        unsafe { ptr.uncharge(8) };
        at_rest(&root, 0);
    });
}

#[test]
fn stripes_share_one_limit() {
    check(|| {
        let root = root(64);
        let lock = || root.tree.lock();
        lock().install_stripes(root.ptr(), &mut Some(Stripes::new(2)));
        root.charge(4).unwrap();
        uncharge(&root, 4);
        let other = root.clone();
        let thread = thread::spawn(move || {
            CHOSEN.with(|number| number.set(1));
            other.charge(24).expect("24 beside 40");
            uncharge(&other, 8);
        });

        root.charge(40).expect("40 beside 24");

        thread.join().unwrap();
        at_rest(&root, 56);
        assert!(root.charge(9).is_err());
    });
}
