#!/bin/sh
# `make stack`: Debian's Prometheus, Alertmanager and Pushgateway with the files of this folder, around a
# running `headcount demo`. All on 127.0.0.1, data in a temporary folder; Ctrl-C stops and removes everything.
#
#   stack.sh [COMMAND]   COMMAND is the `headcount` to run; default: the one on PATH
#
# Where a port is taken, choose another: PROMETHEUS_PORT=9190 make stack
set -eu

: "${PROMETHEUS_PORT:=9090}" "${PUSHGATEWAY_PORT:=9091}" "${ALERTMANAGER_PORT:=9093}"
: "${RECEIVER_PORT:=9095}" "${DEMO_PORT:=9464}"
here=$(cd "$(dirname "$0")" && pwd)
headcount=${1:-headcount}
sh "$here/../tests/servers/observability.sh"
command -v "$headcount" >/dev/null || { echo "stack: there is no $headcount; build it first" >&2; exit 1; }

folder=$(mktemp -d)
running=''
stop() {
    # Nothing may stay behind because somebody is impatient; each of them ends within seconds.
    trap - EXIT
    trap '' INT TERM HUP
    # A signal may have come before the last one was noted.
    [ -z "${!:-}" ] || case " $running" in *" $! "*) ;; *) running="$! $running" ;; esac
    # Only what was started here, the last first.
    for pid in $running; do kill "$pid" 2>/dev/null || :; done
    for pid in $running; do wait "$pid" 2>/dev/null || :; done
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# In a session of its own: Ctrl-C is for this script alone, which then tells each of them once. To the demo
# a second signal would mean to leave at once, without stopping its server in order.
launch() {
    setsid "$@" &
    last=$!
    running="$last $running "
}
start() { # name, program, arguments: its output goes to a file
    name=$1
    shift
    launch "$@" >"$folder/$name.log" 2>&1
}
ready() { # name, what its log says when it is up
    tries=300
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
here_ports() { # file: with the ports of this run
    # By way of names: one port's new number may be another's old one.
    sed -e 's/127\.0\.0\.1:9091/@PUSHGATEWAY@/; s/127\.0\.0\.1:9093/@ALERTMANAGER@/' \
        -e 's/127\.0\.0\.1:9095/@RECEIVER@/; s/127\.0\.0\.1:9464/@DEMO@/' \
        -e "s/@PUSHGATEWAY@/127.0.0.1:$PUSHGATEWAY_PORT/; s/@ALERTMANAGER@/127.0.0.1:$ALERTMANAGER_PORT/" \
        -e "s/@RECEIVER@/127.0.0.1:$RECEIVER_PORT/; s/@DEMO@/127.0.0.1:$DEMO_PORT/" "$1"
}

# Links, so that an edited rule is the one that is loaded.
mkdir "$folder/prometheus" "$folder/prometheus/targets"
ln -s "$here/prometheus/prometheus.yml" "$here/prometheus/rules" "$folder/prometheus/"
for target in "$here"/prometheus/targets/loopback/*.yml; do
    here_ports "$target" >"$folder/prometheus/targets/${target##*/}"
done
here_ports "$here/alertmanager/alertmanager.yml" >"$folder/alertmanager.yml"

start pushgateway prometheus-pushgateway --web.listen-address="127.0.0.1:$PUSHGATEWAY_PORT" \
    --persistence.file="$folder/pushgateway.data"
ready pushgateway 'Listening on'
# An empty cluster address: else it listens for a cluster, on all interfaces.
start alertmanager prometheus-alertmanager --config.file="$folder/alertmanager.yml" \
    --storage.path="$folder/alertmanager" --web.listen-address="127.0.0.1:$ALERTMANAGER_PORT" --cluster.listen-address=
ready alertmanager 'Listening on'
# Whom alerts wake, before there are any.
start receiver python3 "$here/alertmanager/receiver.py" "$RECEIVER_PORT"
ready receiver 'alerts are printed here'
start prometheus prometheus --config.file="$folder/prometheus/prometheus.yml" \
    --storage.tsdb.path="$folder/data" --web.listen-address="127.0.0.1:$PROMETHEUS_PORT"
ready prometheus 'Server is ready'

# Debian's Prometheus has the classic pages only, and its Alertmanager none.
cat <<END
Prometheus     http://127.0.0.1:$PROMETHEUS_PORT/classic/graph?g0.expr=task%3Aheadcount_last_run_achieved_workers%3Alatest&g0.tab=0
Alerts         http://127.0.0.1:$PROMETHEUS_PORT/classic/alerts
Alertmanager   amtool --alertmanager.url=http://127.0.0.1:$ALERTMANAGER_PORT alert query
Pushgateway    http://127.0.0.1:$PUSHGATEWAY_PORT   (headcount run --push http://127.0.0.1:$PUSHGATEWAY_PORT ...)
The demo       http://127.0.0.1:$DEMO_PORT/metrics
Ctrl-C stops all of it.

END

# What the receiver says is for people.
launch tail -n +1 -f "$folder/receiver.log"
# In sight, so that it can be watched; its metrics stay for a while when it is done.
launch "$headcount" demo --listen "127.0.0.1:$DEMO_PORT" --keep-metrics 1h
wait "$last"
