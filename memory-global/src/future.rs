//! [`ScopeExt`]: futures and streams that run in a scope.
#![expect(
    unsafe_code,
    reason = "pins a field, and drops it before its struct is gone"
)]

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::{Scope, events};

/// Puts futures, and with the feature `futures` streams, into a [`Scope`].
///
/// # Examples
///
/// ```
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_global::{Scope, ScopeExt};
/// # use arrow_memory_system as _;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let root = RootAllocator::new(64 << 20);
/// let scope = Scope::new(&root.child("scan").build()?)?;
///
/// let rows = tokio::spawn(async { vec![0_u8; 1 << 20].len() }.in_scope(&scope));
/// assert_eq!(rows.await?, 1 << 20);
/// # Ok(())
/// # }
/// ```
pub trait ScopeExt: Sized {
    /// Runs a future or stream in `scope`: each poll, on whatever thread, and its drop.
    ///
    /// If bytes were charged over a limit, a `tracing` event says so after the poll, once until there is room again.
    fn in_scope(self, scope: &Scope) -> InScope<Self> {
        InScope {
            inner: ManuallyDrop::new(self),
            scope: Some(scope.clone()),
            told: false,
        }
    }

    /// Runs a future or stream in the scope that the thread is in now. In no scope, if it is in none.
    fn in_current_scope(self) -> InScope<Self> {
        InScope {
            inner: ManuallyDrop::new(self),
            scope: Scope::current(),
            told: false,
        }
    }
}

impl<T> ScopeExt for T {}

/// A future or stream that runs in a scope, by [`ScopeExt`].
#[derive(Debug)]
#[must_use = "futures and streams do nothing unless they are polled"]
pub struct InScope<T> {
    /// Pinned if the struct is. Dropped by this struct's `Drop` only.
    inner: ManuallyDrop<T>,
    /// Not pinned.
    scope: Option<Scope>,
    /// Whether an event has said that a limit is passed.
    told: bool,
}

impl<T> InScope<T> {
    /// Returns the scope.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Calls `poll` in the scope, and says afterwards if a limit was passed.
    fn poll_in_scope<R>(self: Pin<&mut Self>, poll: impl FnOnce(Pin<&mut T>) -> R) -> R {
        // SAFETY: nothing is moved out of the struct.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: `inner` is never moved while the struct is pinned: there is no other access to it but its drop,
        // which happens in place. `InScope` is `Unpin` only if `T` is.
        let inner = unsafe { Pin::new_unchecked(&mut *this.inner) };
        match &this.scope {
            None => poll(inner),
            Some(scope) => {
                let result = scope.run(|| poll(inner));
                let over = scope.check().err();
                let told = std::mem::replace(&mut this.told, over.is_some());
                if let Some(overdraft) = over.filter(|_| !told) {
                    events::over_limit(&overdraft);
                }
                result
            }
        }
    }
}

impl<T: Future> Future for InScope<T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        self.poll_in_scope(|inner| inner.poll(context))
    }
}

#[cfg(feature = "futures")]
impl<T: futures_core::Stream> futures_core::Stream for InScope<T> {
    type Item = T::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T::Item>> {
        self.poll_in_scope(|inner| inner.poll_next(context))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl<T> Drop for InScope<T> {
    fn drop(&mut self) {
        let _back = self.scope.as_ref().map(Scope::enter);
        // SAFETY: it is dropped once, here, and not used afterwards. It is dropped where it lies, as pinning asks.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}
