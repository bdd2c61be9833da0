#!/usr/bin/env bash
# Runs fuzz targets, two at a time: .ci/fuzz.sh [SECONDS [TARGET…]], all of them for a minute each by default.
# Needs nightly.
#
# The targets are built with the flags of cargo-fuzz, which need not be installed. `cargo +nightly fuzz
# run TARGET` works as well and has more to offer: it minimises what it finds.
#
# Inputs come from fuzz/seeds, which is committed, and from fuzz/corpus, where the fuzzer adds those that reach
# new code. An input that fails is put into fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-target}
HOST=x86_64-unknown-linux-gnu
ALL=(adoption buffers builders c_data c_device captures ipc_file ipc_stream tree)

# run SECONDS TARGET: fuzzes, then looks for leaks.
run() {
    local seconds=$1 target=$2 length=65536 options=() seeds=()
    case $target in
        adoption | c_device | tree) length=1024 ;;
        buffers | builders) length=4096 ;;
        captures)
            length=16384
            options=(-dict=fuzz/captures.dict)
            seeds=(memory-profile/tests/data)
            ;;
    esac
    [ ! -d "fuzz/seeds/$target" ] || seeds+=("fuzz/seeds/$target")
    mkdir -p "fuzz/corpus/$target"
    local run=("$FUZZERS/$target" "-artifact_prefix=fuzz/artifacts/$target-" "fuzz/corpus/$target" "${seeds[@]}"
        -rss_limit_mb=2048 -timeout=60 "-max_len=$length" "${options[@]}")
    # A look for leaks after each input takes 25 times as long as the input: once for each at the end.
    "${run[@]}" -max_total_time="$seconds" -detect_leaks=0 -print_final_stats=1 &&
        "${run[@]}" -runs=0
}

# report SECONDS TARGET: runs a target, and prints what came of it.
report() {
    local log=fuzz/artifacts/$2.log
    if run "$@" >"$log" 2>&1; then
        # The last line with coverage, and the statistics.
        printf '%s: ' "$2"
        grep -E '^#[0-9]+.*DONE' "$log" | head -n 1
        grep -E '^stat::(number_of_executed_units|average_exec_per_sec)' "$log"
    else
        cat "$log"
        printf '%s: failed\n' "$2"
        return 1
    fi
}

if [ "${1:-}" = --report ]; then
    report "$2" "$3"
    exit
fi

SECONDS_EACH=${1:-60}
shift $(($# > 0))
[ $# -gt 0 ] || set -- "${ALL[@]}"
mkdir -p "$TARGET" fuzz/artifacts fuzz/corpus/{c_data,ipc_stream,ipc_file}
TARGET=$(realpath "$TARGET")

# Seeds of the readers of IPC: what the writers of arrow-rs make.
cargo build -q --workspace --example ipc_seeds
"$TARGET/debug/examples/ipc_seeds" fuzz/corpus

# Coverage of edges, compared values, AddressSanitizer, debug assertions.
RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0" \
    cargo +nightly build --release --manifest-path fuzz/Cargo.toml --bins --target $HOST --target-dir "$TARGET/fuzz"

# What the arena takes its chunks from, so that AddressSanitizer knows these.
export ARROW_DEFAULT_MEMORY_POOL=system
export FUZZERS=$TARGET/fuzz/$HOST/release
printf '%s\n' "$@" | xargs -P 2 -I{} "$0" --report "$SECONDS_EACH" {}
