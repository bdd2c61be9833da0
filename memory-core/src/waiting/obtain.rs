//! From a request to its charge, for a thread that blocks and for a task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
#[cfg(not(loom))]
use std::thread;
use std::time::Instant;

#[cfg(loom)]
use loom::thread;

use super::error::{GiveWay, WaitError, Waited};
use super::timer;
use crate::accounting::{Age, Ask, Queued, Refusal, Shortage, Verdict, Wake};
use crate::allocator::BufferAllocator;
use crate::buffer::charge::Charge;
use crate::error::AllocError;
use crate::events;
use crate::outcome::Purpose;
use crate::reclaim::{make_room, may_ask, may_call_others};

/// A request until its bytes are charged to the allocator. Dropping it ends the wait, and gives back what was
/// granted and not taken.
pub(super) struct Obtain {
    allocator: BufferAllocator,
    ask: Ask,
    /// The request as an error names it.
    request: (usize, Purpose),
    queued: Option<Queued>,
    /// What others were asked, once they were; and whether the thread that asks blocks.
    shortage: Option<Arc<Shortage>>,
    blocks: bool,
    /// When the first attempt began, and when this one did.
    began: Instant,
    now: Instant,
}

impl Obtain {
    /// Charges `ask.bytes`, which is at least 1, if the allocator's credit suffices: then `None`. Otherwise
    /// begins to ask for them.
    #[inline]
    pub(super) fn unless_taken(
        allocator: &BufferAllocator,
        ask: Ask,
        request: impl FnOnce() -> (usize, Purpose),
    ) -> Option<Self> {
        // An older admission that waits comes first, even if the parent has credit.
        if !ask.admission && allocator.handle.take(ask.bytes) {
            return None;
        }
        Some(Self::new(allocator, ask, request()))
    }

    #[cold]
    fn new(allocator: &BufferAllocator, mut ask: Ask, request: (usize, Purpose)) -> Self {
        let now = ask.begin();
        Self {
            allocator: allocator.clone(),
            began: ask.age.map_or(now, |age| age.since()),
            now,
            ask,
            request,
            queued: None,
            shortage: None,
            blocks: false,
        }
    }

    /// Blocks the thread until the bytes are charged.
    pub(super) fn block(&mut self) -> Result<(), WaitError> {
        self.blocks = true;
        loop {
            if self.queued.is_none() && self.start(|| Wake::Thread(thread::current()))? {
                return Ok(());
            }
            let Some(queued) = &mut self.queued else {
                continue;
            };
            if let Some((verdict, age)) = queued.verdict() {
                self.queued = None;
                if self.ended(verdict, age)? {
                    return Ok(());
                }
                continue;
            }
            if may_call_others() && queued.asks_again() {
                self.ask_others(true);
                continue;
            }
            match self.ask.deadline {
                None => thread::park(),
                Some(deadline) => {
                    let now = Instant::now();
                    if now < deadline {
                        park_timeout(deadline - now);
                    } else {
                        queued.expire(now);
                    }
                }
            }
        }
    }

    /// Charges the bytes, or queues the request; `true` if they are charged.
    fn start(&mut self, wake: impl FnOnce() -> Wake) -> Result<bool, WaitError> {
        let handle = &self.allocator.handle;
        let Ask {
            bytes, admission, ..
        } = self.ask;
        // In a callback nobody waits: the thread may be about to release what others wait for.
        let waits = may_call_others() && !handle.is_in_reserve();
        if let Some(listener) = handle.listener.as_deref().filter(|_| !admission) {
            match handle.charge_or_queue(self.ask, &mut None) {
                Ok(_) => return Ok(true),
                Err(refusal) => {
                    let Refusal::Limit(levels) = &*refusal else {
                        return Err(self.refused(&refusal).into());
                    };
                    let outcome = levels.to_outcome();
                    events::inside(|| listener.on_failed_allocation(&handle.info, bytes, &outcome));
                }
            }
        }
        let mut wake = waits.then(wake);
        match handle.charge_or_queue(self.ask, &mut wake) {
            Ok(None) => Ok(true),
            Ok(Some(queued)) => {
                self.queued = Some(queued);
                handle.tree.paths().count_wait();
                events::waits(&handle.info, bytes);
                timer::arm(&self.allocator, self.now, self.ask.deadline);
                self.ask_others(false);
                Ok(false)
            }
            Err(refusal) => Err(self.refused(&refusal).into()),
        }
    }

    /// Asks others to make room for this request, which is in the queue already: what they release is charged for it
    /// in the section that releases it. If the level is stuck it insists.
    fn ask_others(&mut self, insist: bool) {
        let handle = &self.allocator.handle;
        // A request that was told to ask does so even if the hint says that there is nobody to be asked: it may be old.
        let asks = match insist {
            true => !handle.is_in_reserve(),
            false => may_ask(handle),
        };
        if !asks {
            return;
        }
        let shortage = self
            .shortage
            .get_or_insert_with(|| Shortage::new(handle.info.clone(), self.blocks));
        let Some(queued) = &self.queued else { return };
        let turn = queued.turn();
        make_room(handle, self.ask.bytes, turn, shortage, insist, || {
            queued.has_ended()
        });
    }

    /// What follows from a verdict; `true`: the bytes are charged, `false`: to be asked for again.
    fn ended(&mut self, verdict: Verdict, age: Age) -> Result<bool, WaitError> {
        // Given back if the subscriber panics.
        let granted = (verdict == Verdict::Granted)
            .then(|| Charge::of(&self.allocator.handle, self.ask.bytes));
        self.count_waited(verdict == Verdict::GiveWay);
        let waited = self.began.elapsed();
        events::waited(
            &self.allocator.handle.info,
            self.ask.bytes,
            waited,
            verdict.name(),
        );
        if let Some(granted) = granted {
            granted.keep();
            return Ok(true);
        }
        match verdict {
            Verdict::Forked => {
                self.ask.age = Some(age);
                return Ok(false);
            }
            Verdict::GiveWay => {
                return Err(WaitError::GiveWay(GiveWay {
                    age,
                    allocator: self.allocator.info().clone(),
                    requested: self.request.0,
                    waited,
                }));
            }
            Verdict::Granted | Verdict::Refused | Verdict::Stuck | Verdict::TimedOut => {}
        }
        // The refusal has the numbers of now. If the request fits by now, all is well.
        let Err(refusal) = self.allocator.handle.charge(self.ask.bytes) else {
            return Ok(true);
        };
        let error = self.refused(&refusal);
        Err(if verdict == Verdict::TimedOut {
            WaitError::TimedOut(Waited { waited, error })
        } else {
            WaitError::Refused(error)
        })
    }

    /// Counts the end of this attempt's wait.
    fn count_waited(&self, gives_way: bool) {
        let paths = self.allocator.handle.tree.paths();
        paths.count_waited(self.now.elapsed(), gives_way);
    }

    #[cold]
    fn refused(&self, refusal: &Refusal) -> AllocError {
        let (requested, purpose) = self.request.clone();
        refusal.report(requested, purpose)
    }

    fn poll_queued(&mut self, waker: &Waker) -> Poll<Result<(), WaitError>> {
        loop {
            if self.queued.is_none() && self.start(|| Wake::Task(waker.clone()))? {
                return Poll::Ready(Ok(()));
            }
            let Some(queued) = &mut self.queued else {
                continue;
            };
            let Some((verdict, age)) = queued.poll(waker) else {
                // In a callback it stays told: it asks when it is polled elsewhere.
                if may_call_others() && queued.asks_again() {
                    self.ask_others(true);
                    continue;
                }
                return Poll::Pending;
            };
            self.queued = None;
            if self.ended(verdict, age)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Drop for Obtain {
    fn drop(&mut self) {
        if self.queued.is_some() {
            self.count_waited(false);
        }
        if let Some(shortage) = &self.shortage {
            shortage.end();
        }
    }
}

impl Future for Obtain {
    type Output = Result<(), WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_queued(context.waker())
    }
}

#[cfg(not(loom))]
use thread::park_timeout;

/// Models know no time.
#[cfg(loom)]
fn park_timeout(_: std::time::Duration) {
    thread::park();
}
