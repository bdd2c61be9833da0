#!/usr/bin/env bash
# Compiles the published packages with the lowest versions of their direct dependencies that their manifests allow, so that these
# say the truth. In a copy of the tree, since the lockfile is another one. Needs nightly, to choose the versions.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-target}
mkdir -p "$TARGET"
TARGET=$(realpath "$TARGET")
COPY=$TARGET/minimal/tree
mapfile -t names < <(.ci/published.py)
rm -rf "$COPY"
mkdir -p "$COPY"
# With the files' times, by which cargo tells what changed.
git ls-files -z | tar --null --files-from - --create --ignore-failed-read | tar --extract --directory "$COPY"
cd "$COPY"
# What is not published may ask for more.
sed -i -E 's/, "(integration-tests|benches)"//g; s/^exclude = .*/exclude = ["engines", "integration-tests", "benches"]/' Cargo.toml
cargo +nightly update -q -Z direct-minimal-versions
# Beside what other stages have compiled: dependencies whose versions are the same are not compiled again.
# shellcheck disable=SC2068 # names of packages
cargo check -q --target-dir "$TARGET" --all-features ${names[@]/#/-p }
# Each alone: `cargo tree` of several names what a package depends on once only.
count=$(for name in "${names[@]}"; do cargo tree -q -p "$name" --all-features -e normal,build --depth 1 --prefix none; done |
    sed 's/ (proc-macro)//; s/ (\*)//' | grep -v '(/' | sort -u | grep -c .)
echo "compiled with the lowest versions of $count direct dependencies"
