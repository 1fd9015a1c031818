#!/bin/sh
# Makes the root of the container: the program, the libraries that it asks for, certificates, a user.
# Usage: root.sh PROGRAM FOLDER
set -eu
program=$1 root=$2
here=$(dirname "$0")
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp"
chmod 1777 "$root/tmp"
install -m 755 "$program" "$root/usr/bin/ringhold"
# Where the loader looks for them.
ldd "$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# For calls to a backend over https.
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'ringhold:x:65532:65532:ringhold:/:/sbin/nologin' > "$root/etc/passwd"
echo 'ringhold:x:65532:' > "$root/etc/group"
install -m 644 "$here/../dist/ringhold.toml" "$root/etc/ringhold.toml"
