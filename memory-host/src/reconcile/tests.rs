use std::fs;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::*;

fn stats() -> ManagerStats {
    let mut stats = ManagerStats::default();
    stats.live_bytes = Some(5000);
    stats.active_bytes = Some(8000);
    stats.cached_bytes = Some(1000);
    stats
}

fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let machine = Machine::below(directory.path());
    (directory, machine)
}

#[test]
fn what_is_neither_accounted_nor_free_is_unaccounted() {
    let (_files, machine) = machine(&[
        ("proc/self/status", "RssAnon:\t20 kB\n"),
        ("proc/self/cgroup", "0::/a\n"),
        (
            "sys/fs/cgroup/a/memory.stat",
            "anon 3145728\nshmem 40\nsock 20\nkernel 300\n",
        ),
    ]);

    let books = Reconciliation::of(4000, 600, &stats(), &machine);

    assert_eq!(books.fragmentation_bytes, Some(3000));
    assert_eq!(books.unaccounted_bytes, Some(20 * 1024 - 4000 - 3000));
    let other = 20 * 1024 - 600 - 5000 - 3000;
    assert_eq!(books.other_program_bytes, Some(other));
    assert_eq!(
        books.to_string(),
        "accounted 4000; attributed 600; backend: live 5000, active 8000, cached 1000; process: anonymous 20480; \
         cgroup: anonymous 3145728 (3.0 MiB), shared 40, sockets 20, kernel 300; unaccounted 13480; other program 11880; fragmentation 3000"
    );
    assert_eq!(
        format!("{books:#}"),
        "\
accounted                     4000         0.0 MiB
attributed                     600         0.0 MiB
backend live                  5000         0.0 MiB
backend active                8000         0.0 MiB
backend cached                1000         0.0 MiB
process anonymous            20480         0.0 MiB
cgroup anonymous           3145728         3.0 MiB
cgroup shared                   40         0.0 MiB
cgroup sockets                  20         0.0 MiB
cgroup kernel                  300         0.0 MiB
unaccounted                  13480         0.0 MiB
other program                11880         0.0 MiB
fragmentation                 3000         0.0 MiB
(the process from /proc/self/status, the cgroup from /sys/fs/cgroup/a)"
    );
}

#[test]
fn what_is_not_known_says_so() {
    let (_files, machine) = machine(&[]);

    let books = Reconciliation::of(4000, 600, &ManagerStats::default(), &machine);

    assert_eq!(
        books.to_string(),
        "accounted 4000; attributed 600; backend: live unknown, active unknown, cached unknown; process: anonymous unknown; \
         cgroup: anonymous unknown, shared unknown, sockets unknown, kernel unknown; unaccounted unknown; other program unknown; fragmentation unknown"
    );
    assert_eq!(
        books.source(),
        "nothing of the process, nothing of a cgroup"
    );
}

#[test]
fn accounted_memory_that_does_not_exist_makes_nothing_negative() {
    let (_files, machine) = machine(&[("proc/self/status", "RssAnon:\t2 kB\n")]);

    let books = Reconciliation::of(1 << 40, 0, &stats(), &machine);

    assert_eq!(books.unaccounted_bytes, Some(0));
}

#[test]
fn a_child_answers_for_its_tree() {
    let root = RootAllocator::unlimited();
    let child = root.child("scan").build().unwrap();
    let _buffer = root.buffer(4096).unwrap();

    let books = child.reconcile();

    assert_eq!(books.accounted_bytes, 4096);
    assert!(
        books
            .process_anonymous_bytes
            .is_some_and(|bytes| bytes > 4096)
    );
}
