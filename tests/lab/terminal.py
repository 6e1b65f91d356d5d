"""One command in the lab with this process's stdin, stdout, stderr, terminal and signals."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from . import channel
from .host import Lab

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
GRACE = 5.0
"""Seconds that the command has to end after a signal before the lab is ended under it."""
TIMED_OUT = 124
"""Exit status after --timeout, as coreutils' timeout has it."""


class Interrupted(BaseException):
    """A signal that ends the lab. It is not an Exception, so that handlers of errors do not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Signals:
    """Turns signals into Interrupted; the first, while there is a command to pass it to, into an entry of `pending`."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.deferred = False
        self.wake, self._wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self._wake_write, False)

    def __enter__(self) -> Signals:
        for number in FORWARDED:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._handle)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number in (*FORWARDED, signal.SIGWINCH):
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.deferred or self.pending:
            raise Interrupted(number)
        self.pending.append(number)

    def drain(self) -> None:
        """Empty the descriptor `wake`."""
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """The terminal `fd` in raw mode, put back whatever happens."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal itself may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_stdin() -> bytes:
    """The bytes that stdin has now; b"" at its end."""
    try:
        return os.read(0, channel.MAX_PAYLOAD)
    except OSError:  # EIO: the terminal is gone
        return b""


def run_here(lab: Lab, signals: Signals, argv: Sequence[str], timeout: float | None = None) -> int:
    """Run `argv` in the lab on this process's descriptors; returns its exit status (124 after `timeout` seconds).

    With a terminal on stdin and stdout the command gets one too, of the same size, and Ctrl-C is a byte to it. The
    first of SIGINT, SIGTERM, SIGHUP and SIGQUIT is passed on; raises Interrupted when the command outlives it by GRACE
    seconds.
    """
    if os.isatty(0) and os.isatty(1):
        with raw_terminal(0):
            return _serve(lab, signals, argv, timeout, is_tty=True)
    return _serve(lab, signals, argv, timeout, is_tty=False)


def _serve(lab: Lab, signals: Signals, argv: Sequence[str], timeout: float | None, is_tty: bool) -> int:
    size = os.get_terminal_size(0) if is_tty else None
    window = (max(size.lines, 1), max(size.columns, 1)) if size else None
    command = lab.popen(argv, tty=window)
    signals.deferred = True
    deadline = None if timeout is None else time.monotonic() + timeout
    stdin_open = True
    interrupted = 0
    while command.status is None:
        poll = select.poll()
        poll.register(lab.fileno(), select.POLLIN)
        poll.register(signals.wake, select.POLLIN)
        if stdin_open and command.room >= channel.MAX_PAYLOAD:
            poll.register(0, select.POLLIN)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000)}
        if signals.wake in ready:
            signals.drain()
            if is_tty:
                with suppress(OSError):
                    size = os.get_terminal_size(0)
                    command.set_window(size.lines, size.columns)
        if lab.fileno() in ready:
            lab.pump(0)
        if 0 in ready and command.status is None:
            data = read_stdin()
            if data:
                command.write(data)
            else:
                stdin_open = False
                command.close_stdin()
                if is_tty:  # a raw terminal has no end of file: it was closed, and not everyone is told by SIGHUP
                    signals.pending.append(signal.SIGHUP)
        if signals.pending and not interrupted and command.status is None:
            interrupted = signals.pending[0]
            command.send_signal(interrupted)
            deadline = min(deadline or float("inf"), time.monotonic() + GRACE)
        if deadline is not None and time.monotonic() >= deadline and command.status is None:
            if interrupted:
                raise Interrupted(interrupted)
            print(f"lab: stopped after {timeout:g} s", file=sys.stderr)
            return TIMED_OUT
    return command.status
