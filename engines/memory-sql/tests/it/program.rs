//! Runs the program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Sorts 300,000 rows of about 70 bytes, which do not come in the order of `k`.
pub(crate) const SORT: &str = "SELECT value * 7919 % 300007 AS k, repeat('x', 50) || value AS s \
     FROM generate_series(1, 300000) ORDER BY k";

/// Builds a hash table of 300,000 rows, which cannot spill.
pub(crate) const JOIN: &str = "SELECT count(*) FROM generate_series(1, 300000) a \
     JOIN generate_series(1, 300000) b ON a.value = b.value";

/// One partition and small batches, so that sorts need little to merge.
pub(crate) const SMALL: [&str; 5] = [
    "--partitions=1",
    "--set",
    "datafusion.execution.batch_size=1024",
    "--set",
    "datafusion.execution.sort_spill_reservation_bytes=1048576",
];

/// What a run has written, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it ended with that code, one line on standard error, and nothing on standard output.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for part in says {
            assert!(self.err.contains(part), "{part}: {self:?}");
        }
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrow-memory-sql"));
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(command().args(arguments).output().unwrap())
}

/// Runs it with that text on its standard input.
pub(crate) fn run_with(input: &str, arguments: &[&str]) -> Ran {
    let mut child = command();
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.args(arguments).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

/// A folder with files, which is removed at the end.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the folders above it, and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path_of(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns the path of a file whose folder is there.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes the numbers from 1 on as a Parquet file with columns `n` and `text`.
    pub(crate) fn parquet(&self, name: &str, rows: i64) -> String {
        use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
        use datafusion::parquet::arrow::ArrowWriter;

        let numbers = Int64Array::from_iter_values(1..=rows);
        let texts = StringArray::from_iter_values((1..=rows).map(|n| format!("row {n}")));
        let batch = RecordBatch::try_from_iter([
            ("n", std::sync::Arc::new(numbers) as _),
            ("text", std::sync::Arc::new(texts) as _),
        ]);
        let (batch, path) = (batch.unwrap(), self.path_of(name));
        let file = fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path.to_str().unwrap().to_owned()
    }
}
