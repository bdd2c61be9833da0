//! The labels of blocks: which account pays for the block that starts at an address. One file per platform.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
))]
mod linux;
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
)))]
mod none;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
))]
pub(crate) use linux::{
    SUPPORTED, clear, find, get, get_acquire, keep_errno, relabel, set, unattributable,
};
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
)))]
pub(crate) use none::{
    SUPPORTED, clear, find, get, get_acquire, keep_errno, relabel, set, unattributable,
};

/// Where a labelled block lies, and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) label: u32,
    pub(crate) start: usize,
    pub(crate) size: usize,
}
