//! What gives foreign memory back: a closure behind one thin pointer, for which a slot has room.
#![expect(unsafe_code, reason = "a box that finds its own type again")]

use std::ptr::NonNull;

/// Gives foreign memory back when it is dropped: calls a closure, once.
///
/// # Invariants
///
/// 1. The pointer is of a leaked `Box<Boxed<F>>`, which this owns; `run` is `Boxed::<F>::run`.
pub(crate) struct Release(NonNull<Head>);

/// What is known of a closure of any type.
struct Head {
    /// Frees the box, then calls the closure.
    run: unsafe fn(NonNull<Head>),
}

#[repr(C)]
struct Boxed<F> {
    /// First, so that a pointer to it is one to the whole.
    head: Head,
    closure: F,
}

// SAFETY: it owns a closure that is Send, and nothing else.
unsafe impl Send for Release {}

impl Release {
    pub(crate) fn new<F: FnOnce() + Send + 'static>(closure: F) -> Self {
        let head = Head {
            run: Boxed::<F>::run,
        };
        Self(NonNull::from(Box::leak(Box::new(Boxed { head, closure }))).cast())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // SAFETY: alive by invariant 1.
        let run = unsafe { self.0.as_ref() }.run;
        // SAFETY: by invariant 1 this is the box that `run` is for; it is not touched again.
        unsafe { run(self.0) };
    }
}

impl<F: FnOnce()> Boxed<F> {
    /// # Safety
    ///
    /// `head` is of a leaked `Box<Boxed<F>>`, which is used up.
    unsafe fn run(head: NonNull<Head>) {
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

        let release = Some(Release::new(move || {
            assert_eq!(Arc::strong_count(&inside), 2);
            sender.send(()).unwrap();
        }));
        assert_eq!((size_of_val(&release), Arc::strong_count(&held)), (8, 2));
        drop(release);

        assert_eq!((calls.iter().count(), Arc::strong_count(&held)), (1, 1));
    }

    #[test]
    fn a_release_that_panics_has_freed_what_it_held() {
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let release = Release::new(move || panic!("with {inside:?}"));

        assert!(catch_unwind(AssertUnwindSafe(|| drop(release))).is_err());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
