//! The examples that leak on purpose: their whole output, which names the line that leaks.
//!
//! `docs/leaks.md` shows the same text.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Runs an example, which `cargo test` has built next to this test.
fn output_of(example: &str) -> String {
    let mut path = env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{example}{}", env::consts::EXE_SUFFIX));
    let output = Command::new(&path)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{} (build it with `cargo build --examples`): {error}",
                path.display()
            )
        });
    assert!(output.status.success(), "{output:?}");
    masked(&String::from_utf8(output.stdout).unwrap())
}

/// Addresses and times differ from run to run.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        for (start, end, mask) in [("address: ", ",", "0x…"), ("life: ", " ms", "…")] {
            if let Some((before, after)) = line.split_once(start)
                && let Some((_, rest)) = after.split_once(end)
            {
                line = format!("{before}{start}{mask}{end}{rest}");
            }
        }
        masked.push_str(line.trim_end());
        masked.push('\n');
    }
    masked
}

fn line_of(example: &str, code: &str) -> usize {
    let source = std::fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{example}.rs")),
    )
    .unwrap();
    1 + source.lines().position(|line| line.contains(code)).unwrap()
}

const CLONE: &str = "\
allocator `ROOT` closed with 1 outstanding buffer (4096 bytes)
Allocator(ROOT) 0/4096/4096/8192 (res/actual/peak/limit)
  child allocators: 0
  ledgers: 1
    ledger[1] allocator: ROOT, owning: true, size: 4096, references: 1, life: … ms.., holds 1 buffer
      ArrowBuf[3], address: 0x…, length: 4096
        created at memory-core/examples/leak_clone.rs:39 in leak_clone::keep_column (cloned)
          called from memory-core/examples/leak_clone.rs:18 in leak_clone::main::{{closure}}
  reservations: 0
";

const RESERVATION: &str = "\
allocator `ROOT` closed with 1 outstanding reservation (4096 bytes)
Allocator(ROOT) 0/4096/4096/8192 (res/actual/peak/limit)
  child allocators: 0
  ledgers: 0
  reservations: 1
    reservation[1], size: 4096, life: … ms..
      created at memory-core/examples/leak_reservation.rs:15 in leak_reservation::Sort::new
        called from memory-core/examples/leak_reservation.rs:24 in leak_reservation::main
";

const CHILD: &str = "\
allocator `ROOT` closed with 1 outstanding child (1024 bytes)
Allocator(ROOT) 0/1024/1024/8192 (res/actual/peak/limit)
  child allocators: 1
    Allocator(query-7) 1024/0/0/4096 (res/actual/peak/limit)
      created at memory-core/examples/leak_child.rs:21 in leak_child::start_query
        called from memory-core/examples/leak_child.rs:11 in leak_child::main
      child allocators: 0
      ledgers: 0
      reservations: 0
  ledgers: 0
  reservations: 0
";

#[test]
fn a_clone_forgotten_in_a_thread_is_named_by_its_line() {
    let output = output_of("leak_clone");

    assert_eq!(output, CLONE);
    assert_eq!(line_of("leak_clone", "batch.clone()"), 39);
}

#[test]
fn a_forgotten_reservation_is_named_by_its_line() {
    let output = output_of("leak_reservation");

    assert_eq!(output, RESERVATION);
    assert_eq!(
        line_of("leak_reservation", "allocator.new_reservation()"),
        15
    );
}

#[test]
fn a_forgotten_child_is_named_by_its_line() {
    let output = output_of("leak_child");

    assert_eq!(output, CHILD);
    assert_eq!(line_of("leak_child", "new_child_allocator("), 21);
}

#[test]
fn the_documentation_shows_these_outputs() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/leaks.md");
    let text = std::fs::read_to_string(path).unwrap();

    for output in [CLONE, RESERVATION, CHILD] {
        assert!(text.contains(output), "docs/leaks.md lacks:\n{output}");
    }
}
