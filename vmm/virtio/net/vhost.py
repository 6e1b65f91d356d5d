"""A network card whose queues the host's kernel serves: vhost-net, between the guest and a tap device.

A frame passes from one kernel to the other, and no thread of ours runs for it. So our code checks no header (the tap
driver does) and waits for no limit, and the counters are those of the tap device. Python serves the control queue, as
with workers.
"""

from __future__ import annotations

import posix
import struct

from vmm.errors import GuestError, HostError
from vmm.faststart.builtin import socket
from vmm.virtio.net.device import NET_F_MRG_RXBUF, Net
from vmm.virtio.vhost import Vhost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.net.tap import Tap
    from vmm.virtio.queue import Queue

DEVICE = "/dev/vhost-net"
VHOST_NET_SET_BACKEND = 0x4008AF30
"""``<linux/vhost.h>``."""
COUNTERS = "/proc/thread-self/net/dev"
_RX_STATS = {"tx_bytes": 0, "tx_frames": 1, "tx_dropped": 3, "tx_malformed": 5}
"""What the tap device has received is what the guest has sent: columns of :data:`COUNTERS`."""
_TX_STATS = {"rx_bytes": 8, "rx_frames": 9, "rx_dropped": 11}
_COLUMNS = _RX_STATS | _TX_STATS
_NETLINK_ROUTE, _RTMGRP_LINK = 0, 1
"""``<linux/netlink.h>``, ``<linux/rtnetlink.h>``."""


class VhostNet(Net):
    """A network card.  It owns *backend*.

    :param mac: 6 bytes; empty: a constant address
    :raises HostError: the host has no ``/dev/vhost-net``, or does not permit it
    """

    takes_packed = False  # the kernel's vhost does not
    kernel_signals = True

    def __init__(self, backend: Tap, *, mac: bytes = b"") -> None:
        self._tap = backend
        self._vhosts: list[Vhost] = []
        self._running = 0
        self._counters = -1
        self._links: socket.socket | None = None
        super().__init__(backend, mac=mac)

    def _open_pairs(self) -> None:
        for _ in self._tap.fds:
            vhost = Vhost(DEVICE, self.name, "net-vhost", "backend=worker")
            self._vhosts.append(vhost)
            self.features &= vhost.features | ~NET_F_MRG_RXBUF  # the other features are the tap device's
        # Both are of this thread's network, wherever those who look later are: in a jail there is none
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._links = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
            self._links.bind((0, _RTMGRP_LINK))
        except OSError as error:
            text = posix.strerror(error.errno or 0)
            raise HostError(f"{self.name}: netlink: {text}", code="net-vhost", errno=error.errno or 0) from error
        try:
            self._counters = posix.open(COUNTERS, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            pass  # no /proc: nothing is counted
        self._before = self._count()

    # -- what the driver sees --------------------------------------------------------------------------------

    def activate(self, context: DeviceContext) -> None:
        super().activate(context)
        assert self._links is not None
        context.loop.add(self._links.fileno(), lambda _events: context.run(self._on_links))
        self._find_gone()

    def _pairs_running(self) -> int:
        return self._running

    def _start_pair(self, index: int, rx: Queue, tx: Queue) -> None:
        assert self._context is not None
        vhost = self._vhosts[index]
        vhost.set_up(self._features, self._context.memory, (rx, tx), self._context.event.fd)
        self._running = index + 1
        try:
            self._set_backend(vhost, self._tap.fds[index])
        except HostError:
            if self._tap.current_name():
                raise
            return  # a driver that starts after the tap device was removed finds no link
        vhost.begin()

    def _stop_pairs(self, keep: int = 0) -> None:
        while self._running > keep:
            self._running -= 1
            vhost = self._vhosts[self._running]
            self._set_backend(vhost, -1)
            vhost.take_back()

    @staticmethod
    def _set_backend(vhost: Vhost, fd: int) -> None:
        for ring in (0, 1):
            vhost.ioctl(VHOST_NET_SET_BACKEND, struct.pack("=Ii", ring, fd))

    def irqs_moved(self) -> None:
        for vhost in self._vhosts[: self._running]:
            vhost.set_calls()

    def hold(self) -> bool:
        return False  # the kernel serves it

    def stop(self) -> None:
        if self._context is not None and self._links is not None:
            self._context.loop.remove(self._links.fileno())
        super().stop()

    def check(self) -> None:
        """The kernel has found a ring broken.

        :raises GuestError: always
        """
        raise GuestError("vhost found one of its queues broken", code="ring-broken")

    # -- the host's side -------------------------------------------------------------------------------------

    def _on_links(self) -> None:
        """Interfaces were added, removed or changed; the tap device's descriptor shows whether ours was."""
        assert self._links is not None
        try:
            while posix.read(self._links.fileno(), 1 << 16):
                pass
        except OSError:
            pass  # EAGAIN: that was all; ENOBUFS: there was more
        self._find_gone()

    def _find_gone(self) -> None:
        if not self._tap.current_name():
            self._lose(self._tap.obituary())

    def _count(self) -> dict[str, int]:
        """The tap device's counters; nothing if they are unknown."""
        name = self._tap.current_name() if self._counters >= 0 else ""
        text, at = b"", 0
        while name and (piece := posix.pread(self._counters, 1 << 16, at)):
            text += piece
            at += len(piece)
        for line in text.decode(errors="replace").splitlines():
            found, colon, rest = line.partition(":")
            if colon and found.strip() == name:
                columns = rest.split()
                return {each: int(columns[index]) for each, index in _COLUMNS.items()}
        return {}

    def stats(self) -> dict[str, int]:
        """Counters of the tap device since the device was made: frames and bytes to the guest (``rx``) and from it
        (``tx``), dropped ones, also because the guest was too slow, and those with a malformed header. A large frame
        counts once. Kicks and interrupts of these queues are not counted. Empty if the tap device was removed."""
        with self._nets_lock:
            return {name: value - self._before.get(name, 0) for name, value in self._count().items()}

    def close(self) -> None:
        self.stop()
        with self._nets_lock:
            if self._counters >= 0:
                posix.close(self._counters)
                self._counters = -1
            while self._vhosts:
                self._vhosts.pop().close()
        if self._links is not None:
            self._links.close()
            self._links = None
        super().close()
