"""The stub's counterpart for reading memory, for tools in another process."""

from __future__ import annotations

import socket

from vmm.debug.packet import MAX_PACKET, Packet, Reader, frame
from vmm.debug.server import GdbTarget
from vmm.errors import HostError

_CHUNK = MAX_PACKET // 2 - 8


def _connect(target: GdbTarget) -> socket.socket:
    if not target.path:
        return socket.create_connection((target.host, target.port))
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(target.path)
    except OSError:
        made.close()
        raise
    return made


class PhysicalMemory:
    """The RAM of a machine that was started with ``--gdb``.  The guest keeps running.  A context manager.

    :param where: as for ``--gdb``
    :raises HostError: no stub serves there
    """

    def __init__(self, where: str) -> None:
        target = GdbTarget.parse(where, "VM")
        try:
            self._socket = _connect(target)
        except OSError as error:
            raise HostError(
                f"cannot reach a machine at {where}: {error.strerror or error}",
                code="debug-connect",
                hint="start it with: pyvmm boot --gdb " + where,
                errno=error.errno or 0,
            ) from error
        self._socket.settimeout(60)
        self._reader = Reader()
        self.regions = [
            (int(start, 16), int(size, 16))
            for start, _, size in (part.partition(b",") for part in self._ask(b"qPyvmm.Regions").split(b";"))
        ]
        """Where RAM is: ``(physical address, bytes)``."""

    def _ask(self, content: bytes) -> bytes:
        self._socket.sendall(frame(content))
        while True:
            data = self._socket.recv(1 << 16)
            if not data:
                raise HostError("the machine has ended", code="debug-connect")
            for item in self._reader.feed(data):
                if isinstance(item, Packet) and item.data is not None:
                    return item.data

    def read(self, address: int, length: int) -> bytes:
        """*length* bytes at physical *address*.

        :raises HostError: part of the range is not RAM
        """
        data = b""
        while len(data) < length:
            part = self._ask(b"qPyvmm.Physical:%x,%x" % (address + len(data), min(length - len(data), _CHUNK)))
            if part.startswith(b"E"):
                raise HostError(f"no RAM at {address + len(data):#x}", code="debug-memory")
            data += bytes.fromhex(part.decode())
        return data

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def __enter__(self) -> PhysicalMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
