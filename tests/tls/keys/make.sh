#!/bin/sh
# Makes the keys and certificates of the tests anew. They protect nothing, and are valid from 2020 to
# 2120; `expired.pem` ended in 2021.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
: > "$work/index"
cat > "$work/conf" <<END
[ca]
default_ca = here
[here]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
END

ec() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
# Name of the files, subject, end, extensions, what signs.
signed() {
    openssl req -new -key "$1.key" -subj "/CN=$2" -out "$work/request"
    printf '%b\n' "$4" > "$work/extensions"
    file=$1 end=$3
    shift 4
    openssl ca -batch -notext -config "$work/conf" -startdate 20200101000000Z -enddate "$end" \
        -extfile "$work/extensions" -in "$work/request" -out "$file.pem" "$@" 2> /dev/null
}

for name in ca localhost example client expired; do ec $name.key; done
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key
late=21200101000000Z
by_ca="-cert ca.pem -keyfile ca.key"
signed ca "ringhold tests" $late 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign' \
    -selfsign -keyfile ca.key
local='subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth'
signed localhost localhost $late "$local" $by_ca
signed rsa localhost $late "$local" $by_ca
signed expired localhost 20210101000000Z "$local" $by_ca
signed example example.test $late \
    'subjectAltName=DNS:example.test,DNS:*.example.test\nextendedKeyUsage=serverAuth' $by_ca
signed client somebody $late 'extendedKeyUsage=clientAuth' $by_ca
# Signs nothing any more.
rm ca.key
