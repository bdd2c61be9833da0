#!/usr/bin/env python3
"""Counts instructions and atomic read-modify-writes (callgrind's global bus events) of the hottest
operations under callgrind.

    benches/instructions.py             compare with instructions.txt, fail on growth
    benches/instructions.py --exact     the same, but hot operations may not grow at all
    benches/instructions.py --record    write instructions.txt
    benches/instructions.py --show      only print
    benches/instructions.py --lineitem  measure how much accounting adds to decoding a Parquet file; fail above 1 %

Times vary on a shared machine; these counts are the same on every run of one build.

An operation is hot if programs do it for each buffer, batch or value: every op_ except op_child and
op_transfer…, which take the tree's mutex. With --exact a hot operation fails if it takes one instruction
more, or one read-modify-write more in a hundred runs. Counts are averages over 2,000 runs. In some of these
a backend does additional work, such as filling a cache of blocks: it adds the fraction to a count, which
may grow by less than one instruction (EXACT_IR). In jemalloc the clock decides when that happens, by its
decay: the counts differ by some 5 instructions from run to run, so they may grow by the 5 % that a plain
run allows.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
RECORD = os.path.join(HERE, "instructions.txt")
TIMES = 1000
ROUNDS = (1, 3)
ALLOWED = 1.05
# The difference of two runs is not a whole number if a backend does additional work in some of them.
SLACK_RMW = 0.05
# Growth that --exact allows: less than one instruction, and the read-modify-writes of amortised work.
EXACT_IR = 0.9
EXACT_RMW = 0.01
# Operations for which --exact allows more: they take the mutex, or depend on the clock.
NOT_HOT = ("op_child", "op_transfer")
NOT_EXACT = ("op_allocate_4k_jemalloc",)


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else "--check"
    install_valgrind()
    if mode == "--lineitem":
        return lineitem()
    measured = measure(build("--bin", "instructions"))
    if mode == "--record":
        with open(RECORD, "w") as file:
            file.write(HEADER + table(measured))
        return 0
    if mode == "--show":
        print(table(measured), end="")
        return 0
    return compare(measured, recorded(), exact=mode == "--exact")


def install_valgrind():
    if shutil.which("valgrind"):
        return
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "apt-get", "update", "-q"], check=True)
    subprocess.run([*as_root, "apt-get", "install", "-qy", "valgrind"], check=True)


def lineitem():
    """Compares decoding with and without accounting, in instructions."""
    features = os.environ.get("FEATURES", "tpch")
    binary = build("--bench", "lineitem", "--features", features)
    costs = counts([binary, "--once"], "lineitem")
    plain, accounted = costs["op_decode"][0], costs["op_decode_accounted"][0]
    ratio = accounted / plain
    verdict = "held" if ratio <= 1.01 else "**missed**"
    print(
        "Decoding TPC-H lineitem from Parquet into adopted batches, counted by callgrind once"
        f" (`benches/instructions.py --lineitem`): {plain / 1e6:.2f} million instructions without"
        f" accounting, {accounted / 1e6:.2f} with it: {100 * (ratio - 1):.2f} % more."
        f" The bar is 1 %: {verdict}."
    )
    return 1 if ratio > 1.01 else 0


def build(kind, name, *options):
    """Builds a target as `cargo bench` would. Returns the path of the binary."""
    command = ["cargo", "build", "--profile", "bench", "-p", "arrow-memory-benches", kind, name, *options]
    command += ["--message-format", "json-render-diagnostics"]
    root = os.path.dirname(HERE)
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    # Cargo also builds the package's other binaries for a bench.
    for message in map(json.loads, done.stdout.splitlines()):
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    sys.exit("cargo did not say where the binary is")


def measure(binary):
    """The instructions and read-modify-writes of each operation, on average."""
    few, many = (counts([binary, str(rounds)], "instructions") for rounds in ROUNDS)
    runs = (ROUNDS[1] - ROUNDS[0]) * TIMES
    return {
        name: tuple((b - a) / runs for a, b in zip(few[name], cost)) for name, cost in many.items()
    }


def counts(program, crate):
    """The counts of each function `op_…` and `ref_…`, including its callees."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "callgrind.out")
        command = ["valgrind", "--tool=callgrind", "--collect-bus=yes", "--collect-atstart=no"]
        command += [f"--toggle-collect={crate}::op_*", f"--toggle-collect={crate}::ref_*"]
        command += [f"--callgrind-out-file={out}", *program]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        command = ["callgrind_annotate", "--inclusive=yes", "--show=Ir,Ge", "--threshold=100", out]
        # callgrind_annotate prints warnings about its own variables.
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        text = done.stdout
    costs = {}
    for line in text.splitlines():
        name = re.search(crate + r"::((?:op|ref)_\w+)", line)
        if name is None:
            continue
        numbers = re.findall(r"([\d,]+) \(|\s(\.)\s", line.split(":")[0])
        counted = [int((a or "0").replace(",", "")) for a, _ in numbers[:2]]
        counted += [0] * (2 - len(counted))
        # There is a line for each file that was inlined into the function; the one with the maximum is inclusive.
        before = costs.get(name[1], (0, 0))
        costs[name[1]] = tuple(map(max, before, counted))
    return costs


def table(measured):
    lines = [f"{name:<28} {ir:9.1f} {rmw:7.2f}\n" for name, (ir, rmw) in sorted(measured.items())]
    return "".join(lines)


def recorded():
    with open(RECORD) as file:
        rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return {name: (float(ir), float(rmw)) for name, ir, rmw in rows}


def is_exact(name):
    return not name.startswith(NOT_HOT) and name not in NOT_EXACT


def compare(measured, before, exact=False):
    failed = False
    for name, (ir, rmw) in sorted(measured.items()):
        if name not in before:
            print(f"{name}: not recorded; run {sys.argv[0]} --record")
            failed = True
            continue
        old_ir, old_rmw = before[name]
        if exact and is_exact(name):
            most_ir, most_rmw = old_ir + EXACT_IR, old_rmw + EXACT_RMW
        else:
            most_ir, most_rmw = old_ir * ALLOWED, old_rmw + SLACK_RMW
        grew = name.startswith("op_") and (ir > most_ir or rmw > most_rmw)
        failed |= grew
        verdict = "GREW" if grew else "ok"
        print(f"{name:<28} {ir:9.1f} ({old_ir:.1f}) {rmw:7.2f} ({old_rmw:.2f})  {verdict}")
    for name in before.keys() - measured.keys():
        print(f"{name}: recorded, but not measured")
        failed = True
    return 1 if failed else 0


HEADER = """\
# What the hottest operations cost, each once: instructions, atomic read-modify-writes.
# From `benches/instructions.py --record`; `benches/instructions.py` fails when an op_ grows by more
# than 5 % or needs another read-modify-write, with --exact by one instruction. ref_ is what others
# take, for comparison.
"""

if __name__ == "__main__":
    sys.exit(main())
