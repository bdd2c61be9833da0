//! Waiting for memory that others hold: [`Wait`] and [`Admission`].
//!
//! The queue and its protocol are in `accounting::queue`; here are the requests of programs.

mod admission;
mod error;
mod obtain;
#[cfg_attr(loom, path = "no_timer.rs")]
mod timer;

use std::alloc::Layout;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

pub use self::admission::{Admission, AdmissionFuture};
pub use self::error::{GiveWay, WaitError, Waited};
use self::obtain::Obtain;
use crate::accounting::{Ask, tend};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBufMut;
use crate::buffer::allocate::{allocate_charged, layout_of};
use crate::buffer::block::Contents;
use crate::buffer::charge::{Charge, rounded};
use crate::buffer::grow::Growth;
use crate::buffer::notify;
use crate::error::AllocError;
use crate::outcome::Purpose;
use crate::reservation::AllocationReservation;
use crate::size::ALIGNMENT;

/// Starts the timer thread, which also does what sections of a global allocator leave to be done.
pub(crate) fn start_timer() {
    timer::start();
}

/// A request that waits for memory instead of being refused: made by [`BufferAllocator::wait`].
///
/// If the bytes fit, it costs what a request costs that does not wait. Otherwise it is queued, and whoever
/// releases memory charges it on the request's behalf and wakes it, in the order of age. Everything that makes
/// room serves those that wait: buffers, reservations and external bytes that are released, limits that are
/// raised, children that are closed, charges that move.
///
/// * A request that does not wait may pass one that does. Once as many bytes have passed it as it asks for (or a
///   sixteenth of the limit, if that is more), room is withheld for it. Forced charges pass at any time.
/// * A request that can never be granted is refused at once: see [`AllocError::retry`].
/// * Without [`at_most`](Self::at_most) or [`until`](Self::until) it waits as long as it takes; but see
///   [`GiveWay`].
/// * Closing an allocator refuses all that wait for its memory.
/// * In a listener, a `tracing` subscriber, a waker, and in any `Drop` that this crate calls, or while the thread
///   panics, a request is granted or refused at once.
/// * A forked child has no waiters of its parent's other threads; a wait that goes on there is queued anew.
///
/// The methods that end in `_async` return futures for any executor, which are `Send`. Dropping such a future
/// ends the wait. A future that was granted memory holds it until it is polled or dropped; the timer ends its
/// wait at its deadline, polled or not, but a future that is kept and no longer polled keeps its place in the
/// queue until then. The queue's memory grows with the maximum number of requests that wait at one time, and no
/// wait allocates any other.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use std::time::Duration;
///
/// let held = root.buffer(1 << 20)?;
/// let releaser = std::thread::spawn(move || {
///     std::thread::sleep(Duration::from_millis(10));
///     drop(held);
/// });
/// let buffer = root.wait().at_most(Duration::from_secs(10)).buffer(4096)?;
/// assert_eq!(root.allocated_memory(), 4096);
/// # releaser.join().unwrap();
/// # Ok::<(), arrow_memory_core::WaitError>(())
/// ```
#[must_use = "a wait does nothing until `buffer`, `reserve` or `grow`"]
pub struct Wait<'a> {
    allocator: &'a BufferAllocator,
    ask: Ask,
}

impl BufferAllocator {
    /// Returns a request that waits for memory of this allocator instead of being refused.
    ///
    /// The docs of [`Wait`] have the rules and an example.
    pub fn wait(&self) -> Wait<'_> {
        Wait {
            allocator: self,
            ask: Ask::new(false),
        }
    }

    /// Ends the waits of this tree whose deadline has passed by `now`. Where waiters come no nearer to being granted, it
    /// has one of them [ask others](crate::Reclaim) once more, on the thread or in the task that waits, and then tells
    /// one to [give way](GiveWay). Returns when to call it again; `None` if no request waits. It also does what the
    /// program's global allocator leaves to be done, if that charges blocks to trees.
    ///
    /// Only for a tree that was built with [`own_timer`](crate::RootAllocatorBuilder::own_timer); otherwise a
    /// thread of this crate calls it. A request that begins to wait later may have an earlier deadline, so call it
    /// as often as deadlines should be precise. O(waiters) under the tree's lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use std::time::Instant;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::builder().limit(1000).own_timer(true).build()?;
    /// assert_eq!(root.expire_waits(Instant::now()), None); // nobody waits
    /// # Ok::<(), arrow_memory_core::BackendError>(())
    /// ```
    pub fn expire_waits(&self, now: Instant) -> Option<Instant> {
        tend();
        self.handle.tick(now)
    }
}

impl Wait<'_> {
    /// Waits at most so long, from now on. Replaces what [`until`](Self::until) has set.
    pub fn at_most(mut self, duration: Duration) -> Self {
        self.ask.at_most(duration);
        self
    }

    /// Waits at most until that instant. Replaces what [`at_most`](Self::at_most) has set.
    pub fn until(mut self, deadline: Instant) -> Self {
        self.ask.until(deadline);
        self
    }

    /// Keeps the age of a request that was told to give way, and with it its place before those that came later.
    pub fn after(mut self, give_way: GiveWay) -> Self {
        self.ask.age = Some(give_way.age);
        self
    }

    /// Allocates a buffer as [`BufferAllocator::buffer`] does, and blocks the thread until it fits.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// * [`WaitError::TimedOut`] after the deadline.
    /// * [`WaitError::GiveWay`] if waiters that hold memory wait for one another.
    /// * [`WaitError::Refused`] for the errors of [`BufferAllocator::buffer`] that waiting does not help.
    ///
    /// No byte stays charged after an error.
    #[track_caller]
    pub fn buffer(self, size: usize) -> Result<ArrowBufMut, WaitError> {
        let (allocator, caller) = (self.allocator, Location::caller());
        let Some(layout) = layout_to_charge(allocator, size)? else {
            return Ok(allocator.buffer(0)?);
        };
        if let Some(mut obtain) = obtain_buffer(allocator, self.ask, layout, size) {
            obtain.block()?;
        }
        finish_buffer(allocator, layout, size, caller)
    }

    /// Does what [`buffer`](Self::buffer) does, without blocking the thread.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer).
    #[track_caller]
    pub fn buffer_async(
        self,
        size: usize,
    ) -> impl Future<Output = Result<ArrowBufMut, WaitError>> + Send + use<> {
        let (allocator, ask) = (self.allocator.clone(), self.ask);
        let caller = Location::caller();
        async move {
            let Some(layout) = layout_to_charge(&allocator, size)? else {
                return Ok(allocator.buffer(0)?);
            };
            if let Some(obtain) = obtain_buffer(&allocator, ask, layout, size) {
                obtain.await?;
            }
            finish_buffer(&allocator, layout, size, caller)
        }
    }

    /// Sets bytes aside as [`AllocationReservation::add`] does, in a new reservation, and blocks the thread until
    /// they fit.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let reservation = root.wait().reserve(5000)?;
    /// assert_eq!((reservation.size(), root.allocated_memory()), (5000, 5000));
    /// # Ok::<(), arrow_memory_core::WaitError>(())
    /// ```
    #[track_caller]
    pub fn reserve(self, bytes: usize) -> Result<AllocationReservation, WaitError> {
        let caller = Location::caller();
        if let Some(mut obtain) = obtain_reserved(self.allocator, self.ask, bytes) {
            obtain.block()?;
        }
        Ok(AllocationReservation::with(self.allocator, bytes, caller))
    }

    /// Does what [`reserve`](Self::reserve) does, without blocking the thread.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer).
    #[track_caller]
    pub fn reserve_async(
        self,
        bytes: usize,
    ) -> impl Future<Output = Result<AllocationReservation, WaitError>> + Send + use<> {
        let (allocator, ask) = (self.allocator.clone(), self.ask);
        let caller = Location::caller();
        async move {
            if let Some(obtain) = obtain_reserved(&allocator, ask, bytes) {
                obtain.await?;
            }
            Ok(AllocationReservation::with(&allocator, bytes, caller))
        }
    }

    /// Adds bytes to a reservation as [`AllocationReservation::add`] does, and blocks the thread until they fit.
    /// The allocator of the reservation is charged, and the request waits there.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer). The reservation is then as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut reservation = root.new_reservation();
    /// root.wait().add(&mut reservation, 5000)?;
    /// assert_eq!(reservation.size(), 5000);
    /// # Ok::<(), arrow_memory_core::WaitError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn add(
        self,
        reservation: &mut AllocationReservation,
        bytes: usize,
    ) -> Result<(), WaitError> {
        if bytes > 0 {
            if let Some(mut obtain) = obtain_more(reservation, self.ask, bytes) {
                obtain.block()?;
            }
            reservation.add_charged(bytes);
        }
        Ok(())
    }

    /// Does what [`add`](Self::add) does, without blocking the thread.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer). The reservation is then as it was.
    #[inline]
    pub fn add_async(
        self,
        reservation: &mut AllocationReservation,
        bytes: usize,
    ) -> impl Future<Output = Result<(), WaitError>> + Send + use<'_> {
        let ask = self.ask;
        async move {
            if bytes > 0 {
                if let Some(obtain) = obtain_more(reservation, ask, bytes) {
                    obtain.await?;
                }
                reservation.add_charged(bytes);
            }
            Ok(())
        }
    }

    /// Makes room in a buffer for `additional` bytes beyond its length, as [`ArrowBufMut::try_reserve`] does, and
    /// blocks the thread until they fit. The allocator of the buffer is charged, and the request waits there.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer). The buffer is then as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(64)?;
    /// root.wait().grow(&mut buffer, 1000)?;
    /// assert_eq!(buffer.capacity(), 1024);
    /// # Ok::<(), arrow_memory_core::WaitError>(())
    /// ```
    #[track_caller]
    pub fn grow(self, buffer: &mut ArrowBufMut, additional: usize) -> Result<(), WaitError> {
        let Some(growth) = buffer.needs_to_grow(additional)? else {
            return Ok(());
        };
        let allocator = buffer.allocator();
        if let Some(mut obtain) = obtain_growth(&allocator, self.ask, growth, additional)? {
            obtain.block()?;
        }
        finish_growth(buffer, &allocator, growth, additional)
    }

    /// Does what [`grow`](Self::grow) does, without blocking the thread.
    ///
    /// # Errors
    ///
    /// Those of [`buffer`](Self::buffer). The buffer is then as it was.
    pub fn grow_async(
        self,
        buffer: &mut ArrowBufMut,
        additional: usize,
    ) -> impl Future<Output = Result<(), WaitError>> + Send + use<'_> {
        let ask = self.ask;
        async move {
            let Some(growth) = buffer.needs_to_grow(additional)? else {
                return Ok(());
            };
            let allocator = buffer.allocator();
            if let Some(obtain) = obtain_growth(&allocator, ask, growth, additional)? {
                obtain.await?;
            }
            finish_growth(buffer, &allocator, growth, additional)
        }
    }
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("allocator", self.allocator)
            .finish_non_exhaustive()
    }
}

/// The layout of a buffer, about which the listener was asked; `None` for an empty one, which needs no memory.
fn layout_to_charge(
    allocator: &BufferAllocator,
    size: usize,
) -> Result<Option<Layout>, AllocError> {
    if size == 0 {
        return Ok(None);
    }
    let handle = &allocator.handle;
    let layout = layout_of(handle, size, ALIGNMENT).ok_or_else(|| allocator.too_large(size))?;
    notify::ask(handle, layout.size(), rounded(size, layout.size()))?;
    Ok(Some(layout))
}

fn obtain_buffer(
    allocator: &BufferAllocator,
    mut ask: Ask,
    layout: Layout,
    size: usize,
) -> Option<Obtain> {
    ask.bytes = layout.size();
    Obtain::unless_taken(allocator, ask, rounded(size, layout.size()))
}

/// Allocates a buffer whose bytes were obtained.
fn finish_buffer(
    allocator: &BufferAllocator,
    layout: Layout,
    size: usize,
    caller: &'static Location<'static>,
) -> Result<ArrowBufMut, WaitError> {
    let handle = &allocator.handle;
    let charge = Charge::of(handle, layout.size());
    let buffer = allocate_charged(handle, charge, layout, size, Contents::Unspecified, caller);
    buffer.map_err(|error| WaitError::Refused(*error))
}

/// Begins to ask for the bytes of a new reservation, which is made once they are charged: while the request waits,
/// nothing is outstanding.
fn obtain_reserved(allocator: &BufferAllocator, mut ask: Ask, bytes: usize) -> Option<Obtain> {
    ask.bytes = bytes;
    let request = || (bytes, Purpose::Reservation { from: 0, to: bytes });
    Some(allocator)
        .filter(|_| bytes > 0)
        .and_then(|allocator| Obtain::unless_taken(allocator, ask, request))
}

#[inline]
fn obtain_more(reservation: &AllocationReservation, mut ask: Ask, bytes: usize) -> Option<Obtain> {
    ask.bytes = bytes;
    Obtain::unless_taken(reservation.allocator(), ask, || {
        (bytes, reservation.purpose(bytes))
    })
}

/// Asks the listener about growth, and begins to ask for its bytes.
fn obtain_growth(
    allocator: &BufferAllocator,
    mut ask: Ask,
    growth: Growth,
    additional: usize,
) -> Result<Option<Obtain>, AllocError> {
    let request = || growth.request(additional);
    notify::ask(&allocator.handle, growth.added, request)?;
    (ask.bytes, ask.kept) = (growth.added, growth.kept);
    Ok(Obtain::unless_taken(allocator, ask, request))
}

/// Grows a buffer by bytes that were obtained.
fn finish_growth(
    buffer: &mut ArrowBufMut,
    allocator: &BufferAllocator,
    growth: Growth,
    additional: usize,
) -> Result<(), WaitError> {
    let charge = Charge::of(&allocator.handle, growth.added);
    Ok(buffer.grow_charged(&allocator.handle, growth, additional, charge)?)
}
