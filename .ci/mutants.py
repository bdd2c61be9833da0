#!/usr/bin/env python3
"""Tests the tests of memory-core: .ci/mutants.py FILE… [--only PATTERN] [--survivors] [--jobs N]

A mutant is a change of one operator, one match arm or one function's result. cargo-mutants finds them; but it builds the
crate anew for each, which takes most of the time. Here all mutants are branches of one program (.ci/mutants/src), which
the environment's MUTANT chooses among, so that one build is enough.

Each mutant is run against the unit tests and `--test it` of memory-core. A mutant that survives is in
docs/verification/mutants.md, with the reason why no test can tell it from the code. If it is not, it is run against the
other tests of memory-core and those of integration-tests, two minutes each. If it survives these, too, this program names
it, or all of its name if there are more of them than the file says, and exits 1. With --survivors those that the file
names are run against all tests.

What has no form as a branch (constants, conditions with `let`) is listed, for `cargo mutants --re` to try."""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
TREE = TARGET / "tree"
EXPLAINED = ROOT / "docs" / "verification" / "mutants.md"

# The tests, by package. Those of the first line find nearly all.
FIRST = [("arrow-memory-core", ["--lib", "--test", "it"])]
# Tests that take most of the time. They are run for what the others of their program have not found: these at once,
SLOW = ["heap_random::", "registrations::all", "release::trees", "retire::"]
# and these, about texts and leaks, with the programs of the second line. `withheld` explores a model, and calls nothing.
SLOWEST = ["debug::", "leaks::", "metrics::"]
MODELS = ["withheld::"]
SECOND = [
    ("arrow-memory-core", ["--test", "foreign_code", "--test", "drop_panics", "--test", "collections", "--test", "sampling"]),
    ("arrow-memory-integration-tests", ["--test", "it", "--test", "waiting", "--test", "under_locks"]),
]

# Processor time that one run of a test program may take before it counts as endless: without those tests, and these.
FAST_SECONDS = 8
SLOW_SECONDS = 60
# Those of integration-tests take two minutes.
SECOND_SECONDS = 400

CHOICE = """//! Which mutant is on.
#![allow(unsafe_code, missing_docs)]
use std::sync::atomic::{AtomicI32, Ordering};

static CHOSEN: AtomicI32 = AtomicI32::new(-1);

/// Allocates nothing, so that a global allocator may ask.
#[inline(never)]
pub(crate) fn is(number: i32) -> bool {
    let mut chosen = CHOSEN.load(Ordering::Relaxed);
    if chosen < 0 {
        let value = unsafe { libc::getenv(c"MUTANT".as_ptr()) };
        chosen = if value.is_null() { 0 } else { unsafe { libc::atoi(value) } };
        CHOSEN.store(chosen, Ordering::Relaxed);
    }
    chosen == number
}
"""


def run(*command, cwd=TREE, **options):
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET / "target"), **options.pop("env", {})}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, **options)


def copy_tree():
    """The tracked files, as they are now. Files that did not change keep their times, so that cargo builds little."""
    files = run("git", "ls-files", cwd=ROOT, capture_output=True, check=True).stdout.splitlines()
    for file in files + ["Cargo.lock"]:
        source, copy = ROOT / file, TREE / file
        if not source.is_file():
            continue
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def mutants_of(files, only, survivors):
    """The mutants of the files, as cargo-mutants lists them, but for those in helpers of unit tests."""
    command = ["cargo", "mutants", "--no-config", "--list", "--json", "--package", "arrow-memory-core",
               "--exclude-re", "tests::"]
    for file in files:
        command += ["--file", file]
    if only:
        command += ["--re", only]
    found = json.loads(run(*command, capture_output=True, check=True).stdout)
    listed = EXPLAINED.read_text() if survivors else None
    return [mutant for mutant in found
            if mutant["file"] in files and (listed is None or f"`{unplaced(mutant['name'])}`" in listed)]


def built(package, tests):
    """The programs of these tests, or what the compiler refused."""
    command = ["cargo", "test", "--no-run", "--message-format=json", "-p", package, *tests]
    # The mutants are not how anybody would write it, and that is not what is tested.
    answer = run(*command, capture_output=True, env={"RUSTFLAGS": "--cap-lints allow"})
    programs, refused = [], []
    for line in answer.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            programs.append((message["executable"], pathlib.Path(message["manifest_path"]).parent))
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            refused.append(message["message"])
    if answer.returncode != 0 and not refused:
        sys.exit(answer.stderr)
    return programs, refused


def number_at(span):
    """The mutant whose text has this place, as the innermost pair of comments around it says."""
    text = (TREE / span["file_name"]).read_bytes()[: span["byte_start"]].decode()
    open_ones = []
    for begins, ends in re.findall(r"/\*(?:(\d+)\{|\}(\d+))\*/", text):
        if begins:
            open_ones.append(int(begins))
        else:
            open_ones.remove(int(ends))
    return open_ones[-1] if open_ones else None


def insert(mutants, originals):
    """Rewrites the files so that they have all mutants that compile. Returns those that do, and the others with why."""
    tool = run("cargo", "build", "-q", "--release", "--manifest-path", str(ROOT / ".ci/mutants/Cargo.toml"))
    if tool.returncode != 0:
        sys.exit("the program that inserts mutants was not built")
    (TREE / "memory-core/src/mutants.rs").write_text(CHOICE)
    library = TREE / "memory-core/src/lib.rs"
    if "mod mutants;" not in library.read_text():
        library.write_text(library.read_text() + "\nmod mutants;\n")
    omit = set()
    while True:
        for file, text in originals.items():
            (TREE / file).write_text(text)
        lists = (TARGET / "kept.txt", TARGET / "left-out.txt")
        program = TARGET / "target/release/mutants"
        run(str(program), *map(str, lists), input=json.dumps(mutants), check=True,
            env={"OMIT": ",".join(map(str, sorted(omit)))})
        _, refused = built("arrow-memory-core", ["--lib"])
        if not refused:
            return tuple([line.split("\t") for line in path.read_text().splitlines()] for path in lists)
        more = {number_at(span) for message in refused for span in message["spans"] if span["is_primary"]} - {None}
        if not more - omit:
            sys.exit("the compiler refuses what is no mutant:\n" + "\n".join(message["rendered"] for message in refused))
        print(f"the compiler refused {len(more - omit)} mutants", flush=True)
        omit |= more


def outcome(number, programs):
    """How the tests end with that mutant: `caught`, `timeout` or `survived`."""
    for program, folder, words, seconds in programs:
        environment = {**os.environ, "MUTANT": str(number), "RUST_BACKTRACE": "0"}
        child = subprocess.Popen([program, "--test-threads", "4", *words], cwd=folder, env=environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)))
        try:
            ended = end_of(child, seconds)
        finally:
            # What its tests started, too.
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.stdout.close()
            child.wait()
        if ended != "passed":
            return ended
    return "survived"


def first_and_second():
    """The runs of both lines: program, folder, arguments, and the processor time that it may take."""
    skip = [word for test in SLOW + SLOWEST + MODELS for word in ("--skip", test)]
    fast = [program for line in FIRST for program in built(*line)[0]]
    slow = [program for line in SECOND for program in built(*line)[0]]
    first = [(*program, skip, FAST_SECONDS) for program in fast] + [(*program, SLOW, SLOW_SECONDS) for program in fast]
    second = [(*program, SLOWEST, SLOW_SECONDS) for program in fast] + [(*program, [], SECOND_SECONDS) for program in slow]
    return first, second


def end_of(child, seconds):
    """How a run of tests ends: `passed`; `caught` by the first test that fails, since the rest need not be run; or `timeout`,
    if it takes more processor time than it may, or if all its threads sleep for as long. On a busy machine it may take
    longer than that."""
    text, awake = b"", time.monotonic()
    while time.monotonic() - awake < seconds:
        if select.select([child.stdout], [], [], 0.2)[0]:
            more = os.read(child.stdout.fileno(), 1 << 16)
            text = text[-100:] + more
            if b"... FAILED" in text:
                return "caught"
            if more:
                awake = time.monotonic()
                continue
            time.sleep(0.05)
        if child.poll() is not None:
            return {0: "passed", -signal.SIGXCPU: "timeout", -signal.SIGKILL: "timeout"}.get(child.returncode, "caught")
        if is_awake(child.pid):
            awake = time.monotonic()
    return "timeout"


def is_awake(process):
    """Whether any thread of the process runs, or would if it had a processor."""
    for stat in pathlib.Path(f"/proc/{process}/task").glob("*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] != "S":
                return True
        except OSError:
            pass
    return False


def test_all(mutants, programs, jobs, label):
    """Runs the tests for each mutant, after they passed without one."""
    begun = time.monotonic()
    if outcome(0, programs) != "survived":
        sys.exit(f"{label}: the tests fail without a mutant")
    print(f"{label}: {len(mutants)} mutants, {time.monotonic() - begun:.1f} s for one run of the tests", flush=True)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(outcome, number, programs): (number, name) for number, name in mutants}
        for done in concurrent.futures.as_completed(waiting):
            number, name = waiting[done]
            results[number] = done.result()
            if results[number] != "caught":
                print(f"{results[number]}: {name}", flush=True)
    print(f"{label}: {time.monotonic() - begun:.0f} s", flush=True)
    return results


def unplaced(name):
    """The name without line and column, which change with every edit."""
    return re.sub(r"^([^:]+):\d+:\d+: ", r"\1: ", name)


def main():
    parser = argparse.ArgumentParser(description="Runs the mutants of some files.")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--only", help="a regular expression for the names of mutants")
    parser.add_argument("--survivors", action="store_true", help="only those whose names docs/verification/mutants.md has")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    TREE.mkdir(parents=True, exist_ok=True)
    copy_tree()
    originals = {file: (TREE / file).read_text() for file in options.files}
    mutants = mutants_of(options.files, options.only, options.survivors)
    kept, left_out = insert(mutants, originals)
    for _, name, why in left_out:
        print(f"left out, {why}: {name}")
    names = {int(number): name for number, name in kept}
    run("cargo", "build", "-q", "-p", "arrow-memory-core", "--examples", env={"RUSTFLAGS": "--cap-lints allow"}, check=True)
    first, second = first_and_second()
    results = test_all(list(names.items()), first, options.jobs, "first")
    # How many survivors of each name are explained.
    left = collections.Counter({name: int(places or 1) for name, places in
                                re.findall(r"^\* `([^`]+)`(?: \((\d+) places\))?", EXPLAINED.read_text(), re.M)})
    survivors = []
    for number, result in sorted(results.items()):
        name = unplaced(names[number])
        left[name] -= result == "survived"
        if result == "survived" and (options.survivors or left[name] < 0):
            survivors.append((number, names[number]))
    if survivors:
        again = test_all(survivors, second, options.jobs, "second")
        results.update({number: f"{result} by the second" if result != "survived" else result for number, result in again.items()})
    table = collections.defaultdict(collections.Counter)
    open_ones = [name for number, name in survivors if results[number] == "survived" and left[unplaced(name)] < 0]
    for number, result in results.items():
        table[names[number].split(":")[0]][result] += 1
    for file, counts in sorted(table.items()):
        print(f"{file}: {sum(counts.values())} mutants, " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    for name in open_ones:
        print(f"survived, and not in {EXPLAINED.relative_to(ROOT)}: {name}")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
