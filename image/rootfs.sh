#!/bin/sh
# rootfs.sh NODE FOLDER: a root file system with Node and what it is linked with, and nothing else: no shell, no package manager.
set -eu
node=$(readlink -f "$1")
root=$2
mkdir -p "$root/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/app"
cp "$node" "$root/bin/node"
# Libraries by the paths under which the loader looks for them, the loader itself among them.
ldd "$node" | awk '/=> \//{print $3} /^[[:space:]]*\//{print $1}' | sort -u | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
# Node brings the authorities of the web itself; a bundle here is for libraries that look for one.
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'nonroot:x:65532:65532::/app:/sbin/nologin' > "$root/etc/passwd"
echo 'nonroot:x:65532:' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
