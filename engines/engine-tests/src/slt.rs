//! DataFusion's sqllogictest files in the sessions of a configuration.
//!
//! A record of a file is a statement with what is expected of it. Some records need data that
//! `datafusion-sqllogictest` does not ship: they fail in every session, and so does what follows from them. So a file's
//! own expectations do not decide alone: a record that fails is run with DataFusion's own pool, too, and only what passes
//! there must pass under a tree.

mod db;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use datafusion_sqllogictest::{
    DFColumnType, TestContext, df_value_validator, read_dir_recursive, setup_scratch_dir,
    value_normalizer,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use sqllogictest::{Record, Runner, parse_file, strict_column_validator};

pub use files::{EXCLUDED, Excluded, SHOWS_CAPACITY, SHOWS_THE_LIMIT, selection};

use crate::configuration::{Configuration, Limited, pools, unbounded};
use crate::folders;

/// How long a record may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// How long what a file has left may take to be dropped.
const SETTLING: Duration = Duration::from_secs(30);
/// Files that are run at a time.
const AT_A_TIME: usize = 2;

/// Copies the files to the target directory and makes that the program's working directory: the files name others
/// relative to it, and write there. Two programs must not do this at once.
///
/// # Panics
///
/// If the files cannot be copied.
pub fn enter() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let (from, to) = (folders::test_files(), folders::target("slt"));
        let failed = |error| panic!("cannot copy the sqllogictest files: {error}");
        for file in read_dir_recursive(from).unwrap_or_else(|error| panic!("{error}")) {
            let relative = file.strip_prefix(from).expect("it was found there");
            let copy = to.join("test_files").join(relative);
            let folder = copy.parent().expect("it is in a folder");
            std::fs::create_dir_all(folder).unwrap_or_else(failed);
            std::fs::copy(&file, &copy).map_or_else(failed, drop);
        }
        std::env::set_current_dir(&to).unwrap_or_else(failed);
        to
    })
}

/// Returns all files but the excluded ones, relative to `test_files`, in order.
///
/// # Panics
///
/// If the folder cannot be read.
pub fn files() -> Vec<PathBuf> {
    let folder = folders::test_files();
    let files = read_dir_recursive(folder).unwrap_or_else(|error| panic!("{error}"));
    let mut files: Vec<PathBuf> = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "slt"))
        .filter_map(|file| file.strip_prefix(folder).ok().map(Path::to_owned))
        .filter(|file| !EXCLUDED.iter().any(|excluded| excluded.has(file)))
        .collect();
    files.sort_unstable();
    files
}

/// Returns whether a file names data that is not shipped with it.
pub fn needs_data(file: &Path) -> bool {
    let text = std::fs::read_to_string(folders::test_files().join(file));
    text.is_ok_and(|text| text.contains("../"))
}

/// Returns whether a file limits its session's memory. Its limits are made for what DataFusion's operators declare, so
/// that a tree that counts batches, too, may refuse there.
fn sets_a_limit(file: &Path) -> bool {
    let text = std::fs::read_to_string(folders::test_files().join(file));
    text.is_ok_and(|text| text.contains("datafusion.runtime.memory_limit"))
}

/// What came out of a file.
#[derive(Debug, Default)]
pub struct FileRun {
    /// The records that passed.
    pub passed: usize,
    /// The records that did not, by their place, with what happened.
    pub failed: BTreeMap<String, String>,
    /// The places of records whose memory was refused, if that was allowed.
    pub refused: BTreeSet<String>,
    /// Whether the file ended there, since what follows needs what was refused.
    pub stopped: bool,
}

/// Runs one file. Under a limit a refusal is no failure, but what follows a refused statement that would have changed
/// something is not run.
///
/// # Errors
///
/// What the tree still holds afterwards.
///
/// # Panics
///
/// If the file cannot be read, or its set-up fails.
pub fn run<'a>(
    file: &'a Path,
    limited: &'a Limited,
    has_limit: bool,
) -> BoxFuture<'a, Result<FileRun, String>> {
    // Boxed, so that DataFusion's part of it is compiled here once.
    run_records(file, limited, has_limit).boxed()
}

async fn run_records(file: &Path, limited: &Limited, has_limit: bool) -> Result<FileRun, String> {
    let mut run = FileRun::default();
    let has_limit = has_limit || sets_a_limit(file);
    let context = TestContext::try_new_for_test_file(file).await;
    let context = context.expect("a file whose set-up needs a feature is excluded");
    setup_scratch_dir(file).expect("the working directory can be written to");
    let builder = SessionStateBuilder::new_from_existing(context.session_ctx().state());
    let session = SessionContext::new_with_state(limited.configure(builder).build());
    let refusal = Arc::new(Mutex::new(None));
    let mut runner = Runner::new(|| async {
        Ok(db::Db::new(
            session.clone(),
            file,
            DEADLINE,
            Arc::clone(&refusal),
        ))
    });
    runner.add_label("Datafusion");
    runner.with_column_validator(strict_column_validator);
    runner.with_normalizer(value_normalizer);
    runner.with_validator(df_value_validator);
    for record in records(file) {
        let sql = match &record {
            Record::Halt { .. } => break,
            Record::Statement { sql, .. } | Record::Query { sql, .. } => Some(sql.clone()),
            // Comments, settings of the runner.
            _ => None,
        };
        let take = || {
            refusal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        let _earlier: Option<String> = take();
        let Err(error) = runner.run_async(record).await else {
            run.passed += usize::from(sql.is_some());
            continue;
        };
        if sql.as_deref().is_some_and(analyzes) && error.to_string().contains("mismatch") {
            run.passed += 1;
            continue;
        }
        let place = place(&error);
        match take().filter(|_| has_limit) {
            None => drop(run.failed.insert(place, error.to_string())),
            Some(_) => {
                run.refused.insert(place);
                if sql.is_none_or(|sql| changes_something(&sql)) {
                    run.stopped = true;
                    break;
                }
            }
        }
    }
    drop(runner);
    drop((session, context));
    let settled = limited.settled(SETTLING).await;
    settled.map(|()| run)
}

fn records(file: &Path) -> Vec<Record<DFColumnType>> {
    let path = Path::new("test_files").join(file);
    parse_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns `file:line` of a record, with the file relative to `test_files`.
fn place(error: &sqllogictest::TestError) -> String {
    let location = error.location();
    let file = location.file();
    let file = file.strip_prefix("test_files/").unwrap_or(file);
    format!("{file}:{}", location.line())
}

/// Whether a statement shows metrics: under a tree there are more, and the bytes of buffers that were charged.
fn analyzes(sql: &str) -> bool {
    let mut words = sql.split_whitespace().map(str::to_ascii_lowercase);
    words.next().is_some_and(|word| word == "explain")
        && words.next().is_some_and(|word| word == "analyze")
}

fn changes_something(sql: &str) -> bool {
    let word = sql.split_whitespace().next().unwrap_or_default();
    let word = word.trim_start_matches('(').to_ascii_lowercase();
    !matches!(
        word.as_str(),
        "" | "select" | "with" | "explain" | "values" | "show" | "describe" | "from"
    )
}

/// Runs files under a limit, and returns what failed that does not fail in DataFusion's own pools, and a line for each
/// file that had something to tell.
pub async fn compare(
    files: Vec<PathBuf>,
    configuration: Arc<Configuration>,
    limit: Option<usize>,
) -> (Vec<String>, Vec<String>) {
    let compared = files.into_iter().map(|file| {
        let (name, configuration) = (file.display().to_string(), Arc::clone(&configuration));
        // In a task of its own, so that a file whose set-up panics is one failure.
        let task = tokio::spawn(async move { compare_file(&file, &configuration, limit).await });
        async move {
            task.await
                .unwrap_or_else(|error| (vec![format!("{name}: {error}")], None))
        }
    });
    let results: Vec<_> = futures::stream::iter(compared)
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let (complaints, notes): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    let mut complaints: Vec<String> = complaints.into_iter().flatten().collect();
    let mut notes: Vec<String> = notes.into_iter().flatten().collect();
    complaints.sort_unstable();
    notes.sort_unstable();
    (complaints, notes)
}

async fn compare_file(
    file: &Path,
    configuration: &Configuration,
    limit: Option<usize>,
) -> (Vec<String>, Option<String>) {
    let name = file.display();
    let run = match run(file, &configuration.limited(limit), limit.is_some()).await {
        Ok(run) => run,
        Err(left) => return (vec![format!("{name}: {left}")], None),
    };
    let mut failed = run.failed;
    failed.retain(|place, _| !SHOWS_CAPACITY.contains(&place.as_str()));
    if limit.is_some() {
        failed.retain(|place, _| !SHOWS_THE_LIMIT.iter().any(|(shows, _)| shows == place));
    }
    let mut elsewhere = Vec::new();
    let mut own = vec![(unbounded(), None)];
    if limit.is_some() {
        own.extend(pools().into_iter().map(|pool| (pool, limit)));
    }
    for (pool, limit) in own {
        if failed.is_empty() {
            break;
        }
        // DataFusion's pools leave nothing to look at.
        let reference = self::run(file, &pool.limited(limit), false).await;
        let reference = reference.unwrap_or_default();
        let before = failed.len();
        failed.retain(|place, _| !reference.failed.contains_key(place));
        if failed.len() < before {
            elsewhere.push(format!("{} fail with {}", before - failed.len(), pool.name));
        }
    }
    let complaints = failed.into_values().collect();
    let refused = match (run.refused.len(), run.stopped) {
        (0, _) => None,
        (count, false) => Some(format!("{count} refused")),
        (count, true) => Some(format!("{count} refused, then it stopped")),
    };
    let notes: Vec<String> = elsewhere.into_iter().chain(refused).collect();
    let note = format!("{name}: {} passed, {}", run.passed, notes.join(", "));
    (complaints, Some(note).filter(|_| !notes.is_empty()))
}
