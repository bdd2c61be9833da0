#!/usr/bin/env bash
# pyarrow reads what we export and we read what pyarrow exports. Installs the newest pyarrow from
# PyPI into a virtual environment in the target directory; can be run alone.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-target}
mkdir -p "$TARGET"
TARGET=$(realpath "$TARGET")
VENV=$TARGET/pyarrow-venv

if ! "$VENV/bin/python" -c 'import pyarrow' 2>/dev/null; then
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet pyarrow
fi
cargo build -p arrow-memory-arrow --example c_data
"$VENV/bin/python" memory-arrow/tests/pyarrow_round_trip.py "$TARGET/debug/examples/libc_data.so"
