#!/bin/sh
# Installs the peers that the update is measured against: psycopg 3 into a folder of this project, and
# Debian's pgjdbc and HikariCP with a Java to run them. Does nothing when they are there.
set -eu
cd "$(dirname "$0")/../.."

packages=''
command -v java >/dev/null || packages="$packages default-jdk-headless"
[ -e /usr/share/java/postgresql.jar ] || packages="$packages libpostgresql-jdbc-java"
[ -e /usr/share/java/HikariCP.jar ] || packages="$packages libhikaricp-java"
command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || packages="$packages python3-pip"
if [ -n "$packages" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing:$packages. Install them, or run this script as root on Debian." >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y --no-install-recommends $packages >/dev/null 2>&1 || {
        apt-get update >/dev/null
        # shellcheck disable=SC2086
        apt-get install -y --no-install-recommends $packages >/dev/null
    }
fi

if [ ! -d target/peers/psycopg ]; then
    rm -rf target/peers/part && mkdir -p target/peers
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target target/peers/part 'psycopg[binary]==3.*'
    mv target/peers/part target/peers/psycopg
fi
