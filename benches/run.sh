#!/usr/bin/env bash
# Runs all benchmarks and renders their results into benches/results/.
#
#   benches/run.sh [--quick]      nothing else may run meanwhile; the programs are built first
#
# FEATURES (default: arrow,datafusion,tpch) are features of the package `arrow-memory-benches`. If it does not
# build with them, it is built without, and the bars that need them are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
features=${FEATURES-arrow,datafusion,tpch}
results=benches/results
mkdir -p $results

build() { cargo build -q --profile bench -p arrow-memory-benches --features "$features" --bins --benches; }

# A table begins with the command, the machine, the date and the commit. Files for render.py have no such head.
head_of() { case $1 in adopt.md | attack.md | attribution.md | growth.md | lineitem.md | waiting.md) cat $results/machine.md && echo ;; esac; }

bench() { # bench NAME OUTPUT ARGUMENTS…
    local name=$1 output=$results/$2 begun=$SECONDS
    head_of "$2" > "$output.new"
    shift 2
    cargo bench -q -p arrow-memory-benches --features "$features" --bench "$name" -- "$@" >> "$output.new"
    mv "$output.new" "$output"
    echo "$output, after $((SECONDS - begun)) s"
}

if ! build; then
    echo "not with the features $features: without"
    features=
    build
fi
{
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
    echo "\`benches/run.sh${*:+ $*}\` on $(nproc) cores of $cpu, $(uname -sr), $(rustc --version)," \
        "$(date -u +%Y-%m-%d), at commit $(git rev-parse --short HEAD)."
} > $results/machine.md
# The results differ between processes: see `pool_bars` in render.py.
for process in 1 2 3 4 5 6; do
    bench bars bars.$process.md "$@"
done
bench growth growth.md "$@"
bench suite suite.tsv "$@"
bench backends backends.md "$@"
bench waiting waiting.md "$@"
bench attack attack.md "$@"
bench attribution attribution.md "$@"
if [[ $features == *arrow* ]]; then
    bench adopt adopt.md "$@"
fi
cargo run -q --profile bench -p arrow-memory-benches --features "$features" --bin threads \
    > $results/threads.csv.new
mv $results/threads.csv.new $results/threads.csv
if [[ $features == *tpch* ]]; then
    bench lineitem lineitem.md "$@"
    { echo; FEATURES=$features benches/instructions.py --lineitem || true; } >> $results/lineitem.md
fi
benches/render.py
cat $results/bars.md $results/growth.md
rm -f $results/bars.[0-9].md
