//! What the machine says: its limits, and how much is used of them. One file per platform.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Level, Machine};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{Level, Machine};

/// A limit of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ceiling {
    pub(crate) bytes: usize,
    /// What has this limit, and says how much of it is used.
    pub(crate) level: Level,
}

/// The limits of the machine that this process may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(crate) least: Ceiling,
    /// The others, in the order of their sizes: one for each level. The memory of the machine is not among them, since a
    /// process with a smaller limit does not answer for what others use of it.
    pub(crate) larger: Vec<Ceiling>,
    /// Which files said what.
    pub(crate) source: String,
}

/// The memory of a cgroup that the kernel cannot take back by itself, in bytes.
///
/// Page cache is no part of it, nor are slabs that can be freed: the kernel drops those before it kills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupMemory {
    pub(crate) anonymous: Option<usize>,
    /// Files in memory, such as those of `/dev/shm`: they could only go to swap.
    pub(crate) shared: Option<usize>,
    pub(crate) sockets: Option<usize>,
    pub(crate) kernel: Option<usize>,
    /// The directory that was read.
    pub(crate) path: String,
}
