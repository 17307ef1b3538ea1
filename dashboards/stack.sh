#!/bin/sh
# `make stack`: Debian's Prometheus, Alertmanager and Pushgateway with the files of this folder, around a
# running `headcount demo`. All on 127.0.0.1, data in a temporary folder; Ctrl-C stops and removes everything.
#
#   stack.sh [COMMAND]   COMMAND is the `headcount` to run; default: the one on PATH
set -eu

here=$(cd "$(dirname "$0")" && pwd)
headcount=${1:-headcount}
sh "$here/../tests/servers/observability.sh"
command -v "$headcount" >/dev/null || { echo "stack: there is no $headcount; build it first" >&2; exit 1; }

folder=$(mktemp -d)
running=''
stop() {
    trap - EXIT INT TERM
    # Only what was started here, the last first.
    for pid in $running; do kill "$pid" 2>/dev/null || :; done
    for pid in $running; do wait "$pid" 2>/dev/null || :; done
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() { # name, program, arguments: its output goes to a file
    name=$1
    shift
    "$@" >"$folder/$name.log" 2>&1 &
    running="$! $running"
    last=$!
}
ready() { # name, what its log says when it is up
    tries=150
    until grep -qs "$2" "$folder/$1.log"; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ] || ! kill -0 "$last" 2>/dev/null; then
            echo "stack: $1 did not start:" >&2
            tail -n 5 "$folder/$1.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

# Links, so that an edited rule is the one that is loaded.
mkdir "$folder/prometheus"
ln -s "$here/prometheus/prometheus.yml" "$here/prometheus/rules" "$folder/prometheus/"
ln -s "$here/prometheus/targets/loopback" "$folder/prometheus/targets"

start pushgateway prometheus-pushgateway --web.listen-address=127.0.0.1:9091 --persistence.file="$folder/pushgateway.data"
ready pushgateway 'Listening on'
# An empty cluster address: else it listens for a cluster, on all interfaces.
start alertmanager prometheus-alertmanager --config.file="$here/alertmanager/alertmanager.yml" \
    --storage.path="$folder/alertmanager" --web.listen-address=127.0.0.1:9093 --cluster.listen-address=
ready alertmanager 'Listening on'
start prometheus prometheus --config.file="$folder/prometheus/prometheus.yml" \
    --storage.tsdb.path="$folder/data" --web.listen-address=127.0.0.1:9090
ready prometheus 'Server is ready'

# Debian's Prometheus has the classic pages only, and its Alertmanager none.
cat <<END
Prometheus     http://127.0.0.1:9090/classic/graph?g0.expr=task%3Aheadcount_last_run_achieved_workers%3Alatest&g0.tab=0
Alerts         http://127.0.0.1:9090/classic/alerts
Alertmanager   amtool --alertmanager.url=http://127.0.0.1:9093 alert query
Pushgateway    http://127.0.0.1:9091   (headcount run --push http://127.0.0.1:9091 ...)
The demo       http://127.0.0.1:9464/metrics
Ctrl-C stops all of it.

END

# In the foreground, so that it can be watched; its metrics stay for a while when it is done.
"$headcount" demo --listen 127.0.0.1:9464 --keep-metrics 1h &
running="$! $running"
wait $!
