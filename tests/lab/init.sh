#!/bin/busybox sh
# /init of the lab: loads the modules, puts the host's root (9p, read-only, an overlay on top) in place and hands over
# to the agent. The host side appends /lab/config to the initramfs, which sets AGENT_PYTHON, SHARE, KEEP and LOAD.
bb() { /bin/busybox "$@"; }
# The pauses: for the console to show it, and for the machine to be off
fail() { echo "lab: $*"; bb sleep 1; echo o >/proc/sysrq-trigger; bb sleep 10; }

bb mount -t proc proc /proc
bb mount -t sysfs sysfs /sys
bb mount -t devtmpfs dev /dev
while read -r module; do bb insmod "/modules/$module" || echo "lab: cannot load $module"; done </modules/order
. /lab/config

options=trans=virtio,version=9p2000.L,msize=1048576,access=any
bb mkdir -p /lower /upper /root
bb mount -t 9p -o "ro,$options,cache=loose" rootfs /lower || fail "cannot mount the host's root"
bb mount -t tmpfs -o size=75%,mode=755 upper /upper
bb mkdir /upper/root /upper/work
bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/root,workdir=/upper/work overlay /root || fail "no overlay"

# Directories that the lab must see at their own path although a tmpfs covers them there.
# KEEP has one path a line.
IFS='
'
bb mkdir -p /keep
n=0
for path in $KEEP; do n=$((n + 1)); bb mkdir -p "/keep/$n" && bb mount -o bind "/root$path" "/keep/$n"; done
bb mount -t tmpfs -o mode=1777 tmp /root/tmp
bb mount -t tmpfs -o mode=755 run /root/run
[ -L /root/var/tmp ] || bb mount -t tmpfs -o mode=1777 tmp /root/var/tmp
bb mount -o move /proc /root/proc
bb mount -o move /sys /root/sys
bb mkdir -p /dev/pts /dev/shm
bb mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
bb mount -t tmpfs -o mode=1777 shm /dev/shm
# Their modules load when they are opened.
bb mkdir -p /dev/net
bb mknod -m 666 /dev/net/tun c 10 200
bb mknod -m 600 /dev/vhost-net c 10 238
bb mknod -m 600 /dev/vhost-vsock c 10 241
bb mount -o move /dev /root/dev
bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
n=0
for path in $KEEP; do n=$((n + 1)); bb mkdir -p "/root$path" && bb mount -o move "/keep/$n" "/root$path"; done
if [ -n "$SHARE" ]; then
	bb mkdir -p "/root$SHARE"
	bb mount -t 9p -o "rw,$options" share "/root$SHARE" || fail "cannot mount $SHARE"
fi

bb mkdir -p /root/run/lab
bb cp /lab/agent.py /lab/channel.py /bin/busybox /root/run/lab/
bb ln -s busybox /root/run/lab/modprobe
bb mkdir -p "/root$MODULES_AT"
bb mount -o bind "/root$MODULES_FROM" "/root$MODULES_AT"
echo /run/lab/modprobe >/root/proc/sys/kernel/modprobe
bb ip link set lo up
bb hostname lab
# A hostile lab: whatever becomes ready to run finds the CPU taken. In sessions of their own: the scheduler groups by them.
bb mknod /dev/null c 1 3 # the shell opens it for what is in the background
n=0
while [ "$n" -lt "${LOAD:-0}" ]; do n=$((n + 1)); bb setsid /bin/busybox sh -c 'while :; do :; done' & done
exec /bin/busybox switch_root /root "$AGENT_PYTHON" -IS /run/lab/agent.py /dev/vport0p1
