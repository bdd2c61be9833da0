#!/usr/bin/env bash
# Installs a cargo subcommand of one version into the target directory, unless it is there: .ci/tool.sh NAME VERSION
#
# It is compiled with few optimizations and without LTO, which its own profile may ask for: that would take longer than the runs.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${CARGO_TARGET_DIR:-target}/tools
grep -qs "^\"$1 $2 " "$TOOLS/.crates.toml" && exit
echo "installing $1 $2"
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    cargo install -q --locked --root "$TOOLS" --target-dir "$TOOLS/build" "$1@$2"
rm -rf "$TOOLS/build"
