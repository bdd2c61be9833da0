//! [`Charge`]: bytes that are charged, and given back unless they are kept.
#![expect(unsafe_code, reason = "gives bytes back that it charged")]

use std::marker::PhantomData;

use super::errors::vetoed;
use crate::accounting::{Handle, NodePtr, Refusal};
use crate::error::AllocError;
use crate::events::{inside, outside};
use crate::listener::AllocationListener;
use crate::outcome::{AllocationOutcome, Purpose};
use crate::reclaim::{charge, charge_after_asking};

/// Returns how many bytes the caller asked for, and for what purpose. It is called after a refusal.
pub(crate) trait Request: FnOnce() -> (usize, Purpose) {}

impl<F: FnOnce() -> (usize, Purpose)> Request for F {}

/// A request for `size` bytes that became one for `capacity`.
pub(crate) fn rounded(size: usize, capacity: usize) -> impl Request + Copy {
    move || (size, Purpose::rounded(size, capacity))
}

/// Bytes that are charged to a handle's node, and given back unless they are kept.
///
/// | made by | asks the listener first | the listener has one chance to make room |
/// |---|---|---|
/// | [`asking_and_retrying`](Self::asking_and_retrying) | yes | yes |
/// | [`asking`](Self::asking) | yes | no |
/// | [`retrying`](Self::retrying) | no: the caller did | yes |
/// | [`silently`](Self::silently) | no | no |
pub(crate) struct Charge<'a> {
    /// The handle's node, as a value: through a reference it would be read anew after each call.
    node: NodePtr,
    bytes: usize,
    handle: PhantomData<&'a Handle>,
}

impl<'a> Charge<'a> {
    /// Charges `bytes` (perhaps none) after asking the listener, which may veto. After a refusal for a
    /// limit, the listener has one chance to make room.
    #[inline(always)] // Else its result would be returned through memory.
    pub(crate) fn asking_and_retrying(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        let Some(listener) = handle.listener.as_deref().filter(|_| bytes > 0) else {
            return Self::silently(handle, bytes, request);
        };
        if let Some(listener) = handle.hearing()
            && let Err(veto) = inside(|| listener.on_pre_allocation(&handle.info, bytes))
        {
            return Err(vetoed(handle, request(), veto));
        }
        if let Err(refusal) = handle.charge(bytes) {
            charge_again(handle, listener, bytes, request(), refusal)?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// Charges `bytes` (perhaps none) after asking the listener, which may veto. The listener is not
    /// told of a refusal.
    pub(crate) fn asking(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        if let Some(listener) = handle.hearing().filter(|_| bytes > 0)
            && let Err(veto) = inside(|| listener.on_pre_allocation(&handle.info, bytes))
        {
            return Err(vetoed(handle, request(), veto));
        }
        if bytes > 0 {
            // Nobody is asked to make room for what is tried, and not needed.
            handle.charge(bytes).map_err(|refusal| {
                let (requested, purpose) = request();
                refusal.report(requested, purpose)
            })?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// Charges `bytes` (perhaps none) without a word to the listener.
    #[inline(always)] // Else its result would be returned through memory.
    pub(crate) fn silently(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        if bytes > 0 {
            charge(handle, bytes).map_err(|refusal| {
                let (requested, purpose) = request();
                refusal.report(requested, purpose)
            })?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// Charges at least one byte. The listener was asked by the caller, or does not hear of allocations;
    /// after a refusal for a limit, it has one chance to make room. The error is in a box, so that the
    /// result fits in registers: see the head of `allocate`.
    #[inline(always)] // Else its result would be returned through memory.
    pub(super) fn retrying(
        handle: &'a Handle,
        bytes: usize,
        asked: usize,
    ) -> Result<Self, Box<AllocError>> {
        if let Err(refusal) = handle.charge(bytes) {
            Self::retry(handle, bytes, asked, refusal)?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// Lets the listener make room after a refusal, if there is a listener, and charges once more.
    #[cold]
    fn retry(
        handle: &Handle,
        bytes: usize,
        asked: usize,
        refusal: Box<Refusal>,
    ) -> Result<(), Box<AllocError>> {
        let purpose = Purpose::rounded(asked, bytes);
        match &handle.listener {
            Some(listener) => {
                let request = (asked, purpose);
                let again = || charge_again(handle, &**listener, bytes, request, refusal);
                // A listener that hears allocations has been asked, and the thread counts as inside until it is
                // told of the allocation. Here it may ask others.
                let hears = handle.hearing().is_some();
                Ok(if hears { outside(again) } else { again() }?)
            }
            None => charge_after_asking(handle, bytes, refusal)
                .map_err(|refusal| Box::new(refusal.report(asked, purpose))),
        }
    }

    /// These bytes, charged to the handle's node.
    #[inline]
    pub(crate) fn of(handle: &'a Handle, bytes: usize) -> Self {
        Self {
            node: handle.ptr(),
            bytes,
            handle: PhantomData,
        }
    }

    /// The node that is charged.
    #[inline]
    pub(super) fn node(&self) -> NodePtr {
        self.node
    }

    /// The bytes that would be given back now.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges more bytes, without a word to the listener.
    pub(crate) fn add(
        &mut self,
        handle: &Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<(), AllocError> {
        Charge::silently(handle, bytes, request)?.keep();
        self.bytes += bytes;
        Ok(())
    }

    /// Takes over bytes that are charged to the node already, for the caller.
    pub(crate) fn take_over(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Leaves the bytes charged.
    #[inline]
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }

    /// The part of `bytes`, charged by itself; the rest is given back.
    pub(crate) fn split_off(
        mut self,
        handle: &Handle,
        bytes: usize,
    ) -> Result<Charge<'_>, AllocError> {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.add(handle, more, || (more, Purpose::Bytes))?;
        }
        self.keep_some(bytes);
        Ok(Charge::of(handle, bytes))
    }

    /// Leaves some of the bytes charged.
    #[inline]
    pub(crate) fn keep_some(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the constructor charged these bytes, or `take_over` took them, and neither `keep`
            // nor `keep_some` was called for them.
            unsafe { self.node.uncharge(self.bytes) };
        }
    }
}

/// Asks the listener whether it made room after a refusal, then those who registered for that, and charges once more.
#[cold]
fn charge_again(
    handle: &Handle,
    listener: &dyn AllocationListener,
    bytes: usize,
    (requested, purpose): (usize, Purpose),
    mut refusal: Box<Refusal>,
) -> Result<(), AllocError> {
    let outcome: Option<AllocationOutcome> = match &*refusal {
        Refusal::Limit(levels) => Some(levels.to_outcome()),
        _ => None,
    };
    if let Some(outcome) = outcome
        && inside(|| listener.on_failed_allocation(&handle.info, bytes, &outcome))
    {
        match handle.charge(bytes) {
            Ok(()) => return Ok(()),
            Err(again) => refusal = again,
        }
    }
    charge_after_asking(handle, bytes, refusal)
        .map_err(|refusal| refusal.report(requested, purpose))
}
