#!/usr/bin/env python3
"""Checks what STYLE asks of the layout: imports of memory-core point down only, `unsafe` stands in
listed files only, and no file grew past 500 lines without a word. Exits 1 and says where not."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# memory-core's modules from bottom to top; a module may import from its own rank and below.
RANK = {
    "sync": 0, "size": 0, "text": 0, "thread": 0, "environment": 0, "outcome": 0, "report": 0, "error": 0,
    "rounding": 1, "listener": 1,
    "debug": 2, "accounting": 2, "events": 2, "probes": 2, "sampling": 2,
    "allocator": 3,
    "raw": 4, "ledger": 4,
    "buffer": 5, "reservation": 5, "testing": 5, "collections": 5,
    "leak_check": 5, "metrics": 5, "totals": 5,
}

# An import that points up, with the reason why it may.
UPWARD = {
    ("error", "listener"): "a veto is plain data",
    ("sampling", "allocator"): "one call answers who holds memory now, by allocator",
    ("report", "debug"): "a report lists histories and stacks, which are plain data",
    ("allocator", "raw"): "a failed close walks over the slots in use to say what is outstanding",
}

# Files that may contain `unsafe`, each opened by `#![expect(unsafe_code, …)]` with its reason.
UNSAFE_LIST = ROOT / ".ci" / "unsafe-files.txt"

LONGEST = 500


def tracked(pattern):
    out = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in out.stdout.splitlines()]


def without_tests(text):
    """The file up to its inline tests, which may import what they like."""
    cut = text.find("#[cfg(all(test")
    return text if cut < 0 else text[:cut]


def check_layers(complaints):
    core = ROOT / "memory-core" / "src"
    for path in tracked("memory-core/src/*.rs"):
        parts = path.relative_to(core).with_suffix("").parts
        module = parts[0]
        if module in ("lib", "testing") or "tests" in parts or parts[-1] in ("model", "model_ledger"):
            continue
        if module not in RANK:
            complaints.append(f"{path.relative_to(ROOT)}: module `{module}` has no layer in .ci/layers.py")
            continue
        for number, line in enumerate(without_tests(path.read_text()).splitlines(), 1):
            if line.lstrip().startswith("//"):
                continue
            for target in re.findall(r"\bcrate::(\w+)", line):
                above = RANK.get(target, -1) > RANK[module]
                if above and (module, target) not in UPWARD:
                    where = f"{path.relative_to(ROOT)}:{number}"
                    complaints.append(f"{where}: `{module}` imports from `{target}`, a layer above it")


def check_unsafe(complaints):
    listed = {line.strip() for line in UNSAFE_LIST.read_text().splitlines() if line.strip() and line[0] != "#"}
    found = set()
    for path in tracked("*.rs"):
        name = str(path.relative_to(ROOT))
        code = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
        if re.search(r"\bunsafe\s*(\{|fn|impl|trait|extern)", code):
            found.add(name)
    for name in sorted(found - listed):
        complaints.append(f"{name}: contains `unsafe` and is not in .ci/unsafe-files.txt")
    for name in sorted(listed - found):
        complaints.append(f".ci/unsafe-files.txt: {name} contains no `unsafe` any more")


def check_lengths(complaints):
    for path in tracked("*.rs"):
        text = path.read_text()
        lines = text.count("\n")
        if "tests" in path.parts or "integration-tests" in path.parts or path.stem.endswith("tests"):
            continue  # a list of behaviours may be long
        if lines > LONGEST and "onger than most" not in text[:6000]:
            complaints.append(
                f"{path.relative_to(ROOT)}: {lines} lines; split it, or say in its module doc why it is "
                "`longer than most`")


def main():
    complaints = []
    check_layers(complaints)
    check_unsafe(complaints)
    check_lengths(complaints)
    for complaint in complaints:
        print(complaint)
    if not complaints:
        print(f"layers, unsafe files and lengths: {len(tracked('*.rs'))} files as they should be")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
