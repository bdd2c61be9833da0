#!/usr/bin/env bash
# Checks the crate on an NVIDIA GPU, in under five minutes once it is built: the suite of every device manager, copies of 1 GiB
# each way beside the driver's own, a limit that refuses, a leak that is reported, pinned memory charged to the host's tree.
#
#   gpu-check.sh              builds the program with cargo, and runs it
#   gpu-check.sh PROGRAM      runs a program that was built elsewhere
#                             (cargo build --release -p arrow-memory-device --features cuda,testing --example gpu_check)
#
# Neither CUDA's toolkit nor a GPU is needed to build it. Without a driver it prints "no CUDA driver: skipped" and exits 0.
# GPU_CHECK_BYTES has the bytes of the copies, 1 GiB by default.
set -euo pipefail

program=${1:-}
if [ -z "$program" ]; then
    cd "$(dirname "$0")/.."
    cargo build --release -p arrow-memory-device --features cuda,testing --example gpu_check
    program=${CARGO_TARGET_DIR:-target}/release/examples/gpu_check
fi
exec timeout 300 "$program"
