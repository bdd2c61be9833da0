//! A client that asks for everything: what it can do to the others, to the limit, and to the heap of the process.
//!
//! A binary of its own: it has a global allocator that counts, and runs one test at a time, since some compare times and
//! others the heap.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod bookkeeping;
mod growth;
mod heap;
mod limits;
mod slowdown;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::thread::{self, JoinHandle};

use arrow_memory_core::{BufferAllocator, Cost, Reclaim};

/// What an attacker does, in a loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    /// Takes all that it gets in pieces of a byte, keeps asking for a while, and drops them.
    Smallest,
    /// Takes all that it gets in pieces of a mebibyte, keeps asking for a while, and drops them.
    Largest,
    /// Asks for more than there is, again and again.
    TooMuch,
    /// Holds all that it gets, and asks for more.
    Holds,
    /// Has children that hold a little each, and asks for too much, so that their credit is recalled each time.
    Children,
    /// Waits for what it cannot get, and cancels.
    Waits,
    /// Passes its limit by force, and releases.
    Forces,
    /// Registers caches that free nothing, and asks them.
    Caches,
}

pub(crate) const MANNERS: [Manner; 8] = [
    Manner::Smallest,
    Manner::Largest,
    Manner::TooMuch,
    Manner::Holds,
    Manner::Children,
    Manner::Waits,
    Manner::Forces,
    Manner::Caches,
];

const MIB: usize = 1 << 20;

/// Lets no other test run until the answer is dropped.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TEST: Mutex<()> = Mutex::new(());
    TEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a request is repeated after it was refused.
const AGAIN: usize = 100;

/// A cache that frees nothing.
struct Stubborn;

impl Reclaim for Stubborn {
    fn reclaimable(&self) -> usize {
        usize::MAX
    }

    fn reclaim(&self, _ask: arrow_memory_core::Ask) {}
}

/// One turn of an attack, which ends with nothing held. `goes_on` is asked before each request; the turn ends early once
/// it is `false`.
pub(crate) fn attack(client: &BufferAllocator, manner: Manner, goes_on: &dyn Fn() -> bool) {
    match manner {
        Manner::Smallest => take_all(client, 1, goes_on),
        Manner::Largest => take_all(client, MIB, goes_on),
        Manner::TooMuch => too_much(client, goes_on),
        Manner::Holds => {
            let mut held = Vec::new();
            let mut size = most(client);
            while size >= 64 && goes_on() {
                match client.buffer(size) {
                    Ok(buffer) => held.push(buffer),
                    Err(_) => size /= 2,
                }
            }
            too_much(client, goes_on);
        }
        Manner::Children => {
            let child = |_| client.child("child").build().unwrap();
            let children: Vec<_> = (0..100).map(child).collect();
            let held: Vec<_> = children.iter().map(|child| child.buffer(1)).collect();
            too_much(client, goes_on);
            drop(held);
        }
        Manner::Waits => {
            let wait = |_| Box::pin(client.wait().buffer_async(most(client) - MIB / 2));
            let mut waits: Vec<_> = (0..20).map(wait).collect();
            let mut context = Context::from_waker(Waker::noop());
            for wait in &mut waits {
                drop(wait.as_mut().poll(&mut context));
            }
            too_much(client, goes_on);
        }
        Manner::Forces => {
            let bytes = most(client) + 1;
            client.force_allocate(bytes);
            too_much(client, goes_on);
            client.release_bytes(bytes);
        }
        Manner::Caches => {
            let register = |_| client.on_shortage(Cost::Drop, Stubborn);
            let guards: Vec<_> = (0..20).map(register).collect();
            too_much(client, goes_on);
            drop(guards);
        }
    }
}

fn take_all(client: &BufferAllocator, size: usize, goes_on: &dyn Fn() -> bool) {
    let mut held = Vec::new();
    while goes_on() {
        match client.buffer(size) {
            Ok(buffer) => held.push(buffer),
            Err(_) => break,
        }
    }
    for _ in (0..AGAIN).take_while(|_| goes_on()) {
        drop(client.buffer(size));
    }
}

fn too_much(client: &BufferAllocator, goes_on: &dyn Fn() -> bool) {
    let most = most(client);
    for _ in (0..AGAIN).take_while(|_| goes_on()) {
        assert!(client.buffer(most + 1).is_err());
        drop(client.buffer(most / 2));
    }
}

/// The largest size that a client may ever get.
fn most(client: &BufferAllocator) -> usize {
    client.limit().min(client.root_allocator().limit())
}

/// A thread that attacks while it is told to, until this is dropped.
pub(crate) struct Attacker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    on: AtomicBool,
    end: AtomicBool,
    turns: AtomicU64,
    requests: AtomicU64,
    /// Held by the attacker during a turn.
    turn: Mutex<()>,
}

impl Attacker {
    /// A thread that does nothing yet.
    pub(crate) fn new(client: BufferAllocator, manner: Manner) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let shared = of_thread;
            let is_on = || shared.on.load(Ordering::Acquire);
            let goes_on = || {
                shared.requests.fetch_add(1, Ordering::Relaxed);
                is_on()
            };
            while !shared.end.load(Ordering::Acquire) {
                if !is_on() {
                    thread::park();
                    continue;
                }
                let turn = shared.turn.lock().unwrap();
                attack(&client, manner, &goes_on);
                drop(turn);
                shared.turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Starts the attack, and returns once it is under way.
    pub(crate) fn start(&self) {
        self.shared.on.store(true, Ordering::Release);
        self.thread.as_ref().unwrap().thread().unpark();
        while self.shared.turn.try_lock().is_ok() {
            thread::yield_now();
        }
    }

    /// Ends the attack, and returns once the attacker holds nothing.
    #[cfg_attr(
        debug_assertions,
        expect(
            dead_code,
            reason = "for `slowdown`, which is built in release builds only"
        )
    )]
    pub(crate) fn pause(&self) {
        self.shared.on.store(false, Ordering::Release);
        drop(self.shared.turn.lock().unwrap());
    }

    /// How many requests were made.
    #[cfg_attr(
        debug_assertions,
        expect(
            dead_code,
            reason = "for `slowdown`, which is built in release builds only"
        )
    )]
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many turns were made.
    pub(crate) fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.shared.on.store(false, Ordering::Release);
        self.shared.end.store(true, Ordering::Release);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        let ended = thread.join();
        assert!(
            ended.is_ok() || thread::panicking(),
            "the attacker panicked"
        );
    }
}
