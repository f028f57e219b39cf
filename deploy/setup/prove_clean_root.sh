#!/usr/bin/env bash
# Prove on a Debian 12 root that holds only python3, python3-venv, git, make and ca-certificates that a fresh clone sets itself up.
#
# usage: prove_clean_root.sh [-k] [-c CACHE] [-w WHEEL] [-a ARCHITECTURE] [WORK] [COMMAND…]     (root; needs mmdebstrap)
#   WORK     where the root is made (default build/clean-root, build/ARCHITECTURE-root for another); the bare root is
#            kept as an archive for next time
#   COMMAND  what to run in the clone (default: make setup)
#   -k       go on in the root of the last call, its clone brought up to date, instead of starting from the bare archive
#   -c       give the root this shared cache folder (default: none, so everything is downloaded and compiled)
#   -w       give the root this wheel of the engine as its own build, for a compiler under emulation takes very long
#   -a       Debian's name of another processor, arm64 say: its programs then run under qemu's emulation
#            (apt-get install -y mmdebstrap arch-test binfmt-support qemu-user-static)
#
# The root gets this machine's resolver, certificates and the apt, pip and npm configuration, because they are
# what makes registries reachable here; nothing else of this machine enters it.
set -euo pipefail

keep=no cache='' wheel='' architecture=$(dpkg --print-architecture)
default=clean-root
while getopts kc:w:a: option; do
    case $option in
        k) keep=yes ;;
        c) cache=$(realpath "$OPTARG") ;;
        w) wheel=$(realpath "$OPTARG") ;;
        a) architecture=$OPTARG default=$OPTARG-root ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(realpath -m "${1:-$repository/build/$default}")
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- make setup
command -v mmdebstrap >/dev/null || { echo "mmdebstrap is missing; as root, run: apt-get install -y mmdebstrap" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "run this as root: a root folder with devices is made" >&2; exit 1; }

packages=ca-certificates,git,make,python3,python3-venv
bare=$work/bare.tar root=$work/root
mkdir -p "$work"
say() { printf '[%(%H:%M:%S)T] %s\n' -1 "$*"; }

if [ ! -f "$bare" ]; then
    say "making a bare Debian 12 root for $architecture"
    mmdebstrap --quiet --architectures="$architecture" --variant=minbase --format=tar --include="$packages" bookworm "$bare.part"
    mv "$bare.part" "$bare"
fi

unmount() {
    for point in "$root/dev" "$root/proc" "$root/root/.cache/farthing"; do
        if mountpoint -q "$point"; then umount -R "$point"; fi
    done
}
trap unmount EXIT
unmount

if [ "$keep" = no ] || [ ! -d "$root/clone" ]; then
    # --one-file-system: should anything still be mounted inside, it is not this script's to delete.
    rm -rf --one-file-system "$root"
    mkdir "$root"
    tar -C "$root" -xf "$bare"
    git clone -q "$repository" "$root/clone"
else
    git -C "$root/clone" pull -q --ff-only "$repository" HEAD
fi
say "clone of $(git -C "$root/clone" log -1 --format='%h %s')"

for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/npmrc /etc/ssl/certs/ca-certificates.crt "$HOME/.config/pip/pip.conf" "$HOME/.npmrc"; do
    if [ -f "$file" ]; then
        mkdir -p "$root$(dirname "$file")"
        cp -L "$file" "$root$file"
    fi
done
mkdir -p "$root/usr/local/share/ca-certificates"
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
for folder in /etc/apt/apt.conf.d /etc/apt/sources.list.d /etc/apt/auth.conf.d; do
    if [ -d "$folder" ]; then mkdir -p "$root$folder" && cp -r "$folder/." "$root$folder/"; fi
done

mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
mount -t proc proc "$root/proc"
if [ -n "$cache" ]; then
    mkdir -p "$root/root/.cache/farthing"
    mount --bind "$cache" "$root/root/.cache/farthing"
fi

# Proxies, certificates and index settings may also live in the environment. The processor is qemu's, if it is needed:
# the oldest that the engine's portable build for ARM is for.
settings=(QEMU_CPU=cortex-a76)
while IFS= read -r name; do settings+=("$name=${!name}"); done < <(compgen -e | grep -iE '^(pip_|npm_config_|.*_proxy$|.*_ca_bundle$|ssl_cert_|git_ssl_|node_extra_ca)' || true)
inside() {
    env -i "${settings[@]}" HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot "$root" bash -c 'cd /clone && exec "$@"' prove "$@"
}
if [ -n "$wheel" ]; then
    name=$(inside python3 -c 'import sys; sys.path.insert(0, "deploy/setup"); import engine_wheel; print(engine_wheel.describe_machine())')
    mkdir -p "$root/clone/.cache/wheels/$name"
    cp "$wheel" "$root/clone/.cache/wheels/$name/"
fi
say "running: $*"
started=$SECONDS
status=0
inside "$@" || status=$?
say "status $status after $((SECONDS - started)) s"
say "packages added to the bare root: $(comm -13 <(tar -xOf "$bare" ./var/lib/dpkg/status | sed -n 's/^Package: //p' | sort) <(sed -n 's/^Package: //p' "$root/var/lib/dpkg/status" | sort) | tr '\n' ' ')"
exit "$status"
