//! Admission: a child that is created once its reservation fits.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::error::WaitError;
use super::obtain::Obtain;
use crate::accounting::Ask;
use crate::allocator::{BufferAllocator, ChildAllocatorBuilder};
use crate::buffer::charge::Charge;
use crate::listener::AllocationListener;
use crate::rounding::RoundingPolicy;

/// Creates a child once its reservation fits: made by [`BufferAllocator::admit`].
///
/// What waits for admission holds nothing, so it cannot be part of a deadlock. Admissions are served in the order
/// of their age. One that waits holds back younger admissions, and nothing else: what runs already can use the
/// room, and is not refused for its sake.
///
/// An admission without a reservation never waits.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use std::time::Duration;
///
/// let query = root
///     .admit("query-7")
///     .reservation(256 << 10)
///     .limit(512 << 10)
///     .blocking(Duration::from_secs(10))?;
/// assert_eq!(root.allocated_memory(), 256 << 10);
/// # Ok::<(), arrow_memory_core::WaitError>(())
/// ```
#[must_use = "an admission does nothing until `blocking` or `.await`"]
pub struct Admission {
    child: ChildAllocatorBuilder,
    ask: Ask,
}

impl BufferAllocator {
    /// Returns a builder of a child with that name, which is created once its reservation fits.
    ///
    /// The docs of [`Admission`] have the rules and an example.
    #[doc(alias("register", "acquire_many"))]
    pub fn admit(&self, name: &str) -> Admission {
        Admission {
            child: self.child(name),
            ask: Ask::new(true),
        }
    }
}

impl Admission {
    /// Sets the reservation in bytes, for which the admission waits. 0 by default.
    pub fn reservation(mut self, bytes: usize) -> Self {
        self.child = self.child.reservation(bytes);
        self
    }

    /// Sets the child's own limit in bytes. Without this call it has none.
    pub fn limit(mut self, limit: usize) -> Self {
        self.child = self.child.limit(limit);
        self
    }

    /// Sets the number that orders who is asked first when memory is short: see [`ChildAllocatorBuilder::priority`].
    /// Admissions are served in the order of their age, whatever it is.
    pub fn priority(mut self, priority: i32) -> Self {
        self.child = self.child.priority(priority);
        self
    }

    /// Sets the group of allocators that the child belongs to: see [`ChildAllocatorBuilder::group`].
    pub fn group(mut self, group: &str) -> Self {
        self.child = self.child.group(group);
        self
    }

    /// Sets the listener, in place of the one that the child inherits.
    pub fn listener(mut self, listener: Arc<dyn AllocationListener>) -> Self {
        self.child = self.child.listener(listener);
        self
    }

    /// Sets the rounding policy, in place of the one that the child inherits.
    pub fn rounding_policy(mut self, policy: impl RoundingPolicy + 'static) -> Self {
        self.child = self.child.rounding_policy(policy);
        self
    }

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

    /// Blocks the thread until the child is admitted, at most so long.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// * [`WaitError::TimedOut`] after that time.
    /// * [`WaitError::Refused`] if the reservation can never fit: it is larger than a limit, or an allocator
    ///   whose memory it needs is closed.
    ///
    /// Nothing is charged after an error.
    #[track_caller]
    pub fn blocking(mut self, at_most: Duration) -> Result<BufferAllocator, WaitError> {
        self.ask.at_most(at_most);
        let caller = Location::caller();
        let mut future = self.into_future_from(caller);
        if let Some(obtain) = &mut future.obtain {
            obtain.block()?;
        }
        future.finish()
    }

    fn into_future_from(self, caller: &'static Location<'static>) -> AdmissionFuture {
        let (parent, reservation) = self.child.asks();
        // Without a reservation there is nothing to wait for, and one that is larger than the child's limit is
        // refused by the builder.
        let waits = reservation > 0 && self.child.is_sound();
        let mut ask = self.ask;
        ask.bytes = reservation;
        let obtain = Some(parent)
            .filter(|_| waits)
            .and_then(|parent| Obtain::unless_taken(parent, ask, || self.child.request()));
        AdmissionFuture {
            child: Some(self.child),
            obtain,
            caller,
        }
    }
}

impl IntoFuture for Admission {
    type Output = Result<BufferAllocator, WaitError>;
    type IntoFuture = AdmissionFuture;

    #[track_caller]
    fn into_future(self) -> AdmissionFuture {
        self.into_future_from(Location::caller())
    }
}

/// The future of an [`Admission`]. Dropping it ends the wait.
#[must_use = "futures do nothing unless polled"]
pub struct AdmissionFuture {
    child: Option<ChildAllocatorBuilder>,
    obtain: Option<Obtain>,
    caller: &'static Location<'static>,
}

impl AdmissionFuture {
    /// Creates the child, whose reservation is charged if it waited for it.
    fn finish(&mut self) -> Result<BufferAllocator, WaitError> {
        let child = self
            .child
            .take()
            .expect("a future is not polled after it is ready");
        if self.obtain.take().is_none() {
            return Ok(child.build_charged(None, self.caller)?);
        }
        let (parent, bytes) = child.asks();
        let parent = parent.clone();
        let mut charge = Some(Charge::of(&parent.handle, bytes));
        let mut keep = || charge.take().map_or((), Charge::keep);
        // If the parent was closed meanwhile, the charge is given back. Once the child is in the tree it is the
        // child's, also if a listener panics then.
        Ok(child.build_charged(Some(&mut keep), self.caller)?)
    }
}

impl Future for AdmissionFuture {
    type Output = Result<BufferAllocator, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(obtain) = &mut self.obtain {
            match Pin::new(obtain).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    self.child = None;
                    self.obtain = None;
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(())) => {}
            }
        }
        Poll::Ready(self.finish())
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, reservation) = self.child.asks();
        f.debug_struct("Admission")
            .field("parent", parent)
            .field("reservation", &reservation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AdmissionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionFuture").finish_non_exhaustive()
    }
}
