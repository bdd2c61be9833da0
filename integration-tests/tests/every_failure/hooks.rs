//! Foreign code that does its work, unless the plan has it fail or panic.

use std::sync::{Arc, Mutex, Once};
use std::task::{Wake, Waker};

use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, ArrowBuf, Ask, Reclaim, RoundingPolicy,
    Veto,
};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::plan::{Mode, Point, fails, is_armed, panics};

/// A listener that may veto, and may panic in each callback and when it is dropped.
pub(crate) struct Listener;

impl AllocationListener for Listener {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        match fails(Point::PreAllocation) {
            true => Err(Veto::new("injected")),
            false => Ok(()),
        }
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        panics(Point::Allocation);
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        panics(Point::Release);
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        panics(Point::FailedAllocation);
        true
    }

    fn on_transfer(&self, _: &AllocatorInfo, _: &AllocatorInfo, _: usize) {
        panics(Point::Transfer);
    }

    fn on_child_added(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        panics(Point::ChildAdded);
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        panics(Point::ChildRemoved);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        panics(Point::ListenerDrop);
    }
}

/// A policy that rounds to 64 bytes.
#[derive(Debug)]
pub(crate) struct Policy;

impl RoundingPolicy for Policy {
    fn rounded_size(&self, requested: usize) -> usize {
        panics(Point::Policy);
        requested.next_multiple_of(64)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        panics(Point::PolicyDrop);
    }
}

/// Buffers that are dropped when memory is short.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Vec<ArrowBuf>>);

impl Cache {
    pub(crate) fn keep(&self, buffer: ArrowBuf) {
        self.0.lock().unwrap().push(buffer);
    }

    /// Bytes of the buffers.
    pub(crate) fn bytes(&self) -> usize {
        let kept = self.0.lock().unwrap();
        kept.iter().map(ArrowBuf::allocation_size).sum()
    }

    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap());
        drop(kept);
    }
}

/// The registration of a [`Cache`].
pub(crate) struct Reclaims(pub(crate) Arc<Cache>);

impl Reclaim for Reclaims {
    fn reclaimable(&self) -> usize {
        panics(Point::Reclaimable);
        self.0.bytes()
    }

    fn reclaim(&self, ask: Ask) {
        panics(Point::Reclaim);
        self.0.clear();
        drop(ask);
    }
}

impl Drop for Reclaims {
    fn drop(&mut self) {
        panics(Point::ReclaimerDrop);
    }
}

/// The owner of foreign memory.
pub(crate) struct Owner(pub(crate) Vec<u8>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        panics(Point::Owner);
    }
}

struct Waking;

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        panics(Point::Wake);
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        panics(Point::WakerDrop);
    }
}

/// A waker of its own.
pub(crate) fn waker() -> Waker {
    Arc::new(Waking).into()
}

/// Hears of everything that happens while a plan injects panics.
struct Hears;

impl Subscriber for Hears {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_armed(Mode::Panic) && metadata.target().starts_with("arrow_memory")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        panics(Point::Span);
        Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {
        panics(Point::Event);
    }

    fn try_close(&self, _: Id) -> bool {
        panics(Point::SpanEnd);
        true
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Installs the subscriber of this program.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Hears).unwrap());
}
