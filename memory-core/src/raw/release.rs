//! [`Release`]: gives foreign memory back, by a closure, or a function that many share, behind one thin
//! pointer, for which a slot has room.
#![expect(unsafe_code, reason = "a pointer that finds its own type again")]

use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::accounting::NodePtr;
use crate::accounting::heap::{Moved, labels, return_to_heap};

/// Gives foreign memory back, once: by [`call`](Self::call), without which it stays.
///
/// # Invariants
///
/// 1. The pointer is of a leaked `Box<Boxed<F>>`, which this owns, and `run` is `Boxed::<F>::run`;
///    or of a `ReleaseFn` that is never dropped, and `run` is `ReleaseFn::run`.
#[must_use]
pub(crate) struct Release(NonNull<Head>);

/// The head of a release of any kind.
struct Head {
    /// Gives the memory at an address back, which was that allocation, charged to that payer, if it was wrapped.
    run: Run,
}

type Run = unsafe fn(NonNull<Head>, NonNull<u8>, Option<ForeignId>, Option<&mut Payer>);

/// The node that is charged for foreign memory which is being released. A release may return bytes from there to
/// the program's heap.
#[derive(Debug)]
pub struct Payer {
    node: NodePtr,
    /// The bytes that were returned, and are the node's charge no longer. If there are any, this has a pin of the node.
    returned: usize,
}

impl Payer {
    #[inline]
    pub(crate) fn new(node: NodePtr) -> Self {
        Self { node, returned: 0 }
    }

    /// The bytes that were returned.
    #[inline]
    pub(crate) fn returned(&self) -> usize {
        self.returned
    }

    /// Returns the part of a block of the program's heap that moved when the memory was adopted.
    ///
    /// # Safety
    ///
    /// The memory that is being released was charged for this part, and the block is live until this returns.
    pub unsafe fn return_to_heap(&mut self, moved: Moved) {
        let Some(labels) = labels() else { return };
        // SAFETY: the memory's bytes are charged to the node, and keep it, until they are given up below.
        let node = unsafe { self.node.node() };
        node.add_pin();
        // SAFETY: the pin keeps the node; the rest is the caller's promise.
        let returned = unsafe { return_to_heap(self.node, &moved, labels) };
        if self.returned > 0 || returned == 0 {
            // One pin is enough, and where nothing was returned, the bytes keep the node.
            // SAFETY: the pin of above.
            unsafe { self.node.unpin() };
        }
        self.returned += returned;
    }
}

impl Drop for Payer {
    #[inline]
    fn drop(&mut self) {
        if self.returned > 0 {
            // SAFETY: `return_to_heap` added the pin.
            unsafe { self.node.unpin() };
        }
    }
}

#[repr(C)]
struct Boxed<F> {
    /// First, so that a pointer to it is one to the whole.
    head: Head,
    closure: F,
}

/// Tells foreign allocations apart: no other has the same identity until the release of this one
/// has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForeignId(NonZeroUsize);

impl ForeignId {
    pub(crate) fn of<T>(home: NonNull<T>) -> Self {
        Self(home.addr())
    }

    /// The identity as a number.
    pub fn get(self) -> usize {
        self.0.get()
    }
}

/// A function that releases many foreign allocations, which so need no closure each: it finds what
/// belongs to one by its address and identity, as a registry of [`WeakForeign`]es has them.
///
/// For [`ForeignAllocation::with_release`].
///
/// [`WeakForeign`]: crate::WeakForeign
/// [`ForeignAllocation::with_release`]: crate::ForeignAllocation::with_release
#[repr(C)]
pub struct ReleaseFn {
    /// First, as in `Boxed`.
    head: Head,
    function: Function,
}

#[derive(Clone, Copy)]
enum Function {
    Plain(fn(NonNull<u8>, Option<ForeignId>)),
    WithPayer(fn(NonNull<u8>, Option<ForeignId>, Option<&mut Payer>)),
}

impl ReleaseFn {
    /// A release by `function`, which is told where an allocation starts, and which one it was,
    /// unless it was never wrapped.
    pub const fn new(function: fn(NonNull<u8>, Option<ForeignId>)) -> Self {
        Self {
            head: Head { run: Self::run },
            function: Function::Plain(function),
        }
    }

    /// A release by `function`, which also learns who pays, unless the memory was never wrapped.
    #[doc(hidden)]
    pub const fn with_payer(
        function: fn(NonNull<u8>, Option<ForeignId>, Option<&mut Payer>),
    ) -> Self {
        Self {
            head: Head { run: Self::run },
            function: Function::WithPayer(function),
        }
    }

    /// # Safety
    ///
    /// `head` is of a `ReleaseFn`.
    unsafe fn run(
        head: NonNull<Head>,
        start: NonNull<u8>,
        id: Option<ForeignId>,
        payer: Option<&mut Payer>,
    ) {
        // SAFETY: the caller's promise.
        let this = unsafe { head.cast::<Self>().as_ref() };
        match this.function {
            Function::Plain(function) => function(start, id),
            Function::WithPayer(function) => function(start, id, payer),
        }
    }
}

impl fmt::Debug for ReleaseFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReleaseFn")
    }
}

// SAFETY: it owns a closure that is Send, and nothing else; or leads to what is Sync.
unsafe impl Send for Release {}

impl Release {
    pub(crate) fn new<F: FnOnce() + Send + 'static>(closure: F) -> Self {
        let head = Head {
            run: Boxed::<F>::run,
        };
        Self(NonNull::from(Box::leak(Box::new(Boxed { head, closure }))).cast())
    }

    pub(crate) fn by_function(release: &'static ReleaseFn) -> Self {
        Self(NonNull::from(release).cast())
    }

    /// Gives back the memory at `start`, which was the allocation `id`, charged to `payer`, if it was wrapped.
    #[inline]
    pub(crate) fn call(self, start: NonNull<u8>, id: Option<ForeignId>, payer: Option<&mut Payer>) {
        // SAFETY: alive by invariant 1.
        let run = unsafe { self.0.as_ref() }.run;
        // SAFETY: by invariant 1 this is what `run` is for; it is not touched again.
        unsafe { run(self.0, start, id, payer) };
    }
}

impl<F: FnOnce()> Boxed<F> {
    /// Frees the box, then calls the closure.
    ///
    /// # Safety
    ///
    /// `head` is of a leaked `Box<Boxed<F>>`, which is used up.
    unsafe fn run(
        head: NonNull<Head>,
        _start: NonNull<u8>,
        _id: Option<ForeignId>,
        _payer: Option<&mut Payer>,
    ) {
        // SAFETY: the caller's promise.
        let boxed = unsafe { Box::from_raw(head.cast::<Self>().as_ptr()) };
        let Self { closure, .. } = *boxed;
        closure();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_release_calls_its_closure_once_and_drops_what_it_holds() {
        let held = Arc::new(());
        let (inside, (sender, calls)) = (Arc::clone(&held), std::sync::mpsc::channel());

        let release = Release::new(move || {
            assert_eq!(Arc::strong_count(&inside), 2);
            sender.send(()).unwrap();
        });
        assert_eq!(
            (size_of::<Option<Release>>(), Arc::strong_count(&held)),
            (8, 2)
        );
        release.call(NonNull::dangling(), None, None);

        assert_eq!((calls.iter().count(), Arc::strong_count(&held)), (1, 1));
    }

    #[test]
    fn a_release_that_panics_has_freed_what_it_held() {
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let release = Release::new(move || panic!("with {inside:?}"));

        assert!(
            catch_unwind(AssertUnwindSafe(|| release.call(
                NonNull::dangling(),
                None,
                None
            )))
            .is_err()
        );
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
