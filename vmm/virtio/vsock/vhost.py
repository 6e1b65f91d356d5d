"""The socket device (virtio 1.2, 5.10) with the host's kernel behind it: ``/dev/vhost-vsock``.

The kernel serves the rings. Programs of the host use AF_VSOCK sockets and the guest's CID, which is unique on the host.
Kicks and interrupts pass between the two kernels: nothing of this process runs.

After a reset the kernel still has the connections of the host's programs. The next driver does not know them, and
resets each when the program sends something.
"""

from __future__ import annotations

import errno
import struct

from vmm.errors import ConfigError, HostError
from vmm.saveable import Unsaved
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.vhost import Vhost
from vmm.virtio.vsock.device import VSOCK_CID_HOST, VSOCK_CONFIG_FORMAT, VSOCK_F_SEQPACKET, VSOCK_F_STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from vmm.virtio.device import DeviceContext
    from vmm.virtio.vsock import VsockConfig

DEVICE = "/dev/vhost-vsock"
RX, TX = 0, 1
QUEUE_SIZES = (256, 256, 16)

# <linux/vhost.h>
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
VHOST_VSOCK_SET_RUNNING = 0x4004AF61


class VhostVsock(VirtioDevice):
    """A socket device that the host's kernel serves.

    :raises HostError: the host has no ``/dev/vhost-vsock``, or does not permit it
    :raises ConfigError: another machine of this host has the CID
    """

    device_id = spec.ID_VSOCK
    saving = Unsaved("the host's kernel has its connections")
    queue_sizes = QUEUE_SIZES
    takes_packed = False  # the kernel's vhost does not
    kernel_signals = True

    def __init__(self, config: VsockConfig) -> None:
        self.name = f"vsock {config.cid}"
        self.cid = config.cid
        self._context: DeviceContext | None = None
        # Open for the device's whole life, through all resets: in a jail nothing can be opened
        self._vhost = Vhost(DEVICE, self.name, "vsock-vhost", "backend=unix")
        try:
            self._vhost.ioctl(VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", self.cid))
        except HostError as error:
            self._vhost.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"vsock: another machine of this host has cid {self.cid}",
                    code="vsock-cid",
                    hint="give another cid=",
                ) from error
            raise
        self.features = self._vhost.features & (VSOCK_F_STREAM | VSOCK_F_SEQPACKET)

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(VSOCK_CONFIG_FORMAT, self.cid)

    def activate(self, context: DeviceContext) -> None:
        if RX not in context.queues or TX not in context.queues:
            return
        vhost = self._vhost
        vhost.set_up(context.features, context.memory, [context.queues[index] for index in (RX, TX)])
        self._context = context
        vhost.ioctl(VHOST_VSOCK_SET_RUNNING, struct.pack("=i", 1))
        vhost.begin()

    def irqs_moved(self) -> None:
        if self._context is not None:
            self._vhost.set_calls()

    def stop(self) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        self._vhost.ioctl(VHOST_VSOCK_SET_RUNNING, struct.pack("=i", 0))
        self._vhost.take_back()

    # -- the host's side -------------------------------------------------------------------------------------

    def connect(self, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket.socket:
        """Connect to *port* of the guest, by AF_VSOCK.

        :param timeout: seconds to wait, and the socket's timeout afterwards (None: the kernel's default, blocking)
        :raises ConnectionRefusedError: no program listens there, or the guest's driver does not run
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
        """A listening AF_VSOCK socket. Guests of other machines can connect to it as well: accept() returns the CID.

        :raises ConfigError: another program listens on that port
        """
        import socket

        made = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET if seqpacket else socket.SOCK_STREAM)
        try:
            made.bind((VSOCK_CID_HOST, port))
            made.listen(backlog)
        except OSError as error:
            made.close()
            raise ConfigError(f"vsock: cannot listen on port {port}: {error.strerror}", code="vsock-port") from error
        return made

    def close(self) -> None:
        self.stop()
        self._vhost.close()
