//! External bytes: charged without a block of ours. They are counted, since any holder of a handle may
//! release them. A word counts those that it was charged with; `State::external` counts the rest.
#![expect(unsafe_code, reason = "gives back charged bytes, as the parent module")]

use super::handle::{Handle, release_under};
use super::node::{Locked, NodePtr};
use super::refusal::Refusal;
use super::word::Kind;
use crate::events;

impl Handle {
    /// Charges `bytes` (at least 1) to the node as external bytes.
    #[inline]
    pub(crate) fn charge_external(&self, bytes: usize) -> Result<(), Box<Refusal>> {
        // SAFETY: by invariant 1 the node is alive.
        if unsafe { self.ptr().take(bytes, Kind::External) } {
            return Ok(());
        }
        self.charge_external_slowly(bytes)
    }

    #[cold]
    fn charge_external_slowly(&self, bytes: usize) -> Result<(), Box<Refusal>> {
        let mut stripes = self.stripes_if_contended();
        let mut locked = self.tree.lock();
        locked.install_stripes(self.ptr(), &mut stripes);
        let charged = locked.charge_external(self.ptr(), bytes);
        drop(locked);
        // Boxed with the mutex released.
        charged.map_err(Box::new)
    }

    /// Charges `bytes` as external bytes whatever the limits say; `true` if no level is over its limit
    /// afterwards.
    pub(crate) fn force_external(&self, bytes: usize) -> Result<bool, Box<Refusal>> {
        let forced = self.tree.lock().force_external(self.ptr(), bytes);
        forced.map_err(Box::new)
    }

    /// Gives `bytes` (at least 1) of this node's external bytes back.
    ///
    /// # Panics
    ///
    /// If it has fewer; nothing has changed then.
    #[inline]
    #[track_caller]
    pub(crate) fn release_external(&self, bytes: usize) {
        // SAFETY: this handle keeps the node; the word counts these bytes, or they stay.
        if !unsafe { self.ptr().give(bytes, Kind::External) } {
            self.release_external_slowly(bytes);
        }
    }

    #[cold]
    #[track_caller]
    fn release_external_slowly(&self, bytes: usize) {
        let wants_late = events::wants_late_release();
        let mut stripes = self.stripes_if_contended();
        let mut locked = self.tree.lock();
        locked.install_stripes(self.ptr(), &mut stripes);
        match locked.take_external(self.ptr(), bytes) {
            Ok(()) => release_under(locked, self.ptr(), bytes, wants_late),
            Err(external) => {
                drop(locked);
                panic!(
                    "{bytes} external bytes released from allocator `{}`, which has {external}",
                    self.info
                );
            }
        }
    }
}

impl Locked<'_> {
    /// Charges external bytes; see `charge`.
    pub(super) fn charge_external(&mut self, node: NodePtr, bytes: usize) -> Result<(), Refusal> {
        self.charge(node, bytes)?;
        self.state(node).external += bytes;
        Ok(())
    }

    /// Charges external bytes whatever the limits say; see `force`.
    pub(super) fn force_external(&mut self, node: NodePtr, bytes: usize) -> Result<bool, Refusal> {
        let fits = self.force(node, bytes)?;
        self.state(node).external += bytes;
        Ok(fits)
    }

    /// Counts `bytes` of the external bytes as such no more, for the caller to release; or says that
    /// there are fewer.
    pub(super) fn take_external(&mut self, node: NodePtr, bytes: usize) -> Result<(), usize> {
        self.freeze(node);
        let state = self.state(node);
        if let Some(left) = state.external.checked_sub(bytes) {
            state.external = left;
            return Ok(());
        }
        let external = state.external;
        self.thaw(node, node);
        Err(external)
    }
}
