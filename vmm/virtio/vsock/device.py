"""The socket device (virtio 1.2, 5.10) over unix sockets.  The data plane is ``vsock.c``.

Programs of the host reach the guest as with Firecracker and Cloud Hypervisor:

* They connect to the unix socket ``uds``, write ``CONNECT <port>\\n``, and read ``OK <local port>\\n`` when a program
  in the guest has accepted. The connection is closed if none listens on that port. Until the guest's driver runs, they
  wait.
* A guest's connection to port P of CID 2 arrives at the unix socket ``<uds>_P``, where a program listens.

SOCK_SEQPACKET connections are SOCK_SEQPACKET unix sockets, message by message. The host connects to ``<uds>.seqpacket``
and sends ``CONNECT <port>`` as its first message; the guest's connections go to ``<uds>_P``, whose type has to match.
"""

from __future__ import annotations

import os
import struct

from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib
from vmm.saveable import Schema, State
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.vsock import path as vsock_path
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from vmm.faststart import builtin
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.vsock import VsockConfig

# 5.10 Socket Device
VSOCK_F_STREAM = 1 << 0
VSOCK_F_SEQPACKET = 1 << 1
VSOCK_CONFIG_FORMAT = "<Q"
"""For :mod:`struct`: guest_cid."""
VSOCK_HEADER_FORMAT = "<QQIIIHHIII"
"""For :mod:`struct`: src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt."""
VSOCK_HEADER_SIZE = 44
VSOCK_TYPE_STREAM = 1
VSOCK_TYPE_SEQPACKET = 2
VSOCK_OP_REQUEST = 1
VSOCK_OP_RESPONSE = 2
VSOCK_OP_RST = 3
VSOCK_OP_SHUTDOWN = 4
VSOCK_OP_RW = 5
VSOCK_OP_CREDIT_UPDATE = 6
VSOCK_OP_CREDIT_REQUEST = 7
VSOCK_SHUTDOWN_RCV = 1
VSOCK_SHUTDOWN_SEND = 2
VSOCK_SEQ_EOM = 1
VSOCK_SEQ_EOR = 2
VSOCK_CID_HOST = 2
VSOCK_EVENT_TRANSPORT_RESET = 0

RX, TX, EVENT = 0, 1, 2
QUEUE_SIZES = (256, 256, 16)
_STATS = (
    "connections", "opened", "refused", "resets", "from_guest_bytes", "to_guest_bytes", "from_guest_packets",
    "to_guest_packets", "credit_updates", "waiting_bytes", "malformed",
)  # fmt: skip
_SCHEMA = Schema("virtio-vsock", 1, {})
"""Connections end with this process: notify the driver, which reads its CID again (5.10.6.7)."""


class Vsock(VirtioDevice):
    """A socket device whose host side is unix sockets. Each connection takes a descriptor of this process: for
    thousands of them, raise its limit (``RLIMIT_NOFILE``), as ``pyvmm boot`` does.

    :raises ConfigError: the sockets cannot be made at ``uds``; see :mod:`vmm.virtio.vsock.path`
    :raises HostError: the host is out of memory or descriptors
    """

    device_id = spec.ID_VSOCK
    thread_name = "vsock"
    saving = _SCHEMA
    queue_sizes = QUEUE_SIZES
    features = VSOCK_F_STREAM | VSOCK_F_SEQPACKET

    def __init__(self, config: VsockConfig) -> None:
        self.name = f"vsock {config.cid}"
        self.cid = config.cid
        absolute = os.path.abspath(config.uds)
        self.uds = absolute if vsock_path.fits(absolute) else config.uds
        hint = "see the limits on threads and descriptors (ulimit -u, ulimit -n)"
        self._workers = Workers(self, "vsock-worker", hint)
        self._seqpacket = False
        self._reset_event = False
        self._vsock: Any = None
        self._listening: list[vsock_path.Listening] = []
        self._dir_fd = -1
        vsock_path.check_path(config)
        try:
            self._make(config)
        except BaseException:
            self.close()
            raise

    def _make(self, config: VsockConfig) -> None:
        for path, kind in (
            (config.uds, vsock_path.STREAM),
            (config.uds + vsock_path.SEQPACKET_SUFFIX, vsock_path.SEQPACKET),
        ):
            self._listening.append(vsock_path.listen(path, kind))
        try:
            self._dir_fd = os.open(os.path.dirname(config.uds) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{self.name}: {error}", code="vsock-uds", errno=error.errno or 0) from error
        native = ffi.new("struct vsock_config *")
        native.cid = config.cid
        native.listen_fd, native.seq_listen_fd = (made.sock.fileno() for made in self._listening)
        native.dir_fd = self._dir_fd
        native.max_conns = config.connections
        native.name = os.fsencode(os.path.basename(self.uds))
        error_out = ffi.new("int *")
        vsock = lib.vsock_new(native, error_out)
        if vsock == ffi.NULL:
            raise HostError(f"{self.name}: {os.strerror(-error_out[0])}", code="vsock-native", errno=-error_out[0])
        self._vsock = vsock

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(VSOCK_CONFIG_FORMAT, self.cid)

    def negotiate(self, features: int) -> bool:
        # 5.10.3: streams come with seqpacket, and without any bit
        self._seqpacket = bool(features & VSOCK_F_SEQPACKET)
        return True

    def activate(self, context: DeviceContext) -> None:
        queues = context.queues
        if RX not in queues or TX not in queues:
            return  # nothing can come or go; the driver is free to leave it so
        native = ffi.new("struct vsock_queues *")
        native.rx, native.tx = queues[RX].ring, queues[TX].ring
        native.rx_kick, native.tx_kick = queues[RX].kick.fd, queues[TX].kick.fd
        native.event = queues[EVENT].ring if EVENT in queues else ffi.NULL
        native.event_kick = queues[EVENT].kick.fd if EVENT in queues else -1
        native.rx_irq, native.tx_irq, native.event_fd = queues[RX].irq, queues[TX].irq, context.event.fd
        native.event_irq = queues[EVENT].irq if EVENT in queues else ffi.NULL
        native.seqpacket = self._seqpacket
        native.reset_event = self._reset_event
        self._reset_event = False
        error = ffi.new("int *")
        self._workers.name_next()
        worker = lib.vsock_start(self._vsock, native, error)
        self._workers.add(worker, error, *queues.values())

    def check(self) -> None:
        """Check whether the worker stopped.

        :raises GuestError: the guest broke a ring
        :raises HostError: the worker cannot continue
        """
        self._workers.check()

    def stop(self) -> None:
        self._workers.stop()

    def hold(self) -> bool:
        self._workers.hold()
        return True

    def spares(self) -> list[Any]:
        return self._workers.spares()

    def go_on(self) -> None:
        self._workers.go_on()

    def reset(self) -> None:
        lib.vsock_reset(self._vsock)
        self._seqpacket = self._reset_event = False

    def restore(self, state: State) -> None:
        super().restore(state)
        # The connections that the driver remembers are those of another process
        self._reset_event = True

    def stats(self) -> dict[str, int]:
        """Counters since the device was made: connections open now, opened, refused (nobody listened) and cut, bytes
        and packets each way, credit updates, bytes that wait for a program of the host; ``connect_us_50`` and
        ``connect_us_99``: microseconds within which half, and 99 %, of all connections were made."""
        native = ffi.new("struct vsock_stats *")
        if self._vsock is not None:
            lib.vsock_get_stats(self._vsock, native)
        counted = {name: int(getattr(native, name)) for name in _STATS}
        latency = [int(number) for number in native.latency]
        return {
            **counted,
            "connect_us_50": _percentile(latency, 50),
            "connect_us_99": _percentile(latency, 99),
            **self._workers.stats(),
        }

    # -- the host's side -------------------------------------------------------------------------------------

    def use_broker(self, sock: builtin.socket.socket) -> tuple[int, bytes, list[tuple[str, tuple[int, int]]]]:
        """Connect to programs of the host through the process at the other end of *sock*: ``struct vsock_ask`` and
        ``vsock_told``. No worker runs. The caller keeps the socket open.

        :returns: the directory of the sockets (a descriptor, owned by the caller now), the beginning of their names,
            and the arguments for :func:`vmm.virtio.vsock.path.unlink` of those that were made here
        """
        lib.vsock_use_broker(self._vsock, sock.fileno())
        folder, self._dir_fd = self._dir_fd, -1
        return folder, os.fsencode(os.path.basename(self.uds)), [made.give_name() for made in self._listening]

    def connect(self, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket.socket:
        """Connect to *port* of the guest.  Waits for the guest's driver, and for a program to accept.

        :param timeout: seconds to wait, and the socket's timeout afterwards (None: for ever, blocking)
        :raises ConnectionRefusedError: no program listens there, or the guest has ended
        :raises TimeoutError: no answer in time
        """
        from vmm.virtio.vsock import client as vsock_client

        return vsock_client.connect(self._open_uds(), port, seqpacket=seqpacket, timeout=timeout)

    def listen(self, port: int, *, seqpacket: bool = False, backlog: int = 128) -> socket.socket:
        """A listening socket for the guest's connections to *port* of CID 2. Its path is removed when it is closed, at
        the latest with the machine.

        :raises ConfigError: another program listens on that port
        """
        from vmm.virtio.vsock import client as vsock_client

        path = vsock_path.port_path(self._open_uds(), port)
        made = vsock_client.listen(path, seqpacket=seqpacket, backlog=backlog)
        self._listening = [entry for entry in self._listening if entry.sock.fileno() >= 0]
        self._listening.append(vsock_path.Listening(made, path, made.identity))
        return made

    def _open_uds(self) -> str:
        if self._vsock is None:
            raise ConfigError(f"{self.name} is closed", code="machine-state")
        return self.uds

    def close(self) -> None:
        self.stop()
        if self._vsock is not None:
            lib.vsock_free(self._vsock)
            self._vsock = None
        for made in self._listening:
            made.close()
        self._listening = []
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1


def _percentile(latency: list[int], percent: int) -> int:
    """The upper end, in microseconds, of the bucket that contains this share of all; 0 without any."""
    total, seen = sum(latency), 0
    for index, number in enumerate(latency):
        seen += number
        if total and seen * 100 >= total * percent:
            return (1024 << index) // 1000
    return 0
