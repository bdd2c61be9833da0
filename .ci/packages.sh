#!/usr/bin/env bash
# Packs each published package of the root workspace as `cargo publish` would, and looks at what is in it:
# .ci/packages.sh [--verify]. With `--verify`, each is compiled from its package and from the packages of those that it depends
# on, as users will have it.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-target}
VERIFY=--no-verify
[ "${1:-}" = --verify ] && VERIFY=
mapfile -t names < <(.ci/published.py)
rm -f "$TARGET"/package/*.crate
# Changes that are not committed are packed, too: a stage is run before the commit.
# shellcheck disable=SC2086 # nothing if empty
cargo package -q --allow-dirty --target-dir "$TARGET" ${names[@]/#/-p } $VERIFY
python3 .ci/packages.py "$TARGET"/package "${names[@]}"
