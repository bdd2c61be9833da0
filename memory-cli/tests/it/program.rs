//! Runs the program.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The output of the program, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output, parsed as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that the program failed with this code and one line about it, which contains `words`.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in {self:?}");
        }
        assert_eq!(self.out, "", "{self:?}");
    }
}

/// Runs the program.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(command(arguments).output().unwrap())
}

/// Runs the program with `input` on standard input.
pub(crate) fn feed<S: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &[u8],
) -> Ran {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The inputs of these tests fit in a pipe; a write fails only if the program has ended.
    let _ = child.stdin.take().unwrap().write_all(input);
    Ran::of(child.wait_with_output().unwrap())
}

fn command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrow-memory"));
    command.args(arguments).env_remove("NO_COLOR");
    command
}

/// Makes an empty directory of this name.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("arrow-memory-cli-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The path of a small table in the format of this extension. The first call writes it.
pub(crate) fn table(extension: &str) -> PathBuf {
    static TABLES: OnceLock<PathBuf> = OnceLock::new();
    let directory = TABLES.get_or_init(|| {
        let path = directory("tables");
        for format in ["parquet", "ipc", "csv"] {
            let ran = run([
                "gen",
                "tpch",
                "--scale",
                "0.001",
                "--tables",
                "orders",
                "--format",
                format,
                "--out",
                path.to_str().unwrap(),
            ]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        path
    });
    directory.join(format!("orders.{extension}"))
}

/// The number of rows in the table.
pub(crate) const ROWS: u64 = 1500;

/// The path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
