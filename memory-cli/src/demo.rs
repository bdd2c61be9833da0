//! `demo`: shows the tool on data that it generates.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use crate::failure::{DOES_NOT_FIT, Failure, one_line};
use crate::input::{Glance, Reading, Source};
use crate::lifeline;
use crate::scan::duration;
use crate::size::human;
use crate::terminal::{self, Style};

/// The scale of the table that is generated.
const SCALE: &str = "0.05";

/// A limit that the whole table fits into.
const FITS: &str = "96MiB";

/// A limit that the table does not fit into.
const DOES_NOT: &str = "32MiB";

/// Scans lineitem under both limits, each in a process of its own, so that the numbers of resident memory are
/// those of one scan.
pub(crate) fn demo(json: bool) -> Result<(), Failure> {
    let program = env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}")))?;
    let place = Place::find(&program)?;
    let directory = place.path();
    let file = directory.join("lineitem.parquet");
    let seconds = if is_whole(&file) {
        None
    } else {
        let start = Instant::now();
        make(&program, directory)?;
        Some(start.elapsed().as_secs_f64())
    };
    let file = shortened(&file);
    if json {
        return demo_json(&program, &file, seconds);
    }
    let style = Style::stdout();
    introduce(&file, seconds, style)?;
    let with = |limit| ["--keep", "--limit", limit];
    run(
        &program,
        &file,
        &with(FITS),
        "1. All of it in memory, in room enough",
        style,
    )?;
    run(
        &program,
        &file,
        &with(DOES_NOT),
        "2. The same in a third of that",
        style,
    )?;
    terminal::print(&format!(
        "{}\n  Every byte of a column was charged before it was allocated, and is back: each scan closed its tree at zero.\n  \
         Next: {} (one batch at a time), or your own files; {} has all of it.\n",
        style.bold("That was all."),
        style.accent(&place.next(&file)),
        style.accent("arrow-memory --help"),
    ))
}

fn demo_json(program: &Path, file: &Path, seconds: Option<f64>) -> Result<(), Failure> {
    let scan = |limit: &str| {
        let mut scan = lifeline::again(program);
        scan.args(["--json", "scan", "--keep", "--limit", limit])
            .arg(file);
        let output = lifeline::output(&mut scan).map_err(cannot_start)?;
        serde_json::from_slice::<serde_json::Value>(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            Failure::new(format!("the scan under {limit} failed: {error}; {said}"))
        })
    };
    let report = serde_json::json!({
        "file": file,
        "generated_in_seconds": seconds,
        "scans": [scan(FITS)?, scan(DOES_NOT)?],
    });
    terminal::print_json(&report)
}

fn introduce(file: &Path, seconds: Option<f64>, style: Style) -> Result<(), Failure> {
    let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
    let made = match seconds {
        Some(seconds) => format!("made in {}", duration(seconds)),
        None => "made earlier".to_owned(),
    };
    terminal::print(&format!(
        "{}\n  The lineitem table of TPC-H at scale {SCALE}: {} of Parquet, {made}.\n\n",
        style.bold("What does a table need in memory, and who holds it?"),
        human(usize::try_from(bytes).unwrap_or(usize::MAX)),
    ))
}

/// Runs a scan, which prints to this process's standard output.
fn run(
    program: &Path,
    file: &Path,
    arguments: &[&str],
    title: &str,
    style: Style,
) -> Result<(), Failure> {
    let command = format!(
        "$ arrow-memory scan {} {}",
        arguments.join(" "),
        file.display()
    );
    terminal::print(&format!(
        "{}\n{}\n\n",
        style.bold(title),
        style.accent(&command)
    ))?;
    let mut scan = lifeline::again(program);
    scan.arg("scan").args(arguments).arg(file);
    let status = lifeline::status(&mut scan).map_err(cannot_start)?;
    if !status.success() && status.code() != Some(i32::from(DOES_NOT_FIT)) {
        return Err(Failure::new(format!("`{command}` ended with {status}")));
    }
    terminal::print("\n")
}

/// The directory of the generated table.
enum Place {
    /// In cargo's target directory, where this program was built; the next run finds it there.
    Kept(PathBuf),
    /// In a new directory that only this user can open, and that is removed at the end.
    Fresh(TempDir),
}

impl Place {
    fn find(program: &Path) -> Result<Self, Failure> {
        let is_target = |directory: &&Path| {
            directory.join("CACHEDIR.TAG").is_file() && !is_open_to_all(directory)
        };
        if let Some(target) = program.ancestors().skip(1).find(is_target) {
            let place = target
                .join("arrow-memory-demo")
                .join(format!("tpch-{SCALE}"));
            return Ok(Self::Kept(place));
        }
        let mut fresh = tempfile::Builder::new();
        fresh.prefix("arrow-memory-demo.");
        #[cfg(unix)]
        fresh.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        fresh.tempdir().map(Self::Fresh).map_err(|error| {
            let place = env::temp_dir();
            Failure::new(format!(
                "cannot make a directory for the table in `{}`: {error}",
                place.display()
            ))
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Fresh(directory) => directory.path(),
        }
    }

    /// A command to try next.
    fn next(&self, file: &Path) -> String {
        match self {
            Self::Kept(_) => format!("arrow-memory scan {}", file.display()),
            Self::Fresh(_) => {
                format!(
                    "arrow-memory gen tpch --scale {SCALE} --out tpch && arrow-memory scan tpch"
                )
            }
        }
    }
}

/// Whether any user can create files, and links to other users' files, in the directory.
#[cfg(unix)]
fn is_open_to_all(directory: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    fs::metadata(directory).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Path) -> bool {
    false
}

/// Whether an earlier run completed the table.
fn is_whole(file: &Path) -> bool {
    let glance = Glance::at(&Source::file(file), &Reading::default());
    glance.is_ok_and(|glance| glance.rows.is_some_and(|rows| rows > 0))
}

/// Runs in a process of its own, since the generator keeps 300 MB of text until its process ends.
fn make(program: &Path, directory: &Path) -> Result<(), Failure> {
    let mut generator = lifeline::again(program);
    generator
        .args([
            "gen", "tpch", "--tables", "lineitem", "--scale", SCALE, "--force", "--out",
        ])
        .arg(directory);
    let output = lifeline::output(&mut generator).map_err(cannot_start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ");
    Err(Failure::new(format!(
        "cannot make the table: {}",
        one_line(said)
    )))
}

/// The path relative to the working directory, if it is below that.
fn shortened(file: &Path) -> PathBuf {
    let below = env::current_dir()
        .ok()
        .and_then(|here| file.strip_prefix(here).ok().map(Path::to_owned));
    below.unwrap_or_else(|| file.to_owned())
}

fn cannot_start(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot start this program again: {error}"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_table_is_not_made_where_others_can_plant_a_link() {
        let target = tempfile::tempdir().expect("a directory");
        fs::write(target.path().join("CACHEDIR.TAG"), "").expect("a tag");
        let program = target.path().join("debug/arrow-memory");
        let find = |mode| {
            fs::set_permissions(target.path(), PermissionsExt::from_mode(mode)).expect("a mode");
            Place::find(&program).expect("a place")
        };

        assert!(matches!(find(0o755), Place::Kept(place) if place.starts_with(target.path())));
        for mode in [0o777, 0o1777] {
            let Place::Fresh(place) = find(mode) else {
                panic!("{mode:o}: the table is kept where anybody can write");
            };
            let metadata = fs::metadata(place.path()).expect("it is there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
            assert_eq!(fs::read_dir(place.path()).expect("a list").count(), 0);
        }
    }
}
