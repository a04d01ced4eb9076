#!/bin/sh
# Installs the program with its manual and its completions for bash, zsh and fish:
#   packaging/install.sh target/dist/replicate            into /usr/local
#   DESTDIR=/tmp/package PREFIX=/usr packaging/install.sh target/dist/replicate
set -eu
program=${1:?usage: packaging/install.sh PROGRAM}
root=${DESTDIR:-}${PREFIX:-/usr/local}
install -D -m 755 "$program" "$root/bin/replicate"
mkdir -p "$root/share/man/man1" "$root/share/bash-completion/completions" "$root/share/zsh/site-functions" \
    "$root/share/fish/vendor_completions.d"
"$program" man --directory "$root/share/man/man1"
"$program" completions bash > "$root/share/bash-completion/completions/replicate"
"$program" completions zsh > "$root/share/zsh/site-functions/_replicate"
"$program" completions fish > "$root/share/fish/vendor_completions.d/replicate.fish"
