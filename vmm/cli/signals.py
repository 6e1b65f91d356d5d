"""Signals that end a machine."""

from __future__ import annotations

# The C part of `signal`; the module itself makes enums of all its constants, which takes longer than all of this
import _signal  # type: ignore[import-not-found]
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine

NUMBERS = {"SIGINT": 2, "SIGTERM": 15, "SIGHUP": 1}
_NAMES = {number: name for name, number in NUMBERS.items()}


class Signals:
    """After :meth:`watch`, SIGINT, SIGTERM and SIGHUP end the machine; its end has the first one's name.

    A context manager, to be left when the machine is closed.

    Python runs a handler on the main thread, but a signal that comes when that thread is just about to wait does not
    wake it, and the handler with it.  So each signal is also written to a pipe, which the machine's loop reads.
    """

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._cause = ""
        self._reader, self._writer = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)

    def watch(self, machine: Machine) -> None:
        """From now on.  On the main thread."""
        self._machine = machine
        machine.loop.add(self._reader, self._readable)
        for number in _NAMES:
            _signal.signal(number, self._handle)
        _signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def _handle(self, number: int, _frame: object = None) -> None:
        self._cause = self._cause or _NAMES[number]
        if self._machine is not None:
            self._machine.stop(detail=self._cause)

    def _readable(self, _events: int) -> None:
        for number in posix.read(self._reader, 64):
            if number in _NAMES:
                self._handle(number)

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *exc: object) -> None:
        # The handlers stay: what is left to do takes no time
        if self._machine is not None:
            _signal.set_wakeup_fd(-1)
            self._machine = None
        posix.close(self._reader)
        posix.close(self._writer)
