"""Devices for the core as a process, whose queues lie in the sandbox's RAM: a directory, a network, and sockets."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from vmm import ConfigError, DeviceServer, GuestMemory, NetConfig, SavedServer, ShareConfig, VsockConfig

RINGS, STRIDE = 0x1000, 0x2000
"""Where the queues lie in RAM, as `core/virtio/virtio.h` and `host/device.h` have it."""
SIZES = (128, 256)
"""Of the queue for what must not wait, and of that for requests."""
NET_RINGS, NET_SIZES = 0x5000, (256, 256, 64)
"""Of a network: queues for frames that come, for those that go, and one that the core does not use."""
VSOCK_RINGS, VSOCK_SIZES = 0xB000, (256, 256, 16)
"""Of sockets: queues for what comes, for what goes, and for events, which the core does not use."""
MAC, MTU = "02:00:00:00:00:01", 16000
"""As `core/virtio/net.c` has them."""

_PAGE = 4096
_DESCRIPTOR = struct.Struct("<QIHH")
"""Of a queue (virtio 1.2, 2.7.5): address, size, flags, next."""
_BUFFER_MOST = 4 << 20
LARGEST = 3 << 30
"""RAM that lies in a row for the server as it does for the core."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Saved(NamedTuple):
    """What stopped devices leave.

    :ivar ram: a descriptor of RAM, which others may copy
    """

    ram: int
    share: SavedServer | None
    net: SavedServer | None
    vsock: SavedServer | None = None


class Devices:
    """Serves devices to a core, with RAM for it.

    :param size: bytes of RAM
    :param path: of a directory for the root, or None; or the record of a share
    :param network: connect the core with the user's network, through passt; or with the network of a record
    :param vsock: sockets of the host, on which the core serves the agent's calls; its CID must be 3
    :param start: otherwise, :meth:`start` does so: until then, there is no thread
    :param saved: of others, by :meth:`save`: the core continues with a copy of their RAM
    :param copy: False: RAM has only what the devices need of that
    :ivar on_failure: called on any thread when the core has broken a queue, on which it then waits forever
    :raises ConfigError: a device cannot be served, or RAM is too large
    :raises HostError: a device cannot be served
    """

    def __init__(
        self,
        size: int,
        path: str | ShareConfig | None,
        *,
        read_only: bool = False,
        network: bool | NetConfig = False,
        vsock: VsockConfig | None = None,
        start: bool = True,
        saved: Saved | None = None,
        copy: bool = True,
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        if size > LARGEST:
            raise ConfigError(f"memory of {size >> 20} MiB: with a root or a network, {LARGEST >> 20} MiB is the most")
        self._memory = GuestMemory(size, shared=True, file=saved.ram if saved and copy else -1)
        self._source = saved.ram if saved and not copy else -1
        self._holding: list[DeviceServer] = []
        self._share: DeviceServer | None = None
        self._net: DeviceServer | None = None
        self._vsock: DeviceServer | None = None
        try:
            if path is not None:
                if isinstance(path, str):
                    path = ShareConfig(path, tag="root", read_only=read_only, cache="always", queues=1, locks="guest")
                self._share = self._serve(path, RINGS, SIZES, saved and saved.share)
            if network:
                net = NetConfig("user", mac=MAC, mtu=MTU) if network is True else network
                self._net = self._serve(net, NET_RINGS, NET_SIZES, saved and saved.net)
            if vsock is not None:
                self._vsock = self._serve(vsock, VSOCK_RINGS, VSOCK_SIZES, saved and saved.vsock)
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    @property
    def _servers(self) -> list[DeviceServer]:
        return [server for server in (self._vsock, self._share, self._net) if server is not None]

    def start(self) -> None:
        """Serve the devices.

        :raises HostError: one cannot be started
        """
        for server in self._servers:
            server.start()

    def _serve(
        self,
        config: ShareConfig | NetConfig | VsockConfig,
        at: int,
        sizes: Sequence[int],
        saved: SavedServer | None = None,
    ) -> DeviceServer:
        queues = [(entries, at + index * STRIDE) for index, entries in enumerate(sizes)]
        if self._source >= 0:
            for entries, place in queues:
                self._copy_queue(place, entries)
        return DeviceServer(config, self._memory, queues, lambda: self.on_failure(), start=False, saved=saved)

    def _copy_queue(self, at: int, entries: int) -> None:
        """A queue, and the buffers that it names: the device can write to them at any time.

        :raises ConfigError: it is none that a core has left
        """
        rings = os.pread(self._source, STRIDE, at)
        pages = set(range(at // _PAGE, (at + STRIDE) // _PAGE))
        for address, size, _, _ in _DESCRIPTOR.iter_unpack(rings[: entries * _DESCRIPTOR.size]):
            if size > _BUFFER_MOST or address + size > self._memory.size:
                raise ConfigError(f"a queue of the stopped core has a buffer of {size} bytes at {address:#x}")
            if size:
                pages.update(range(address // _PAGE, (address + size - 1) // _PAGE + 1))
        for page in sorted(pages):
            os.pwrite(self._memory.fd, os.pread(self._source, _PAGE, page * _PAGE), page * _PAGE)

    def save(self) -> Saved:
        """Stop the devices, with what others need to continue; the core does not run.  Close :attr:`Saved.ram`.

        :raises ConfigError: a device cannot be saved
        :raises HostError: the same
        """
        share = self._share.save() if self._share else None
        net = self._net.save() if self._net else None
        return Saved(os.dup(self._memory.fd), share, net)

    def hold(self) -> Saved:
        """Suspend the devices until :meth:`go_on`, with what others need to continue; the core does not run.
        :attr:`Saved.ram` is this one's, and changes when they go on.

        :raises ConfigError: a device cannot be saved, and all go on
        :raises HostError: one has failed, or cannot be suspended, and is stopped for good
        """
        try:
            saved = [self._held(server) for server in (self._share, self._net, self._vsock)]
        except BaseException:
            self.go_on()
            raise
        share, net, vsock = saved
        # Others have no connections
        return Saved(self._memory.fd, share, net, vsock and SavedServer(vsock.positions, None))

    def _held(self, server: DeviceServer | None) -> SavedServer | None:
        if server is None:
            return None
        saved = server.hold()
        self._holding.append(server)
        return saved

    def go_on(self) -> None:
        """After :meth:`hold`."""
        while self._holding:
            self._holding.pop().go_on()

    @property
    def ram(self) -> int:
        """The descriptor of RAM."""
        return self._memory.fd

    @property
    def places(self) -> tuple[int, list[int]]:
        """As `host/nursery.c` reads them: which devices there are, and the descriptors of their kicks and irqs."""
        servers = (self._share, self._net, self._vsock)
        bits = sum(1 << number for number, server in enumerate(servers) if server)
        return bits, [fd for server in servers if server for fd in (*server.kicks[:2], server.irq)]

    def _fds(self, server: DeviceServer) -> tuple[int, ...]:
        return (self._memory.fd, *server.kicks[:2], server.irq)

    @property
    def options(self) -> list[str]:
        """Of the platform's program: the descriptors of RAM, of the kick of each queue, and of the irq."""
        named = (("--share", self._share), ("--net", self._net), ("--vsock", self._vsock))
        return [word for name, server in named if server for word in (name, ",".join(map(str, self._fds(server))))]

    @property
    def fds(self) -> tuple[int, ...]:
        """What the platform's program needs."""
        return tuple({fd for server in self._servers for fd in self._fds(server)})

    def connect(self, port: int, timeout: float) -> socket.socket:
        """A connection of the host to a port of the core, see :meth:`vmm.virtio.vsock.device.Vsock.connect`."""
        assert self._vsock
        made: socket.socket = self._vsock.device.connect(port, timeout=timeout)
        return made

    def outlive(self) -> list[str] | None:
        """Prepare for `exec`: the options for the program, which the directory's server then serves. None: it needs
        this process."""
        server = self._share and not self._net and self._share.lasting
        if not server or not self._share:
            return None
        fds = (*self._fds(self._share), *server)
        for fd in fds:
            os.set_inheritable(fd, True)
        return ["--share", ",".join(map(str, (*fds[:4], *server[1:])))]

    def stats(self) -> dict[str, Any]:
        """The counters of the directory's server: requests by kind, errors, bytes."""
        return self._share.stats() if self._share else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the servers.  A second call does nothing."""
        for server in self._servers:
            server.close()
        self._memory.close()


class Share(Devices):
    """Serves *path* alone, see :class:`Devices`."""

    def __init__(self, path: str | ShareConfig, size: int, *, read_only: bool = False) -> None:
        super().__init__(size, path, read_only=read_only)

    @property
    def fds(self) -> tuple[int, ...]:
        """What the platform's program needs: RAM, the kick of each queue, and the irq."""
        assert self._share
        return self._fds(self._share)


def exec_with_devices(devices: Devices, platform: Sequence[str], words: Sequence[str]) -> int:
    """Replace this process by the platform's program, as the parent of the server, or else :func:`run_with_devices`."""
    options = devices.outlive()
    if options is not None:
        os.execv(platform[0], [*platform, *options, *words])
    return run_with_devices(devices, platform, words)


def run_with_devices(devices: Devices, platform: Sequence[str], words: Sequence[str]) -> int:
    """Run the platform's program with devices, which it closes; returns how it ended, as `Popen.returncode`.

    :param platform: the program and its options
    :param words: `--`, and what runs inside
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with devices, subprocess.Popen([*platform, *devices.options, *words], pass_fds=devices.fds) as process:
        devices.on_failure = process.kill
        for number in FORWARDED:
            # Those of a terminal reach the program too
            signal.signal(number, lambda which, _frame: process.send_signal(which))
        return process.wait()
