//! Platforms whose limits are not read: every answer is that it is not known.

use std::fmt;
use std::io;

use super::{Ceilings, CgroupMemory};

/// The machine, of which nothing is known here.
#[derive(Debug, Default)]
pub(crate) struct Machine;

/// What has a limit: nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {}

impl Machine {
    pub(crate) fn limits(&self) -> io::Result<Ceilings> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the memory limits of the host are read on Linux only; set a limit in bytes",
        ))
    }

    pub(crate) fn used(&self, level: &Level) -> Option<usize> {
        match *level {}
    }

    pub(crate) fn anonymous(&self) -> Option<usize> {
        None
    }

    pub(crate) fn process(&self) -> Option<usize> {
        None
    }

    pub(crate) fn cgroup(&self) -> Option<CgroupMemory> {
        None
    }
}

impl Level {
    pub(crate) fn counts_addresses(&self) -> bool {
        match *self {}
    }
}

impl fmt::Display for Level {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
