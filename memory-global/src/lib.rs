#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod events;
mod fork;
mod future;
mod installed;
mod labels;
mod scope;
mod shadow;
mod wrapper;

pub use error::Overdraft;
pub use future::{InScope, ScopeExt};
pub use installed::is_installed;
pub use scope::Scope;
pub use wrapper::Attributed;

/// Returns whether this platform can attribute the heap: Linux on x86-64 and aarch64. Elsewhere
/// [`Attributed`] hands every call on, and scopes charge nothing.
pub const fn supported() -> bool {
    shadow::SUPPORTED
}

/// Returns how many blocks were not attributed although they were allocated in a scope, since they have an address out
/// of the ordinary or the system had no memory for their labels. 0 on ordinary machines.
pub fn unattributable() -> usize {
    shadow::unattributable()
}
