"""The host's kernel as the server of virtqueues: vhost (``<linux/vhost.h>``).

A device of ``/dev/vhost-*`` receives the addresses of guest RAM and the rings, and each queue's kick and irq. From then
on requests pass between the two kernels: no thread of ours runs, although the kernel's may count as one of this
process.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import struct

from vmm.errors import GuestError, HostError
from vmm.virtio import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.memory import GuestMemory
    from vmm.virtio.queue import Queue

GET_FEATURES = 0x8008AF00
SET_FEATURES = 0x4008AF00
SET_OWNER = 0x0000AF01
SET_MEM_TABLE = 0x4008AF03
SET_VRING_NUM = 0x4008AF10
SET_VRING_ADDR = 0x4028AF11
SET_VRING_BASE = 0x4008AF12
GET_VRING_BASE = 0xC008AF12
SET_VRING_KICK = 0x4008AF20
SET_VRING_CALL = 0x4008AF21
SET_VRING_ERR = 0x4008AF22

NEEDED = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
"""What our transports offer for every device."""


class Vhost:
    """An open vhost device.  Used by one thread at a time.

    :param path: ``/dev/vhost-net`` or ``/dev/vhost-vsock``
    :param name: our device that it serves; for messages
    :param code: of errors
    :param instead: the option that avoids vhost, for the hint
    :ivar features: the kernel's feature bits
    :raises HostError: there is no such device, or this user may not open it
    """

    def __init__(self, path: str, name: str, code: str, instead: str) -> None:
        self._name = name
        self._code = code
        self._owned = False
        self._queues: Sequence[Queue] = ()
        self._fd = -1
        try:
            self._fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
        except OSError as error:
            module = path.rpartition("/")[2].replace("-", "_")
            raise HostError(
                f"{name}: {path}: {posix.strerror(error.errno or 0)}",
                code=code,
                hint=f"load it with `modprobe {module}`, see who may open it, or use {instead}",
                errno=error.errno or 0,
            ) from error
        try:
            self.features = int(struct.unpack("=Q", self.ioctl(GET_FEATURES, bytes(8)))[0])
            if NEEDED & ~self.features:
                raise HostError(f"{name}: {path} is of a kernel that is too old", code=code, hint=f"use {instead}")
        except BaseException:
            self.close()
            raise

    def ioctl(self, request: int, argument: bytes = b"") -> bytes:
        """One ioctl: *argument* is its structure.

        :returns: the structure as the kernel left it
        :raises HostError: the kernel refuses
        """
        try:
            return fcntl.ioctl(self._fd, request, argument) if argument else bytes(fcntl.ioctl(self._fd, request))
        except OSError as error:
            raise HostError(
                f"{self._name}: vhost request {request & 0xFF:#x}: {posix.strerror(error.errno or 0)}",
                code=self._code,
                errno=error.errno or 0,
            ) from error

    def set_up(self, features: int, memory: GuestMemory, queues: Sequence[Queue], error_fd: int = -1) -> None:
        """Configure everything except the backend, which starts it.

        The first call makes this process the owner, whose memory is used and which the kernel's thread belongs to. Not
        earlier, since a jail must be entered by a process with one thread.

        :param features: negotiated with the driver; bits that the kernel does not support do not concern it
        :param queues: in the kernel's order
        :param error_fd: an eventfd, signalled when the guest has broken a ring
        :raises GuestError: the kernel refuses a ring
        :raises HostError: it refuses something else
        """
        if not self._owned:
            self.ioctl(SET_OWNER)
            self._owned = True
        self.ioctl(SET_FEATURES, struct.pack("=Q", features & self.features))
        self.ioctl(SET_MEM_TABLE, _memory_table(memory))
        for index, queue in enumerate(queues):
            try:
                self._set_ring(index, queue)
            except HostError as error:
                if error.errno not in (errno.EFAULT, errno.EINVAL):
                    raise
                raise GuestError(f"queue {queue.index}: {error}", code="queue-config") from error
            self.ioctl(SET_VRING_ERR, struct.pack("=Ii", index, error_fd))
        self._queues = queues
        self.set_calls()

    def _set_ring(self, index: int, queue: Queue) -> None:
        desc, avail, used = queue.areas()
        self.ioctl(SET_VRING_NUM, struct.pack("=II", index, queue.size))
        self.ioctl(SET_VRING_BASE, struct.pack("=II", index, queue.position()))
        self.ioctl(SET_VRING_ADDR, struct.pack("=IIQQQQ", index, 0, desc, used, avail, 0))
        self.ioctl(SET_VRING_KICK, struct.pack("=Ii", index, queue.kick.fd))

    def set_calls(self) -> None:
        """Update the destinations of the queues' interrupts, which may have changed."""
        for index, queue in enumerate(self._queues):
            self.ioctl(SET_VRING_CALL, struct.pack("=Ii", index, queue.irq.fd))

    def begin(self) -> None:
        """The backend is set: make the kernel check for earlier requests."""
        for queue in self._queues:
            queue.kick.signal()

    def take_back(self) -> None:
        """The backend was removed and the kernel uses the rings no more: save their positions."""
        queues, self._queues = self._queues, ()
        for index, queue in enumerate(queues):
            queue.moved_to = struct.unpack("=II", self.ioctl(GET_VRING_BASE, struct.pack("=II", index, 0)))[1]

    def close(self) -> None:
        """Close it.  A second call does nothing."""
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1


def _memory_table(memory: GuestMemory) -> bytes:
    """``struct vhost_memory``: guest physical address, size, address in this process, flags."""
    table = struct.pack("=II", len(memory.regions), 0)
    for region in memory.regions:
        table += struct.pack("=QQQQ", region.gpa, region.size, memory.host_address + region.offset, 0)
    return table
