"""Signals that end a machine."""

from __future__ import annotations

import posix
import select
import time

from vmm.faststart.builtin import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine.machine import Machine

NUMBERS = {"SIGINT": 2, "SIGTERM": 15, "SIGHUP": 1}
_NAMES = {number: name for name, number in NUMBERS.items()}
_SETTLED = 2.0
"""Seconds in which Python answers nothing after which a machine is taken for started."""


def exit_at_once() -> None:
    """Until :meth:`Signals.watch`, SIGINT, SIGTERM and SIGHUP end the program with 128 plus their number, by SystemExit
    on the main thread, so everything that was opened is closed. Ignored signals stay ignored."""
    for number in _NAMES:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _exit)


def _exit(number: int, _frame: object) -> None:
    for each in _NAMES:  # a second one would interrupt the closing
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _answered(machine: Machine) -> int:
    """How many exits Python has handled so far: a booting guest needs code that a running one does not."""
    return sum(sum(vcpu.exit_counts()["python"].values()) for vcpu in machine.vcpus)


class Signals:
    """After :meth:`watch`, SIGINT, SIGTERM and SIGHUP end the machine; its end names the first one.

    A context manager, to be left when the machine is closed.

    Python runs a handler on the main thread. But a signal that comes just before that thread waits for a lock does not
    wake it, so the handler does not run. So the main thread waits for a pipe, into which each signal is written.
    """

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._cause = ""
        self._reader, self._writer = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)

    def watch(self, machine: Machine) -> None:
        """From now on.  On the main thread."""
        self._machine = machine
        for number in _NAMES:
            signal.signal(number, self._handle)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wait(self, timeout: float | None) -> None:
        """Wait until the machine's run has ended, at most *timeout* seconds; handlers run meanwhile. On the main
        thread."""
        machine = self._machine
        assert machine is not None
        forget = machine.listen(self._wake)
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        settled, answered = False, _answered(machine)
        while machine.end is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            settles = not settled and (left is None or left > _SETTLED)
            if settles:
                left = _SETTLED
            if poll.poll(None if left is None else left * 1000):
                posix.read(self._reader, 64)
            elif settles:
                before, answered = answered, _answered(machine)
                if answered == before:
                    from vmm.processes.trim_memory import warm_wait

                    settled = True
                    left = None if deadline is None else max(deadline - time.monotonic(), 0)
                    warm_wait(self._reader, -1 if left is None else int(left * 1000))
        forget()

    def _wake(self, _event: object) -> None:
        try:
            posix.write(self._writer, b"\0")
        except BlockingIOError:  # full: it will wake in any case
            pass

    def _handle(self, number: int, _frame: object = None) -> None:
        self._cause = self._cause or _NAMES[number]
        if self._machine is not None:
            self._machine.stop(detail=self._cause)

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *exc: object) -> None:
        # The handlers stay: what is left to do takes no time
        if self._machine is not None:
            signal.set_wakeup_fd(-1)
            self._machine = None
        posix.close(self._reader)
        posix.close(self._writer)
