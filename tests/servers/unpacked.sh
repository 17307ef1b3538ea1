#!/bin/sh
# A PostgreSQL of a version that this system does not package, out of Debian's newer suites, with the libraries of the
# same suites: unpacked aside, nothing is installed, the system's own package lists stay as they are.
#
#   unpacked.sh MAJOR FOLDER    afterwards FOLDER/bin has postgres, initdb, psql, pgbench and so on; FOLDER may be moved
#
# Its programs do not run with an older system's libraries, so each is started through the loader that came with it.
# Which libraries these are is asked of the package's dependencies: their names change with each of their releases.
# Fails, with a reason, where the version is not to be had: no Debian mirror is configured, or no suite has it.
set -eu
umask 022
major=$1 to=$2

say() { printf 'servers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The mirror that this system takes Debian's packages from.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 == "Debian" && $3 == "Debian" { print $1; found = 1; exit }
         $1 ~ /\/debian\/$/ && !likely { likely = $1 }
         END { if (!found) print likely }')
[ -n "$mirror" ] || fail "apt knows no mirror of Debian here"
signed=
for keyring in /usr/share/keyrings/debian-archive-keyring.pgp /usr/share/keyrings/debian-archive-keyring.gpg; do
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring]"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
: >"$work/status"

# An apt with lists, cache and idea of what is installed (nothing) of its own.
own() {
    program=$1
    shift
    "$program" -q -oDir::Etc::SourceList="$work/sources.list" -oDir::Etc::SourceParts="$work/none" \
        -oDir::Etc::Preferences="$work/preferences" -oDir::Etc::PreferencesParts="$work/none" \
        -oDir::State::Lists="$work/lists" -oDir::State::status="$work/status" -oDir::Cache="$work/cache" \
        -oAcquire::Languages=none -oAcquire::http::Timeout=30 -oAcquire::Retries=2 -oAPT::Sandbox::User=root "$@"
}

# The package and those that it depends on, directly or not: the client programs and all that is a library.
packages() {
    own apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "postgresql-$major" | grep '^[a-z0-9]' | sort -u >"$work/closure"
    # shellcheck disable=SC2046 # a list of words
    own apt-cache show --no-all-versions $(cat "$work/closure") 2>/dev/null | awk -v major="$major" '
        /^Package:/ { name = $2 }
        /^Section:/ && ($2 ~ /(^|\/)libs$/ || name ~ "^postgresql-(client-)?" major "$") && name !~ /perl/ { print name }'
}

# Each program becomes a script that starts it through its own loader. The folder "programs" lies beside "bin", so the
# server finds its share and library folders where it looks for them: relative to itself.
wrap() {
    home=$to/root/usr/lib/postgresql/$major
    loader=$(find "$to/root" -name 'ld-linux*.so.*' | head -n 1)
    libraries=$(dirname "$(find "$to/root" -name libc.so.6 | head -n 1)")
    [ -d "$home/bin" ] && [ -n "$loader" ] || return 1
    mv "$home/bin" "$home/programs" && mkdir "$home/bin"
    for program in "$home"/programs/*; do
        [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
        name=${program##*/}
        {
            echo '#!/bin/sh'
            echo 'bin=$(cd "${0%/*}" && pwd -P) root=${bin%/usr/lib/postgresql/*}'
            echo "exec \"\$root${loader#"$to/root"}\" --argv0 \"\$bin/$name\" --library-path \"\$root${libraries#"$to/root"}\" \\"
            echo "    \"\${bin%/bin}/programs/$name\" \"\$@\""
        } >"$home/bin/$name"
        chmod 755 "$home/bin/$name"
    done
    ln -s "root/usr/lib/postgresql/$major/bin" "$to/bin"
}

# $1 the suites to take from, $2 what is preferred where several of them have a package.
try() {
    rm -rf "$to" "$work/lists" "$work/cache" "$work/debs"
    mkdir -p "$to/root" "$work/lists/partial" "$work/cache/archives/partial" "$work/none" "$work/debs"
    for suite in $1; do echo "deb $signed $mirror $suite main"; done >"$work/sources.list"
    printf 'Package: %s\nPin: %s\nPin-Priority: 990\n' "${2%%|*}" "${2##*|}" >"$work/preferences"
    own apt-get update >"$work/log" 2>&1 || return 1
    own apt-cache show "postgresql-$major" >/dev/null 2>&1 || return 1
    # shellcheck disable=SC2046 # a list of words
    (cd "$work/debs" && own apt-get download $(packages)) >"$work/log" 2>&1 || return 1
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$to/root" || return 1; done
    wrap || return 1
    "$to/bin/postgres" --version 2>"$work/log" | grep -q "^postgres (PostgreSQL) $major" || return 1
    rm -rf "$to"/root/usr/share/doc "$to"/root/usr/share/man "$to"/root/usr/share/locale
}

# A version not released yet is in experimental; the libraries that it was built with are there or in unstable. Later it
# is in unstable, then in testing; once the next one takes its place, in a stable release only.
try 'unstable experimental' "src:postgresql-$major|release *" ||
    try 'unstable experimental' '*|release a=experimental' ||
    try testing '*|release *' ||
    try stable '*|release *' || {
    rm -rf "$to"
    [ ! -s "$work/log" ] || tail -n 3 "$work/log" >&2
    fail "none of Debian's suites has a PostgreSQL $major that runs here"
}
