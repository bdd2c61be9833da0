//! The operations on a node that need no mutex: its credit is taken and given, on its word or on a stripe.
#![expect(
    unsafe_code,
    reason = "reaches nodes by pointers, for as long as something keeps them alive"
)]

use std::ops::Add;

use arrow_memory_manager::AllocationManager;

use super::super::word::{Held, Kind, Slow, Word};
use super::stripes::{COLLISIONS, Stripes, stripe_count};
use super::watch::{Watch, hooks, watched};
use super::{Node, NodePtr};
use crate::debug::Trail;
use crate::listener::AllocationListener;
use crate::probes::Probed;
use crate::sampling;
use crate::sync::Ordering;
use crate::sync::current::unscoped;

impl NodePtr {
    /// Takes `bytes` of the node's credit, without the mutex.
    ///
    /// # Safety
    ///
    /// The node is alive.
    #[inline]
    pub(in crate::accounting) unsafe fn take(self, bytes: usize, kind: Kind) -> bool {
        // SAFETY: the caller promises that the node is alive.
        let node = unsafe { self.node() };
        match node.word.try_take(bytes, kind) {
            Ok(()) => true,
            Err(slow) => node.take_after(bytes, kind, slow),
        }
    }

    /// Gives `bytes` that are charged to the node back to its credit, without the mutex. When it
    /// answers `true`, the node may be freed.
    ///
    /// # Safety
    ///
    /// `bytes` are charged to the node and the caller gives them up. If they are external, the caller
    /// has a handle besides, since they may not be there.
    #[inline]
    pub(in crate::accounting) unsafe fn give(self, bytes: usize, kind: Kind) -> bool {
        // SAFETY: the bytes that the caller still holds keep the node alive (invariant 2), until
        // the exchange succeeds; after it nothing of the node is touched. `Node` is not Freeze,
        // so the reference claims nothing about its memory after that.
        let node = unsafe { self.node() };
        match node.word.try_give(bytes, node.high(), kind) {
            Ok(()) => true,
            // SAFETY: the bytes were not given yet; the rest is the caller's promise.
            Err(slow) => unsafe { self.give_after(bytes, kind, slow) },
        }
    }

    /// Gives to the thread's stripe, if there are any, or once more after a collision; `false`: the
    /// mutex must decide. When it answers `true`, the node may be freed: so this takes a pointer,
    /// since a reference that is an argument would promise that the node lives until it returns.
    ///
    /// # Safety
    ///
    /// The conditions of `give`.
    #[cold]
    unsafe fn give_after(self, bytes: usize, kind: Kind, slow: Slow) -> bool {
        // SAFETY: as in `give`.
        let node = unsafe { self.node() };
        let high = node.high();
        match node.stripes() {
            Some(stripes) => {
                let high = high >> stripes.shift;
                let mine = stripes.mine().give(bytes, high, kind);
                // Another thread may have charged external bytes. The node is the caller's anyway.
                mine || kind == Kind::External
                    && stripes.iter().any(|word| word.give(bytes, high, kind))
            }
            None => node.may_try_again(slow) && node.word.give(bytes, high, kind),
        }
    }
}

impl Node {
    /// The sum of what the words in use hold.
    #[inline]
    pub(super) fn sum(&self, held: impl Fn(&Word) -> Held) -> Held {
        match self.stripes() {
            None => held(&self.word),
            Some(stripes) => stripes.iter().map(held).fold(Held::default(), Held::add),
        }
    }

    /// The stripes, once there are any.
    #[inline]
    pub(super) fn stripes(&self) -> Option<&Stripes> {
        // Acquire: partner of the Release in `install_stripes`, to see the words.
        let stripes = self.stripes.load(Ordering::Acquire);
        // SAFETY: by invariant 4 null or live for as long as the node.
        unsafe { stripes.as_ref() }
    }

    /// Takes of the thread's stripe, if there are any, or once more after a collision; `false`: the
    /// mutex must decide.
    #[cold]
    fn take_after(&self, bytes: usize, kind: Kind, slow: Slow) -> bool {
        match self.stripes() {
            Some(stripes) => stripes.mine().take(bytes, kind),
            None => self.may_try_again(slow) && self.word.take(bytes, kind),
        }
    }

    /// Whether to try the word again: after a collision, but for so many that the mutex should make
    /// stripes.
    fn may_try_again(&self, slow: Slow) -> bool {
        // Relaxed: a statistic that decides when to stripe, and guards nothing.
        slow == Slow::Collision && self.collisions.fetch_add(1, Ordering::Relaxed) < COLLISIONS
    }

    #[inline]
    pub(super) fn high(&self) -> usize {
        // Relaxed: a threshold, see the field.
        self.high.load(Ordering::Relaxed)
    }

    /// Whether a charge of the program's heap here found a level over its limit.
    #[inline]
    pub(in crate::accounting) fn was_over(&self) -> bool {
        // Relaxed: a hint; the numbers are under the mutex.
        self.was_over.load(Ordering::Relaxed)
    }

    pub(in crate::accounting) fn set_was_over(&self, over: bool) {
        // Relaxed: as above.
        self.was_over.store(over, Ordering::Relaxed);
    }

    /// The manager of the tree.
    #[inline]
    pub(crate) fn manager(&self) -> &dyn AllocationManager {
        // SAFETY: by invariant 5 it is alive as long as this node; managers are only shared.
        unsafe { self.manager.as_ref() }
    }

    /// Whether this node's allocations are watched, by hooks or by samples.
    #[inline]
    pub(crate) fn watch(&self) -> Watch {
        // Relaxed: a switch; an allocation that races with it may see either value.
        Watch(self.watch.load(Ordering::Relaxed))
    }

    /// This node as the probes name it.
    #[inline]
    pub(crate) fn probed(&self) -> Probed<'_> {
        Probed::new(&self.probe_name, &self.info)
    }

    /// Whether an allocation of `bytes` is due to be sampled: then, the units per byte.
    #[inline]
    pub(crate) fn sample_due(&self, bytes: usize) -> Option<u64> {
        let scale = self.watch().scale();
        (scale != 0 && sampling::due(bytes, scale)).then_some(scale)
    }

    /// Sets how many units of the sampler's distance a byte is; 0: not sampled.
    pub(crate) fn set_scale(&self, scale: u64) {
        // Relaxed: a switch; an allocation that races with it may see either value.
        self.watch.store(
            watched(self.hooks, self.policy.is_some(), scale),
            Ordering::Relaxed,
        );
    }

    /// The listener, if it wants to hear of each allocation.
    #[inline]
    pub(crate) fn hearing(&self) -> Option<&dyn AllocationListener> {
        (self.hooks & hooks::LISTENER != 0).then(|| self.hearer())
    }

    /// The listener if it wants to hear of each allocation; else one that does nothing.
    #[inline]
    pub(crate) fn hearer(&self) -> &dyn AllocationListener {
        // SAFETY: by invariant 6 it is alive as long as this node; listeners are only shared.
        unsafe { self.hearer.as_ref() }
    }

    /// Whether debug mode is on in this tree.
    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.hooks & hooks::DEBUG != 0
    }

    /// The history of the allocator, in debug mode.
    pub(crate) fn trail(&self) -> Option<&Trail> {
        self.trail.get().map(Box::as_ref)
    }

    /// Starts the history of the allocator, once.
    pub(crate) fn set_trail(&self, trail: Trail) {
        // The first one stays, and there is no second.
        let _ = self.trail.set(Box::new(trail));
    }
}

impl Node {
    /// Stripes for this node, if enough threads were seen to collide on its word and it has none. They
    /// are made before the mutex is taken, for [`Locked::install_stripes`](super::Locked).
    #[inline]
    pub(in crate::accounting) fn stripes_if_contended(&self) -> Option<Box<Stripes>> {
        // Relaxed: a statistic.
        let contended = self.collisions.load(Ordering::Relaxed) > COLLISIONS;
        let wanted = contended && self.stripes().is_none();
        // A global allocator that is asked for them may come here itself.
        wanted.then(|| unscoped(|| Stripes::new(stripe_count())))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
