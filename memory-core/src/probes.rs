//! USDT probes of provider `arrow_memory` (feature `probes`): one `nop` each until a tracer turns it into
//! a breakpoint. Without the feature they compile to nothing.
//!
//! | probe | arguments |
//! |---|---|
//! | `allocate` | address, size, allocator's name, allocator's id |
//! | `reallocate` | old address, new address, new size, name, id, old size |
//! | `release` | address, size, name, id |
//! | `refuse` | 0, size, name, id |
//! | `transfer` | address, size, name of the source allocator, name of the target allocator |
//!
//! Names end with a NUL. `docs/profiling.md` shows how to use them.

use std::ptr::NonNull;

use crate::outcome::AllocatorInfo;

/// A name in the form that tracers read.
#[cfg(feature = "probes")]
#[derive(Debug)]
pub(crate) struct ProbeName(std::ffi::CString);

/// The name without the feature `probes`: nothing is stored.
#[cfg(not(feature = "probes"))]
#[derive(Debug)]
pub(crate) struct ProbeName;

#[cfg(feature = "probes")]
impl ProbeName {
    /// Creates a name that ends at the first NUL of `name`.
    pub(crate) fn new(name: &str) -> Self {
        let name = name.split('\0').next().unwrap_or_default();
        Self(std::ffi::CString::new(name).unwrap_or_default())
    }

    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

#[cfg(not(feature = "probes"))]
impl ProbeName {
    pub(crate) fn new(_: &str) -> Self {
        Self
    }
}

/// The name and the ID of an allocator for the probes.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(feature = "probes"),
    expect(dead_code, reason = "no probe reads it")
)]
pub(crate) struct Probed<'a> {
    name: &'a ProbeName,
    info: &'a AllocatorInfo,
}

impl<'a> Probed<'a> {
    #[inline(always)]
    pub(crate) fn new(name: &'a ProbeName, info: &'a AllocatorInfo) -> Self {
        Self { name, info }
    }
}

#[cfg(feature = "probes")]
impl Probed<'_> {
    fn name_and_id(self) -> (usize, u64) {
        (self.name.address(), self.info.id.as_u64())
    }
}

#[cfg(feature = "probes")]
mod fire {
    use super::*;

    #[inline]
    pub(crate) fn allocate(block: NonNull<u8>, size: usize, owner: Probed<'_>) {
        let (name, id) = owner.name_and_id();
        probe::probe!(arrow_memory, allocate, block.as_ptr(), size, name, id);
    }

    #[inline]
    pub(crate) fn reallocate(
        old: NonNull<u8>,
        old_size: usize,
        new: NonNull<u8>,
        size: usize,
        owner: Probed<'_>,
    ) {
        let (name, id) = owner.name_and_id();
        let (old, new) = (old.as_ptr(), new.as_ptr());
        probe::probe!(arrow_memory, reallocate, old, new, size, name, id, old_size);
    }

    #[inline]
    pub(crate) fn release(block: NonNull<u8>, size: usize, owner: Probed<'_>) {
        let (name, id) = owner.name_and_id();
        probe::probe!(arrow_memory, release, block.as_ptr(), size, name, id);
    }

    #[cold]
    pub(crate) fn refuse(size: usize, allocator: &AllocatorInfo) {
        let name = ProbeName::new(&allocator.name);
        let (name, id) = (name.address(), allocator.id.as_u64());
        probe::probe!(arrow_memory, refuse, 0_usize, size, name, id);
    }

    #[cold]
    pub(crate) fn transfer(block: NonNull<u8>, size: usize, from: Probed<'_>, to: Probed<'_>) {
        let (from, to) = (from.name.address(), to.name.address());
        probe::probe!(arrow_memory, transfer, block.as_ptr(), size, from, to);
    }
}

#[cfg(not(feature = "probes"))]
mod fire {
    use super::*;

    #[inline(always)]
    pub(crate) fn allocate(_: NonNull<u8>, _: usize, _: Probed<'_>) {}

    #[inline(always)]
    pub(crate) fn reallocate(_: NonNull<u8>, _: usize, _: NonNull<u8>, _: usize, _: Probed<'_>) {}

    #[inline(always)]
    pub(crate) fn release(_: NonNull<u8>, _: usize, _: Probed<'_>) {}

    #[inline(always)]
    pub(crate) fn refuse(_: usize, _: &AllocatorInfo) {}

    #[inline(always)]
    pub(crate) fn transfer(_: NonNull<u8>, _: usize, _: Probed<'_>, _: Probed<'_>) {}
}

pub(crate) use fire::{allocate, reallocate, refuse, release, transfer};
