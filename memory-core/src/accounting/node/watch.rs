//! Whether a node's allocations are watched: [`Watch`] and the bits of [`hooks`].

/// In [`Node::watch`](super::Node::watch): there are hooks. The highest bit, so that it shows as the sign.
const HOOKED: u64 = 1 << 63;

/// In [`Node::watch`](super::Node::watch), with [`HOOKED`]: there is more than a listener that hears of allocations:
/// another hook, or sampling.
const OTHERS: u64 = 1 << 62;

/// The value of [`Node::watch`](super::Node::watch), read once.
#[derive(Clone, Copy)]
pub(crate) struct Watch(pub(super) u64);

impl Watch {
    /// Whether anybody watches.
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub(crate) fn has_hooks(self) -> bool {
        self.0 & HOOKED != 0
    }

    /// Whether a listener is all that there is: no other hook, and no sampling.
    #[inline]
    pub(crate) fn is_listener_alone(self) -> bool {
        self.has_hooks() && self.0 & OTHERS == 0
    }

    /// The units per byte of a node without hooks, where all bits are theirs; 0: not sampled.
    #[inline]
    pub(crate) fn scale_without_hooks(self) -> u64 {
        debug_assert!(!self.has_hooks());
        self.0
    }

    /// The units per byte; 0: not sampled.
    #[inline]
    pub(crate) fn scale(self) -> u64 {
        self.0 & !(HOOKED | OTHERS)
    }
}

/// Bits of [`Node::hooks`](super::Node::hooks).
pub(crate) mod hooks {
    /// A listener is set that hears of allocations.
    pub(crate) const LISTENER: u8 = 1;
    /// Debug mode is on.
    pub(crate) const DEBUG: u8 = 2;
    /// Statistics are on.
    pub(crate) const STATISTICS: u8 = 4;
}

/// [`Node::watch`](super::Node::watch) for these hooks, a rounding policy other than the default, and sampling with
/// so many units per byte, or 0.
pub(super) fn watched(hooks: u8, policy: bool, scale: u64) -> u64 {
    match (hooks, policy, scale) {
        (0, false, scale) => scale,
        (hooks::LISTENER, false, 0) => HOOKED,
        _ => HOOKED | OTHERS | scale,
    }
}
