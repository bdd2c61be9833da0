#!/usr/bin/env bash
# Runs each fuzz target for a while: .ci/fuzz.sh [SECONDS], a minute by default. Needs nightly.
#
# The targets are built with the flags of cargo-fuzz, which need not be installed. `cargo +nightly fuzz
# run TARGET` works as well and has more to offer: it minimises what it finds.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS_EACH=${1:-60}
TARGET=${CARGO_TARGET_DIR:-target}
HOST=x86_64-unknown-linux-gnu
mkdir -p "$TARGET"
TARGET=$(realpath "$TARGET")

# Seeds: what the writers of arrow-rs make.
mkdir -p fuzz/corpus/ipc_stream fuzz/corpus/ipc_file fuzz/corpus/c_data fuzz/artifacts
cargo run -q -p arrow-memory-arrow --example ipc_seeds -- fuzz/corpus

# Coverage of edges, compared values, AddressSanitizer, debug assertions.
RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0" \
    cargo +nightly build --release --manifest-path fuzz/Cargo.toml --bins --target $HOST --target-dir "$TARGET/fuzz"

for target in c_data ipc_stream ipc_file; do
    run=("$TARGET/fuzz/$HOST/release/$target" "-artifact_prefix=fuzz/artifacts/$target-" "fuzz/corpus/$target")
    # A look for leaks after each input takes 25 times as long as the input: once for each at the end.
    "${run[@]}" -max_total_time="$SECONDS_EACH" -detect_leaks=0 \
        -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1
    "${run[@]}" -runs=0
done
