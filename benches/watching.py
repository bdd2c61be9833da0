#!/usr/bin/env python3
"""Counts, under callgrind, how many instructions watching adds to one allocation of 4 KiB and its
drop. Fails if sampling at the default interval adds 2 % or more, or if debug mode needs more than 1.3
times as many as one walk of 16 frames by the unwinder.

    benches/watching.py                       check
    benches/watching.py INTERVAL BACKEND…     print, for a mean interval in bytes

The sampled allocations are drawn at random in each run, so the last digit differs between runs.
"""

import os
import subprocess
import sys
import tempfile

from instructions import build, install_valgrind

BACKENDS = ["mimalloc", "system", "jemalloc"]
COUNTS = (100_000, 400_000)
# For slow modes.
FEWER = (2_000, 12_000)
MAX_ADDED = 0.02
MAX_CAPTURES = 1.3


def main():
    install_valgrind()
    binary = build("--bin", "watching")
    interval = sys.argv[1:2]
    failed = False
    for backend in sys.argv[2:] or BACKENDS:
        off = measure(binary, "off", backend)
        sampling = measure(binary, "sampling", backend, *interval)
        added = sampling / off - 1
        failed |= added >= MAX_ADDED
        print(f"{backend:<10} off {off:7.1f}  sampling {sampling:7.1f}  {100 * added:+5.2f} %")
    if interval:
        return 0
    off, capture, debug = (measure(binary, mode, "mimalloc") for mode in ["off", "capture", "debug"])
    captures = debug / (capture - off)
    failed |= captures > MAX_CAPTURES
    print(f"debug mode {debug:7.1f}, one capture {capture - off:7.1f}: {captures:.2f} captures")
    return 1 if failed else 0


def measure(binary, *arguments):
    """Instructions per allocation, without those of the start of the program."""
    mode, rest = arguments[0], arguments[1:]
    counts = COUNTS if mode in ("off", "sampling") else FEWER
    few, many = (count(binary, mode, times, *rest) for times in counts)
    return (many - few) / (counts[1] - counts[0])


def count(binary, mode, times, *rest):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [binary, mode, str(times), *rest]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with open(out) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("summary:"))


if __name__ == "__main__":
    sys.exit(main())
