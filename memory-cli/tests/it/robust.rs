//! Little memory, few descriptors, full disks, killed processes, and hostile names.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::files;
use crate::program::{directory, feed, run, table, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_arrow-memory");

/// Runs a shell command in which `$PROGRAM` is the program. Returns the exit code and standard error.
fn shell(command: &str, directory: &Path) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PROGRAM", PROGRAM)
        .env_remove("RUST_BACKTRACE")
        .current_dir(directory)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn csv(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn names_of_any_length_are_shown_in_lines_of_the_terminals_width() {
    let directory = directory("long-names");
    let file = csv(
        &directory,
        "long.csv",
        &format!("{},b\n1,2\n", "z".repeat(70_000)),
    );
    let hostile = csv(
        &directory,
        "hostile.csv",
        "a\u{1b}[31mred,\"new\nline\",\u{202e}名前名前\n1,2,3\n",
    );

    for columns in ["60", "80", "200"] {
        let command =
            format!("COLUMNS={columns} $PROGRAM scan long.csv hostile.csv >out.{columns}");
        assert_eq!(shell(&command, &directory), (Some(0), String::new()));
        let out = fs::read_to_string(directory.join(format!("out.{columns}"))).unwrap();
        assert!(!out.contains(['\u{1b}', '\u{202e}']), "{out}");
        assert!(out.contains("new\\nline"), "{out}");
        for line in out.lines() {
            let cells: usize = line
                .chars()
                .map(|c| if c > '\u{2fff}' { 2 } else { 1 })
                .sum();
            assert!(cells <= columns.parse().unwrap(), "{columns}: {line}");
        }
    }
    for file in [&file, &hostile] {
        let refused = run(["scan", "--adopt", text(file), "--limit", "1"]);
        assert_eq!(refused.code, Some(3));
        assert!(
            !refused.out.contains(['\u{1b}', '\u{202e}']),
            "{}",
            refused.out
        );
        // The allocators that asked and refused have names of one word each.
        let widest = refused.out.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(300), "{widest:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn running_out_of_address_space_is_one_line() {
    let directory = directory("address-space");
    let wide: String = (0..60_000).map(|n| format!("column_{n},")).collect();
    csv(&directory, "wide.csv", &format!("{wide}end\n{wide}end\n"));
    let mut refused = 0;
    for kibibytes in (120_000..=420_000).step_by(20_000) {
        let command = format!(
            "ulimit -v {kibibytes}; exec $PROGRAM scan --keep --backend system wide.csv >/dev/null"
        );
        let (code, said) = shell(&command, &directory);

        if code == Some(0) {
            continue;
        }
        assert_eq!(code, Some(1), "{kibibytes}: {said}");
        assert_eq!(said.lines().count(), 1, "{kibibytes}: {said}");
        assert!(said.starts_with("error: "), "{kibibytes}: {said}");
        refused += usize::from(said.contains("out of memory"));
    }
    assert!(refused > 0, "no limit was low enough to show anything");
}

#[test]
#[cfg(target_os = "linux")]
fn threads_that_cannot_be_started_are_one_line() {
    let directory = directory("threads");
    let chart = directory.join("chart.svg");
    let file = csv(&directory, "a.csv", "a\n1\n");
    // Each thread reserves this much address space for its stack.
    let command = format!(
        "ulimit -v 4000000; RUST_MIN_STACK=500000000 exec $PROGRAM compare --threads 64 --rounds 1 --backends system --chart {} {}",
        text(&chart),
        text(&file)
    );
    let (code, said) = shell(&command, &directory);

    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("--threads") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn a_chart_is_there_as_a_whole_or_as_it_was() {
    let directory = directory("charts");
    let file = directory.join("table.csv");
    fs::copy(table("csv"), &file).unwrap();
    let chart = csv(&directory, "chart.svg", "KEEP ME");
    let compare = |file: &Path, chart: &Path| {
        run([
            "compare",
            text(file),
            "--rounds",
            "1",
            "--backends",
            "system",
            "--chart",
            text(chart),
        ])
    };
    // A file that is no table fails after the chart's path was checked.
    let broken = csv(&directory, "broken.csv", "a,b\n1,2\n3\n");
    assert_eq!(compare(&broken, &chart).code, Some(1));
    assert_eq!(fs::read_to_string(&chart).unwrap(), "KEEP ME");

    assert_eq!(compare(&file, &chart).code, Some(0));
    assert!(fs::read_to_string(&chart).unwrap().ends_with("</svg>\n"));
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        3,
        "nothing else is left"
    );
}

#[test]
fn an_output_that_is_the_input_is_refused_by_whatever_name() {
    let directory = directory("same-file");
    let file = directory.join("table.csv");
    fs::copy(table("csv"), &file).unwrap();
    let before = fs::read(&file).unwrap();
    let (link, hard) = (directory.join("link"), directory.join("hard"));
    fs::hard_link(&file, &hard).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for chart in [&file, &link, &hard] {
        let ran = run(["compare", text(&file), "--chart", text(chart)]);
        if cfg!(unix) || chart == &file {
            ran.failed(1, &["the file that is read"]);
        }
        assert_eq!(fs::read(&file).unwrap(), before);
    }
    let stacks = csv(&directory, "stacks.folded", "main;scan 64\n");
    run(["flame", text(&stacks), "--out", text(&stacks)]).failed(1, &["the file that is read"]);
    assert_eq!(fs::read_to_string(&stacks).unwrap(), "main;scan 64\n");
}

/// On a disk without room, the numbers are printed and the old chart stays.
#[test]
#[cfg(target_os = "linux")]
fn a_chart_without_room_does_not_take_the_table_along() {
    let directory = directory("no-room");
    fs::copy(table("csv"), directory.join("table.csv")).unwrap();
    csv(&directory, "chart.svg", "KEEP ME");
    // No file may grow beyond 512 bytes; standard output is a pipe, which has no such limit.
    let command = "trap '' XFSZ; ulimit -f 1; $PROGRAM compare table.csv --rounds 1 --backends system --chart chart.svg | cat >&2";
    let (_, said) = shell(command, &directory);

    assert!(said.contains("error: cannot write the chart"), "{said}");
    assert!(said.contains("system"), "the table is printed: {said}");
    assert_eq!(
        fs::read_to_string(directory.join("chart.svg")).unwrap(),
        "KEEP ME"
    );
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        2,
        "nothing else is left"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn workers_end_with_the_one_that_started_them() {
    let directory = directory("workers");
    let chart = directory.join("chart.svg");
    let file = table("parquet");
    let mut parent = Command::new(PROGRAM)
        .args([
            "compare",
            text(&file),
            // Minutes of work.
            "--threads",
            "1000",
            "--batch-size",
            "1",
            "--chart",
            text(&chart),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = parent.id();
    let worker = wait_for(|| children_of(id).into_iter().next());
    // A signal that the parent cannot handle.
    parent.kill().unwrap();
    parent.wait().unwrap();

    let killed = Instant::now();
    wait_for(|| (!is_running(worker)).then_some(()));
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(20), "it went on for {took:?}");
}

#[cfg(target_os = "linux")]
fn wait_for<T>(found: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it did not happen"
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody is told what becomes of a process that is not one's child"
        )]
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
fn children_of(parent: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    list.unwrap_or_default()
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// Whether the process exists and has not ended. (It may be a zombie that its parent has not waited for.)
#[cfg(target_os = "linux")]
fn is_running(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
#[cfg(unix)]
fn more_files_than_descriptors_are_read() {
    let directory = directory("many-files");
    for number in 0..300 {
        csv(&directory, &format!("{number:03}.csv"), "a,b\n1,2\n");
    }
    files::write(&directory.join("z.parquet"), &files::batches());
    let command = "ulimit -n 40; $PROGRAM --json scan *.csv z.parquet >out.json";
    assert_eq!(shell(command, &directory), (Some(0), String::new()));
    let out = fs::read_to_string(directory.join("out.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["rows"], 300 + 10_000);

    let whole = run(["--json", "scan", text(&directory)]).json();
    assert_eq!(
        whole["files"].as_array().unwrap().len(),
        301,
        "out.json is no table"
    );
}

#[test]
fn tables_of_nothing_have_a_chart() {
    let directory = directory("nothing");
    let file = csv(&directory, "empty.csv", "a,b\n");
    let chart = directory.join("chart.svg");
    let ran = run([
        "compare",
        text(&file),
        "--rounds",
        "1",
        "--backends",
        "system",
        "--chart",
        text(&chart),
    ]);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    let svg = fs::read_to_string(chart).unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert!(
        ran.out.contains("0 rows, 1 thread, medians of 1 round"),
        "{}",
        ran.out
    );
}

#[test]
fn tables_are_not_replaced_and_no_part_of_one_is_left() {
    let directory = directory("generated");
    let tpch = |more: &[&str]| {
        let common = [
            "gen",
            "tpch",
            "--tables",
            "region",
            "--out",
            text(&directory),
            "--scale",
        ];
        run(common.iter().chain(more))
    };
    let file = csv(&directory, "region.parquet", "MINE");
    tpch(&["0.001"]).failed(1, &["region.parquet", "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "MINE");
    assert_eq!(tpch(&["0.001", "--force"]).code, Some(0));
    assert!(fs::read(&file).unwrap().starts_with(b"PAR1"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);

    let large = run(["gen", "tpch", "--scale", "1000", "--out", text(&directory)]);
    // The error is about the small disk, or else about the file that exists.
    large.failed(1, &["--force"]);
    run([
        "gen",
        "tpch",
        "--scale",
        "1000",
        "--format",
        "ipc",
        "--out",
        text(&directory),
    ])
    .failed(1, &["free, and these tables take about", "TiB"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_generator_that_is_killed_leaves_nothing() {
    let directory = directory("killed");
    let mut generator = Command::new(PROGRAM)
        .args([
            "gen",
            "tpch",
            "--scale",
            "1",
            "--format",
            "csv",
            "--tables",
            "lineitem",
            // Though the disk may have no room for all of it: it is killed in the beginning.
            "--force",
            "--out",
            text(&directory),
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = generator.id();
    // The program has the file open, under whatever name.
    let place = text(&directory).to_owned();
    wait_for(|| {
        assert!(is_running(id), "it ended before it was killed");
        let open = fs::read_dir(format!("/proc/{id}/fd")).ok()?;
        let mut open = open
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        open.any(|path| path.starts_with(&place)).then_some(())
    });
    generator.kill().unwrap();
    generator.wait().unwrap();

    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn an_unknown_backend_in_the_environment_is_told() {
    let file = table("csv");
    let command = format!(
        "ARROW_DEFAULT_MEMORY_POOL=bogus $PROGRAM scan {}",
        text(&file)
    );
    let (code, said) = shell(&command, Path::new("."));

    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("bogus"), "{said}");
}

#[test]
fn the_command_line_explains_itself() {
    let help = run(["scan", "--help"]).out;
    for words in [
        "Parquet; Arrow IPC",
        ".csv.gz",
        "Exit codes: 0 done",
        "--delimiter",
        "NA, null and NaN are text",
    ] {
        assert!(
            help.replace("\n", " ").replace("  ", " ").contains(words),
            "no `{words}` in {help}"
        );
    }
    assert!(run(["completions", "bash"]).out.contains("--no-header"));
    assert!(run(["man"]).out.contains(".TH arrow-memory"));
    feed(["scan", "-"], b"").failed(1, &["standard input", "the file is empty"]);
}
