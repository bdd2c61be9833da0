#!/usr/bin/env bash
# pyarrow reads what we export and we read what pyarrow exports, over the C Data Interface and over the C Device Data
# Interface. Installs the newest pyarrow from PyPI into a virtual environment in the target directory; can be run alone.
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
cargo build -q --workspace --example c_data --example c_device
"$VENV/bin/python" memory-arrow/tests/pyarrow_round_trip.py "$TARGET/debug/examples/libc_data.so"
"$VENV/bin/python" memory-device/tests/pyarrow_round_trip.py "$TARGET/debug/examples/libc_device.so"

# The simulated device, as Arrow C++ sees it: the wheel has its headers and its library.
command -v c++ >/dev/null || (apt-get -qq update && apt-get -qq install -y g++ >/dev/null)
WHEEL=$("$VENV/bin/python" -c 'import pyarrow; print(pyarrow.__path__[0])')
ARROW=$(ls "$WHEEL"/libarrow.so.* | head -n 1)
c++ -std=c++20 -O0 -Wall -Wextra -Wno-unused-parameter -isystem "$WHEEL/include" \
    -o "$TARGET/arrow_cpp" memory-device/tests/arrow_cpp.cc "$ARROW" "$TARGET/debug/examples/libc_device.so" \
    -Wl,-rpath,"$WHEEL" -Wl,-rpath,"$TARGET/debug/examples"
"$TARGET/arrow_cpp"
