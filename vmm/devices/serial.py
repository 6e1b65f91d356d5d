"""The serial port: ``native/uart/uart.c`` as an object."""

from __future__ import annotations

import posix
import select
import time

from vmm.bus import BusDevice
from vmm.errors import HostError
from vmm.events import EventFd
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, mismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.events import Loop

_CLOSE_SECONDS = 1.0
_REGISTERS = ("ier", "lcr", "lsr", "mcr", "msr", "scr", "fcr", "dll", "dlm", "thr_pending", "seen")


_SCHEMA = Schema("uart-16550a", 1, {**dict.fromkeys(_REGISTERS, "u8"), "fifo": "bytes", "rx": "bytes"})
"""The registers (LSR and MSR with their latched bits only); ``thr_pending``: the "transmitter empty" interrupt was not
taken yet; ``seen``: UART_SEEN_* bits, what the driver has done since reset; ``fifo``: received in loopback, at most 16
bytes; ``rx``: from the host and not read yet, at most 4096 bytes."""


class Serial(BusDevice):
    """A 16550A at eight ports. C answers guest accesses; this is for the host's side.

    :param irq: signalled on every rising edge of the interrupt line
    :param out_fd: receives the guest's bytes (still owned by the caller), -1: none
    :param drop: drop what *out_fd* does not accept at once, instead of delaying the guest
    :raises HostError: out of memory or of descriptors
    """

    name = "serial"
    SIZE = 8

    def __init__(self, irq: EventFd, *, out_fd: int = -1, drop: bool = False) -> None:
        self._irq = irq
        self._out_fd = out_fd
        self._loop: Loop | None = None
        self._watching = False
        self._space = EventFd()
        self.space_callback: Callable[[], None] | None = None
        """Called on the loop when :meth:`input` takes bytes again after it was full."""
        self.error_callback: Callable[[int], None] | None = None
        """Called with an errno when *out_fd* failed, once for each kind of error; EPIPE: its reader left."""
        mode = lib.UART_OUT_DROP if drop else lib.UART_OUT_BLOCK
        self._native: Any = lib.uart_new(irq.fd, out_fd, mode, self._space.fd)
        if not self._native:
            self._space.close()
            raise HostError(f"cannot make a serial port: {posix.strerror(ffi.errno)}", code="serial", errno=ffi.errno)

    @property
    def native(self) -> Any:
        """The ``struct uart *``, valid until :meth:`close`.

        :raises HostError: it is closed
        """
        if not self._native:
            raise HostError("the serial port is closed", code="closed")
        return self._native

    def attach(self, loop: Loop) -> None:
        """Serve the port from *loop*: unfinished lines, a slow reader of the output, room for more input."""
        self._loop = loop
        loop.add(self._space.fd, lambda _events: self.on_space())
        loop.add(lib.uart_timer_fd(self.native), lambda _events: self._flush())

    def _flush(self) -> None:
        assert self._loop is not None
        waiting = self.flush()
        # EPOLLOUT is asked for only while something waits: a writable descriptor is always ready
        if (waiting > 0) != self._watching:
            self._watching = waiting > 0
            if self._watching:
                self._loop.add(self._out_fd, lambda _events: self._flush(), select.EPOLLOUT)
            else:
                self._loop.remove(self._out_fd)

    def on_space(self) -> None:
        """There is room for input again."""
        self._space.clear()
        if self.space_callback is not None:
            self.space_callback()

    def input(self, data: bytes | memoryview) -> int:
        """Type *data*.

        :returns: how many bytes were accepted; if not all, :attr:`space_callback` is called later
        """
        return int(lib.uart_input(self.native, ffi.from_buffer(data), len(data)))

    def send_break(self) -> None:
        """A break condition: Linux takes the next byte as a SysRq key."""
        lib.uart_break(self.native)

    def flush(self) -> int:
        """Write the guest's output that was collected for a longer write.

        :returns: how many bytes wait because *out_fd* accepts no more
        """
        waiting = int(lib.uart_flush(self.native))
        if waiting < 0:
            if self.error_callback is not None:
                self.error_callback(-waiting)
            return 0
        return waiting

    def drain(self, timeout: float) -> int:
        """:meth:`flush` until all is written, at most *timeout* seconds.

        :returns: how many bytes still wait
        """
        waiting = self.flush()
        if not waiting:
            return 0
        if self._out_fd < 0:
            return self.flush()
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._out_fd, select.POLLOUT)
        while waiting and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            waiting = self.flush()
        return waiting

    # The bus calls C for the guest.  These two are the same accesses for tests and tools.

    def read(self, offset: int, size: int) -> int:
        """The guest's read of *size* registers at *offset*."""
        data = ffi.new("uint8_t[]", size)
        lib.uart_access(self.native, offset, data, size, False)
        return int.from_bytes(bytes(data), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest writes to *size* registers at *offset*."""
        lib.uart_access(self.native, offset, value.to_bytes(size, "little"), size, True)

    saving = _SCHEMA

    def save(self) -> State:
        """The state. Pending output is written first; what the reader does not accept stays with this object."""
        raw = ffi.new("struct uart_state *")
        lib.uart_save(self.native, raw)
        registers = {name: int(getattr(raw, name)) for name in _REGISTERS}
        return _SCHEMA.make(**registers, fifo=bytes(raw.fifo)[: raw.fifo_len], rx=bytes(ffi.buffer(raw.rx, raw.rx_len)))

    def restore(self, state: State) -> None:
        """Restore the state that :meth:`save` returned. Input that was already typed here follows the input of that
        state.

        :raises ConfigError: the state is invalid; nothing was changed
        """
        payload = _SCHEMA.read(state, self.name)
        now = ffi.new("struct uart_state *")
        lib.uart_save(self.native, now)
        typed = bytes(ffi.buffer(now.rx, now.rx_len))
        self._load({**payload, "rx": (payload["rx"] + typed)[: max(len(payload["rx"]), lib.UART_RX_SIZE)]})

    def _load(self, payload: dict[str, Any]) -> None:
        raw = ffi.new("struct uart_state *")
        try:
            for name in _REGISTERS:
                setattr(raw, name, payload[name])
            raw.fifo_len, raw.rx_len = len(payload["fifo"]), len(payload["rx"])
            raw.fifo = payload["fifo"]
            raw.rx = payload["rx"]
        except (OverflowError, IndexError) as error:
            raise mismatch(self.name, str(error)) from error
        if lib.uart_restore(self.native, raw) < 0:
            raise mismatch(self.name, "a register or length has a value it cannot have")

    def reset(self) -> None:
        """As after power-on. Unread input is discarded; pending output of the guest is written."""
        self._load({**dict.fromkeys(_REGISTERS, 0), "fifo": b"", "rx": b""})

    def stats(self) -> dict[str, int]:
        """Counters: ``tx_bytes`` written, ``tx_dropped``, ``tx_writes`` system calls for them, ``rx_bytes`` read by the
        guest, ``irqs``."""
        raw = ffi.new("struct uart_stats *")
        lib.uart_get_stats(self.native, raw)
        return {name: int(getattr(raw, name)) for name in ("tx_bytes", "tx_dropped", "tx_writes", "rx_bytes", "irqs")}

    def close(self) -> None:
        """Write the rest, waiting at most a second for a slow reader, and free. No vCPU may run any more. A second call
        does nothing."""
        if not self._native:
            return
        self.drain(_CLOSE_SECONDS)
        if self._loop is not None:
            self._loop.remove(self._space.fd)
            self._loop.remove(lib.uart_timer_fd(self._native))
            if self._watching:
                self._loop.remove(self._out_fd)
        lib.uart_free(self._native)
        self._native = None
        self._space.close()
