#!/usr/bin/env bash
# Installs a cargo subcommand of one version into the target directory, unless it is there: .ci/tool.sh NAME VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${CARGO_TARGET_DIR:-target}/tools
grep -qs "^\"$1 $2 " "$TOOLS/.crates.toml" && exit
echo "installing $1 $2"
cargo install -q --locked --root "$TOOLS" --target-dir "$TOOLS/build" "$1@$2"
rm -rf "$TOOLS/build"
