#!/usr/bin/env bash
# Makes what is shipped: packages for Debian and for Fedora's kind, an archive, checksums, a bill of materials. Needs cargo, dpkg-deb
# and Python 3, and rpmbuild for the .rpm; no network but for crates.
# Usage: tuning/dist/build.sh [--all] [--target TRIPLE] [--program PROGRAM] [--out FOLDER] [--level N] ...
#   --all      what a release has: for x86-64 and ARM64, for glibc 2.31 and later, built in a Debian root of its own; as root
#   --test     package nothing, but run the unit tests for ARM64 under emulation, over epoll, in the root of --all; as root, with
#              Debian's qemu-user-static
#   --root     --all, --test: this root, which tuning/dist/root.sh made; default: target/dist-root, made where it is missing
#   --target   build for another machine or C library; docs/install.md says what that needs
#   --program  package this one instead of building target/dist/ringhold
#   --pages    this program prints the manual and completions, where PROGRAM does not run here
#   --glibc    refuse a program that needs a newer one, as in 2.31
#   --out      default: target/dist-packages
#   --level    of compression, 0 to 9; default: 9
set -euo pipefail
cd "$(dirname "$0")/../.."

program='' out=target/dist-packages level=9 target='' all='' test='' tools='' speaker='' newest=''
while [ $# -gt 0 ]; do
    case $1 in
        --all) all=yes; shift ;;
        --test) test=yes; shift ;;
        --root) tools=$2; shift 2 ;;
        --target) target=$2; shift 2 ;;
        --program) program=$2; shift 2 ;;
        --pages) speaker=$2; shift 2 ;;
        --glibc) newest=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --level) level=$2; shift 2 ;;
        *) sed -n '2,15p' tuning/dist/build.sh >&2; exit 2 ;;
    esac
done

# Has cargo work for a target in the root, into target/dist-built. Paths are the same wherever the checkout and the root lie, and
# nothing of this host's tools takes part, so that one commit makes the same bytes.
in_root() {
    local target=$1 verb=$2 built=$PWD/target/dist-built architecture=amd64
    # As Debian, cargo's variables and those of C compilers have it.
    local triple=${target/-unknown/} lower=${target//-/_}
    local upper=${lower^^}
    case $target in aarch64-*) architecture=arm64 ;; esac
    shift 2
    mkdir -p "$built" "$tools/src" "$tools/target" "$tools/vendor"
    # shellcheck disable=SC2016 # The inner shell fills in.
    unshare --mount sh -euc '
        mount --bind -o ro "$1" "$4/src"
        mount --bind "$2" "$4/target"
        mount --bind "$3" "$4/vendor"
        mount -t proc proc "$4/proc"
        root=$4
        shift 4
        cd "$root"
        exec chroot "$root" /usr/bin/env -i -C /src PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C "$@"
    ' sh "$PWD" "$built" "$PWD/target/dist-vendor" "$tools" \
        CARGO_HOME=/tmp/cargo CARGO_TARGET_DIR=/target SOURCE_DATE_EPOCH=0 RINGHOLD_COMMIT="$commit" ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS=$CARGO_BUILD_JOBS} \
        "CC_${lower}=clang-19" "AR_${lower}=llvm-ar-19" \
        "CFLAGS_${lower}=--target=$triple --sysroot=/sysroot/$architecture" \
        "CARGO_TARGET_${upper}_RUSTFLAGS=-Clinker=clang-19 -Clink-arg=--target=$triple -Clink-arg=--sysroot=/sysroot/$architecture \
-Clink-arg=-fuse-ld=lld-19" \
        ${emulator:+"CARGO_TARGET_${upper}_RUNNER=$emulator -L /sysroot/$architecture"} ${emulator:+RINGHOLD_IO=epoll} \
        cargo "$verb" --locked --offline --target "$target" \
        --config 'source.crates-io.replace-with="vendor"' --config 'source.vendor.directory="/vendor"' "$@"
}

emulator=''
if [ -n "$all$test" ]; then
    tools=${tools:-target/dist-root}
    [ -e "$tools/tools.txt" ] || tuning/dist/root.sh "$tools"
    tools=$(realpath "$tools")
    commit=$(git rev-parse --short=12 HEAD)
    cargo vendor --quiet --locked --versioned-dirs target/dist-vendor > /dev/null
    if [ -n "$test" ]; then
        emulator=qemu-aarch64-static
        install "$(command -v $emulator)" "$tools/usr/bin/"
        # Tests ask for this name; debootstrap makes no such file.
        [ -s "$tools/etc/hosts" ] || echo '127.0.0.1 localhost' > "$tools/etc/hosts"
        # The emulator has no io_uring, and no processor time in /proc, for which the second one would wait for ever.
        in_root aarch64-unknown-linux-gnu test --lib -- --skip a_gate_submits_waits_and_gives_up --skip the_kernel_tells
        # A program for suites on this machine, whose tests start it by SERVER_UNDER_TEST.
        in_root aarch64-unknown-linux-gnu build --bin ringhold
        starter=$PWD/target/dist-built/ringhold-arm64
        printf '#!/bin/sh\nexec %s -L "%s" "%s" "$@"\n' "$emulator" "$tools/sysroot/arm64" \
            "$PWD/target/dist-built/aarch64-unknown-linux-gnu/debug/ringhold" > "$starter"
        chmod 755 "$starter"
        echo "suites of this machine against it: SERVER_UNDER_TEST=$starter RINGHOLD_IO=epoll cargo test --test rfc6455"
        exit
    fi
    for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
        in_root "$target" build --profile dist --bin ringhold
        program=target/dist-built/$target/dist/ringhold
        tuning/dist/build.sh --target "$target" --program "$program" --pages "${speaker:=$program}" --glibc 2.31 --out "$out" --level "$level"
    done
    cp "$tools/tools.txt" "$out/"
    (cd "$out" && cat ringhold_*.sha256 <(sha256sum tools.txt) > SHA256SUMS)
    exit
fi

here=$(rustc -vV | sed -n 's/^host: //p')
if [ -z "$program" ]; then
    if [ -n "$target" ] && [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
        echo "build.sh: Rust's library for $target is not installed; rustup target add $target brings it" >&2
        exit 1
    fi
    # Folders of this machine stay out of the program, and so does the time at which mimalloc is compiled: the same commit and tools make
    # the same bytes. Flags of the caller's (RUSTFLAGS) come instead.
    flags=$(printf '"--remap-path-prefix=%s=%s",' "$PWD" /src "${CARGO_HOME:-$HOME/.cargo}" /cargo)
    SOURCE_DATE_EPOCH=0 cargo build --profile dist --locked --bin ringhold ${target:+--target "$target"} --config "target.${target:-$here}.rustflags=[$flags]"
    program=target/${target:+$target/}dist/ringhold
fi
target=${target:-$here}
# A program for another machine cannot print its own manual here.
if [ -z "$speaker" ]; then
    speaker=$program
    if ! "$program" --version > /dev/null 2>&1; then
        if [ "$target" = "$here" ]; then
            echo "build.sh: $program does not run here" >&2
            exit 1
        fi
        cargo build --locked --bin ringhold
        speaker=target/debug/ringhold
    fi
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
case $target in
    x86_64-*) architecture=amd64 machine=x86_64 code=62 ;;
    aarch64-*) architecture=arm64 machine=aarch64 code=183 ;;
    *) echo "build.sh: no package is made for $target" >&2; exit 1 ;;
esac
# The machine that an ELF file names.
if [ "$(od -An -j18 -N2 -tu2 "$program" | tr -d ' ')" != $code ]; then
    echo "build.sh: $program is not for $machine" >&2
    exit 1
fi
# The C library's oldest version that has all symbols; a static program needs none.
libc=$(grep -ao 'GLIBC_2\.[0-9]*' "$program" | sort -uV | tail -1 | cut -d_ -f2) || true
if [ -n "$newest" ] && [ "$(printf '%s\n' "$newest" "$libc" | sort -V | tail -1)" != "$newest" ]; then
    echo "build.sh: $program needs glibc $libc, not $newest" >&2
    exit 1
fi
name=ringhold_${version}_$architecture
# The same commit makes the same package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2> /dev/null || date +%s)
export SOURCE_DATE_EPOCH
# Whoever hands packages to others says here who they are.
maintainer=${MAINTAINER:-the authors of ringhold <authors@ringhold.invalid>}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
# `mktemp` makes folders for its owner only.
install -d -m 755 "$root" "$out"

put() { install -D -m "${3:-644}" "$1" "$root$2"; }
put "$program" /usr/bin/ringhold 755
put tuning/dist/ringhold.toml /etc/ringhold.toml
sed 's|/usr/local/bin/ringhold|/usr/bin/ringhold|; s|^# systemd unit. Install: .*|# systemd unit of the package|' \
    tuning/ringhold.service > "$work/unit"
put "$work/unit" /usr/lib/systemd/system/ringhold.service
for file in tuning/90-ringhold-*.conf tuning/seccomp-ringhold.json tuning/nginx.conf tuning/nginx-stream.conf \
    tuning/haproxy.cfg tuning/prometheus-alerts.yml tuning/grafana-dashboard.json SECURITY.md; do
    put "$file" "/usr/share/doc/ringhold/$(basename "$file")"
done
cat > "$work/copyright" << 'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
Copyright: the authors of ringhold
License: MIT or Apache-2.0
 The text of Apache-2.0 is in /usr/share/common-licenses/Apache-2.0, that of MIT:
TEXT
# Lines of a field begin with a blank, and a dot stands for none.
sed 's/^$/./; s/^/ /' LICENSE-MIT >> "$work/copyright"
put "$work/copyright" /usr/share/doc/ringhold/copyright
gzip -9nc CHANGELOG.md > "$work/CHANGELOG.md.gz"
put "$work/CHANGELOG.md.gz" /usr/share/doc/ringhold/CHANGELOG.md.gz
# Debian's own kind says where that is.
gzip -9nc > "$work/changelog.gz" << TEXT
ringhold ($version) unstable; urgency=medium

  * CHANGELOG.md beside this file says what is new.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT
put "$work/changelog.gz" /usr/share/doc/ringhold/changelog.gz
"$speaker" man "$work/man"
for page in "$work"/man/*.1; do
    gzip -9n "$page"
    put "$page.gz" "/usr/share/man/man1/$(basename "$page").gz"
done
"$speaker" completions bash > "$work/bash"
"$speaker" completions zsh > "$work/zsh"
"$speaker" completions fish > "$work/fish"
put "$work/bash" /usr/share/bash-completion/completions/ringhold
put "$work/zsh" /usr/share/zsh/vendor-completions/_ringhold
put "$work/fish" /usr/share/fish/vendor_completions.d/ringhold.fish

depends=''
case $target in
    *-gnu) depends="Depends: libc6 (>= $libc), libgcc-s1" ;;
esac
mkdir "$root/DEBIAN"
cat > "$root/DEBIAN/control" << TEXT
Package: ringhold
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Section: net
Priority: optional
${depends:+$depends
}Recommends: ca-certificates
Installed-Size: $(du -sk "$root" | cut -f1)
Description: WebSocket push gateway on io_uring
 Keeps many browsers and apps connected to an application and delivers its
 messages to them at once. Speaks the protocol of Centrifugo's SDKs.
TEXT
echo /etc/ringhold.toml > "$root/DEBIAN/conffiles"
cat > "$root/DEBIAN/postinst" << 'TEXT'
#!/bin/sh
set -e
# A new installation starts nothing: its configuration is still to be written. An upgrade restarts what runs.
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    [ -z "$2" ] || systemctl try-restart ringhold.service
fi
TEXT
cat > "$root/DEBIAN/prerm" << 'TEXT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now ringhold.service || true
fi
TEXT
cat > "$root/DEBIAN/postrm" << 'TEXT'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
TEXT
chmod 755 "$root"/DEBIAN/p*
dpkg-deb --root-owner-group -Zxz -z"$level" --build "$root" "$out/$name.deb" > /dev/null

# The same files without dpkg.
rm -r "$root/DEBIAN"
tar --create --use-compress-program="xz -$level" --file "$out/$name.tar.xz" --directory "$root" --sort=name --owner=0 --group=0 \
    --mtime="@$SOURCE_DATE_EPOCH" .
python3 tuning/dist/bill.py --target "$target" > "$out/$name.cdx.json"
made=("$name.deb" "$name.tar.xz" "$name.cdx.json")

# And for rpm, by its own tool, from the same tree: the folders of Fedora, requirements as rpm finds them in the program.
if command -v rpmbuild > /dev/null; then
    install -d "$root/usr/share/zsh/site-functions"
    mv "$root/usr/share/zsh/vendor-completions/_ringhold" "$root/usr/share/zsh/site-functions/"
    rmdir "$root/usr/share/zsh/vendor-completions"
    rm "$root/usr/share/doc/ringhold/copyright" "$root/usr/share/doc/ringhold/changelog.gz"
    for file in LICENSE-MIT LICENSE-APACHE; do put "$file" "/usr/share/licenses/ringhold/$file"; done
    rpmbuild -bb --quiet --target "$machine" --define "_topdir $work/rpm" --define "_rpmdir $work/rpms" --define "version $version" \
        --define "tree $root" --define "_binary_payload w$level.xzdio" tuning/dist/ringhold.spec
    cp "$work/rpms/$machine/ringhold-$version-1.$machine.rpm" "$out/"
    made+=("ringhold-$version-1.$machine.rpm")
else
    echo "build.sh: no rpmbuild here, so no .rpm (Debian has it in the package rpm)" >&2
fi
(cd "$out" && sha256sum "${made[@]}" > "$name.sha256" && ls -l "${made[@]}" "$name.sha256")
