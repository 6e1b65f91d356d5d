"""The socket device (virtio 1.2, 5.10) with the host's kernel behind it: ``/dev/vhost-vsock``.

The kernel serves the rings, and programs of the host use AF_VSOCK sockets and the guest's CID, which is one for the
whole host.  Kicks and interrupts pass between the two kernels: nothing of this process runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib
from vmm.persist import Unsaved
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from vmm.memory import GuestMemory
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.queue import Queue
    from vmm.virtio.vsock.config import VsockConfig

DEVICE = "/dev/vhost-vsock"
RX, TX = 0, 1
QUEUE_SIZES = (256, 256, 16)

# <linux/vhost.h>
VHOST_GET_FEATURES = 0x8008AF00
VHOST_SET_FEATURES = 0x4008AF00
VHOST_SET_OWNER = 0x0000AF01
VHOST_SET_MEM_TABLE = 0x4008AF03
VHOST_SET_VRING_NUM = 0x4008AF10
VHOST_SET_VRING_ADDR = 0x4028AF11
VHOST_SET_VRING_BASE = 0x4008AF12
VHOST_GET_VRING_BASE = 0xC008AF12
VHOST_SET_VRING_KICK = 0x4008AF20
VHOST_SET_VRING_CALL = 0x4008AF21
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
VHOST_VSOCK_SET_RUNNING = 0x4004AF61


class VhostVsock(VirtioDevice):
    """A socket device that the host's kernel serves.

    :raises HostError: the host has no ``/dev/vhost-vsock``, or does not let us
    :raises ConfigError: another machine of this host has the CID
    """

    device_id = spec.ID_VSOCK
    saving = Unsaved("the host's kernel has its connections")
    queue_sizes = QUEUE_SIZES
    takes_packed = False  # the kernel's vhost does not
    used_bit_stays = True  # the kernel signals the irq and knows nothing of a status

    def __init__(self, config: VsockConfig) -> None:
        self.name = f"vsock {config.cid}"
        self.cid = config.cid
        self._fd = -1
        self._context: DeviceContext | None = None
        self._base: dict[int, int] = {}
        """Where each ring goes on after a pause."""
        try:
            self._open()
            self.features = self._get_features() & (spec.VSOCK_F_STREAM | spec.VSOCK_F_SEQPACKET)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self._fd >= 0:
            return
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, VHOST_SET_OWNER)
            fcntl.ioctl(self._fd, VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", self.cid))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"vsock: another machine of this host has cid {self.cid}",
                    code="vsock-cid",
                    hint="give another cid=",
                ) from error
            raise HostError(
                f"vsock: {DEVICE}: {error.strerror}",
                code="vsock-vhost",
                hint="load it with `modprobe vhost_vsock`, see who may open it, or use backend=unix",
                errno=error.errno or 0,
            ) from error

    def _ioctl(self, request: int, argument: bytes) -> bytes:
        try:
            return fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            raise HostError(
                f"{self.name}: vhost request {request & 0xFF:#x}: {error.strerror}",
                code="vsock-vhost",
                errno=error.errno or 0,
            ) from error

    def _get_features(self) -> int:
        return int(struct.unpack("=Q", self._ioctl(VHOST_GET_FEATURES, bytes(8)))[0])

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(spec.VSOCK_CONFIG_FORMAT, self.cid)

    def activate(self, context: DeviceContext) -> None:
        if RX not in context.queues or TX not in context.queues:
            return
        self._open()
        self._ioctl(VHOST_SET_FEATURES, struct.pack("=Q", context.features & self._get_features()))
        self._ioctl(VHOST_SET_MEM_TABLE, _memory_table(context.memory))
        for index in (RX, TX):
            self._set_ring(context.queues[index])
        self._context = context
        self._ioctl(VHOST_VSOCK_SET_RUNNING, struct.pack("=i", 1))
        for index in (RX, TX):
            context.queues[index].kick.signal()  # what was offered before vhost looked

    def _set_ring(self, queue: Queue) -> None:
        native = ffi.new("struct ring_config *")
        lib.ring_save(queue.ring, native)
        memory, index = queue.memory, queue.index
        areas = ((native.desc, 16), (native.used, 8), (native.avail, 2))
        addresses = [memory.host_address + memory.offset(gpa, each * queue.size) for gpa, each in areas]
        base = self._base.pop(index, native.next_avail)
        self._ioctl(VHOST_SET_VRING_NUM, struct.pack("=II", index, queue.size))
        self._ioctl(VHOST_SET_VRING_BASE, struct.pack("=II", index, base))
        self._ioctl(VHOST_SET_VRING_ADDR, struct.pack("=IIQQQQ", index, 0, *addresses, 0))
        self._ioctl(VHOST_SET_VRING_KICK, struct.pack("=Ii", index, queue.kick.fd))
        self._set_call(queue)

    def _set_call(self, queue: Queue) -> None:
        self._ioctl(VHOST_SET_VRING_CALL, struct.pack("=Ii", queue.index, queue.irq.fd))

    def irqs_moved(self) -> None:
        if self._context is not None:
            for index in (RX, TX):
                self._set_call(self._context.queues[index])

    def stop(self) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        # Afterwards the kernel touches the rings no more
        self._ioctl(VHOST_VSOCK_SET_RUNNING, struct.pack("=i", 0))
        for index in (RX, TX):
            answer = self._ioctl(VHOST_GET_VRING_BASE, struct.pack("=II", index, 0))
            self._base[index] = struct.unpack("=II", answer)[1]

    def reset(self) -> None:
        self._base.clear()
        # Closing it ends the connections; the CID is ours again when the next driver is ready
        self._close_fd()

    # -- the host's side -------------------------------------------------------------------------------------

    def connect(self, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket.socket:
        """Connect to *port* of the guest, by AF_VSOCK.

        :param timeout: seconds to wait, and the socket's timeout afterwards (None: what the kernel has, blocking)
        :raises ConnectionRefusedError: nobody listens there, or the guest's driver does not run
        :raises TimeoutError: no answer in time
        """
        import socket

        made = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET if seqpacket else socket.SOCK_STREAM)
        try:
            made.settimeout(timeout)
            made.connect((self.cid, port))
        except OSError as error:
            made.close()
            if error.errno in (errno.ECONNRESET, errno.ENODEV):
                raise ConnectionRefusedError(f"nobody in the guest listens on vsock port {port}") from error
            raise
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, port: int, *, seqpacket: bool = False, backlog: int = 128) -> socket.socket:
        """A listening AF_VSOCK socket.  Guests of other machines can connect to it as well: accept() tells the CID.

        :raises ConfigError: somebody else listens on that port
        """
        import socket

        made = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET if seqpacket else socket.SOCK_STREAM)
        try:
            made.bind((spec.VSOCK_CID_HOST, port))
            made.listen(backlog)
        except OSError as error:
            made.close()
            raise ConfigError(f"vsock: cannot listen on port {port}: {error.strerror}", code="vsock-port") from error
        return made

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        self.stop()
        self._close_fd()


def _memory_table(memory: GuestMemory) -> bytes:
    """``struct vhost_memory``: guest physical address, size, address in this process, flags."""
    table: Any = struct.pack("=II", len(memory.regions), 0)
    for region in memory.regions:
        table += struct.pack("=QQQQ", region.gpa, region.size, memory.host_address + region.offset, 0)
    return bytes(table)
