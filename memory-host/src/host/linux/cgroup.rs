//! Finding the memory cgroup of this process, its limits and what it uses, in both versions.
//!
//! `/proc/self/cgroup` has the path of the process in each hierarchy, `/proc/self/mountinfo` has where a
//! hierarchy is mounted and which of its directories is the mount's root. In a container that is often not the root
//! of the hierarchy, so that cgroups above it cannot be seen. A machine may have both versions mounted; then the
//! memory controller is in one of them, and the other one has no files about memory.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::files::{Files, field};
use super::found::{Found, UNLIMITED};
use super::level::{Level, Version};
use crate::host::CgroupMemory;

/// Where a process is in one hierarchy.
#[derive(Debug)]
struct Place {
    version: Version,
    /// The directory of the process.
    own: PathBuf,
    /// The mount point, the highest directory that can be seen.
    top: PathBuf,
}

impl Place {
    /// The directories from the process's own up to the mount point.
    fn directories(&self) -> impl Iterator<Item = &Path> {
        self.own
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.top))
    }
}

/// Adds the limits of all cgroups that this process is in.
pub(super) fn limits(files: &Files, found: &mut Found) {
    let places = match places(files) {
        Ok(places) => places,
        Err(error) => return found.not_read(format!("{SELF} ({error})")),
    };
    for place in &places {
        let mut any = false;
        for directory in place.directories() {
            for name in place.version.limit_files() {
                any |= limit(files, place.version, &directory.join(name), found);
            }
        }
        if place.version == Version::V1 {
            any |= hierarchical_limit(files, place, found);
        }
        if !any {
            found.not_read(format!(
                "{} (no limits of memory in it)",
                place.own.display()
            ));
        }
        // The root of a hierarchy has no such file.
        let top = place.top.join("memory.max");
        if place.version == Version::V2 && files.read(&top).is_ok() {
            let top = place.top.display();
            found.note(format!(
                "{top} has cgroups above it, whose limits cannot be seen"
            ));
        }
    }
    if places.is_empty() {
        found.not_read(format!("{SELF} (no cgroup with memory in it)"));
    }
}

/// The memory that a cgroup uses.
fn memory(files: &Files, version: Version, directory: &Path) -> Option<CgroupMemory> {
    let text = files.read(&directory.join("memory.stat")).ok()?;
    let path = directory.display().to_string();
    let memory = match version {
        Version::V2 => CgroupMemory {
            anonymous: field(&text, "anon"),
            shared: field(&text, "shmem"),
            sockets: field(&text, "sock"),
            kernel: kernel(&text),
            path,
        },
        Version::V1 => CgroupMemory {
            // `rss` is of the cgroup alone, without those below it.
            anonymous: field(&text, "total_rss").or_else(|| field(&text, "rss")),
            shared: field(&text, "total_shmem").or_else(|| field(&text, "shmem")),
            sockets: number(files, &directory.join("memory.kmem.tcp.usage_in_bytes")),
            // How much of it are slabs that can be freed is not said.
            kernel: number(files, &directory.join("memory.kmem.usage_in_bytes")),
            path,
        },
    };
    memory.anonymous.is_some().then_some(memory)
}

/// The sum of what is known of a cgroup; `None` without the anonymous bytes, which are nearly all of it.
pub(super) fn used(files: &Files, version: Version, directory: &Path) -> Option<usize> {
    let memory = memory(files, version, directory)?;
    let rest = [memory.shared, memory.sockets, memory.kernel];
    let rest = rest.into_iter().flatten();
    Some(rest.fold(memory.anonymous?, usize::saturating_add))
}

/// The memory of the process's cgroup, or of the closest one above it that says anything.
pub(super) fn own_memory(files: &Files) -> Option<CgroupMemory> {
    let places = places(files).ok()?;
    places.iter().find_map(|place| {
        place
            .directories()
            .find_map(|directory| memory(files, place.version, directory))
    })
}

impl Version {
    fn limit_files(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["memory.limit_in_bytes"],
            // Above `memory.high` the kernel slows the process down until it has given memory back.
            Self::V2 => &["memory.max", "memory.high"],
        }
    }
}

/// Reads one file with a limit; returns whether it is there.
fn limit(files: &Files, version: Version, path: &Path, found: &mut Found) -> bool {
    let what = path.display().to_string();
    match files.read(path) {
        Ok(text) => match text.trim() {
            "max" => found.no_limit(what),
            text => {
                let directory = path.parent().unwrap_or(path).to_owned();
                found.number(Level::Cgroup(version, directory), what, text);
            }
        },
        // Normal at the root of a hierarchy, and for a cgroup that is removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => found.not_read(format!("{what} ({error})")),
    }
    true
}

/// The limit that version 1 computes over all ancestors, those that cannot be seen included.
fn hierarchical_limit(files: &Files, place: &Place, found: &mut Found) -> bool {
    let path = place.own.join("memory.stat");
    let Some(bytes) = files.field(&path, "hierarchical_memory_limit") else {
        return false;
    };
    let what = format!("hierarchical_memory_limit of {}", path.display());
    let level = Level::Cgroup(place.version, place.top.clone());
    // It is the smallest limit of all cgroups of the hierarchy: one that was read already, if they can all be seen.
    if bytes as u64 >= UNLIMITED {
        found.no_limit(what);
    } else {
        found.limit_if_smaller(level, what, bytes);
    }
    true
}

/// The kernel's memory in version 2, without slabs that can be freed: caches of file names and inodes, mostly.
fn kernel(text: &str) -> Option<usize> {
    // Kernels before 5.18 list its parts only.
    let parts = || {
        ["kernel_stack", "pagetables", "percpu", "slab"]
            .into_iter()
            .filter_map(|part| field(text, part))
            .reduce(usize::saturating_add)
    };
    let all = field(text, "kernel").or_else(parts)?;
    Some(all.saturating_sub(field(text, "slab_reclaimable").unwrap_or(0)))
}

fn number(files: &Files, path: &Path) -> Option<usize> {
    files.read(path).ok()?.trim().parse().ok()
}

/// Where this process is, in each hierarchy that may have the memory controller.
fn places(files: &Files) -> io::Result<Vec<Place>> {
    let text = files.read(Path::new(SELF))?;
    let mounts = files.read(Path::new(MOUNTS)).unwrap_or_default();
    let mut places = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let version = if controllers.split(',').any(|name| name == "memory") {
            Version::V1
        } else if id == "0" && controllers.is_empty() {
            Version::V2
        } else {
            continue;
        };
        places.push(place(version, path, &mounts));
    }
    Ok(places)
}

/// The directory of the cgroup `path`: below the mount that shows it, or else the mount point itself.
fn place(version: Version, path: &str, mounts: &str) -> Place {
    let path = Path::new(path);
    let shown = |(root, top): &(PathBuf, PathBuf)| {
        let below = path.strip_prefix(root).ok()?;
        // Outside of the namespace's root a path starts with `/..`, which leads nowhere here.
        let plain = below
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        plain.then(|| (top.join(below), top.clone()))
    };
    let mounts: Vec<_> = mounts
        .lines()
        .filter_map(|line| mount(version, line))
        .collect();
    let (own, top) = match mounts.iter().find_map(shown) {
        Some(place) => place,
        None => match mounts.into_iter().next() {
            Some((_, top)) => (top.clone(), top),
            None => {
                let top = PathBuf::from(version.usual_mount());
                let shown = shown(&(PathBuf::from("/"), top.clone()));
                shown.unwrap_or((top.clone(), top))
            }
        },
    };
    // `join` of an empty path leaves a slash at the end.
    let own = own.components().collect();
    Place { version, own, top }
}

impl Version {
    /// Where a hierarchy is mounted if the list of mounts cannot be read.
    fn usual_mount(self) -> &'static str {
        match self {
            Self::V1 => "/sys/fs/cgroup/memory",
            Self::V2 => "/sys/fs/cgroup",
        }
    }
}

/// The root and the mount point of a line of `mountinfo`, if it mounts the hierarchy that is looked for.
fn mount(version: Version, line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, top) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    let fits = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    fits.then(|| (unescaped(root), unescaped(top)))
}

/// Spaces, tabs, line feeds and backslashes are in octal in `mountinfo`.
fn unescaped(path: &str) -> PathBuf {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let path = codes
        .into_iter()
        .fold(path.to_owned(), |path, (code, plain)| {
            path.replace(code, plain)
        });
    PathBuf::from(path)
}

const SELF: &str = "/proc/self/cgroup";
const MOUNTS: &str = "/proc/self/mountinfo";
