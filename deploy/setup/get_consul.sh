#!/bin/sh
# Make a Consul program available below TOOLS without touching the system: usage get_consul.sh [TOOLS]   (default .tools)
#
# Looked for in this order: $CONSUL_BIN, PATH, TOOLS/consul/usr/bin/consul, the shared cache, and at
# last Debian's own archive. Debian carried Consul (1.8.7, MPL 2.0) up to the release named below; apt
# verifies it against the Debian keyring, inside a private folder, so neither root nor any change to
# the machine's package lists is needed. DEBIAN_MIRROR names another mirror or an archive of it.
set -eu
umask 022

release=bullseye
tools=${1:-.tools}
program=$tools/consul/usr/bin/consul
cache=${XDG_CACHE_HOME:-$HOME/.cache}/farthing/consul

say() { printf 'consul: %s\n' "$*"; }
stop() { printf 'consul: %s\n  what to do: %s\n' "$1" "$2" >&2; exit 1; }
other_way='set CONSUL_BIN to a Consul program (1.8 or newer), or put one on PATH'

if [ -n "${CONSUL_BIN:-}" ]; then
    "$CONSUL_BIN" version >/dev/null 2>&1 || stop "CONSUL_BIN=$CONSUL_BIN does not run" "correct or unset it"
    say "$CONSUL_BIN"; exit 0
fi
if command -v consul >/dev/null 2>&1; then say "$(command -v consul)"; exit 0; fi
if [ -x "$program" ]; then say "$program"; exit 0; fi

command -v dpkg-deb >/dev/null 2>&1 || stop "this is no Debian system to fetch a package on" "$other_way"
architecture=$(dpkg --print-architecture)
package=$cache/$release-$architecture.deb
work=$tools/consul.work
rm -rf "$work"; mkdir -p "$work"; work=$(cd "$work" && pwd)
trap 'rm -rf "$work"' EXIT

# A kept package counts only with the digest that was noted when apt had verified it.
if [ -f "$package" ] && (cd "$cache" && sha256sum --status -c "$package.sha256") 2>/dev/null; then
    archive=$package
else
    command -v apt-get >/dev/null 2>&1 || stop "apt-get is not installed" "$other_way"
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/sources"
    : > "$work/state/status"
    mirror=${DEBIAN_MIRROR:-}
    if [ -z "$mirror" ]; then
        # The same mirror as the machine's own main archive, also where no list was fetched from it yet; security archives
        # have no such package.
        mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
            grep -v security | head -n 1)
    fi
    [ -n "$mirror" ] || stop "apt names no archive to fetch Consul from" "set DEBIAN_MIRROR to a Debian mirror, or $other_way"
    cat > "$work/sources/consul.sources" <<SOURCE
Types: deb
URIs: $mirror
Suites: $release
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
    private_apt() {
        apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
            -o Dir::State="$work/state" -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" \
            -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false \
            -o Acquire::Retries=3 "$@"
    }
    private_apt update ||
        stop "no package list of Debian $release from $mirror" "set DEBIAN_MIRROR to a mirror that has it, or $other_way"
    (cd "$work" && private_apt download consul) ||
        stop "Debian $release at $mirror has no consul for $architecture" "$other_way"
    archive=$(echo "$work"/consul_*.deb)
    if mkdir -p "$cache" 2>/dev/null && cp "$archive" "$package.$$" 2>/dev/null; then
        mv "$package.$$" "$package"
        (cd "$cache" && sha256sum "$package" > "$package.sha256")
    fi
fi

dpkg-deb -x "$archive" "$work/root"
"$work/root/usr/bin/consul" version >/dev/null || stop "the unpacked program does not run here" "$other_way"
rm -rf "$tools/consul"
mv "$work/root" "$tools/consul"
say "$program"
