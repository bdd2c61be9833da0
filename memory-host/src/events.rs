//! Every `tracing` event of this crate; `docs/events.md` lists them.
//!
//! They are emitted by the governor's thread, out of which nothing unwinds.

use std::fmt::Display;

use arrow_memory_core::__private::events::once_in_drop;
use arrow_memory_core::BufferAllocator;

use crate::governor::control::Measured;

pub(crate) fn governor_started(root: &BufferAllocator, limit: usize, source: &str) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        tracing::debug!(%allocator, id, limit, source, "governor started");
    });
}

/// `before` is the cap until now, if there was one.
pub(crate) fn cap_moved(
    root: &BufferAllocator,
    before: Option<usize>,
    cap: usize,
    measured: &Measured,
) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        let Measured {
            host,
            used,
            accounted,
            ..
        } = *measured;
        if before.is_some_and(|before| cap < before) {
            tracing::info!(%allocator, id, cap, host, used, accounted, "cap lowered");
        } else {
            tracing::debug!(%allocator, id, cap, host, used, accounted, "cap raised");
        }
    });
}

pub(crate) fn not_measured(root: &BufferAllocator, level: &impl Display) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        tracing::warn!(%allocator, id, %level, "the use of memory cannot be measured: the cap stays as it is");
    });
}

/// `call` is what the governor's thread called.
pub(crate) fn governor_panicked(call: &str) {
    once_in_drop(|| tracing::error!(call, "a callback panicked in the governor; ignored"));
}

fn who(root: &BufferAllocator) -> (impl Display, u64) {
    (root.info(), root.id().as_u64())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;
    use tracing::span::{Attributes, Id, Record};
    use tracing::subscriber::Interest;
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::backend::Free;

    /// Records the levels of events.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Levels {
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }

        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }

    #[test]
    fn a_cap_that_falls_is_worth_an_info_and_one_that_is_new_or_rises_is_not() {
        let root = RootAllocator::new(1000);
        let measured = Measured {
            host: 1000,
            least: 1000,
            used: 500,
            accounted: 0,
            free: Free::Exactly(0),
        };
        let levels = Levels::default();

        tracing::subscriber::with_default(levels.clone(), || {
            for (before, cap) in [(None, 600), (Some(600), 599), (Some(599), 600)] {
                cap_moved(&root, before, cap, &measured);
            }
        });

        let levels = levels.0.lock().unwrap();
        assert_eq!(*levels, [Level::DEBUG, Level::INFO, Level::DEBUG]);
    }
}
