# shellcheck shell=sh
# To be sourced. The folders of the servers are made in memory where there is plenty of it (8 GB): on a disk, copying the
# thousand files of a fresh one takes longer than all that most tests do with it. `HEADCOUNT_TMPDIR` names another place.
if [ -z "${HEADCOUNT_TMPDIR:-}" ]; then
    free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    if [ "${free:-0}" -ge 8000000 ]; then
        HEADCOUNT_TMPDIR=/dev/shm
        export HEADCOUNT_TMPDIR
    fi
fi
