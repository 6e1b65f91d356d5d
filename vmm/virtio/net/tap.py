"""A tap device of the host as the other end of a network card.

The device exists already: its owner has connected it to a bridge, assigned an address, and set which user may open it.
Checksums and segmentation pass through it unprocessed, as the two network stacks negotiate.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import struct

from vmm.errors import ConfigError, HostError
from vmm.faststart.thread import close_slowly
from vmm.native import lib
from vmm.virtio.net.device import (
    NET_F_CSUM,
    NET_F_GUEST_CSUM,
    NET_F_GUEST_ECN,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_TSO6,
    NET_F_GUEST_USO4,
    NET_F_GUEST_USO6,
    NET_F_HOST_ECN,
    NET_F_HOST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_HOST_UFO,
    NET_F_HOST_USO,
    Backend,
)

TUN = "/dev/net/tun"
# linux/if_tun.h, linux/sockios.h
TUNGETIFF = 0x8004_54D2
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETQUEUE = 0x4004_54CA, 0x4004_54D0, 0x4004_54D8, 0x4004_54D9
SIOCGIFMTU = 0x8921
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x200, 0x400
F_CSUM, F_TSO4, F_TSO6, F_TSO_ECN, F_UFO, F_USO4, F_USO6 = 1, 2, 4, 8, 16, 32, 64
HEADER = 12

_OFFLOADS = (
    (NET_F_GUEST_CSUM, F_CSUM), (NET_F_GUEST_TSO4, F_TSO4), (NET_F_GUEST_TSO6, F_TSO6),
    (NET_F_GUEST_ECN, F_TSO_ECN), (NET_F_GUEST_USO4, F_USO4), (NET_F_GUEST_USO6, F_USO6),
)  # fmt: skip
_FEATURES = (
    NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN
    | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN | NET_F_HOST_UFO
)  # fmt: skip
_SEGMENTS_UDP = NET_F_HOST_USO | NET_F_GUEST_USO4 | NET_F_GUEST_USO6

_segments_udp: list[bool] = []
"""Whether the host's driver of tap devices can (Linux 6.2)."""


class Tap(Backend):
    """The tap device *ifname*, with *queues* descriptors.

    :param mtu: reported to the guest; 0: the device's
    :raises ConfigError: there is no such tap device, it is in use, or this user may not open it
    """

    kind = lib.NET_TAP

    def __init__(self, ifname: str, queues: int = 1, mtu: int = 0) -> None:
        super().__init__()
        self.name = self.identity = f"tap {ifname}"
        self._attached = queues
        try:
            own_mtu = self._read_mtu(ifname)
            self.mtu = mtu or own_mtu
            for _ in range(queues):
                self.fds.append(self._open(ifname, multi=queues > 1))
            self.features = _FEATURES | (_SEGMENTS_UDP if self._segments_udp() else 0)
        except BaseException:
            self.close()
            raise

    def _read_mtu(self, ifname: str) -> int:
        from vmm.faststart.builtin import socket

        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            answer = fcntl.ioctl(sock.fileno(), SIOCGIFMTU, struct.pack("16si20x", ifname.encode(), 0))
        except OSError as error:
            raise ConfigError(
                f"{self.name}: {posix.strerror(error.errno or 0)}",
                code="net-tap",
                hint=f"make it first: ip tuntap add dev {ifname} mode tap user $USER && ip link set {ifname} up",
            ) from error
        finally:
            sock.close()
        return max(68, min(65535, int(struct.unpack("16si20x", answer)[1])))

    def _open(self, ifname: str, multi: bool) -> int:
        try:
            fd = posix.open(TUN, posix.O_RDWR | posix.O_NONBLOCK | posix.O_CLOEXEC)
        except OSError as error:
            hint = "modprobe tun" if error.errno in (errno.ENOENT, errno.ENODEV) else "it is made for everybody (0666)"
            raise ConfigError(f"{TUN}: {posix.strerror(error.errno or 0)}", code="net-tap", hint=hint) from error
        try:
            flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
            try:
                self._attach(fd, ifname, flags | (IFF_MULTI_QUEUE if multi else 0))
            except OSError as error:
                # A device that was made for several queues is not used with one in another way
                if error.errno != errno.EINVAL or multi:
                    raise
                self._attach(fd, ifname, flags | IFF_MULTI_QUEUE)
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
            fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        except OSError as error:
            posix.close(fd)
            raise self._refused(ifname, error) from error
        return fd

    @staticmethod
    def _attach(fd: int, ifname: str, flags: int) -> None:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))

    def _refused(self, ifname: str, error: OSError) -> ConfigError:
        hints = {
            errno.EINVAL: "it is no tap device, or several queues need one that was made with: ip tuntap add dev "
            f"{ifname} mode tap multi_queue",
            errno.EBUSY: "another program uses it",
            errno.EPERM: f"it belongs to somebody else: ip tuntap add dev {ifname} mode tap user $USER",
            errno.E2BIG: "it has no more queues",
        }
        text = posix.strerror(error.errno or 0)
        return ConfigError(f"{self.name}: {text}", code="net-tap", hint=hints.get(error.errno or 0, ""))

    def _segments_udp(self) -> bool:
        if not _segments_udp:
            # Asked once: each change of a device's offloads is told to all who listen for news of the host's network
            try:
                fcntl.ioctl(self.fds[0], TUNSETOFFLOAD, F_CSUM | F_USO4 | F_USO6)
                fcntl.ioctl(self.fds[0], TUNSETOFFLOAD, 0)
                _segments_udp.append(True)
            except OSError:
                _segments_udp.append(False)
        return _segments_udp[0]

    def set_offloads(self, features: int) -> None:
        flags = sum(flag for feature, flag in _OFFLOADS if features & feature)
        if flags & (F_USO4 | F_USO6) != F_USO4 | F_USO6:
            flags &= ~(F_USO4 | F_USO6)  # the kernel takes both or none; a guest may have either (5.1.3.1)
        try:
            self._offload(flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise HostError(
                    f"{self.name}: {posix.strerror(error.errno or 0)}", code="net-tap", errno=error.errno or 0
                ) from error
            # The guest's choice must not end its machine: without offloads all frames are valid
            self._offload(0)

    def _offload(self, flags: int) -> None:
        """Set them, once for all descriptors. The worker detects that the device was deleted meanwhile."""
        try:
            fcntl.ioctl(self.fds[0], TUNSETOFFLOAD, flags)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise

    def current_name(self) -> str:
        """The device's present name; empty: it was deleted."""
        try:
            answer = fcntl.ioctl(self.fds[0], TUNGETIFF, bytes(40))
        except (OSError, IndexError):
            return ""
        return answer[:16].rstrip(b"\0").decode(errors="replace")

    def set_pairs(self, pairs: int) -> None:
        # Frames for queues that are not read would be lost
        for index, fd in enumerate(self.fds):
            if (index < pairs) != (index < self._attached):
                flag = IFF_ATTACH_QUEUE if index < pairs else IFF_DETACH_QUEUE
                try:
                    fcntl.ioctl(fd, TUNSETQUEUE, struct.pack("16sH22x", b"", flag))
                except OSError as error:
                    raise HostError(
                        f"{self.name}: {posix.strerror(error.errno or 0)}", code="net-tap", errno=error.errno or 0
                    ) from error
        self._attached = pairs

    def obituary(self) -> str:
        return "the tap device was deleted"

    def close(self) -> None:
        while self.fds:
            close_slowly(self.fds.pop())
