#!/bin/sh
# Run a program in an own mount namespace (unshare --mount): its changes to these directories nobody else sees. It has
# `python`, which suites call.
set -e
mount -t tmpfs tmpfs /tmp
for name in etc home root usr/local; do
    mkdir -p "/tmp/.$name/upper" "/tmp/.$name/work"
    mount -t overlay overlay -o "lowerdir=/$name,upperdir=/tmp/.$name/upper,workdir=/tmp/.$name/work" "/$name"
done
ln -sf "$(command -v python3)" /usr/local/bin/python
exec "$@"
