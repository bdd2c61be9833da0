#!/usr/bin/env bash
# Runs each fuzz target for a while: .ci/fuzz.sh [SECONDS], a minute by default. Needs nightly and
# cargo-fuzz; installs the latter into the target directory if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS_EACH=${1:-60}
TARGET=${CARGO_TARGET_DIR:-target}
mkdir -p "$TARGET"
TARGET=$(realpath "$TARGET")
export PATH=$TARGET/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --locked --root "$TARGET/tools" cargo-fuzz

# Seeds: what the writers of arrow-rs make.
mkdir -p fuzz/corpus/ipc_stream fuzz/corpus/ipc_file
cargo run -q -p arrow-memory-arrow --example ipc_seeds -- fuzz/corpus

for target in c_data ipc_stream ipc_file; do
    run=(cargo +nightly fuzz run "$target" --target-dir "$TARGET/fuzz" --)
    # A look for leaks after each input takes 25 times as long as the input: once for each at the end.
    "${run[@]}" -max_total_time="$SECONDS_EACH" -detect_leaks=0 \
        -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1
    "${run[@]}" -runs=0
done
