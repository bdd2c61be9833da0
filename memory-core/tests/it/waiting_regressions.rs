//! Mistakes that requests that wait were found to have, each with its story.

use std::future::IntoFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocationListener, AllocatorInfo, Ask, Cost, Reclaim, RootAllocator, WaitError,
};
use arrow_memory_system as _;

use crate::support::{Woken, poll};

fn root(limit: usize) -> RootAllocator {
    RootAllocator::builder()
        .limit(limit)
        .own_timer(true)
        .build()
        .unwrap()
}

const K: usize = 1024;

/// A regression: a tight child below an open level keeps what is released; its looseness is not recounted.
#[test]
fn what_a_tight_child_keeps_is_seen_by_who_waits_above() {
    let root = root(8704 * K);
    let t = root.child("t").limit(8192 * K).build().unwrap();
    let mut blocks: Vec<_> = (0..128).map(|_| t.buffer(64 * K).unwrap()).collect();
    let other = root.child("other").build().unwrap();
    let o = other.buffer(512 * K).unwrap();
    let c = root.child("c").build().unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(root.admit("q").reservation(512 * K).into_future());
    assert!(poll(f.as_mut(), &w).is_pending());
    // refused at t: t is tight
    assert!(t.buffer(64 * K).is_err());
    // a few operations so that root loosens
    for _ in 0..20 {
        assert!(c.buffer(64).is_err());
    }
    assert!(t.buffer(64 * K).is_err());
    for _ in 0..8 {
        blocks.pop();
    }
    let a = w.count();
    assert_eq!(a, 1);
    drop((o, f));
}

/// A regression: a release that a reservation keeps in part.
#[test]
fn a_release_that_a_reservation_keeps_in_part_serves_who_waits_below_it() {
    let root = root(100 * K);
    let _siblings: Vec<_> = (0..60)
        .map(|i| root.child(&format!("s{i}")).build().unwrap())
        .collect();
    let n = root.child("n").reservation(50 * K).build().unwrap();
    let x = n.buffer(60 * K).unwrap();
    let other = root.child("other").build().unwrap();
    let o = other.buffer(40 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(n.wait().reserve_async(60 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    drop(x);
    let a = w.count();
    assert_eq!(a, 1);
    drop((o, f));
}

/// A regression: a waiter moves to a level that loosens first.
#[test]
fn a_waiter_moves_to_a_level_before_that_is_opened() {
    let root = root(1000 * K);
    let n = root.child("n").limit(800 * K).build().unwrap();
    let x = n.buffer(100 * K).unwrap();
    let other = root.child("other").build().unwrap();
    let o = other.buffer(900 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(n.wait().reserve_async(700 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    n.set_limit(750 * K);
    drop(o);
    assert_eq!(w.count(), 0);
    drop(x);
    assert_eq!(w.count(), 1);
    drop(f);
}

/// A regression: a transfer out of a reserved node makes room for who waits below it.
#[test]
fn a_transfer_out_of_a_reservation_serves_who_waits_below_it() {
    let root = root(200 * K);
    let _siblings: Vec<_> = (0..60)
        .map(|i| root.child(&format!("s{i}")).build().unwrap())
        .collect();
    let n = root.child("n").reservation(100 * K).build().unwrap();
    let m = root.child("m").reservation(100 * K).build().unwrap();
    let x = n.buffer(100 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(n.wait().reserve_async(50 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    let moved = x.freeze().transfer_ownership(&m);
    let a = w.count();
    assert_eq!(a, 1);
    drop((moved, f));
}

/// A regression: an older waiter became a barrier after a younger one, whose bytes were withheld no more below; who had to
/// leave room to these slept on.
#[test]
fn an_older_barrier_lets_those_go_that_a_younger_one_held_back_below() {
    let root = root(1000 * K);
    let [z, x] = ["z", "x"].map(|name| root.child(name).build().unwrap());
    let y = root.child("y").limit(400 * K).reservation(300 * K);
    let y = y.build().unwrap();
    let [yc, yw, y2] = ["yc", "yw", "y2"].map(|name| y.child(name).build().unwrap());
    y2.allocate_bytes(150 * K).unwrap();
    z.allocate_bytes(700 * K).unwrap();
    let [old, young, small] = [(); 3].map(|()| Arc::new(Woken::default()));
    let mut oldest = Box::pin(x.wait().reserve_async(500 * K));
    assert!(poll(oldest.as_mut(), &old).is_pending());
    z.release_bytes(250 * K);
    z.allocate_bytes(250 * K).unwrap();
    let mut barrier = Box::pin(yc.wait().reserve_async(200 * K));
    assert!(poll(barrier.as_mut(), &young).is_pending());
    for _ in 0..5 {
        z.release_bytes(40 * K);
        z.allocate_bytes(40 * K).unwrap();
    }
    // 150 and 200 of 400 are in use and withheld.
    let mut waits = Box::pin(yw.wait().reserve_async(100 * K));
    assert!(poll(waits.as_mut(), &small).is_pending());

    for _ in 0..2 {
        z.release_bytes(40 * K);
        z.force_allocate(40 * K);
    }

    assert_eq!(small.count(), 1);
    assert!(poll(waits.as_mut(), &small).is_ready());
    root.verify().unwrap();
    drop((oldest, barrier));
    y2.release_bytes(150 * K);
    z.release_bytes(700 * K);
}

struct Panics;
impl AllocationListener for Panics {
    fn on_child_added(&self, _: &AllocatorInfo, child: &AllocatorInfo) {
        if &*child.name == "q" {
            panic!("listener")
        }
    }
}

/// A regression: a listener panics in on_child_added: the admission's bytes are given back twice.
#[test]
fn an_admission_is_given_back_once_if_the_listener_panics() {
    let root = RootAllocator::builder()
        .limit(100 * K)
        .own_timer(true)
        .listener(Arc::new(Panics))
        .build()
        .unwrap();
    let held = root.buffer(30 * K).unwrap();
    let r = catch_unwind(AssertUnwindSafe(|| {
        let _q = root.admit("q").reservation(50 * K).blocking(Duration::ZERO);
    }));
    assert!(r.is_err());
    assert_eq!(root.allocated_memory(), 30 * K);
    root.verify().unwrap();
    drop(held);
}

/// A regression: the other part of a split buffer is dropped while growth waits.
#[test]
fn growth_that_waits_takes_the_other_part_of_its_block_if_that_is_dropped() {
    let root = root(100 * K);
    let mut a = root.buffer(64 * K).unwrap();
    a.resize(64, 1).unwrap();
    let tail = a.split_off(64);
    let c = root.child("c").build().unwrap();
    let held = c.buffer(36 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(root.wait().grow_async(&mut a, 1000));
    assert!(poll(f.as_mut(), &w).is_pending());
    drop(tail);
    drop(held);
    assert_eq!(w.count(), 1);
    let r = poll(f.as_mut(), &w);
    assert!(matches!(r, Poll::Ready(Ok(()))));
}

/// A regression: a branch with an unused part of its reservation: never refused as stuck.
#[test]
fn the_only_holder_is_refused_although_its_reservation_keeps_more_than_it_uses() {
    let root = root(100 * K);
    let q = root.child("q").reservation(100 * K).build().unwrap();
    let x = q.buffer(50 * K).unwrap();
    let mut now = Instant::now();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(q.wait().reserve_async(60 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    now += Duration::from_secs(5);
    let _ = root.expire_waits(now);
    let Poll::Ready(Err(WaitError::GiveWay(g))) = poll(f.as_mut(), &w) else {
        panic!("told")
    };
    let mut f = Box::pin(q.wait().after(g).reserve_async(60 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    for _ in 0..20 {
        now += Duration::from_secs(5);
        let _ = root.expire_waits(now);
    }
    let p = poll(f.as_mut(), &w);
    assert!(p.is_ready());
    drop(x);
}

/// A regression: patience without end.
#[test]
fn patience_may_be_longer_than_the_clock_can_tell() {
    let root = RootAllocator::builder()
        .limit(100 * K)
        .own_timer(true)
        .patience(Duration::MAX)
        .build()
        .unwrap();
    let x = root.buffer(100 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(root.wait().reserve_async(60 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    let _ = root.expire_waits(Instant::now());
    drop((x, f));
}

/// A regression: verify after a child with a reservation was created below an open level with waiters.
#[test]
fn a_new_child_with_a_reservation_is_counted_below_a_level_with_waiters() {
    let root = root(100 << 20);
    let p = root.child("p").build().unwrap();
    let o = root.child("o").build().unwrap();
    let big = o.buffer(90 << 20).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(o.wait().reserve_async(80 << 20));
    assert!(poll(f.as_mut(), &w).is_pending());
    let mut keep = vec![];
    for _ in 0..40 {
        keep.push(p.buffer(64 * K).unwrap());
    }
    root.verify().unwrap();
    let p2 = root.child("p2").build().unwrap();
    let b = p2.buffer(64 * K).unwrap();
    let x = p2.child("x").reservation(128 * K).build().unwrap();
    root.verify().unwrap();
    drop((x, b, keep, big, f));
}

/// A regression: a barrier moves down; who it held back between.
#[test]
fn who_a_barrier_held_back_is_served_when_it_moves_down() {
    let root = root(1000 * K);
    let a = root.child("a").limit(800 * K).build().unwrap();
    let n = a.child("n").limit(700 * K).build().unwrap();
    let nx = n.buffer(100 * K).unwrap();
    let _leaf = n.child("leaf").build().unwrap();
    let other = root.child("other").build().unwrap();
    let mut o = Some(other.buffer(800 * K).unwrap());
    let w1 = Arc::new(Woken::default());
    let mut b = Box::pin(n.wait().reserve_async(600 * K));
    assert!(poll(b.as_mut(), &w1).is_pending());
    for _ in 0..8 {
        let c = root.child("passes").build().unwrap();
        drop(c.buffer(100 * K));
    }
    let s = a.child("s").build().unwrap();
    let w2 = Arc::new(Woken::default());
    let mut y = Box::pin(s.wait().reserve_async(150 * K));
    assert!(poll(y.as_mut(), &w2).is_pending());
    n.set_limit(650 * K);
    drop(o.take());
    assert_eq!(w2.count(), 1);
    drop((nx, b, y));
}

/// A regression: what is loose within a reservation is forgotten by another request's recall.
#[test]
fn a_recall_does_not_forget_what_a_waiter_needs_less() {
    let missed: Vec<_> = (50..90).filter(|&ops| f12(ops)).collect();
    assert!(missed.is_empty());
}
fn f12(ops: usize) -> bool {
    const M: usize = 1 << 20;
    let root = root(100 * M);
    let _siblings: Vec<_> = (0..60)
        .map(|i| root.child(&format!("s{i}")).build().unwrap())
        .collect();
    let n = root.child("n").reservation(M).build().unwrap();
    let mut blocks: Vec<_> = (0..16).map(|_| n.buffer(64 * K).unwrap()).collect();
    let other = root.child("other").build().unwrap();
    let (a, b) = (other.buffer(39 * M).unwrap(), other.buffer(60 * M).unwrap());
    let c = root.child("c").build().unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(n.wait().reserve_async(40 * M));
    assert!(poll(f.as_mut(), &w).is_pending());
    for _ in 0..ops {
        assert!(n.buffer(2 * M).is_err());
    }
    blocks.clear(); // without the mutex, into the word, if it is open
    assert!(c.buffer(64 * K).is_err()); // recalls the root
    drop(a);
    let woken = w.count();
    let fits = n.buffer(40 * M).is_ok();
    drop((b, f));
    woken == 0 && fits
}

/// A regression: two waiters with the same deadline ... a hopeless waiter after its reservation was lowered.
#[test]
fn a_lowered_reservation_refuses_who_can_never_fit_any_more() {
    let root = root(100 * K);
    let n = root.child("n").reservation(80 * K).build().unwrap();
    let x = n.buffer(40 * K).unwrap();
    let y = root.child("o").build().unwrap().buffer(20 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(n.wait().reserve_async(70 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    root.set_limit(60 * K);
    n.set_reservation(0).unwrap();
    assert_eq!(w.count(), 1);
    drop((x, y, f));
}

type Hook = Box<dyn Fn(&str) + Send + Sync>;
struct Sub(Hook);
struct Message(String);
impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
impl tracing::Subscriber for Sub {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut m = Message(String::new());
        event.record(&mut m);
        (self.0)(&m.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A regression: a subscriber panics when a granted wait ends: its bytes stay charged.
#[test]
fn a_grant_is_given_back_if_the_subscriber_panics() {
    let root = root(100 * K);
    let x = root.buffer(100 * K).unwrap();
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(root.wait().buffer_async(60 * K));
    assert!(poll(f.as_mut(), &w).is_pending());
    drop(x);
    let sub = Sub(Box::new(|m| {
        if m.contains("waited for memory") {
            panic!("subscriber")
        }
    }));
    let r = tracing::subscriber::with_default(sub, || {
        catch_unwind(AssertUnwindSafe(|| drop(poll(f.as_mut(), &w))))
    });
    assert!(r.is_err());
    drop(f);
    assert_eq!(root.allocated_memory(), 0);
}

/// A regression: the timer lists a node that has left the tree, and then forgets the tree.
#[test]
fn the_timer_finds_a_tree_although_its_first_waiter_left_it() {
    let root = RootAllocator::new(100 * K);
    let x = root.buffer(100 * K).unwrap();
    let n = root.child("n").build().unwrap();
    let w = Arc::new(Woken::default());
    let closes = Mutex::new(Some(n.clone()));
    let sub = Sub(Box::new(move |m| {
        if m.contains("waits for memory")
            && let Some(n) = closes.lock().unwrap().take()
        {
            let _ = n.close();
        }
    }));
    let mut f = Box::pin(n.wait().buffer_async(60 * K));
    tracing::subscriber::with_default(sub, || {
        let _ = poll(f.as_mut(), &w);
    });
    drop(f);
    drop(n);
    let w = Arc::new(Woken::default());
    let mut f = Box::pin(
        root.wait()
            .at_most(Duration::from_millis(30))
            .buffer_async(60 * K),
    );
    assert!(poll(f.as_mut(), &w).is_pending());
    let began = Instant::now();
    while w.count() == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "no timer");
        thread::yield_now();
    }
    drop((f, x));
}

/// A regression: a reclaimer that answered later, and gave nothing back, was relied on anew each time that the level
/// was stuck. So the next one was never asked. And of those that answer at once all were asked then, although the
/// first had given enough.
#[test]
fn who_answers_later_with_nothing_does_not_keep_the_next_one_from_being_asked() {
    struct Asked<F>(F);
    impl<F: Fn(Ask) + Send + Sync> Reclaim for Asked<F> {
        fn reclaimable(&self) -> usize {
            usize::MAX
        }
        fn reclaim(&self, ask: Ask) {
            (self.0)(ask);
        }
    }
    let root = root(1000);
    let [late, prompt, spared, query] =
        ["late", "prompt", "spared", "query"].map(|name| root.child(name).build().unwrap());
    let held = (late.wait().reserve(500), spared.wait().reserve(200));
    let more = Mutex::new(Some(prompt.wait().reserve(300).unwrap()));
    let [out, needless] = [(); 2].map(|()| Arc::new(Mutex::new(None)));
    let keep = |out: &Arc<Mutex<Option<Ask>>>| {
        let out = Arc::clone(out);
        Asked(move |ask| *out.lock().unwrap() = Some(ask))
    };
    let drops = Asked(move |_ask| drop(more.lock().unwrap().take()));
    let _late = late.on_shortage(Cost::Drop, keep(&out));
    let _prompt = prompt.on_shortage(Cost::Spill, drops);
    let _spared = spared.on_shortage(Cost::Spill, keep(&needless));
    let mut request = Box::pin(query.wait().reserve_async(100));
    assert!(poll(request.as_mut(), &Arc::default()).is_pending());
    drop(out.lock().unwrap().take().expect("it was asked first"));

    root.expire_waits(Instant::now() + Duration::from_secs(3600));

    assert!(poll(request.as_mut(), &Arc::default()).is_ready());
    assert!(needless.lock().unwrap().is_none(), "it was enough");
    drop((request, out.lock().unwrap().take(), held));
}
