//! [`Watch`]: what the governor's thread does each time it wakes.

use std::io;
use std::time::Duration;

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::{BufferAllocator, ManagerStats, WeakBufferAllocator};

use super::control::{Control, History, Measured, Wanted};
use crate::backend::Free;
use crate::events;
use crate::host::{Ceiling, Ceilings, Machine};

/// What the program does when the tree should give back this many bytes.
pub(super) type Hook = Box<dyn FnMut(usize) + Send>;

/// The state of the governor's thread. Its end removes the cap.
pub(super) struct Watch {
    root: WeakBufferAllocator,
    machine: Machine,
    hook: Option<Hook>,
    control: Control,
    /// The smallest limit comes first.
    limits: Vec<Watched>,
    /// When the limits were last read: they may be changed while the process runs.
    limits_read: Duration,
    /// When a panic was last told.
    told: Option<Duration>,
}

/// A limit of the host, and what was measured of it.
struct Watched {
    ceiling: Ceiling,
    history: History,
    /// Where the last number of used bytes came from.
    origin: Option<Origin>,
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
        let ceilings = machine.limits()?;
        if let Some(root) = root.upgrade() {
            events::governor_started(&root, ceilings.least.bytes, &ceilings.source);
        }
        let mut limits = Vec::new();
        watch(&mut limits, ceilings);
        Ok(Self {
            root,
            machine,
            hook,
            control: Control::new(target),
            limits,
            limits_read: Duration::ZERO,
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
        self.read_limits(now);
        let Some(mut wanted) = self.measure(root, now) else {
            return;
        };
        let relief = self.control.relief(now, &wanted);
        if relief.trim {
            let panicked = catch(|| root.release_unused());
            self.tell(panicked, "release_unused", now);
        }
        if relief.ask > 0 {
            self.ask(root, relief.ask, now);
        }
        if relief.trim || relief.ask > 0 {
            wanted = self.measure(root, now).unwrap_or(wanted);
        }
        let before = root.cap();
        let Some(cap) = self.control.step(now, &wanted) else {
            return;
        };
        root.set_cap(Some(cap));
        events::cap_moved(root, before, cap, &wanted.measured);
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

    /// Reads the limits again, once a second. Without an answer the last ones stay.
    fn read_limits(&mut self, now: Duration) {
        if now.saturating_sub(self.limits_read) < Duration::from_secs(1) {
            return;
        }
        self.limits_read = now;
        if let Ok(ceilings) = self.machine.limits() {
            watch(&mut self.limits, ceilings);
        }
    }

    /// Measures what is used of each limit. The answer is that of the limit that asks for the smallest cap; `None` if
    /// nothing is known of any.
    fn measure(&mut self, root: &BufferAllocator, now: Duration) -> Option<Wanted> {
        let accounted = root.allocated_memory();
        let mut stats = ManagerStats::default();
        let panicked = catch(|| stats = root.allocation_manager().stats());
        self.tell(panicked, "stats", now);
        let smallest = self.limits[0].ceiling.bytes;
        let (mut least, mut measured_before) = (None::<Wanted>, false);
        for (place, watched) in self.limits.iter_mut().enumerate() {
            // What only the process or its backend says is compared with one limit.
            let used = used(&self.machine, &watched.ceiling, &stats, place == 0);
            let origin = used.map(|(_, origin)| origin);
            measured_before |= watched.origin.is_some();
            if watched.origin != origin {
                watched.history.forget();
            }
            watched.origin = origin;
            let Some((used, _)) = used else { continue };
            let measured = Measured {
                host: watched.ceiling.bytes,
                least: smallest,
                used,
                accounted,
                free: free(&watched.ceiling, &stats),
            };
            let wanted = self.control.wanted(&measured, &mut watched.history);
            if least.is_none_or(|least| wanted.cap < least.cap) {
                least = Some(wanted);
            }
        }
        if least.is_none() && measured_before {
            events::not_measured(root, &self.limits[0].ceiling.level);
        }
        least
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

/// Puts the limits that were read in the place of those that were watched, which keep their history.
fn watch(watched: &mut Vec<Watched>, ceilings: Ceilings) {
    let mut before = std::mem::take(watched);
    let ceilings = std::iter::once(ceilings.least).chain(ceilings.larger);
    *watched = ceilings
        .map(|ceiling| {
            let same = before
                .iter()
                .position(|one| one.ceiling.level == ceiling.level);
            match same.map(|place| before.swap_remove(place)) {
                Some(one) => Watched { ceiling, ..one },
                None => Watched {
                    ceiling,
                    history: History::default(),
                    origin: None,
                },
            }
        })
        .collect();
}

/// What is used of a limit: by all that have it in common, or else, `for_want_of_better`, by the process or by its
/// backend.
fn used(
    machine: &Machine,
    ceiling: &Ceiling,
    stats: &ManagerStats,
    for_want_of_better: bool,
) -> Option<(usize, Origin)> {
    let level = machine
        .used(&ceiling.level)
        .map(|used| (used, Origin::Level));
    if level.is_some() || !for_want_of_better {
        return level;
    }
    let process = || Some((machine.process()?, Origin::Process));
    let backend = || Some((stats.active_bytes.or(stats.live_bytes)?, Origin::Backend));
    process().or_else(backend)
}

/// What the backend can lend again without taking more of a limit.
fn free(ceiling: &Ceiling, stats: &ManagerStats) -> Free {
    let free = Free::of(stats);
    if ceiling.level.counts_addresses() {
        // Addresses that the backend keeps are used as well, and not all backends count them.
        let retained = stats.retained_bytes.unwrap_or(0);
        return Free::AtLeast(free.bytes().saturating_add(retained));
    }
    free
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
