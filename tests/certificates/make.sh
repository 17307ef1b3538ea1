#!/bin/sh
# Certificates as the PostgreSQL manual says to make them ("Creating Certificates"), for a hundred years. Run in this
# folder once; what it makes is kept, because a build machine need not have openssl.
set -eu
host=dbhost.example.com
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
config="-config $work/openssl.cnf"
printf '[req]\ndistinguished_name=dn\nx509_extensions=v3_ca\n[dn]\n[v3_ca]\nsubjectKeyIdentifier=hash\nbasicConstraints=critical,CA:true\n' >"$work/openssl.cnf"
request() { openssl req -new -nodes $config -newkey rsa:2048 -subj "/CN=$2" -out "$work/$1.csr" -keyout "$1.key"; }
sign() { # NAME AUTHORITY [extension...]
  name=$1 by=$2; shift 2
  if [ $# = 0 ]; then set --; else printf '%s\n' "$@" >"$work/$name.ext"; set -- -extfile "$work/$name.ext"; fi
  openssl x509 -req -in "$work/$name.csr" -days 36500 -CA "$by.crt" -CAkey "$by.key" -CAcreateserial -CAserial "$work/serial" "$@" -out "$name.crt"
}
# One certificate for all: the first recipe.
openssl req -new -x509 $config -days 36500 -nodes -newkey rsa:2048 -subj "/CN=$host" -out self.crt -keyout self.key
# A root and a server's certificate that it signs: the second. Without extensions that is X.509 version 1.
request root root.example.com
openssl x509 -req -in "$work/root.csr" -days 36500 -extfile "$work/openssl.cnf" -extensions v3_ca -signkey root.key -out root.crt
request leaf "$host"
sign leaf root
# With an intermediate between them: the third. The server sends both.
request inter inter.example.com
sign inter root 'basicConstraints=critical,CA:true' 'keyUsage=critical,keyCertSign,cRLSign'
for name in below names wild address signing client; do cp "$work/leaf.csr" "$work/$name.csr"; done
sign below inter
cat inter.crt >>below.crt
# Signed by one that is no authority.
cp leaf.key names.key
sign names root "subjectAltName=DNS:$host,DNS:other.example.com"
cp "$work/leaf.csr" "$work/forged.csr"
sign forged names
cat names.crt >>forged.crt
sign wild root 'subjectAltName=DNS:*.example.com'
sign address root 'subjectAltName=IP:127.0.0.1'
sign signing root 'basicConstraints=critical,CA:true'
sign client root 'extendedKeyUsage=clientAuth' 'basicConstraints=critical,CA:true'
# What is revoked: lists of version 2 and 1.
touch "$work/index.txt"
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s\ndefault_md=sha256\ndefault_crl_days=36500\nprivate_key=root.key\ncertificate=root.crt\n[ext]\nauthorityKeyIdentifier=keyid\n' "$work/index.txt" >"$work/ca.cnf"
openssl ca -config "$work/ca.cnf" -gencrl -out none.crl
openssl ca -config "$work/ca.cnf" -revoke leaf.crt
openssl ca -config "$work/ca.cnf" -revoke names.crt
openssl ca -config "$work/ca.cnf" -gencrl -out root-v1.crl
echo 01 >"$work/crlnumber"; echo "crlnumber=$work/crlnumber" >"$work/extra"; sed -i "/default_ca=d/!{/\[d\]/r $work/extra
}" "$work/ca.cnf"
openssl ca -config "$work/ca.cnf" -gencrl -crlexts ext -out root.crl
rm -f root.key inter.key names.key
chmod 600 ./*.key
