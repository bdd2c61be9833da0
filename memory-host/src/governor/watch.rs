//! [`Watch`]: what the governor's thread does each time it wakes.

use std::io;
use std::time::Duration;

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::{BufferAllocator, ManagerStats, WeakBufferAllocator};

use super::control::{Control, Measured};
use crate::backend::Free;
use crate::events;
use crate::host::{Ceiling, Machine};

/// What the program does when the tree should give back this many bytes.
pub(super) type Hook = Box<dyn FnMut(usize) + Send>;

/// The state of the governor's thread. Its end removes the cap.
pub(super) struct Watch {
    root: WeakBufferAllocator,
    machine: Machine,
    hook: Option<Hook>,
    control: Control,
    ceiling: Ceiling,
    /// When the limit was last read: it may be changed while the process runs.
    limit_read: Duration,
    /// Where the last number of used bytes came from.
    origin: Option<Origin>,
    /// When a panic was last told.
    told: Option<Duration>,
}

/// Where a number of used bytes comes from. Numbers of different origins cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Level,
    Process,
    Backend,
}

impl Watch {
    pub(super) fn new(
        root: WeakBufferAllocator,
        machine: Machine,
        target: f64,
        hook: Option<Hook>,
    ) -> io::Result<Self> {
        let ceiling = machine.limit()?;
        if let Some(root) = root.upgrade() {
            events::governor_started(&root, ceiling.bytes, &ceiling.source);
        }
        Ok(Self {
            root,
            machine,
            hook,
            control: Control::new(target),
            ceiling,
            limit_read: Duration::ZERO,
            origin: None,
            told: None,
        })
    }

    /// Measures, relieves, and moves the cap. Returns false once the root is gone. Does not unwind.
    pub(super) fn tick(&mut self, now: Duration) -> bool {
        let mut alive = true;
        // A listener or a subscriber may panic when the last handle is dropped here.
        let panicked = catch(|| match self.root.upgrade() {
            Some(root) => self.govern(&root, now),
            None => alive = false,
        });
        self.tell(panicked, "govern", now);
        alive
    }

    fn govern(&mut self, root: &BufferAllocator, now: Duration) {
        self.read_limit(now);
        let Some(mut measured) = self.measure(root, now) else {
            return;
        };
        let relief = self.control.relief(now, &measured);
        if relief.trim {
            let panicked = catch(|| root.release_unused());
            self.tell(panicked, "release_unused", now);
        }
        if relief.ask > 0 {
            self.ask(root, relief.ask, now);
        }
        if relief.trim || relief.ask > 0 {
            measured = self.measure(root, now).unwrap_or(measured);
        }
        let before = root.cap();
        let Some(cap) = self.control.step(now, &measured) else {
            return;
        };
        root.set_cap(Some(cap));
        events::cap_moved(root, before, cap, &measured);
    }

    /// Asks those that are registered for shortages to give back `bytes`, then the hook for what they left.
    fn ask(&mut self, root: &BufferAllocator, bytes: usize, now: Duration) {
        let mut rest = bytes;
        let panicked = catch(|| rest = bytes.saturating_sub(root.reclaim(bytes)));
        self.tell(panicked, "reclaim", now);
        if let Some(hook) = self.hook.as_mut().filter(|_| rest > 0) {
            let panicked = catch(|| hook(rest));
            self.tell(panicked, "on_pressure", now);
        }
    }

    /// Reads the limit again, once a second. Without an answer the last one stays.
    fn read_limit(&mut self, now: Duration) {
        if now.saturating_sub(self.limit_read) < Duration::from_secs(1) {
            return;
        }
        self.limit_read = now;
        if let Ok(ceiling) = self.machine.limit() {
            if ceiling.level != self.ceiling.level {
                self.control.forget();
            }
            self.ceiling = ceiling;
        }
    }

    fn measure(&mut self, root: &BufferAllocator, now: Duration) -> Option<Measured> {
        let accounted = root.allocated_memory();
        let mut stats = ManagerStats::default();
        let panicked = catch(|| stats = root.allocation_manager().stats());
        self.tell(panicked, "stats", now);
        let used = self.used(&stats);
        let origin = used.map(|(_, origin)| origin);
        if self.origin != origin {
            self.control.forget();
            if origin.is_none() {
                events::not_measured(root, &self.ceiling.level);
            }
        }
        self.origin = origin;
        used.map(|(used, _)| Measured {
            host: self.ceiling.bytes,
            used,
            accounted,
            free: self.free(&stats),
        })
    }

    /// What the backend can lend again without taking more of the limit.
    fn free(&self, stats: &ManagerStats) -> Free {
        let free = Free::of(stats);
        if self.ceiling.level.counts_addresses() {
            // Addresses that the backend keeps are used as well, and not all backends count them.
            let retained = stats.retained_bytes.unwrap_or(0);
            return Free::AtLeast(free.bytes().saturating_add(retained));
        }
        free
    }

    /// What is used: by all that have the limit in common, else by the process, else by its backend.
    fn used(&self, stats: &ManagerStats) -> Option<(usize, Origin)> {
        let level = || Some((self.machine.used(&self.ceiling.level)?, Origin::Level));
        let process = || Some((self.machine.process()?, Origin::Process));
        let backend = || Some((stats.active_bytes.or(stats.live_bytes)?, Origin::Backend));
        level().or_else(process).or_else(backend)
    }

    /// Tells of a panic, once a second at most.
    fn tell(&mut self, panicked: bool, call: &str, now: Duration) {
        let recently = |told: Duration| now.saturating_sub(told) < Duration::from_secs(1);
        if panicked && !self.told.is_some_and(recently) {
            self.told = Some(now);
            events::governor_panicked(call);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        uncap(&self.root);
    }
}

/// Removes the cap of a root that is still there.
pub(super) fn uncap(root: &WeakBufferAllocator) {
    catch(|| {
        if let Some(root) = root.upgrade() {
            root.set_cap(None);
        }
    });
}
