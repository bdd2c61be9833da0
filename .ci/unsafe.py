#!/usr/bin/env python3
"""Counts `unsafe` in the sources of each crate that is published, without tests: .ci/unsafe.py [--accept]

Prints a table of blocks, functions, implementations and the rest (traits, foreign functions, attributes), and
compares it with .ci/unsafe-counts.txt, so that more of it is a decision, and less of it stays less. `--accept` writes that
file. Where `unsafe` may stand at all is the matter of .ci/unsafe-files.txt, and of .ci/layers.py.

Exits 1 where a number differs."""

import collections
import re
import sys

import layers

RECORD = layers.ROOT / ".ci" / "unsafe-counts.txt"
KINDS = ("blocks", "functions", "implementations", "other")

# Comments of any kind, and strings: neither is code. Of a character, only a quote matters.
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'', re.S)


def kind(after):
    """What the word `unsafe` begins, by the text after it."""
    if after.startswith("{"):
        return "blocks"
    if re.match(r'(extern\s*("")?\s*)?fn\b\s*\w', after):
        return "functions"
    if re.match(r"impl\b", after):
        return "implementations"
    # `unsafe fn(…)` without a name is a type. `unsafe_code` is a lint, and no match of the caller's.
    return None if re.match(r'(extern\s*("")?\s*)?fn\b', after) else "other"


def crate_of(path):
    """The folder of the crate that has the file: the root's is the facade."""
    parts = path.relative_to(layers.ROOT).parts
    return "/".join(parts[: parts.index("src")]) or "."


def is_published(crate):
    return "publish = false" not in (layers.ROOT / crate / "Cargo.toml").read_text()


def counts():
    found = collections.defaultdict(collections.Counter)
    for path in layers.sources():
        if layers.is_test(path) or re.search(r"(tests|model)$", path.stem) or not is_published(crate_of(path)):
            continue
        crate = found[crate_of(path)]
        text = NO_CODE.sub(lambda match: '""' if match.group(0).endswith('"') else " ", layers.code(path))
        for match in re.finditer(r"\bunsafe\b\s*", text):
            what = kind(text[match.end():])
            if what:
                crate[what] += 1
    return {crate: tuple(found[crate][kind] for kind in KINDS) for crate in sorted(found)}


def lines(table):
    yield f"{'crate':28}" + "".join(f"{kind:>17}" for kind in KINDS)
    for crate, row in table.items():
        yield f"{crate:28}" + "".join(f"{count:>17}" for count in row)


def main():
    table = counts()
    text = "\n".join(lines(table)) + "\n"
    print(text, end="")
    if sys.argv[1:] == ["--accept"]:
        RECORD.write_text(text)
        return 0
    recorded = {}
    for line in RECORD.read_text().splitlines()[1:]:
        crate, *numbers = line.split()
        recorded[crate] = tuple(map(int, numbers))
    differ = False
    for crate in sorted(table | recorded):
        before, now = recorded.get(crate, (0,) * len(KINDS)), table.get(crate, (0,) * len(KINDS))
        for what, old, new in zip(KINDS, before, now):
            if old != new:
                differ = True
                print(f"{crate}: {new} unsafe {what}, {old} recorded")
    if differ:
        print("if that is meant: .ci/unsafe.py --accept, and say why in the commit")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
