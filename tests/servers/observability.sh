#!/bin/sh
# Installs Debian's Prometheus, Alertmanager, Pushgateway, node_exporter and PgBouncer for the tests, and
# docker-compose, which checks docker-compose.yml (that needs no engine). The tests start the servers themselves, on loopback
# and with temporary folders, so no service may start here: a service would listen on all interfaces.
# Does nothing when all of them are there. Needs root only to install.
set -eu

missing=''
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$missing prometheus"
command -v prometheus-alertmanager >/dev/null || missing="$missing prometheus-alertmanager"
command -v prometheus-pushgateway >/dev/null || missing="$missing prometheus-pushgateway"
command -v prometheus-node-exporter >/dev/null || missing="$missing prometheus-node-exporter"
[ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || missing="$missing pgbouncer"
command -v docker-compose >/dev/null || missing="$missing docker-compose"
command -v python3 >/dev/null || missing="$missing python3"
command -v setsid >/dev/null || missing="$missing util-linux"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing:$missing. Install them, or run this script as root." >&2
    exit 1
fi
command -v apt-get >/dev/null || {
    echo "missing:$missing, and there is no apt-get here to install them with." >&2
    exit 1
}

# invoke-rc.d asks this file whether a service may start; 101 means no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
elif ! grep -q 'exit 101' "$policy"; then
    echo "$policy exists and may let services start; install$missing by hand." >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
# Another test binary may be at it.
wait='-o DPkg::Lock::Timeout=300'
# shellcheck disable=SC2086 # lists of words
apt-get $wait install -y --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get $wait update >/dev/null
    # shellcheck disable=SC2086
    apt-get $wait install -y --no-install-recommends $missing >/dev/null
}
