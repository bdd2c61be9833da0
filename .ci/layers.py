#!/usr/bin/env python3
"""Checks what STYLE asks of the layout, in every crate's sources:

* no cycle of imports between files, nor between the top-level modules of memory-core's layers;
* memory-core's modules import from their own layer and below;
* `unsafe` stands in listed files only;
* no file has over 500 lines, no function over 60;
* private types of memory-core that several files name are in the glossary of ARCHITECTURE.md.

An import is a path that starts with `crate`, `self` or `super`. It leads to the file that defines the item:
what a module re-exports counts as an import of the file that it comes from. That a module declares a child, or
re-exports from one, is no import. Tests and models are left out.

Exits 1 and says where not."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# memory-core's modules from bottom to top; a module may import from its own rank and below.
LAYERS = (
    ("outcome", "stack", "report", "error"),
    ("rounding", "listener", "events", "probes"),
    ("debug", "accounting", "sampling"),
    ("raw", "ledger"),
    ("allocator", "reclaim"),
    ("buffer", "reservation", "testing", "collections", "leak_check", "metrics", "totals", "holders", "waiting", "heap"),
)

# Files that may contain `unsafe`, each opened by `#![expect(unsafe_code, …)]` with its reason.
UNSAFE_LIST = ROOT / ".ci" / "unsafe-files.txt"

# Types that need no entry in the glossary: words of Rust's standard library and of Arrow.
PLAIN = {"Entry", "Event", "Guard", "Head", "Item", "Kind", "Links", "Site", "State", "Step", "Table", "Target", "Weak"}
MAX_ROWS = 30

MAX_FILE = 500
MAX_FUNCTION = 60


def tracked(pattern):
    out = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in (ROOT / line for line in out.stdout.splitlines()) if path.exists()]


def sources():
    return [path for path in tracked("*.rs") if "src" in path.relative_to(ROOT).parts[:3]]


def is_test(path):
    return path.stem in ("tests", "model", "model_ledger") or {"tests", "model"} & set(path.parts)


def code(path):
    """The file's code up to its inline tests, without comments; lines keep their numbers."""
    lines, text = [], path.read_text().splitlines()
    for number, line in enumerate(text):
        if re.match(r"#\[cfg\((all\()?test", line) and any(re.match(r"mod \w+ \{", after) for after in text[number + 1:number + 3]):
            break
        lines.append("" if line.lstrip().startswith("//") else re.sub(r"\s//.*", "", line))
    return "\n".join(lines)


class Crate:
    """The files of a crate, by module, and what each of them imports."""

    def __init__(self, src):
        self.files = {}  # module path, as a tuple: file
        self.modules = {}  # file: module path
        self.text = {}
        self.exports = {}  # file: {name: path that it re-exports}
        paths = [path for path in sources() if path.is_relative_to(src) and not is_test(path)]
        for path in sorted(paths):
            parts = list(path.relative_to(src).with_suffix("").parts)
            if parts[0] == "bin":
                continue
            if parts[-1] in ("mod", "lib", "main"):
                parts.pop()
            self.files[tuple(parts)] = path
            self.modules[path] = tuple(parts)
            self.text[path] = code(path)
        for path, text in self.text.items():
            self.exports[path] = {}
            for visible, tree in re.findall(r"^\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", text, re.M):
                if visible:
                    for names, alias in flatten(tree):
                        self.exports[path][alias] = names

    def resolve(self, path, names, depth=0):
        """The file that defines what `names` lead to from the file `path`; None if it is not this crate's."""
        module = list(self.modules[path])
        names = list(names)
        if names[0] == "crate":
            module, names = [], names[1:]
        elif names[0] in ("self", "super"):
            while names and names[0] in ("self", "super"):
                if names[0] == "super":
                    if not module:
                        return None
                    module.pop()
                names.pop(0)
        elif tuple(module + names[:1]) not in self.files:
            return None
        while names and tuple(module + names[:1]) in self.files:
            module.append(names.pop(0))
        file = self.files.get(tuple(module))
        if file is None or not names or depth > 8:
            return file
        exported = self.exports[file].get(names[0])
        if exported is None:
            return file
        return self.resolve(file, exported, depth + 1)

    def imports(self):
        """Pairs of files: importer, imported, and the line."""
        for path, text in self.text.items():
            clean = re.sub(r"^\s*pub(\([^)]*\))?\s+use\s+[^;]+;", blank, text, flags=re.M)
            found = []
            for match in re.finditer(r"^\s*use\s+([^;]+);", clean, re.M):
                found += [(match.start(1), names) for names, _ in flatten(match.group(1))]
            clean = re.sub(r"^\s*use\s+[^;]+;", blank, clean, flags=re.M)
            for match in re.finditer(r"\b(?:crate|super|self)(?:::\w+)+(?!\w*!)", clean):
                found.append((match.start(), match.group(0).split("::")))
            for start, names in found:
                target = self.resolve(path, names)
                if target is not None and target != path:
                    yield path, target, text.count("\n", 0, start) + 1


def blank(match):
    return "\n" * match.group(0).count("\n")


def flatten(tree, prefix=()):
    """The paths of a `use`, each with the name that it gets."""
    tree = tree.strip()
    match = re.match(r"([\w:]*?)(?:::)?\{(.*)\}$", tree, re.S)
    if match:
        start = prefix + tuple(part for part in match.group(1).split("::") if part)
        for part in split(match.group(2)):
            yield from flatten(part, start)
        return
    tree, _, alias = tree.partition(" as ")
    names = prefix + tuple(part for part in tree.split("::") if part)
    if names and names[-1] == "self" and len(names) > 1:
        names = names[:-1]
    if names:
        yield names, (alias or names[-1]).strip()


def split(text):
    """The items of a braced list, at its top level."""
    depth, start = 0, 0
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    if text[start:].strip():
        yield text[start:]


def cycles(edges):
    """The strongly connected components of more than one node (Tarjan)."""
    index, low, stack, on, out = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for after in edges.get(node, ()):
            if after not in index:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in on:
                low[node] = min(low[node], index[after])
        if low[node] == index[node]:
            component = []
            while True:
                last = stack.pop()
                on.remove(last)
                component.append(last)
                if last == node:
                    break
            if len(component) > 1:
                out.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for node in sorted(edges):
        if node not in index:
            visit(node)
    return out


def name(path):
    return str(path.relative_to(ROOT))


def check_cycles(complaints):
    for src in sorted({path.parent for path in tracked("*lib.rs") + tracked("*main.rs") if path.parent.name == "src"}):
        edges, lines = {}, {}
        for path, target, line in Crate(src).imports():
            edges.setdefault(path, set()).add(target)
            lines.setdefault((path, target), line)
        for component in cycles(edges):
            complaints.append(f"{name(src)}: these files import each other:")
            for path in component:
                for target in sorted(edges.get(path, set()) & set(component)):
                    complaints.append(f"    {name(path)}:{lines[path, target]} imports {name(target)}")


def check_layers(complaints):
    rank = {module: level for level, modules in enumerate(LAYERS) for module in modules}
    core = ROOT / "memory-core" / "src"
    for path, target, line in Crate(core).imports():
        above, here = (file.relative_to(core).with_suffix("").parts[0] for file in (target, path))
        for module in (above, here):
            if module != "lib" and module not in rank:
                complaints.append(f"{name(path)}: module `{module}` has no layer in .ci/layers.py")
        if rank.get(above, -1) > rank.get(here, len(LAYERS)):
            complaints.append(f"{name(path)}:{line}: `{here}` imports from `{above}`, a layer above it")


def check_unsafe(complaints):
    listed = {line.strip() for line in UNSAFE_LIST.read_text().splitlines() if line.strip() and line[0] != "#"}
    found = set()
    for path in tracked("*.rs"):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
        if re.search(r"\bunsafe\s*(\{|fn|impl|trait|extern)", text):
            found.add(name(path))
    for file in sorted(found - listed):
        complaints.append(f"{file}: contains `unsafe` and is not in .ci/unsafe-files.txt")
    for file in sorted(listed - found):
        complaints.append(f".ci/unsafe-files.txt: {file} contains no `unsafe` any more")


def check_lengths(complaints):
    for path in sources():
        lines = path.read_text().splitlines()
        if len(lines) > MAX_FILE:
            complaints.append(f"{name(path)}: {len(lines)} lines; split it")
        start = None
        for number, line in enumerate(lines):
            begins = re.match(r"( *)(?:pub(?:\([^)]*\))? )?(?:default |const |async |unsafe |extern \"C\" )*fn (\w+)", line)
            if begins and not line.rstrip().endswith((";", "}")):
                start = number, begins.group(1), begins.group(2)
            elif start and line.startswith(start[1] + "}"):
                if number - start[0] + 1 > MAX_FUNCTION:
                    complaints.append(f"{name(path)}:{start[0] + 1}: `{start[2]}` has {number - start[0] + 1} lines")
                start = None


def check_glossary(complaints):
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| [a-z].*$", text.partition("## Glossary")[2], re.M)[1:]
    if len(rows) > MAX_ROWS:
        complaints.append(f"ARCHITECTURE.md: the glossary has {len(rows)} rows, {MAX_ROWS} at most")
    listed = set(re.findall(r"`(\w+)`", "\n".join(rows)))
    core = ROOT / "memory-core" / "src"
    texts = {path: code(path) for path in sources() if path.is_relative_to(core) and not is_test(path) and "testing" not in path.parts}
    exported = "".join("".join(re.findall(r"^ *pub use [^;]+;", text, re.M)) for path, text in texts.items()
                       if path in (core / "lib.rs", core / "sampling" / "mod.rs"))
    public = set(re.findall(r"\b[A-Z]\w+", exported))
    for path, text in texts.items():
        for kind, word in re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?(?:unsafe )?(struct|enum|trait|union) (\w+)", text, re.M):
            users = sum(1 for other in texts.values() if re.search(rf"\b{word}\b", other))
            if users >= 2 and word not in public | listed | PLAIN:
                complaints.append(f"{name(path)}: {users} files name `{word}`, which the glossary of ARCHITECTURE.md lacks")
    for word in sorted(listed):
        if not any(re.search(rf"\b(struct|enum|trait|union|type) {word}\b", text) for text in texts.values()):
            complaints.append(f"ARCHITECTURE.md: the glossary names `{word}`, which is no type of memory-core")


def main():
    complaints = []
    check_cycles(complaints)
    check_layers(complaints)
    check_unsafe(complaints)
    check_lengths(complaints)
    check_glossary(complaints)
    for complaint in complaints:
        print(complaint)
    if not complaints:
        print(f"imports, layers, unsafe files, lengths and words: {len(tracked('*.rs'))} files as they should be")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
