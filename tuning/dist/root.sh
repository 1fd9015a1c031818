#!/usr/bin/env bash
# Makes the Debian root in which build.sh --all builds: Debian 12 with its Rust for browsers (rustc-web), clang and lld, and the C
# library of Debian 11 (glibc 2.31) for x86-64 and ARM64 to link with. Needs root, debootstrap and a mirror of Debian.
# Usage: tuning/dist/root.sh FOLDER
#   MIRROR     default: http://deb.debian.org/debian
#   SECURITY   of its security updates; default: http://deb.debian.org/debian-security
#   OLDER      of Debian 11, which moves to an archive one day; default: MIRROR
set -euo pipefail
[ $# = 1 ] || { sed -n '2,7p' "$0" >&2; exit 2; }
root=$1 mirror=${MIRROR:-http://deb.debian.org/debian} security=${SECURITY:-http://deb.debian.org/debian-security}
older=${OLDER:-$mirror}
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive LC_ALL=C

debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror"
cat > "$root/etc/apt/sources.list" << TEXT
deb $mirror bookworm main
deb $security bookworm-security main
deb $older bullseye main
TEXT
inside() { chroot "$root" "$@"; }
inside dpkg --add-architecture arm64
inside apt-get update -q
# Browsers need a new Rust, so Debian's stable release has one, with the standard library of every architecture.
inside apt-get install -q -y --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64 clang-19 lld-19 llvm-19

# What programs are linked with: headers, objects and libraries, not installed but unpacked.
for architecture in amd64 arm64; do
    sysroot=$root/sysroot/$architecture
    mkdir -p "$sysroot/packages"
    # The folder's user is the one that apt downloads as.
    inside sh -c "cd /sysroot/$architecture/packages && chown _apt . &&
        apt-get download -q libc6:$architecture/bullseye libc6-dev:$architecture/bullseye linux-libc-dev:$architecture/bullseye \
            libgcc-s1:$architecture/bullseye libgcc-10-dev:$architecture/bullseye"
    for package in "$sysroot"/packages/*.deb; do dpkg -x "$package" "$sysroot"; done
    # Links that begin at the root of the system begin at the root of this folder.
    find "$sysroot" -type l -lname '/*' | while read -r link; do
        ln -sfnr "$sysroot$(readlink "$link")" "$link"
    done
done
# What the programs are made with, for whoever makes them again.
{
    inside dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' rustc-web cargo-web 'libstd-rust-web-dev:*' clang-19 lld-19
    (cd "$root/sysroot" && for package in */packages/*.deb; do
        dpkg-deb -W --showformat '${Package} ${Version} ${Architecture}\n' "$package"
    done)
} | sort > "$root/tools.txt"
inside apt-get clean
