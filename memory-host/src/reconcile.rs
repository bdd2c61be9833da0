//! [`HostExt::reconcile`]: the books of a tree beside what the backend, the process and the cgroup say.

use std::fmt;

use arrow_memory_core::__private::heap;
use arrow_memory_core::__private::text::Size;
use arrow_memory_core::{BufferAllocator, ManagerStats};

use crate::backend::{Free, fragmentation};
use crate::host::{CgroupMemory, Machine};

/// Compares a tree with the machine.
pub trait HostExt {
    /// Reads the tree's books, its backend, the process and its cgroup, one after the other, and
    /// says what is missing in the books.
    ///
    /// The numbers belong to the whole tree, whichever of its allocators this is called on. They are not of one
    /// instant: while memory is allocated, small differences are noise. O(tree) under the tree's lock, and a few
    /// small files are read.
    ///
    /// # Examples
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_core::RootAllocator;
    /// use arrow_memory_host::HostExt;
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let buffer = root.buffer(4096)?;
    /// let books = root.reconcile();
    /// assert_eq!(books.accounted_bytes, 4096);
    /// println!("{books}"); // one line
    /// println!("{books:#}"); // a table
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    fn reconcile(&self) -> Reconciliation;
}

impl HostExt for BufferAllocator {
    fn reconcile(&self) -> Reconciliation {
        let accounted = self.root_allocator().allocated_memory();
        let attributed = heap::attributed();
        let stats = self.allocation_manager().stats();
        Reconciliation::of(accounted, attributed, &stats, &Machine::default())
    }
}

/// What a tree has charged, beside what the backend, the process and the cgroup hold. `None` is unknown: the
/// backend does not count it, or the platform has no such file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciliation {
    /// Bytes charged to the tree. Reservations and external bytes are part of it, and need not exist as memory.
    pub accounted_bytes: usize,
    /// Bytes of the program's own heap that scopes of `arrow-memory-global` have allocated, in all trees: those that their
    /// allocators are charged for, and those of arrays that were adopted since. Those of this tree are accounted bytes.
    pub attributed_bytes: usize,
    /// Bytes that the backend has lent and not got back, to all trees.
    pub live_bytes: Option<usize>,
    /// Bytes in the backend's pages that hold blocks.
    pub active_bytes: Option<usize>,
    /// Bytes that the backend keeps for reuse.
    pub cached_bytes: Option<usize>,
    /// Resident bytes of the process that no file backs: heaps, stacks, and the blocks of all backends.
    pub process_anonymous_bytes: Option<usize>,
    /// Bytes that no file backs, of all processes in the cgroup.
    pub cgroup_anonymous_bytes: Option<usize>,
    /// Bytes of files in memory that the cgroup is charged for: in `/dev/shm`, or in a tmpfs.
    pub cgroup_shared_bytes: Option<usize>,
    /// Bytes in the buffers of the cgroup's sockets.
    pub cgroup_socket_bytes: Option<usize>,
    /// Bytes of the kernel for the cgroup: page tables, stacks of threads, slabs. Slabs that the kernel can free are no
    /// part of them in version 2 of cgroups; version 1 does not say how large they are.
    pub cgroup_kernel_bytes: Option<usize>,
    /// Anonymous bytes of the process that are neither accounted nor free in the backend, 0 at least. They belong to
    /// code that does not allocate from the tree: the program's own heap, its stacks, other trees.
    ///
    /// Accounted bytes that do not exist as memory hide as many of these. What is free in the backend without
    /// being counted there is part of these.
    pub unaccounted_bytes: Option<usize>,
    /// Anonymous bytes of the process that are neither attributed, nor lent by the backend, nor free there, 0 at least.
    /// The program uses them outside of scopes: blocks below 512 bytes, what its allocator rounds up to or keeps, stacks,
    /// and what C code allocates. Reservations and external bytes, which need not exist as memory, hide none of these.
    pub other_program_bytes: Option<usize>,
    /// Bytes in the backend's active pages that are in no block.
    pub fragmentation_bytes: Option<usize>,
    /// The directory of the cgroup.
    cgroup: Option<String>,
    /// Whether anything is known of the process.
    process: bool,
}

impl Reconciliation {
    fn of(accounted: usize, attributed: usize, stats: &ManagerStats, machine: &Machine) -> Self {
        let anonymous = machine.anonymous();
        let free = Free::of(stats).bytes();
        let cgroup = machine.cgroup();
        let of_cgroup = |bytes: fn(&CgroupMemory) -> Option<usize>| cgroup.as_ref().and_then(bytes);
        let program = |anonymous: usize| {
            let elsewhere = attributed.saturating_add(free);
            Some(anonymous.saturating_sub(elsewhere.saturating_add(stats.live_bytes?)))
        };
        Self {
            accounted_bytes: accounted,
            attributed_bytes: attributed,
            live_bytes: stats.live_bytes,
            active_bytes: stats.active_bytes,
            cached_bytes: stats.cached_bytes,
            process_anonymous_bytes: anonymous,
            cgroup_anonymous_bytes: of_cgroup(|cgroup| cgroup.anonymous),
            cgroup_shared_bytes: of_cgroup(|cgroup| cgroup.shared),
            cgroup_socket_bytes: of_cgroup(|cgroup| cgroup.sockets),
            cgroup_kernel_bytes: of_cgroup(|cgroup| cgroup.kernel),
            unaccounted_bytes: anonymous
                .map(|anonymous| anonymous.saturating_sub(accounted.saturating_add(free))),
            other_program_bytes: anonymous.and_then(program),
            fragmentation_bytes: fragmentation(stats),
            cgroup: cgroup.map(|cgroup| cgroup.path),
            process: anonymous.is_some(),
        }
    }

    /// Returns in words what the numbers of the process and of the cgroup were read from.
    pub fn source(&self) -> String {
        let process = match self.process {
            true => "the process from /proc/self/status",
            false => "nothing of the process",
        };
        match &self.cgroup {
            Some(path) => format!("{process}, the cgroup from {path}"),
            None => format!("{process}, nothing of a cgroup"),
        }
    }

    /// The numbers with their names: the name in the table, and in the line after what it has in common with
    /// the row before.
    fn rows(&self) -> [(&'static str, &'static str, Option<usize>); 13] {
        [
            ("accounted", "accounted", Some(self.accounted_bytes)),
            ("attributed", "; attributed", Some(self.attributed_bytes)),
            ("backend live", "; backend: live", self.live_bytes),
            ("backend active", ", active", self.active_bytes),
            ("backend cached", ", cached", self.cached_bytes),
            (
                "process anonymous",
                "; process: anonymous",
                self.process_anonymous_bytes,
            ),
            (
                "cgroup anonymous",
                "; cgroup: anonymous",
                self.cgroup_anonymous_bytes,
            ),
            ("cgroup shared", ", shared", self.cgroup_shared_bytes),
            ("cgroup sockets", ", sockets", self.cgroup_socket_bytes),
            ("cgroup kernel", ", kernel", self.cgroup_kernel_bytes),
            ("unaccounted", "; unaccounted", self.unaccounted_bytes),
            ("other program", "; other program", self.other_program_bytes),
            ("fragmentation", "; fragmentation", self.fragmentation_bytes),
        ]
    }
}

/// One line; `{:#}` is a table.
impl fmt::Display for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            for (name, _, bytes) in self.rows() {
                match bytes {
                    Some(bytes) => writeln!(f, "{name:<18}{bytes:>16}{:>12.1} MiB", mib(bytes))?,
                    None => writeln!(f, "{name:<18}{:>16}", "unknown")?,
                }
            }
            return write!(f, "({})", self.source());
        }
        for (_, name, bytes) in self.rows() {
            match bytes {
                Some(bytes) => write!(f, "{name} {}", Size(bytes))?,
                None => write!(f, "{name} unknown")?,
            }
        }
        Ok(())
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
