"""The network device (virtio 1.2, 5.1). The data plane is ``net.c``; it is connected to a :class:`Backend`.

By default, the guest's address is derived from the host and the backend, which do not change. A tap device is one place
in a network, so every machine on it has the same address each time, and no other machine has it.
"""

from __future__ import annotations

import posix
import struct

from vmm import report
from vmm.errors import GuestError, HostError
from vmm.faststart.thread import allocate_lock
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.limit import Limit
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.options.limit import LimitConfig
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.net.responder import Responder
    from vmm.virtio.queue import Chain, Queue

# 5.1.3 Network Device: Feature bits
NET_F_CSUM = 1 << 0
NET_F_GUEST_CSUM = 1 << 1
NET_F_CTRL_GUEST_OFFLOADS = 1 << 2
NET_F_MTU = 1 << 3
NET_F_MAC = 1 << 5
NET_F_GUEST_TSO4 = 1 << 7
NET_F_GUEST_TSO6 = 1 << 8
NET_F_GUEST_ECN = 1 << 9
NET_F_GUEST_UFO = 1 << 10
NET_F_HOST_TSO4 = 1 << 11
NET_F_HOST_TSO6 = 1 << 12
NET_F_HOST_ECN = 1 << 13
NET_F_HOST_UFO = 1 << 14
NET_F_MRG_RXBUF = 1 << 15
NET_F_STATUS = 1 << 16
NET_F_CTRL_VQ = 1 << 17
NET_F_MQ = 1 << 22
NET_F_CTRL_MAC_ADDR = 1 << 23
NET_F_GUEST_USO4 = 1 << 54
NET_F_GUEST_USO6 = 1 << 55
NET_F_HOST_USO = 1 << 56

# 5.1.4 Network Device: Device configuration layout
NET_CONFIG_FORMAT = "<6sHHH"
"""For :mod:`struct`: mac, status, max_virtqueue_pairs, mtu."""
NET_S_LINK_UP = 1

# 5.1.6 Network Device: Device Operation
NET_HEADER_FORMAT = "<BBHHHHH"
"""For :mod:`struct`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers."""
NET_HEADER_SIZE = 12
NET_HDR_F_NEEDS_CSUM = 1
NET_HDR_F_DATA_VALID = 2
NET_HDR_GSO_NONE = 0
NET_HDR_GSO_TCPV4 = 1
NET_HDR_GSO_UDP = 3
NET_HDR_GSO_TCPV6 = 4
NET_HDR_GSO_UDP_L4 = 5
NET_HDR_GSO_ECN = 0x80
NET_OK = 0
NET_ERR = 1
NET_CTRL_MAC = 1
NET_CTRL_MAC_ADDR_SET = 1
NET_CTRL_MQ = 4
NET_CTRL_MQ_VQ_PAIRS_SET = 0
NET_CTRL_GUEST_OFFLOADS = 5
NET_CTRL_GUEST_OFFLOADS_SET = 0

QUEUE_SIZE = 256
CTRL_SIZE = 64
ETHERNET = 14
LARGEST = 65535 + ETHERNET
"""Bytes of the largest frame: with segmentation left to others, that of an IP packet."""

GUEST_OFFLOADS = (
    NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN
    | NET_F_GUEST_UFO | NET_F_GUEST_USO4 | NET_F_GUEST_USO6
)  # fmt: skip
LARGE_FRAMES = GUEST_OFFLOADS & ~NET_F_GUEST_CSUM & ~NET_F_GUEST_ECN
_NEEDS = (
    # 5.1.3.1: each of the first needs one of the second
    (NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_UFO, NET_F_GUEST_CSUM),
    (NET_F_GUEST_USO4 | NET_F_GUEST_USO6, NET_F_GUEST_CSUM),
    (NET_F_GUEST_ECN, NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6),
    (NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_UFO | NET_F_HOST_USO, NET_F_CSUM),
    (NET_F_HOST_ECN, NET_F_HOST_TSO4 | NET_F_HOST_TSO6),
    (NET_F_MQ | NET_F_CTRL_MAC_ADDR | NET_F_CTRL_GUEST_OFFLOADS, NET_F_CTRL_VQ),
)
_FLAGS = (
    (NET_F_CSUM, lib.NET_CSUM), (NET_F_HOST_TSO4, lib.NET_TSO4), (NET_F_HOST_TSO6, lib.NET_TSO6),
    (NET_F_HOST_ECN, lib.NET_ECN), (NET_F_HOST_UFO, lib.NET_UFO), (NET_F_HOST_USO, lib.NET_USO),
    (NET_F_GUEST_CSUM, lib.NET_GUEST_CSUM), (NET_F_MRG_RXBUF, lib.NET_MRG_RXBUF),
)  # fmt: skip
_NET_STATS = (
    "rx_frames", "rx_bytes", "rx_dropped", "tx_frames", "tx_bytes", "tx_dropped", "tx_malformed", "rx_starved",
)  # fmt: skip
_SCHEMA = Schema("virtio-net", 1, {"mac": "bytes", "pairs": "u16", "offloads": "u64", "link": "bool"})


def _is_consistent(features: int) -> bool:
    """Whether each feature has the one that it depends on (5.1.3.1)."""
    return not any(features & some and not features & needed for some, needed in _NEEDS)


class Backend:
    """The source and destination of frames.

    :ivar kind: ``NET_TAP`` or ``NET_STREAM`` of ``vmm_devices.h``
    :ivar name: for messages
    :ivar identity: the identity from which the guest's address is derived
    :ivar fds: non-blocking descriptors, one for each pair of queues
    :ivar features: feature bits that it supports
    :ivar mtu: bytes of an IP packet
    """

    kind: int = lib.NET_TAP
    name: str = "net"
    identity: str = ""
    features: int = 0
    mtu: int = 1500

    def __init__(self) -> None:
        self.fds: list[int] = []

    def set_offloads(self, features: int) -> None:
        """The guest accepts frames according to the GUEST feature bits in *features*."""

    def set_pairs(self, pairs: int) -> None:
        """The guest uses the first pairs of queues, this many."""

    def obituary(self) -> str:
        """How the backend ended, in words."""
        return ""

    def close(self) -> None:
        """Release everything.  A second call does nothing."""
        while self.fds:
            posix.close(self.fds.pop())


def stable_mac(identity: str) -> bytes:
    """A locally administered address, always the same for *identity* on this host."""
    from vmm.faststart.builtin import blake2b

    if not _host:
        _host.append(_machine_id())
    digest = blake2b(b"\0".join((*_host, posix.uname().nodename.encode(), identity.encode())), digest_size=5).digest()
    return b"\x02" + digest


_host: list[bytes] = []
"""What tells this host from others, read once."""


def _machine_id() -> bytes:
    try:
        fd = posix.open("/etc/machine-id", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.read(fd, 64)
        finally:
            posix.close(fd)
    except OSError:
        return b""


class Net(VirtioDevice):
    """A network card.  It owns *backend*.

    :param mac: 6 bytes; empty: :func:`stable_mac`
    :param limit: of each direction
    :param side: answers frames for its address in the place of *backend*; it stays the caller's
    :raises HostError: the host is out of memory
    """

    device_id = spec.ID_NET
    thread_name = "net-"
    saving = _SCHEMA

    def __init__(
        self, backend: Backend, *, mac: bytes = b"", limit: LimitConfig | None = None, side: Responder | None = None
    ) -> None:
        self.name = f"net {backend.name}"
        self.backend = backend
        self._side = side
        self._initial_mac = self.mac = mac or stable_mac(backend.identity or backend.name)
        self._link = True
        self._features = 0
        self._offloads = 0
        self._pairs = 1
        self._context: DeviceContext | None = None
        hint = "see the limits on threads and descriptors (ulimit -u, ulimit -n)"
        self._workers = Workers(self, "net-worker", hint)
        self._nets_lock = allocate_lock()  # statistics are asked for from any thread
        self._nets: list[Any] = []
        self._limits = (Limit(limit), Limit(limit))  # to the guest, from it
        pairs = len(backend.fds)
        self.queue_sizes = (QUEUE_SIZE,) * (2 * pairs) + (CTRL_SIZE,)
        self.features = (
            backend.features | NET_F_MAC | NET_F_STATUS | NET_F_MTU | NET_F_MRG_RXBUF
            | NET_F_CTRL_VQ | NET_F_CTRL_MAC_ADDR | (NET_F_MQ if pairs > 1 else 0)
        )  # fmt: skip
        if backend.features & GUEST_OFFLOADS:
            self.features |= NET_F_CTRL_GUEST_OFFLOADS
        try:
            self._open_pairs()
        except BaseException:
            self.close()
            raise

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        status = NET_S_LINK_UP if self._link else 0
        return struct.pack(NET_CONFIG_FORMAT, self.mac, status, len(self.backend.fds), self.backend.mtu)

    def negotiate(self, features: int) -> bool:
        if not _is_consistent(features):
            return False
        self._features = features
        self._offloads = features & GUEST_OFFLOADS
        return True

    def activate(self, context: DeviceContext) -> None:
        self._context = context
        self.backend.set_offloads(self._offloads)
        self._start_pairs()
        self._serve_control()

    def _serve_control(self) -> None:
        assert self._context is not None
        control = self._context.queues.get(self._control_index())
        if control is not None and self._features & NET_F_CTRL_VQ:
            self._context.serve(control)

    def _control_index(self) -> int:
        # 5.1.2: behind the queues that there could be, and without MQ behind those of one pair
        return 2 * len(self.backend.fds) if self._features & NET_F_MQ else 2

    def _start_pairs(self) -> None:
        """Run the first pairs of queues, as many as the driver uses, and no others."""
        assert self._context is not None
        self.backend.set_pairs(self._pairs)
        for index in range(self._pairs_running(), self._pairs):
            rx, tx = (self._context.queues.get(2 * index + at) for at in (0, 1))
            if rx is None or tx is None:
                break
            self._start_pair(index, rx, tx)

    # -- who serves the pairs: workers, unless overridden ----------------------------------------------------

    def _open_pairs(self) -> None:
        """Prepare the server of each pair of queues, which does not run yet.

        :raises HostError: the host does not have it
        """
        error = ffi.new("int *")
        for fd in self.backend.fds:
            net = lib.net_new(fd, self.backend.kind, error)
            if net == ffi.NULL:
                raise HostError(f"{self.name}: {posix.strerror(-error[0])}", code="net-native", errno=-error[0])
            self._nets.append(net)

    def _pairs_running(self) -> int:
        """How many pairs are served, the first ones."""
        return len(self._workers)

    def _start_pair(self, index: int, rx: Queue, tx: Queue) -> None:
        """Serve another pair."""
        assert self._context is not None
        native = ffi.new("struct net_queues *")
        native.rx, native.tx = rx.ring, tx.ring
        native.rx_kick, native.tx_kick = rx.kick.fd, tx.kick.fd
        native.rx_irq, native.tx_irq = rx.irq, tx.irq
        native.event_fd = self._context.event.fd
        native.flags = sum(flag for feature, flag in _FLAGS if self._features & feature)
        large = self._offloads & LARGE_FRAMES or self.backend.mtu + ETHERNET > LARGEST
        native.rx_frame = LARGEST if large else self.backend.mtu + ETHERNET + 4
        native.rx_limit, native.tx_limit = (limit.native for limit in self._limits)
        if self._side is not None:
            native.side_fd, native.side_address = self._side.fd, self._side.address
        error = ffi.new("int *")
        self._workers.name_next()
        self._workers.add(lib.net_start(self._nets[index], native, error), error, rx, tx)

    def _stop_pairs(self, keep: int = 0) -> None:
        """Serve only the first *keep* pairs: nothing touches the queues of the others any more."""
        self._workers.stop(keep=keep)

    # --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stop_pairs()
        self._context = None

    def hold(self) -> bool:
        self._workers.hold()
        return True

    def spares(self) -> list[Any]:
        return self._workers.spares()

    def go_on(self) -> None:
        self._workers.go_on()
        self._serve_control()

    def check(self) -> None:
        """Detect workers that stopped, and report when the backend has ended.

        :raises GuestError: the guest broke a ring
        :raises HostError: a worker cannot continue
        """
        self._workers.check()
        lost = next((number for net in self._nets if (number := self._native_stats(net).last_errno)), 0)
        if lost:
            self._lose(self.backend.obituary() or posix.strerror(lost))

    def _lose(self, why: str) -> None:
        """The backend has ended; reported once."""
        if self._link:
            words = f"{self.name}: the network is gone: {why}; the guest sees no link"
            report.error(__name__, words)
            self.set_link(False)
            self.report_lost(words)

    def reset(self) -> None:
        self._features = self._offloads = 0
        self._pairs = 1
        self.mac = self._initial_mac
        self.backend.set_offloads(0)

    def save(self) -> State:
        return _SCHEMA.make(mac=self.mac, pairs=self._pairs, offloads=self._offloads, link=self._link)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        mac, pairs, offloads = payload["mac"], payload["pairs"], payload["offloads"]
        if len(mac) != 6 or not 1 <= pairs <= len(self.backend.fds) or offloads & ~(self._features & GUEST_OFFLOADS):
            raise mismatch(self.name, f"it has {pairs} pairs of queues and offloads {offloads:#x}")
        self.mac, self._pairs, self._offloads, self._link = mac, pairs, offloads, payload["link"]

    # -- the control queue (5.1.6.5) -------------------------------------------------------------------------

    def process(self, queue: Queue) -> None:
        for chain in queue:
            if not chain.room:
                raise GuestError(f"chain {chain.head} has no byte for the answer of a command", code="chain-room")
            done = chain.readable >= 2 and self._command(chain)
            chain.write(bytes((NET_OK if done else NET_ERR,)))
            queue.push(chain)

    def _command(self, chain: Chain) -> bool:
        kind, command = chain.read(2)
        data = chain.read(min(chain.readable, 64))
        if (kind, command) == (NET_CTRL_MQ, NET_CTRL_MQ_VQ_PAIRS_SET) and len(data) == 2:
            return bool(self._features & NET_F_MQ) and self._set_pairs(int.from_bytes(data, "little"))
        if (kind, command) == (NET_CTRL_MAC, NET_CTRL_MAC_ADDR_SET) and len(data) == 6:
            if not self._features & NET_F_CTRL_MAC_ADDR or data[0] & 1 or not any(data):
                return False
            self.mac = data
            self.config_changed()
            return True
        if (kind, command) == (NET_CTRL_GUEST_OFFLOADS, NET_CTRL_GUEST_OFFLOADS_SET) and len(data) == 8:
            return self._set_offloads(int.from_bytes(data, "little"))
        return False

    def _set_pairs(self, pairs: int) -> bool:
        if not 1 <= pairs <= len(self.backend.fds):
            return False
        assert self._context is not None
        if any(2 * index + at not in self._context.queues for index in range(pairs) for at in (0, 1)):
            return False
        self._pairs = pairs
        self._stop_pairs(keep=pairs)
        self._start_pairs()
        return True

    def _set_offloads(self, offloads: int) -> bool:
        if not self._features & NET_F_CTRL_GUEST_OFFLOADS or offloads & ~(self._features & GUEST_OFFLOADS):
            return False
        if not _is_consistent(offloads):  # 5.1.6.5.6.1: what depends on one another in the features does so here
            return False
        self._offloads = offloads
        self.backend.set_offloads(offloads)
        return True

    # -- the host's side -------------------------------------------------------------------------------------

    @property
    def link(self) -> bool:
        """Whether the guest sees a carrier."""
        return self._link

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out, from the guest's view: its driver stops sending."""
        if up != self._link:
            self._link = up
            self.config_changed()

    def set_mac(self, mac: bytes) -> None:
        """Set another MAC address, which a driver reads when it starts; a running driver keeps the old one.

        :param mac: 6 bytes
        """
        self._initial_mac = mac
        if self._context is None:
            self.mac = mac

    def stats(self) -> dict[str, int]:
        """Counters since the device was made: frames and bytes to the guest (``rx``) and from it (``tx``), dropped
        ones, those with a malformed header, waits for buffers or for a limit, and kicks, chains, irqs and wakeups of
        the workers."""
        totals = dict.fromkeys(_NET_STATS, 0)
        with self._nets_lock:
            for net in self._nets:
                native = self._native_stats(net)
                for name in _NET_STATS:
                    totals[name] += int(getattr(native, name))
        return {**totals, "limit_waits": sum(limit.waits() for limit in self._limits), **self._workers.stats()}

    @staticmethod
    def _native_stats(net: Any) -> Any:
        native = ffi.new("struct net_stats *")
        lib.net_get_stats(net, native)
        return native

    def close(self) -> None:
        self.stop()
        with self._nets_lock:
            while self._nets:
                lib.net_free(self._nets.pop())
        for limit in self._limits:
            limit.close()
        self.backend.close()
