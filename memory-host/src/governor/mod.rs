//! [`Governor`]: keeps a tree, and what it does not count, below the limit of the host.

pub(crate) mod control;
mod watch;

use std::fmt;
use std::io;
use std::mem;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, WeakBufferAllocator};

use self::watch::{Hook, Watch};
use crate::host::Machine;

/// Watches the memory of the host and moves the [cap](BufferAllocator::set_cap) of a root, so that the process is
/// not killed for memory that the tree does not count.
///
/// Ten times a second it measures what is used of the host's limit. When room becomes short, it first lets the
/// backend [give back](BufferAllocator::release_unused) what it keeps, then asks those that are registered for shortages
/// ([`reclaim`](BufferAllocator::reclaim)), then calls the [hook](Self::on_pressure) for what they left, then lowers the
/// cap:
///
/// ```text
/// cap = host × target − (used − accounted − free)
/// ```
///
/// where `host` is a limit, `used` is what is used of it, and `free` is what the backend keeps and can lend again. The limits
/// are those of the process's cgroup and of every cgroup above it that can be seen, and the resource limits of the process;
/// the smallest cap counts. So it is the limit with the least room that decides, even if a smaller one is far from being
/// reached. Of a cgroup, anonymous and shared memory, sockets and the kernel's memory are used, by all its processes. The
/// memory of the machine is a limit where no other one is smaller.
///
/// The first measurement sets the cap. From then on it is lowered once a second at most, and raised at once; it moves by
/// more than 1/32 of the smallest limit, or not at all. It never falls below 1/32 of the smallest limit, or below `host ×
/// target` where that is less. The configured limit and the books stay as they are.
///
/// **What it cannot do.** Lowering a cap revokes nothing: the program has to give memory back: when it is asked
/// ([`on_shortage`](BufferAllocator::on_shortage) or the hook), when it is refused, or by finishing. What grows outside the
/// tree within a second has to fit in the rest, `1 − target` of the host's limit: with a limit of 16 GiB and the default
/// target, 1.6 GiB. So does what the backend keeps and cannot lend, since blocks of another size are needed, until it is
/// told to give that back, once a second. Reservations that are not used yet count as accounted, so they hide as much
/// overhead until they are used.
///
/// There may be one governor for each root, and nothing else may set the root's cap. If a process has several roots, or
/// a cgroup several processes, each governor counts the others' memory as overhead; so all of them together stay
/// below the limit, and who comes first has more.
///
/// # Examples
///
/// ```
/// # use arrow_memory_system as _;
/// use std::time::Duration;
///
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_host::{Governor, HostLimit};
///
/// # if cfg!(not(target_os = "linux")) { return Ok(()); }
/// let root = RootAllocator::new(HostLimit::read()?.fraction(0.9).bytes());
/// let governor = Governor::over(&root)
///     .target(0.9)
///     .every(Duration::from_millis(100))
///     .on_pressure(|bytes| println!("{bytes} bytes are too many: evict, spill"))
///     .start()?;
/// // … the server runs …
/// drop(governor); // the thread has ended, and the cap is removed
/// assert_eq!(root.cap(), None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a governor does nothing until `start`"]
pub struct Governor {
    root: WeakBufferAllocator,
    target: f64,
    every: Duration,
    hook: Option<Hook>,
    machine: Machine,
}

impl Governor {
    /// Prepares a governor over the root of an allocator's tree. It keeps no handle: once the
    /// root is gone, its thread ends.
    pub fn over(root: &BufferAllocator) -> Self {
        Self {
            root: root.root_allocator().downgrade(),
            target: 0.9,
            every: Duration::from_millis(100),
            hook: None,
            machine: Machine::default(),
        }
    }

    /// Sets which part of the host's limit may be used, between 0 and 1; 0.9 by default.
    pub fn target(mut self, target: f64) -> Self {
        self.target = target;
        self
    }

    /// Sets the time between two measurements, 100 ms by default and 1 ms at least.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(1));
        self
    }

    /// Calls `hook` with a number of bytes that the tree should give back, before the cap falls below what is
    /// accounted, and once a second while more is accounted than should be. Those that are registered by
    /// [`on_shortage`](BufferAllocator::on_shortage) are asked before; the number is what they left.
    ///
    /// It runs on the governor's thread, with no lock held, and may use the tree. It should take milliseconds: the
    /// cap is lowered after it has returned. If it panics, that is an event, and the cap is lowered all the same.
    pub fn on_pressure(mut self, hook: impl FnMut(usize) + Send + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Reads the limit of the host and starts the thread.
    ///
    /// # Errors
    ///
    /// * [`Unsupported`](io::ErrorKind::Unsupported) on platforms other than Linux.
    /// * [`NotFound`](io::ErrorKind::NotFound) if no limit can be read at all.
    /// * The system's error if it has no thread.
    pub fn start(self) -> io::Result<GovernorGuard> {
        let root = self.root.clone();
        let mut watch = Watch::new(self.root, self.machine, self.target, self.hook)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let every = self.every;
        let run = move || {
            let begun = Instant::now();
            while watch.tick(begun.elapsed()) {
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("arrow-memory-governor".to_owned())
            .spawn(run)?;
        Ok(GovernorGuard {
            root,
            stop: Some(stop),
            thread: Some(thread),
            process: process::id(),
        })
    }

    /// Takes another machine, which a test has made up.
    #[cfg(all(test, target_os = "linux"))]
    fn on(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }
}

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governor")
            .field("target", &self.target)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// Keeps a [`Governor`] running. When it is dropped, the thread ends and the cap is removed.
///
/// The drop waits for a measurement or a hook in progress, unless the hook itself drops the guard. A forked child
/// has the guard and not the thread: there the drop removes the cap.
#[must_use = "the governor stops when this is dropped"]
pub struct GovernorGuard {
    root: WeakBufferAllocator,
    /// Disconnected to stop the thread. `None` once it is.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

impl Drop for GovernorGuard {
    fn drop(&mut self) {
        if process::id() != self.process {
            // The thread may have been inside the channel when the process was forked.
            mem::forget((self.stop.take(), self.thread.take()));
            watch::uncap(&self.root);
            return;
        }
        drop(self.stop.take());
        let thread = self.thread.take();
        if let Some(thread) =
            thread.filter(|governor| governor.thread().id() != thread::current().id())
        {
            // The thread catches what panics in it.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for GovernorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernorGuard").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
