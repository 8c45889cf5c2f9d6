#!/bin/sh
# Make the user that a container runs as, and the folders that it writes to.
#
#   make-user.sh [ROOT]
#
# ROOT is the root of the file system to change; without it, the one that the script runs in. The user's number is fixed, so that the
# volumes that the API and the workers share have one owner: a new volume takes over the owner of the folder that it is mounted on.
set -eu
root=${1:-}
id=10001

groupadd ${root:+--prefix "$root"} --gid "$id" tleg
useradd ${root:+--prefix "$root"} --uid "$id" --gid "$id" --no-create-home --home-dir /var/cache/tleg --shell /usr/sbin/nologin tleg
mkdir -p "$root/data" "$root/var/cache/tleg"
chown "$id:$id" "$root/data" "$root/var/cache/tleg"
chmod 0750 "$root/data" "$root/var/cache/tleg"
