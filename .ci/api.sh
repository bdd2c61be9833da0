#!/usr/bin/env bash
# Compares the public API of each published library of the root workspace, all features on, with .ci/api/CRATE.txt:
# .ci/api.sh [--accept]. With `--accept`, writes those files; a change of them belongs into the commit that changes the API.
#
# A line is an item, as cargo-public-api prints it. What holds for every type (blanket implementations) is left out, and so are
# the automatic traits but for Send and Sync. The files are of the compiler that .github/workflows/ci.yml names.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-target}
mkdir -p "$TARGET"
TARGET=$(realpath "$TARGET")
TOOL=$TARGET/tools/bin/cargo-public-api
RECORDS=.ci/api
ACCEPT=${1:-}

.ci/tool.sh cargo-public-api 0.52.0
mapfile -t crates < <(.ci/published.py --libraries)
mapfile -t names < <(.ci/published.py)
mkdir -p "$RECORDS" "$TARGET/api/now"
# Documented in one run, so that dependencies are compiled once, next to what other stages have compiled. Their pages are not
# replaced: those of this run go to a folder of its own. The program is named, too, since dependencies have other features without
# it, and jemalloc would be compiled once more; `--lib` leaves it out.
# shellcheck disable=SC2068 # names of packages
CARGO_TARGET_DIR=$TARGET/api CARGO_BUILD_BUILD_DIR=$TARGET RUSTDOC=$PWD/.ci/rustdoc-json \
    RUSTDOCFLAGS='-Z unstable-options --output-format json --cap-lints allow' \
    cargo doc -q --no-deps --lib --all-features ${names[@]/#/-p }
changed=()
for crate in "${crates[@]}"; do
    now=$TARGET/api/now/$crate.txt
    "$TOOL" --rustdoc-json "$TARGET/api/doc/${crate//-/_}.json" --omit blanket-impls |
        grep -vE '^impl.*[ !]core::(marker::(Freeze|Unpin|UnsafeUnpin)|panic::unwind_safe::(RefUnwindSafe|UnwindSafe)) for ' >"$now"
    record=$RECORDS/$crate.txt
    if [ "$ACCEPT" = --accept ]; then
        cp "$now" "$record"
    elif ! [ -e "$record" ] || ! cmp -s "$record" "$now"; then
        changed+=("$crate")
        # Without context: the lines say where they belong.
        diff -U0 --label "$record" --label "$crate now" "$([ -e "$record" ] && echo "$record" || echo /dev/null)" "$now" |
            grep -v '^@@' || true
    fi
    printf '%-24s %6d items\n' "$crate" "$(wc -l <"$now")"
done
if [ ${#changed[@]} -gt 0 ]; then
    echo "The public API of ${changed[*]} is not the recorded one (+ is new, - is gone)."
    echo "If that is meant: \`.ci/run api_accept\` writes $RECORDS/, which belongs into the same commit, and CHANGELOG.md says what"
    echo "users will notice. If it is not: make the item private, or bring it back."
    exit 1
fi
for record in "$RECORDS"/*.txt; do
    printf '%s\n' "${crates[@]}" | grep -qx "$(basename "$record" .txt)" || {
        echo "$record is of no published library"
        exit 1
    }
done
