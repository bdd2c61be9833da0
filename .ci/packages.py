#!/usr/bin/env python3
"""Looks at packages before they are published: .ci/packages.py FOLDER NAME…

Each needs its manifest's words for the registry, a README and a LICENSE with text, dependencies by version and not by path,
and no file that is of no use to its users. Exits 1 and says what is wrong."""

import pathlib
import re
import sys
import tarfile
import tomllib

# Beginnings of names that belong to the repository, not to a package.
FOREIGN = (".ci", ".github", "engines", "fuzz", "target", "benches/results")
# What crates.io shows, or asks for.
WORDS = ("description", "license", "repository", "readme", "keywords", "categories", "rust-version")
MAX_BYTES = 1 << 20


def dependencies(manifest):
    """Each dependency table's entries, those of targets too. Dev-dependencies without a version are left out by cargo."""
    for table in [manifest, *manifest.get("target", {}).values()]:
        for kind in ("dependencies", "build-dependencies", "dev-dependencies"):
            yield from table.get(kind, {}).items()


def complaints(name, archive):
    with tarfile.open(archive) as packed:
        files = {member.name.partition("/")[2]: member for member in packed.getmembers()}
        manifest = tomllib.loads(packed.extractfile(files["Cargo.toml"]).read().decode())
        texts = {file: packed.extractfile(files[file]).read().decode() for file in files if file.endswith(".rs")}
    for file in ("README.md", "LICENSE", "Cargo.lock"):
        if file not in files or files[file].size < 200:
            yield f"no {file}, or an empty one"
    for word in WORDS:
        if not manifest["package"].get(word):
            yield f"its manifest says nothing of `{word}`"
    for dependency, entry in dependencies(manifest):
        if isinstance(entry, dict) and ("path" in entry or "version" not in entry):
            yield f"depends on {dependency} by its path, not by a version"
    for file in files:
        if file.startswith(FOREIGN):
            yield f"has {file}, which is of no use to its users"
    for file, text in texts.items():
        # What the compiler reads has to be there; what only tests read, not.
        text = re.sub(r"#\[cfg\(doctest\)\]\n#\[doc = [^\n]*", "", text)
        for included in re.findall(r'(?:include_str!\(|#\[path = )"([^"]+)"', text):
            if file.startswith("src/") and included.startswith("../"):
                place = pathlib.PurePosixPath(file).parent / included
                if str(normal(place)) not in files:
                    yield f"{file} includes {included}, which the package lacks"
    if archive.stat().st_size > MAX_BYTES:
        yield f"{archive.stat().st_size} bytes, {MAX_BYTES} at most"


def normal(path):
    """The path without `..`; one that leads out of the package keeps them."""
    parts = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return pathlib.PurePosixPath(*parts)


def main():
    folder, wrong = pathlib.Path(sys.argv[1]), False
    for name in sys.argv[2:]:
        archives = [path for path in folder.glob(f"{name}-*.crate") if re.fullmatch(rf"{re.escape(name)}-\d.*", path.name)]
        if len(archives) != 1:
            print(f"{name}: {len(archives)} packages, not one")
            wrong = True
            continue
        with tarfile.open(archives[0]) as packed:
            print(f"{name:24} {archives[0].stat().st_size:8} bytes {len(packed.getmembers()):5} files")
        for complaint in complaints(name, archives[0]):
            print(f"{name}: {complaint}")
            wrong = True
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
