#!/bin/sh
# Runs the tests that talk to servers on one version after the other, then prints a table: per version, how many tests
# passed, failed and were skipped. Ends with 1 if any failed.
#
#   matrix.sh [MAJOR ...]    these versions; without any, each supported one
#
# The output of each run is in target/matrix. A run that takes longer than HEADCOUNT_MATRIX_LIMIT seconds (900 unless
# set) is ended and counts as one failure. A version that is not installed is left out, and the table says so.
set -u
cd "$(dirname "$0")/../.."
. tests/servers/folder.sh
[ $# -gt 0 ] || set -- 13 14 15 16 17 18 19
binaries=${HEADCOUNT_MATRIX_TESTS:-live update fleet cli}
limit=${HEADCOUNT_MATRIX_LIMIT:-900}
cargo=${CARGO:-cargo}
logs=target/matrix
mkdir -p "$logs"

# shellcheck disable=SC2046 # a list of arguments
$cargo test --all-features --no-run $(printf -- '--test %s ' $binaries) || exit 1

# The folder of a version, as the tests find it: Debian's first, then the cache.
if [ -n "${HEADCOUNT_CACHE:-}" ]; then cache=$HEADCOUNT_CACHE
elif [ "$(id -u)" -eq 0 ]; then cache=/var/cache/headcount
else cache=${XDG_CACHE_HOME:-$HOME/.cache}/headcount
fi
folder() {
    for candidate in "/usr/lib/postgresql/$1/bin" "/usr/pgsql-$1/bin" "$cache/servers/$1/bin"; do
        [ -x "$candidate/postgres" ] && [ -x "$candidate/initdb" ] && echo "$candidate" && return
    done
}

# $1 version, $2 binary, then what the test harness is told. Claims about other versions stay out.
run() {
    major=$1 binary=$2
    shift 2
    for other in 13 14 15 16 17 18 19; do
        [ "$other" = "$major" ] || set -- "$@" --skip "::on_$other"
    done
    HEADCOUNT_TEST_PG=$major HEADCOUNT_PG_BIN=$bin timeout -k 30 "$limit" \
        $cargo test --all-features --test "$binary" -- --show-output "$@" </dev/null
    code=$?
    [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || echo "test $binary did not end within $limit s ... FAILED"
}

# Prints "passed failed skipped": a test whose output says that it was skipped did not pass.
count() {
    awk '/^---- .* stdout ----$/ { said = 0 }
         /^skipped: / && !said { said = 1; skipped++ }
         /^test result: / { passed += $4; failed += $6; ends++ }
         /^test .* did not end within / { failed++; ends++ }
         /^error: could not compile/ || /^error: test failed/ { broken++ }
         END { if (!ends || (broken && !failed)) failed++
               print passed - skipped + 0, failed + 0, skipped + 0 }' "$@"
}

table=$logs/table
: >"$table"
any=0
for major; do
    bin=$(folder "$major")
    if [ -z "$bin" ]; then
        echo "$major - - - - not-installed" >>"$table"
        echo "matrix: PostgreSQL $major is not installed here and is left out" >&2
        continue
    fi
    began=$(date +%s)
    rm -f "$logs/$major"-*.log
    for binary in $binaries; do
        printf 'matrix: PostgreSQL %s, tests/%s: ' "$major" "$binary" >&2
        log=$logs/$major-$binary.log
        run "$major" "$binary" >"$log" 2>&1
        # What `make test` leaves out.
        ! grep -q "^test .*::on_$major \.\.\. ignored" "$log" || run "$major" "$binary" --ignored "::on_$major" >>"$log" 2>&1
        # shellcheck disable=SC2046 # three numbers
        printf '%s passed, %s failed, %s skipped\n' $(count "$log") >&2
        grep -E '^test .* \.\.\. FAILED$' "$log" | sed 's/^/    /' >&2
    done
    # shellcheck disable=SC2046 # three numbers
    set -- "$@" && numbers=$(count "$logs/$major"-*.log)
    [ "$(echo "$numbers" | cut -d ' ' -f 2)" = 0 ] || any=1
    echo "$major $numbers $(($(date +%s) - began)) $("$bin/postgres" --version | cut -d ' ' -f 3)" >>"$table"
done

awk 'BEGIN { printf "\n%-8s %8s %8s %8s %9s  %s\n", "version", "passed", "failed", "skipped", "seconds", "server" }
     { printf "%-8s %8s %8s %8s %9s  %s\n", $1, $2, $3, $4, $5, $6; p += $2; f += $3; s += $4 }
     END { printf "\n%d passed, %d failed, %d skipped\n", p, f, s }' "$table"
exit $any
