//! [`Event`]: when work of a device is done, and [`Stream`]: work in order.

use std::any::Any;
use std::fmt;
use std::mem;
use std::slice;
use std::sync::Arc;

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::__private::push;
use arrow_memory_core::__private::sync::plain::{Mutex, lock};

use crate::device::Device;
use crate::error::DeviceError;

/// What a manager's events can do. [`Event::new`] makes an [`Event`] of it.
///
/// An event that comes from a [`DeviceManager`](crate::DeviceManager), or from a stream that the manager accepts, is
/// believed: memory is read, freed and reused once it says that the work is done. The manager's unsafe promises cover
/// these events. Other events, which safe code may make, can only delay or fail what is done with memory.
pub trait DeviceEvent: Any + Send + Sync + fmt::Debug {
    /// Returns whether the work is done, which it also is once it has failed. Does not block.
    fn is_done(&self) -> bool;

    /// Blocks the thread until the work is done. Each call returns the same result.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work failed. It is over then, too: the device touches none of its memory any
    /// more.
    fn wait(&self) -> Result<(), DeviceError>;

    /// Does what [`wait`](Self::wait) does, for a drop. It may give up where the device tells nothing of the work any more,
    /// and returns `None` then: the work may go on, and what it uses is leaked. By default it waits without a limit.
    fn wait_in_drop(&self) -> Option<Result<(), DeviceError>> {
        Some(self.wait())
    }
}

/// When work of a device is done: a copy, a kernel. Clones are of the same event.
///
/// An event may keep what the work uses, such as the buffer on the host that an unfinished copy reads:
/// until the work is seen to be done, or the last clone is dropped, which then blocks the thread until the work is done.
#[derive(Clone)]
#[doc(alias("SyncEvent", "DeviceSync"))]
pub struct Event(Option<Arc<Shared>>);

struct Shared {
    work: Box<dyn DeviceEvent>,
    /// What the work uses, until it is seen to be done.
    keep: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Event {
    /// Creates the event of work that is done already. Costs nothing.
    pub const fn done() -> Self {
        Self(None)
    }

    /// Creates an event of a manager's own kind.
    pub fn new(work: impl DeviceEvent) -> Self {
        Self(Some(Arc::new(Shared {
            work: Box::new(work),
            keep: Mutex::new(Vec::new()),
        })))
    }

    /// The event of all these works together.
    pub(crate) fn all(events: &[Event]) -> Self {
        let parts = events.iter().flat_map(Event::parts);
        let mut parts: Vec<Event> = parts.filter(|part| !part.is_nothing()).cloned().collect();
        match parts.len() {
            0 | 1 => parts.pop().unwrap_or(Self::done()),
            _ => Self::new(All(parts)),
        }
    }

    /// The events that [`all`](Self::all) made this one of; else this one.
    pub(crate) fn parts(&self) -> &[Event] {
        match self.downcast_ref() {
            Some(All(parts)) => parts,
            None => slice::from_ref(self),
        }
    }

    /// Whether this is [`Event::done`], which is of no work.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Keeps `what` until the work is seen to be done, or the last clone of this event is dropped, which then
    /// blocks the thread until the work is done. What was kept before is kept, too. If the work is done, `what` is
    /// dropped at once. A panic of its drop is caught.
    ///
    /// A buffer that is kept here and was told that it is [used until](crate::DeviceBuf::used_until) this event holds the event
    /// as the event holds the buffer: neither is dropped before somebody asks the event. One of the two is enough.
    ///
    /// If the manager's event panics while the last clone waits, or [gives up](DeviceEvent::wait_in_drop), the work may go on:
    /// what was kept is leaked then.
    pub fn keep(&self, what: impl Send + 'static) {
        let Some(shared) = &self.0 else {
            catch(|| drop(what));
            return;
        };
        let what: Box<dyn Any + Send> = Box::new(what);
        push(|| lock(&shared.keep), |kept| kept, what);
        self.is_done();
    }

    /// Returns whether the work is done, which it also is once it has failed: [`wait`](Self::wait) says that. Does not
    /// block. If the manager's event panics, the panic is caught, and the work counts as unfinished.
    pub fn is_done(&self) -> bool {
        let Some(shared) = &self.0 else { return true };
        let mut done = false;
        catch(|| done = shared.work.is_done());
        if done {
            shared.release();
        }
        done
    }

    /// Blocks the thread until the work is done.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work failed. It is over then, too.
    ///
    /// # Panics
    ///
    /// If the manager's event panics. The work may go on then.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let result = shared.work.wait();
        shared.release();
        result
    }

    /// How the work ended, for which this waits; `None` if the manager's event panicked: then the work may go on.
    pub(crate) fn outcome(&self) -> Option<Result<(), DeviceError>> {
        let mut outcome = None;
        catch(|| outcome = Some(self.wait()));
        outcome
    }

    /// How the work ended, for which a drop waits; `None` if the manager's event panicked or gave up: then the work may go on.
    pub(crate) fn outcome_in_drop(&self) -> Option<Result<(), DeviceError>> {
        let Some(shared) = &self.0 else {
            return Some(Ok(()));
        };
        let outcome = shared.outcome_in_drop();
        if outcome.is_some() {
            shared.release();
        }
        outcome
    }

    /// Whether the work is done and did not fail. Does not block.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.is_done() && matches!(self.outcome(), Some(Ok(())))
    }

    /// Whether the work is done and failed. Does not block.
    pub(crate) fn has_failed(&self) -> bool {
        self.is_done() && matches!(self.outcome(), Some(Err(_)))
    }

    /// Returns what a manager made this event of, if it is of that type. `None` for [`Event::done`], and for the event
    /// of a buffer that [several works write](crate::DeviceBufMut::written_by).
    pub fn downcast_ref<T: DeviceEvent>(&self) -> Option<&T> {
        let work: &dyn Any = &*self.0.as_ref()?.work;
        work.downcast_ref()
    }
}

impl Shared {
    /// Takes out what the work uses. The lock is free when this returns.
    fn take_kept(&self) -> Vec<Box<dyn Any + Send>> {
        mem::take(&mut *lock(&self.keep))
    }

    /// The same as [`Event::outcome_in_drop`].
    fn outcome_in_drop(&self) -> Option<Result<(), DeviceError>> {
        let mut outcome = None;
        catch(|| outcome = self.work.wait_in_drop());
        outcome
    }

    /// Drops what the work used, which is over.
    fn release(&self) {
        for kept in self.take_kept() {
            catch(|| drop(kept));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if lock(&self.keep).is_empty() {
            return;
        }
        // An error ends the work as success does. Without an outcome the work may go on, and use what is leaked here.
        match self.outcome_in_drop() {
            Some(_) => self.release(),
            None => mem::forget(self.take_kept()),
        }
    }
}

/// Several works, which are done once each of them is.
#[derive(Debug)]
struct All(Vec<Event>);

impl DeviceEvent for All {
    fn is_done(&self) -> bool {
        self.0.iter().all(Event::is_done)
    }

    /// Waits for all of them. The error is that of the first one that failed.
    fn wait(&self) -> Result<(), DeviceError> {
        let mut ended = Ok(());
        for part in &self.0 {
            ended = ended.and(part.wait());
        }
        ended
    }

    fn wait_in_drop(&self) -> Option<Result<(), DeviceError>> {
        let mut ended = Ok(());
        for part in &self.0 {
            ended = ended.and(part.outcome_in_drop()?);
        }
        Some(ended)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Event(done)"),
            Some(shared) => write!(f, "Event({:?})", shared.work),
        }
    }
}

/// What a manager's streams can do. [`Stream::new`] makes a [`Stream`] of it.
///
/// A stream is believed only by a manager that accepts it: each manager refuses the streams of types that it does not
/// know, whatever device they name. The manager's unsafe promises cover the streams that it accepts.
pub trait DeviceStream: Any + Send + Sync + fmt::Debug {
    /// Returns the device that does the work.
    fn device(&self) -> Device;

    /// Makes later work of this stream begin after `event`. Blocks the thread until the event is done if the
    /// device cannot wait for events of that kind itself.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the event's work failed.
    fn wait_for(&self, event: &Event) -> Result<(), DeviceError>;

    /// Returns the event of all work that was given to this stream so far.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses.
    fn record(&self) -> Result<Event, DeviceError>;
}

/// Work of a device in order: what is given to a stream begins after what was given to it before.
///
/// [`DeviceManager::stream`](crate::DeviceManager::stream) makes one. Clones are of the same stream.
#[derive(Clone)]
pub struct Stream(Arc<dyn DeviceStream>);

impl Stream {
    /// Creates a stream of a manager's own kind.
    pub fn new(stream: impl DeviceStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Returns the device that does the work.
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// Makes later work of this stream begin after `event`. Blocks the thread only if the device cannot
    /// wait for events of that kind itself.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the event's work failed.
    #[doc(alias = "WaitEvent")]
    pub fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        let mut parts = event.parts().iter();
        parts.try_for_each(|part| self.0.wait_for(part))
    }

    /// Returns the event of all work that was given to this stream so far.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses.
    pub fn record(&self) -> Result<Event, DeviceError> {
        self.0.record()
    }

    /// Blocks the thread until all work that was given to this stream so far is done.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.record()?.wait()
    }

    /// Returns what a manager made this stream of, if it is of that type.
    pub fn downcast_ref<T: DeviceStream>(&self) -> Option<&T> {
        let stream: &dyn Any = &*self.0;
        stream.downcast_ref()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{DeviceError, DeviceEvent, Event};

    /// Work that is done once it was waited for, and which counts the waits.
    #[derive(Clone, Debug, Default)]
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn waits(&self) -> usize {
            // Relaxed: the tests have one thread.
            self.0.load(Ordering::Relaxed)
        }
    }

    impl DeviceEvent for Counted {
        fn is_done(&self) -> bool {
            self.waits() > 0
        }

        fn wait(&self) -> Result<(), DeviceError> {
            // Relaxed: as above.
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Says, when it is dropped, how often the work had been waited for.
    struct Kept(Counted, Arc<AtomicUsize>);

    impl Drop for Kept {
        fn drop(&mut self) {
            // Relaxed: as above.
            self.1.store(10 + self.0.waits(), Ordering::Relaxed);
        }
    }

    fn event() -> (Counted, Event, Kept, Arc<AtomicUsize>) {
        let (work, dropped) = (Counted::default(), Arc::<AtomicUsize>::default());
        let kept = Kept(work.clone(), dropped.clone());
        (work.clone(), Event::new(work), kept, dropped)
    }

    #[test]
    fn the_last_clone_waits_for_the_work_before_it_drops_what_the_work_uses() {
        let (work, event, kept, dropped) = event();
        event.keep(kept);
        let clone = event.clone();

        drop(event);
        assert_eq!((work.waits(), dropped.load(Ordering::Relaxed)), (0, 0));
        drop(clone);
        assert_eq!((work.waits(), dropped.load(Ordering::Relaxed)), (1, 11));
    }

    #[test]
    fn an_event_that_keeps_nothing_does_not_wait_when_it_is_dropped() {
        let (work, event, ..) = event();

        drop(event);
        assert_eq!(work.waits(), 0);
    }

    #[test]
    fn what_is_kept_is_dropped_once_the_work_is_seen_to_be_done() {
        let (work, event, kept, dropped) = event();
        let (other, also_dropped) = (Kept(work.clone(), Arc::default()), dropped.clone());
        event.keep(kept);
        event.keep((other, also_dropped)); // what was kept before stays

        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        event.wait().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 11);
        assert_eq!(Arc::strong_count(&dropped), 1);
        event.keep(Arc::clone(&dropped)); // the work is done: dropped at once
        assert_eq!(Arc::strong_count(&dropped), 1);
    }

    /// Work that is never done, and whose event panics.
    #[derive(Debug)]
    struct Panics;

    impl DeviceEvent for Panics {
        fn is_done(&self) -> bool {
            panic!("by the test")
        }

        fn wait(&self) -> Result<(), DeviceError> {
            panic!("by the test")
        }
    }

    /// These leak on purpose.
    mod leaks {
        use super::{Arc, Event, Panics};

        #[test]
        fn what_an_event_keeps_is_leaked_if_it_panics() {
            let kept = Arc::new(());
            let event = Event::new(Panics);

            event.keep(Arc::clone(&kept));
            assert!(!event.is_done() && event.outcome().is_none());
            drop(event);
            assert_eq!(Arc::strong_count(&kept), 2); // its work may still use it
        }
    }

    #[test]
    fn a_panic_of_what_is_kept_is_caught_and_the_rest_is_dropped() {
        struct OnDrop;
        impl Drop for OnDrop {
            fn drop(&mut self) {
                panic!("by the test")
            }
        }
        let (_, event, kept, dropped) = event();

        event.keep(OnDrop);
        event.keep(kept);
        event.wait().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 11);
    }

    #[test]
    fn several_works_are_done_once_each_is_and_fail_if_one_does() {
        #[derive(Debug)]
        struct Fails;
        impl DeviceEvent for Fails {
            fn is_done(&self) -> bool {
                true
            }

            fn wait(&self) -> Result<(), DeviceError> {
                Err(DeviceError::unavailable("by the test"))
            }
        }
        let ((one, first, ..), (two, second, ..)) = (event(), event());

        let both = Event::all(&[first.clone(), Event::done(), second]);
        assert_eq!(both.parts().len(), 2);
        first.wait().unwrap();
        assert!(!both.is_done());
        let all = Event::all(&[Event::new(Fails), both]);
        assert_eq!(all.parts().len(), 3); // none of which is made of others
        assert!(all.wait().is_err());
        assert_eq!((one.waits(), two.waits()), (2, 1)); // an error does not end the wait
        assert!(all.is_done() && !all.has_succeeded());
        assert!(Event::all(&[]).is_nothing());
    }

    #[test]
    fn an_event_that_is_done_keeps_nothing() {
        struct OnDrop;
        impl Drop for OnDrop {
            fn drop(&mut self) {
                panic!("by the test")
            }
        }
        let dropped = Arc::new(());

        Event::done().keep(Arc::clone(&dropped));
        Event::done().keep(OnDrop); // the panic is caught
        assert!(Event::done().is_done() && Event::done().wait().is_ok());
        assert_eq!(Arc::strong_count(&dropped), 1);
        assert!(Event::done().downcast_ref::<Counted>().is_none());
    }
}
