//! Writes files that appear when they are complete, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Checks before the work that its result can be written to a file at `path`.
///
/// # Errors
///
/// If its directory is not writable, if `path` is a directory, or if it is the file `input`, even under
/// another name.
pub(crate) fn check(path: &Path, input: Option<&Path>) -> io::Result<()> {
    let target = resolved(path);
    if let Some(input) = input
        && is_same_file(&target, input)
    {
        return Err(io::Error::other("that is the file that is read"));
    }
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => Ok(()),
        // The file has no name, so it is gone whenever this program ends.
        _ => tempfile::tempfile_in(directory(&target)).map(drop),
    }
}

/// Writes a whole file. The previous file at `path` stays until the new one is complete.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let target = resolved(path);
    let before = fs::metadata(&target).ok();
    if before.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        // A device or a pipe takes the bytes; it is not replaced.
        return File::options()
            .write(true)
            .open(&target)?
            .write_all(contents);
    }
    let mut file = named(directory(&target))?;
    file.write_all(contents)?;
    take_permissions(file.as_file(), before.as_ref())?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    Ok(())
}

/// A file that is being written. It has no name yet, if the system supports that.
pub(crate) struct Pending(Kind);

enum Kind {
    #[cfg(target_os = "linux")]
    Unnamed(File),
    Named(NamedTempFile),
}

impl Pending {
    /// Creates a file in the directory of `path`. A file without a name is gone whenever this program ends;
    /// one with a name is removed unless the program is killed.
    pub(crate) fn beside(path: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed(directory(path)) {
            return Ok(Self(Kind::Unnamed(file)));
        }
        named(directory(path)).map(|file| Self(Kind::Named(file)))
    }

    pub(crate) fn file(&self) -> &File {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Kind::Unnamed(file) => file,
            Kind::Named(file) => file.as_file(),
        }
    }

    /// Gives the file its name. An existing file of that name stays unless `overwrite` is set.
    pub(crate) fn publish(self, path: &Path, overwrite: bool) -> io::Result<()> {
        take_permissions(self.file(), fs::metadata(path).ok().as_ref())?;
        self.file().sync_all()?;
        match self.0 {
            #[cfg(target_os = "linux")]
            Kind::Unnamed(file) => link(&file, path, overwrite),
            Kind::Named(file) if overwrite => file.persist(path).map(drop).map_err(Into::into),
            Kind::Named(file) => file.persist_noclobber(path).map(drop).map_err(Into::into),
        }
    }
}

/// Creates a file without a name; `None` if the file system does not support them.
#[cfg(target_os = "linux")]
fn unnamed(directory: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::from_raw_mode(0o666)).ok()?;
    Some(file.into())
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path, overwrite: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD};

    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |to: &Path| {
        rustix::fs::linkat(CWD, &source, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    };
    match link(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && overwrite => {
            // A link cannot replace a file, but a rename can: the file has this name for two system calls.
            let name = format!(".arrow-memory.{}", std::process::id());
            let between = directory(path).join(name);
            link(&between)?;
            fs::rename(&between, path).inspect_err(|_| {
                // The name has no other use, and the file no other name.
                let _ = fs::remove_file(&between);
            })
        }
        linked => linked,
    }
}

/// A temporary file with the default permissions of a new file instead of private ones.
fn named(directory: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".arrow-memory.");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory)
}

/// Copies the permissions of the file that is replaced.
fn take_permissions(file: &File, before: Option<&fs::Metadata>) -> io::Result<()> {
    match before {
        Some(before) if before.is_file() => file.set_permissions(before.permissions()),
        _ => Ok(()),
    }
}

/// The target of a link, so that the link stays and its target is replaced.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether both paths are the same file: by name, by a link or by a hard link.
#[cfg(unix)]
fn is_same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

#[cfg(not(unix))]
fn is_same_file(one: &Path, other: &Path) -> bool {
    fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// The bytes that this user can still write to the file system of `directory`, if the system tells.
#[cfg(unix)]
pub(crate) fn free_space(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_space(_: &Path) -> Option<u64> {
    None
}

/// The failure for a file that cannot be written.
pub(crate) fn cannot_write(what: &str, path: &Path, error: &io::Error, option: &str) -> Failure {
    Failure::new(format!(
        "cannot write the {what} to `{}`: {error}; choose another place with {option}",
        path.display()
    ))
}
