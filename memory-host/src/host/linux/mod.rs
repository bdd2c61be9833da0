//! Linux: cgroups of both versions, resource limits, physical memory, and the process itself.

mod cgroup;
mod files;
mod found;
mod level;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use self::files::{Files, field};
use self::found::Found;
use super::{Ceilings, CgroupMemory};

pub(crate) use self::level::Level;

/// The machine as its files describe it.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    files: Files,
}

impl Machine {
    /// A machine whose files lie below a directory.
    #[cfg(test)]
    pub(crate) fn below(root: &Path) -> Self {
        let files = Files::below(root);
        Self { files }
    }

    /// All limits that can be seen.
    pub(crate) fn limits(&self) -> io::Result<Ceilings> {
        let mut found = Found::default();
        cgroup::limits(&self.files, &mut found);
        self.resource_limits(&mut found);
        match self.files.read(Path::new(MEMINFO)) {
            Ok(text) => match field(&text, "MemTotal") {
                Some(bytes) => {
                    found.limit(Level::Physical, format!("MemTotal of {MEMINFO}"), bytes)
                }
                None => found.not_read(format!("{MEMINFO} (no MemTotal in it)")),
            },
            Err(error) => found.not_read(format!("{MEMINFO} ({error})")),
        }
        found.sorted()
    }

    /// How much of a level's limit is used by memory that the kernel cannot take back by itself.
    pub(crate) fn used(&self, level: &Level) -> Option<usize> {
        match level {
            Level::Cgroup(version, path) => cgroup::used(&self.files, *version, path),
            Level::AddressSpace => self.files.field(Path::new(STATUS), "VmSize"),
            Level::Data => self.files.field(Path::new(STATUS), "VmData"),
            Level::Physical => {
                let text = self.files.read(Path::new(MEMINFO)).ok()?;
                let total = field(&text, "MemTotal")?;
                Some(total.saturating_sub(field(&text, "MemAvailable")?))
            }
        }
    }

    /// The anonymous memory of this process that is resident.
    pub(crate) fn anonymous(&self) -> Option<usize> {
        self.files.field(Path::new(STATUS), "RssAnon")
    }

    /// The memory of this process that is resident and that the kernel cannot take back by itself.
    pub(crate) fn process(&self) -> Option<usize> {
        let text = self.files.read(Path::new(STATUS)).ok()?;
        let shared = field(&text, "RssShmem").unwrap_or(0);
        Some(field(&text, "RssAnon")?.saturating_add(shared))
    }

    /// The memory of the cgroup that this process is in, or of the closest one above that counts it.
    pub(crate) fn cgroup(&self) -> Option<CgroupMemory> {
        cgroup::own_memory(&self.files)
    }

    /// The soft limits, which are the ones that the kernel enforces.
    fn resource_limits(&self, found: &mut Found) {
        let text = match self.files.read(Path::new(LIMITS)) {
            Ok(text) => text,
            Err(error) => return found.not_read(format!("{LIMITS} ({error})")),
        };
        for (name, level) in [
            ("Max address space", Level::AddressSpace),
            ("Max data size", Level::Data),
        ] {
            let what = format!("{name} of {LIMITS}");
            let soft = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            match soft {
                Some("unlimited") => found.no_limit(what),
                Some(word) => found.number(level, what, word),
                None => found.not_read(format!("{what} (not in the file)")),
            }
        }
    }
}

const MEMINFO: &str = "/proc/meminfo";
const LIMITS: &str = "/proc/self/limits";
const STATUS: &str = "/proc/self/status";
