#!/bin/sh
# The demo job of docker-compose.yml: the same report every half a minute, pushed and traced. At every third
# run two neighbours hold all eight slots of the pool, for twelve seconds, and every other time for forty:
# then the report needs another attempt, or fails. So the dashboards and the alerts have something to show.
#
# Panels about processes that are scraped need one: `headcount demo` plays on a server of its own, with
# guarded runs and a chunked update, and leaves its metrics up for some minutes before it plays again.
set -u

while :; do
    headcount demo --listen "$LISTEN" --keep-metrics 5m >/dev/null
    sleep 5
done &

report='SELECT region, date_trunc($$month$$, sold_on), sum(amount), count(*) FROM sales GROUP BY 1, 2'
neighbour() { # seconds
    hold="SELECT count(*) FROM sales WHERE CASE WHEN id % 500 = 0 THEN pg_sleep($1 / 1200.0) IS NULL ELSE false END"
    exec headcount run --quiet --task "neighbour-$2" --target 4 --min 4 --sql "$hold" >/dev/null
}

run=0
while :; do
    run=$((run + 1))
    others=''
    if [ $((run % 3)) -eq 0 ]; then
        seconds=12
        [ $((run % 6)) -ne 0 ] || seconds=40
        for number in 1 2; do
            neighbour "$seconds" "$number" &
            others="$others $!"
        done
        sleep 2
    fi
    # A run below its minimum ends with code 3: that is what the alert is for.
    headcount run --task sales-report --target 4 --min 3 --attempts 3 --admission-wait 5s \
        --push "$PUSHGATEWAY" --otlp "$COLLECTOR" --sql "$report" >/dev/null
    for other in $others; do wait "$other"; done
    sleep 30 &
    wait $!
done
