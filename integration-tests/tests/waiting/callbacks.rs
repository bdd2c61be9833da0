//! Where nobody may wait: a request inside a callback is granted or refused at once, and never queued.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, BufferAllocator, ForeignAllocation,
    RootAllocator, RoundingPolicy, Veto,
};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Woken, assert_empty, builder, full, poll, poll_with};

/// Asks for memory that is there and for memory that is not, and notes which places queue a request.
struct Probe {
    /// A tree without listeners. 64 bytes of it are free.
    full: BufferAllocator,
    met: Mutex<BTreeSet<&'static str>>,
    queued: Mutex<BTreeSet<&'static str>>,
}

impl Probe {
    fn at(&self, place: &'static str) {
        let mut granted = Box::pin(self.full.wait().reserve_async(64));
        let granted = poll_with(&mut granted, Waker::noop());
        let granted = matches!(granted, Poll::Ready(Ok(_)));
        assert!(granted, "{place}: it fits");
        let mut waits = Box::pin(self.full.wait().reserve_async(128));
        let mut admission = Box::pin(self.full.admit("q").reservation(128).into_future());
        if poll_with(&mut waits, Waker::noop()).is_pending()
            || poll_with(&mut admission, Waker::noop()).is_pending()
        {
            self.queued.lock().unwrap().insert(place);
        }
        self.met.lock().unwrap().insert(place);
    }
}

struct Listener(Arc<Probe>);

impl AllocationListener for Listener {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        self.0.at("on_pre_allocation");
        Ok(())
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        self.0.at("on_allocation");
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        self.0.at("on_release");
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        self.0.at("on_failed_allocation");
        false
    }

    fn on_transfer(&self, _: &AllocatorInfo, _: &AllocatorInfo, _: usize) {
        self.0.at("on_transfer");
    }

    fn on_child_added(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        self.0.at("on_child_added");
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        self.0.at("on_child_removed");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.at("drop of a listener");
    }
}

/// Rounds to 64 bytes.
#[derive(Debug)]
struct Policy {
    _asks: Dropped,
}

impl RoundingPolicy for Policy {
    fn rounded_size(&self, size: usize) -> usize {
        size.next_multiple_of(64)
    }
}

/// Asks when it is dropped.
struct Dropped(Arc<Probe>, &'static str);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.at(self.1);
    }
}

impl std::fmt::Debug for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.1)
    }
}

struct WakerOf(Dropped);

impl Wake for WakerOf {
    fn wake(self: Arc<Self>) {
        self.0.0.at("waker");
    }
}

/// Hears everything of `arrow_memory_core`, if it has a probe.
struct Hears(Option<Arc<Probe>>);

impl Hears {
    fn at(&self, place: &'static str) {
        if let Some(probe) = &self.0 {
            probe.at(place);
        }
    }
}

impl Subscriber for Hears {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.is_some() && metadata.target().starts_with("arrow_memory_core")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.at("new span");
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.at("event");
    }
}

/// Runs `meets` with a probe, and checks that the places were met, and that none of them queued a request.
fn assert_never_queued(places: &[&'static str], meets: impl FnOnce(&Arc<Probe>)) {
    static ONCE: Once = Once::new();
    // A subscriber for all threads: without one, what is emitted first is skipped from then on.
    ONCE.call_once(|| tracing::subscriber::set_global_default(Hears(None)).unwrap());
    let (root, held) = full(1024, 64);
    let probe = Arc::new(Probe {
        full: (*root).clone(),
        met: Mutex::default(),
        queued: Mutex::default(),
    });

    meets(&probe);

    let met = std::mem::take(&mut *probe.met.lock().unwrap());
    assert_eq!(met, places.iter().copied().collect());
    let queued = std::mem::take(&mut *probe.queued.lock().unwrap());
    assert_eq!(queued, BTreeSet::new(), "a request was queued there");
    drop((probe, held));
    assert_empty(&root);
}

#[test]
fn a_request_inside_a_listener_is_never_queued() {
    let places = [
        "on_pre_allocation",
        "on_allocation",
        "on_release",
        "on_failed_allocation",
        "on_transfer",
        "on_child_added",
        "on_child_removed",
        "drop of a listener",
    ];
    assert_never_queued(&places, |probe| {
        let listener = Arc::new(Listener(Arc::clone(probe)));
        let root = builder(4096).listener(listener).build().unwrap();
        let (a, b) = (
            root.child("a").build().unwrap(),
            root.child("b").build().unwrap(),
        );
        let mut buffer = a.wait().buffer(64).unwrap();
        a.wait().grow(&mut buffer, 1024).unwrap();
        buffer.resize(100, 1).unwrap();
        buffer.shrink_to_fit().unwrap();
        let buffer = buffer.freeze();
        let shared = buffer.retain_in(&b).unwrap();
        drop(buffer); // its bytes move to `b`
        let moved = shared.transfer_ownership(&a).unwrap();
        drop(moved);
        a.wait()
            .at_most(Duration::ZERO)
            .buffer(1 << 20)
            .unwrap_err();
        drop((shared, a, b));
        assert_empty(&root);
    });
}

#[test]
fn a_request_inside_the_listener_of_an_allocation_that_does_not_wait_is_never_queued() {
    let places = [
        "on_pre_allocation",
        "on_allocation",
        "on_release",
        "drop of a listener",
    ];
    assert_never_queued(&places, |probe| {
        let listener = Arc::new(Listener(Arc::clone(probe)));
        let root = builder(4096).listener(listener).build().unwrap();
        drop(root.buffer(64).unwrap());
    });
}

#[test]
fn a_request_inside_a_drop_that_the_tree_calls_is_never_queued() {
    let places = ["owner of foreign memory", "drop of a policy"];
    assert_never_queued(&places, |probe| {
        let root = RootAllocator::new(4096);
        let dropped = |place| Dropped(Arc::clone(probe), place);
        let policy = Policy {
            _asks: dropped("drop of a policy"),
        };
        let child = root.child("child").rounding_policy(policy).build().unwrap();
        let owner = (vec![1_u8; 64], dropped("owner of foreign memory"));
        let foreign = ForeignAllocation::from_owner(Owner(owner));
        drop(child.wrap_foreign_allocation(foreign).unwrap());
        drop(child);
        assert_empty(&root);
    });
}

/// Foreign memory that asks when it is dropped.
struct Owner((Vec<u8>, Dropped));

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

#[test]
fn a_request_inside_a_waker_or_its_drop_is_never_queued() {
    assert_never_queued(&["waker", "drop of a waker"], |probe| {
        let (root, held) = full(4096, 0);
        let mut waits: Vec<_> = (0..3)
            .map(|_| Box::pin(root.wait().buffer_async(64)))
            .collect();
        for waits in &mut waits {
            let waker = WakerOf(Dropped(Arc::clone(probe), "drop of a waker"));
            assert!(poll_with(waits, &Waker::from(Arc::new(waker))).is_pending());
        }
        // One waker is dropped with its future, one is replaced, and two are woken.
        drop(waits.pop());
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut waits[0], &woken).is_pending());
        drop(held);
        assert_eq!(woken.count(), 1);
        drop(waits);
        assert_empty(&root);
    });
}

#[test]
fn a_request_inside_a_tracing_subscriber_is_never_queued() {
    assert_never_queued(&["event", "new span"], |probe| {
        let subscriber = Hears(Some(Arc::clone(probe)));
        tracing::subscriber::with_default(subscriber, || {
            let (root, held) = full(1024, 0);
            let child = root.child("child").build().unwrap();
            child.buffer(64).unwrap_err();
            let mut waits = Box::pin(child.wait().buffer_async(64));
            assert!(poll_with(&mut waits, Waker::noop()).is_pending());
            drop(held);
            assert!(poll_with(&mut waits, Waker::noop()).is_ready());
            drop(waits);
            let _ = child.report();
            child.close().unwrap();
            drop(child);
            assert_empty(&root);
        });
    });
}

#[test]
fn a_request_inside_a_drop_while_the_thread_panics_is_never_queued() {
    assert_never_queued(&["drop while the thread panics"], |probe| {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _dropped = Dropped(Arc::clone(probe), "drop while the thread panics");
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
    });
}

/// The thread that computes, and has no callback around it, may wait again afterwards.
#[test]
fn a_request_after_a_callback_that_panicked_may_be_queued_again() {
    struct Panics;
    impl AllocationListener for Panics {
        fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let (root, held) = full(1024, 0);
    let child = root
        .child("child")
        .listener(Arc::new(Panics))
        .build()
        .unwrap();

    let panicked = catch_unwind(AssertUnwindSafe(|| child.wait().buffer(64).map(drop)));
    assert!(panicked.is_err());

    assert_eq!(root.snapshot().waiters.len(), 0);
    let mut waits = Box::pin(root.wait().buffer_async(64));
    assert!(poll_with(&mut waits, Waker::noop()).is_pending());
    drop((waits, held, child));
    assert_empty(&root);
}
