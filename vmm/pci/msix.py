"""MSI-X (PCI 3.0, 6.8.2): the table of messages, masks, and the pending bits.

A vector is an eventfd that the device signals. While it may be delivered, KVM listens to it and sends the message.
While it is masked nobody does, and its counter is the pending bit. So masking loses nothing, and a device does not
notice it.
"""

from __future__ import annotations

import select

from vmm.events import EventFd
from vmm.pci import spec
from vmm.saveable import Schema, State, mismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Vectors(Protocol):
        """Where messages go."""

        def connect(self, fd: int, address: int, data: int) -> int | None:
            """A signal of *fd* sends the message from now on, including an earlier one.

            :returns: the argument for :meth:`disconnect`; None: no interrupt controller is at *address*
            """

        def disconnect(self, fd: int, handle: int) -> None:
            """No more."""

        def release(self, fd: int) -> None:
            """*fd* is about to be closed, which disconnects it."""


_SCHEMA = Schema("pci-msix", 1, {"table": "bytes", "pending": ["u16"]})


class Msix:
    """The table and the pending bit array of a function.  Not locked: callers are.

    :param count: vectors, 1 to 2048
    :ivar events: one eventfd for each vector, which the device signals
    """

    def __init__(self, count: int, vectors: Vectors) -> None:
        self.count = count
        self._vectors = vectors
        self.events: list[EventFd] = []
        try:
            for _ in range(count):
                self.events.append(EventFd())
        except BaseException:
            self.close()
            raise
        self._table = bytearray(count * spec.MSIX_ENTRY_SIZE)
        self._handles: list[int | None] = [None] * count
        self._messages: list[tuple[int, int] | None] = [None] * count
        self.enabled = False
        self._mask_all = False
        self.reset()

    def capability(self, bar: int, table: int, pba: int) -> tuple[bytes, bytes]:
        """The capability's body and its write mask; *table* and *pba* are offsets in BAR *bar*, multiples of eight."""
        body = (self.count - 1).to_bytes(2, "little") + (table | bar).to_bytes(4, "little")
        flags = spec.MSIX_FLAGS_ENABLE | spec.MSIX_FLAGS_MASKALL
        return body + (pba | bar).to_bytes(4, "little"), flags.to_bytes(2, "little")

    def reset(self) -> None:
        """All vectors masked, MSI-X off, nothing pending."""
        self.enabled = self._mask_all = False
        for vector in range(self.count):
            self._table[vector * 16 : vector * 16 + 16] = bytes(12) + b"\1\0\0\0"
            self._update(vector)
            self.events[vector].clear()

    def set_control(self, flags: int) -> None:
        """The guest has written the message control register."""
        enabled, mask_all = bool(flags & spec.MSIX_FLAGS_ENABLE), bool(flags & spec.MSIX_FLAGS_MASKALL)
        if (enabled, mask_all) != (self.enabled, self._mask_all):
            self.enabled, self._mask_all = enabled, mask_all
            for vector in range(self.count):
                self._update(vector)

    def read_table(self, offset: int, size: int) -> int:
        """*size* bytes of the table; zeros after its end."""
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write_table(self, offset: int, size: int, value: int) -> None:
        """The guest writes the table. 6.8.2: by aligned words of 4 or 8 bytes; other accesses, and those after the last
        vector, are ignored."""
        if size not in (4, 8) or offset % size or offset + size > len(self._table):
            return
        vector = offset // spec.MSIX_ENTRY_SIZE
        entry = bytearray(self._table[vector * 16 : vector * 16 + 16])
        entry[offset % 16 : offset % 16 + size] = value.to_bytes(8, "little")[:size]
        entry[12:] = bytes((entry[12] & spec.MSIX_ENTRY_CTRL_MASKBIT, 0, 0, 0))
        entry[0] &= 0xFC  # 6.8.2.6: a message address is a multiple of four
        self._table[vector * 16 : vector * 16 + 16] = entry
        self._update(vector)

    def read_pba(self, offset: int, size: int) -> int:
        """*size* bytes of the pending bits of masked vectors."""
        bits = 0
        for vector in range(offset * 8, min((offset + size) * 8, self.count)):
            if self._handles[vector] is None and _is_signalled(self.events[vector].fd):
                bits |= 1 << (vector - offset * 8)
        return bits

    def save(self) -> State:
        """Table and pending bits; the control register belongs to the configuration space."""
        pending = [v for v in range(self.count) if self._handles[v] is None and _is_signalled(self.events[v].fd)]
        return _SCHEMA.make(table=bytes(self._table), pending=pending)

    def restore(self, state: State, name: str) -> None:
        """Restore what :meth:`save` returned; all vectors are masked until :meth:`set_control`.

        :param name: of the function, for errors
        :raises ConfigError: it is the state of a table of another length
        """
        payload = _SCHEMA.read(state, name)
        table, pending = payload["table"], payload["pending"]
        if len(table) != len(self._table) or any(vector >= self.count for vector in pending):
            raise mismatch(name, f"its MSI-X table has {len(table)} bytes, not {len(self._table)}")
        self.reset()
        self._table[:] = table
        for vector in pending:
            self.events[vector].signal()

    def _update(self, vector: int) -> None:
        """Connect and disconnect vectors as their masks require."""
        entry = self._table[vector * 16 : vector * 16 + 16]
        message = None
        if self.enabled and not self._mask_all and not entry[12] & spec.MSIX_ENTRY_CTRL_MASKBIT:
            message = (int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:12], "little"))
        if message == self._messages[vector]:
            return
        event, handle = self.events[vector], self._handles[vector]
        if handle is not None:
            self._vectors.disconnect(event.fd, handle)
            self._handles[vector] = None
        self._messages[vector] = message
        if message is not None:
            # Read to zero, then signalled again: a counter that stays up would look pending at the next mask
            pending = event.clear()
            self._handles[vector] = self._vectors.connect(event.fd, *message)
            if pending:
                event.signal()

    def close(self) -> None:
        """Close every vector; its listener releases it then.  A second call does nothing."""
        for event in self.events:
            self._vectors.release(event.fd)
            event.close()
        self.events = []
        self.count = 0


def _is_signalled(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
