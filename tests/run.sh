#!/bin/sh
# Runs all tests, as `cargo test` does, but two binaries at a time and several tests at a time in each: most of them wait
# for servers and use little of a processor. Their output is in target/tests; what failed is printed whole.
#
#   run.sh           all of them, those that take longest first
#   run.sh NAME...   these, such as `live` or `lib`
set -u
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
logs=target/tests

. tests/servers/folder.sh

# What one name stands for, and how many of its tests run at a time.
one() {
    case $1 in
        lib) set -- --lib --bins ;;
        doc) set -- --doc ;;
        live) set -- --test live -- --test-threads=3 ;;
        update | cli) set -- --test "$1" -- --test-threads=2 ;;
        *) set -- --test "$1" ;;
    esac
    $cargo test --all-features "$@"
}

if [ "${1:-}" = --one ]; then
    name=$2 began=$(date +%s)
    one "$name" >"$logs/$name" 2>&1 </dev/null && said=ok || said=FAILED
    [ "$said" = ok ] || echo "$name" >>"$logs/failed"
    awk -v name="$name" -v said="$said" -v seconds=$(($(date +%s) - began)) '
        /^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { printf "%-9s %s: %d passed, %d failed, %d ignored, in %d s\n", name, said, passed, failed, ignored, seconds }' \
        "$logs/$name"
    exit 0
fi

[ $# -gt 0 ] || set -- live update cli fleet stack doc lib core telemetry examples packages house
rm -rf "$logs" && mkdir -p "$logs" || exit 1
$cargo test --all-features --no-run || exit 1
printf '%s\n' "$@" | xargs -P 2 -n 1 sh tests/run.sh --one
for name in $(cat "$logs/failed" 2>/dev/null); do
    printf '\n--- %s\n' "$name"
    cat "$logs/$name"
done
awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$logs"/*
[ ! -e "$logs/failed" ]
