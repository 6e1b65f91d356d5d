"""The console device (virtio 1.2, 5.3) with one port: the guest's ``/dev/hvc0``.  The data plane is ``console.c``.

Its host side is that of the serial port (:class:`vmm.devices.Serial`): :meth:`VirtioConsole.input`, the two callbacks,
:meth:`VirtioConsole.drain`.
"""

from __future__ import annotations

import struct

from vmm.errors import HostError
from vmm.events import EventFd
from vmm.native import ffi, lib
from vmm.saveable import Schema, State
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.events import Loop
    from vmm.virtio.device import DeviceContext

# 5.3 Console Device
CONSOLE_F_SIZE = 1 << 0
CONSOLE_F_MULTIPORT = 1 << 1
CONSOLE_F_EMERG_WRITE = 1 << 2
CONSOLE_CONFIG_FORMAT = "<HHII"
"""For :mod:`struct`: cols, rows, max_nr_ports, emerg_wr."""

RX, TX = 0, 1
SYSRQ = b"\x0f"
"""What Linux' hvc driver takes for a break."""
_CLOSE_SECONDS = 1.0
_SCHEMA = Schema("virtio-console", 1, {"columns": "u16", "rows": "u16"})
_COUNTERS = ("tx_bytes", "rx_bytes", "tx_dropped", "tx_writes")


class VirtioConsole(VirtioDevice):
    """A console whose bytes are written to *out_fd* (still owned by the caller; -1: nowhere).

    :param drop: drop what *out_fd* does not accept at once, instead of delaying the guest
    :raises HostError: out of memory or of descriptors
    """

    device_id = spec.ID_CONSOLE
    thread_name = "console"
    queue_sizes = (64, 64)
    features = CONSOLE_F_SIZE
    name = "console"
    saving = _SCHEMA

    def __init__(self, *, out_fd: int = -1, drop: bool = False) -> None:
        self.space_callback: Callable[[], None] | None = None
        """Called on the loop when :meth:`input` takes bytes again after it was full."""
        self.error_callback: Callable[[int], None] | None = None
        """Called with an errno when *out_fd* failed, once for each kind of error; EPIPE: its reader left."""
        self._size = (0, 0)
        self._loop: Loop | None = None
        hint = "see the limits on threads and descriptors (ulimit -u, ulimit -n)"
        self._workers = Workers(self, "console-worker", hint)
        self._space = EventFd()
        self._console: Any = lib.console_new(out_fd, int(drop), self._space.fd)
        if self._console == ffi.NULL:
            self._console = None
            self._space.close()
            raise HostError("no memory for a console", code="memory-unavailable")

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(CONSOLE_CONFIG_FORMAT, *self._size, 1, 0)

    def activate(self, context: DeviceContext) -> None:
        queues = context.queues
        if TX not in queues:
            return  # nothing can come; the driver is free to leave it so
        native = ffi.new("struct console_queues *")
        native.tx, native.tx_kick, native.tx_irq = queues[TX].ring, queues[TX].kick.fd, queues[TX].irq
        native.rx_kick, native.event_fd = -1, context.event.fd
        if RX in queues:
            native.rx, native.rx_kick, native.rx_irq = queues[RX].ring, queues[RX].kick.fd, queues[RX].irq
        error = ffi.new("int *")
        self._workers.name_next()
        worker = lib.console_start(self._console, native, error)
        self._workers.add(worker, error, *queues.values())

    def check(self) -> None:
        """Report that the output failed, or detect that the worker stopped.

        :raises GuestError: the guest broke a ring
        :raises HostError: the worker cannot continue
        """
        failed = int(lib.console_error(self._console))
        if failed and self.error_callback is not None:
            self.error_callback(failed)
        self._workers.check()

    def stop(self) -> None:
        self._workers.stop()

    def spares(self) -> list[Any]:
        return self._workers.spares()

    def save(self) -> State:
        """The size of the terminal. Input that was typed and not read yet stays with this object."""
        columns, rows = self._size
        return _SCHEMA.make(columns=columns, rows=rows)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        self._size = (payload["columns"], payload["rows"])

    # -- the host's side -------------------------------------------------------------------------------------

    def attach_host(self, loop: Loop) -> None:
        """Let *loop* call :attr:`space_callback`."""
        self._loop = loop
        loop.add(self._space.fd, lambda _events: self._on_space())

    def _on_space(self) -> None:
        self._space.clear()
        if self.space_callback is not None:
            self.space_callback()

    def input(self, data: bytes | memoryview) -> int:
        """Type *data*.

        :returns: how many bytes were accepted; if not all, :attr:`space_callback` is called later
        """
        return int(lib.console_input(self._open(), ffi.from_buffer(data), len(data)))

    def send_break(self) -> None:
        """The replacement for a break: Linux treats the next byte as a SysRq key."""
        self.input(SYSRQ)

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size; the guest's programs on it get SIGWINCH."""
        self._size = (columns & 0xFFFF, rows & 0xFFFF)
        self.config_changed()

    def drain(self, timeout: float) -> int:
        """Wait until everything that the guest has sent is written, at most *timeout* seconds.

        :returns: how many bytes still wait
        """
        return int(lib.console_drain(self._open(), int(timeout * 1000)))

    def _open(self) -> Any:
        if self._console is None:
            raise HostError("the console is closed", code="closed")
        return self._console

    def stats(self) -> dict[str, int]:
        """Counters: ``tx_bytes`` written, ``tx_dropped``, ``tx_writes`` system calls for them, ``rx_bytes`` given to
        the guest, and kicks, chains, irqs and wakeups of the worker."""
        native = ffi.new("struct console_stats *")
        if self._console is not None:
            lib.console_get_stats(self._console, native)
        return {**{name: int(getattr(native, name)) for name in _COUNTERS}, **self._workers.stats()}

    def close(self) -> None:
        """Write the rest, waiting at most a second for a slow reader, and free. A second call does nothing."""
        self.stop()
        if self._console is None:
            return
        self.drain(_CLOSE_SECONDS)
        if self._loop is not None:
            self._loop.remove(self._space.fd)
        lib.console_free(self._console)
        self._console = None
        self._space.close()
