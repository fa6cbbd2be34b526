#!/bin/sh
# Make the runner image's base from Debian's own packages, where the public image can't be pulled.
#
#   base-image.sh OUTPUT.tar
#
# Needs root and debootstrap; takes half a minute and about 400 MB under TMPDIR (/var/tmp). What it
# leaves in OUTPUT.tar is what `docker import` takes. DEBIAN_MIRROR names another mirror.
set -eu
umask 022
export LC_ALL=C

suite=bookworm
output=$1
root=$(mktemp -d "${TMPDIR:-/var/tmp}/aiagentchat-base.XXXXXX")
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$root"

# Signatures are checked: without Debian's keys this fails instead of going on.
debootstrap --variant=minbase --force-check-gpg --include=ca-certificates \
  "$suite" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}

# The public image has the updates too; a mirror's security archive stands beside its main one.
mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
cat > "$root/etc/apt/sources.list" <<EOF
deb $mirror $suite main
deb $mirror $suite-updates main
deb ${mirror%/debian*}/debian-security $suite-security main
EOF

# Nothing of the host that built it, and nothing that the next layer throws away anyway.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/tmp/* \
  "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* \
  "$root"/usr/share/locale/* "${root:?}"/dev/* "$root"/var/cache/debconf/*-old
: > "$root/etc/resolv.conf"
echo localhost > "$root/etc/hostname"

tar --numeric-owner --one-file-system -C "$root" -cf "$output" .
