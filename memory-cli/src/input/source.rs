//! The sources of tables: a file, each file of a directory, or standard input.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stop::io_failure;
use crate::failure::Failure;

/// One table to read; it can be opened any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The name in messages and in the tree.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    File(PathBuf),
    /// A copy of standard input, in a file without a name.
    StandardInput(Arc<File>),
}

/// The sources for these arguments. A directory stands for the tables below it, in the order of their paths,
/// and `-` for standard input.
pub(crate) fn sources(arguments: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for argument in arguments {
        if argument == Path::new("-") {
            if sources.iter().any(Source::is_standard_input) {
                return Err(Failure::usage("standard input can be read once"));
            }
            sources.push(Source::standard_input()?);
        } else if argument.is_dir() {
            let before = sources.len();
            walk(argument, &mut sources)
                .map_err(|error| failed(&argument.to_string_lossy(), io_failure(error)))?;
            if sources.len() == before {
                let failure = Failure::new("no file below it is Parquet, Arrow IPC or called CSV");
                return Err(failed(&argument.to_string_lossy(), failure));
            }
        } else {
            sources.push(Source::file(argument));
        }
    }
    Ok(sources)
}

impl Source {
    pub(crate) fn file(path: &Path) -> Self {
        Self {
            name: path.to_string_lossy().into_owned(),
            kind: Kind::File(path.to_owned()),
        }
    }

    /// Copies standard input to a file that has no name, since Parquet and Arrow IPC files are read from
    /// their ends.
    fn standard_input() -> Result<Self, Failure> {
        if io::stdin().is_terminal() {
            return Err(Failure::usage("nothing to read: pipe a file in"));
        }
        let copied = || {
            let mut file = tempfile::tempfile()?;
            io::copy(&mut io::stdin().lock(), &mut file)?;
            Ok(file)
        };
        let cannot = |error: io::Error| {
            let place = std::env::temp_dir();
            Failure::new(format!(
                "cannot keep standard input in a temporary file in `{}`: {error}",
                place.display()
            ))
        };
        Ok(Self {
            name: "standard input".to_owned(),
            kind: Kind::StandardInput(Arc::new(copied().map_err(cannot)?)),
        })
    }

    pub(crate) fn is_standard_input(&self) -> bool {
        matches!(self.kind, Kind::StandardInput(_))
    }

    /// The path, if it has one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(path) => Some(path),
            Kind::StandardInput(_) => None,
        }
    }

    /// The extension of the name, in lower case and without `.gz`, if it is that of a format.
    pub(super) fn extension(&self) -> Option<&'static str> {
        let known = [
            "parquet", "pq", "arrow", "arrows", "ipc", "feather", "csv", "tsv", "txt",
        ];
        let path = self.path()?;
        let extension = |path: &Path| {
            let extension = path.extension().and_then(OsStr::to_str)?;
            Some(extension.to_ascii_lowercase())
        };
        let mut found = extension(path)?;
        if found == "gz" {
            found = extension(Path::new(path.file_stem()?))?;
        }
        known.into_iter().find(|known| **known == *found)
    }

    /// Whether these first bytes are the magic number of gzip.
    pub(super) fn is_gzip(&self, head: &[u8]) -> bool {
        head.starts_with(&[0x1F, 0x8B])
    }

    /// Opens the file. Returns it with its length.
    pub(super) fn open(&self) -> Result<(File, u64), Failure> {
        let path = match &self.kind {
            Kind::File(path) => path,
            Kind::StandardInput(file) => {
                let mut file = file.try_clone().map_err(io_failure)?;
                rewind(&mut file)?;
                let length = file.metadata().map_err(io_failure)?.len();
                return Ok((file, length));
            }
        };
        // Before opening, since opening a pipe waits until another process opens it to write.
        let metadata = fs::metadata(path).map_err(|error| not_there(path, &error))?;
        if !metadata.is_file() {
            return Err(Failure::new(
                "it is not a regular file; to read from a pipe, give `-` and connect it to standard input",
            ));
        }
        let file = File::open(path).map_err(io_failure)?;
        let length = file.metadata().map_err(io_failure)?.len();
        Ok((file, length))
    }

    /// The failure, with the name of this source.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        failed(&self.name, failure)
    }
}

/// The failure, with `name` as the source.
pub(super) fn failed(name: &str, failure: Failure) -> Failure {
    failure.about(format_args!("cannot read `{name}`"))
}

pub(super) fn rewind(file: &mut File) -> Result<(), Failure> {
    file.rewind().map_err(io_failure)
}

/// The failure for a file that cannot be opened.
fn not_there(path: &Path, error: &io::Error) -> Failure {
    let text = path.to_string_lossy();
    let hint = if error.kind() != io::ErrorKind::NotFound {
        ""
    } else if text.contains("://") {
        "; only files of this machine are read: fetch it first"
    } else if text.contains(['*', '?', '[']) {
        "; no file matches this pattern, or the shell did not expand it because it is quoted"
    } else {
        ""
    };
    Failure::new(format!("{error}{hint}"))
}

/// Adds the tables below a directory. Names that start with `.` or `_` are skipped, which is the convention
/// of partitioned data sets; links to directories are not followed.
fn walk(directory: &Path, sources: &mut Vec<Source>) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let hidden = entry.file_name();
        if hidden.as_encoded_bytes().starts_with(b".")
            || hidden.as_encoded_bytes().starts_with(b"_")
        {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, sources)?;
        } else if path.is_file() && (is_called_a_table(&path) || starts_as_a_table(&path)) {
            sources.push(Source::file(&path));
        }
    }
    Ok(())
}

/// Whether the file starts with the magic number of Parquet or of Arrow IPC.
fn starts_as_a_table(path: &Path) -> bool {
    let mut head = [0; 6];
    let read = File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut head));
    read.is_ok()
        && (head.starts_with(b"PAR1") || head == *b"ARROW1" || head.starts_with(&[0xFF; 4]))
}

/// Whether the path has the extension of a supported format.
pub(crate) fn is_called_a_table(path: &Path) -> bool {
    let known = [
        "parquet", "pq", "arrow", "arrows", "ipc", "feather", "csv", "tsv", "csv.gz", "tsv.gz",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    known.iter().any(|known| {
        name.strip_suffix(known)
            .is_some_and(|rest| rest.ends_with('.'))
    })
}
