"""Lends the host's terminal to a program in a machine, as `host/terminal.c` does on the other platforms.

The terminal is in raw mode, since the core edits lines, echoes and sends signals. A guard process starts the machine's
process as its child, and restores the terminal after any end of the child.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import termios
import threading
import tty
from collections.abc import Callable
from typing import Any

MODES_SIZE = 36
"""Of the structure of TCGETS, which differs from the C library's."""
_PR_SET_PDEATHSIG = 1
_GUARDED = {
    *(signal.SIGCHLD, signal.SIGTSTP, signal.SIGCONT, signal.SIGTERM, signal.SIGINT),
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
}


class Terminal:
    """The terminal that is standard input.

    :ivar fd: to write to
    :ivar streams: bits of the standard streams that are it
    :ivar modes: those before, as TCGETS has them
    """

    def __init__(self) -> None:
        device = os.fstat(0).st_rdev
        others = [fd for fd in (1, 2) if os.isatty(fd) and os.fstat(fd).st_rdev == device]
        self.streams = 1 | sum(1 << fd for fd in others)
        self.modes = fcntl.ioctl(0, termios.TCGETS, bytes(MODES_SIZE))
        self._before: list[Any] = termios.tcgetattr(0)
        if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            self.fd = 0
        else:
            self.fd = others[0] if others else os.open("/proc/self/fd/0", os.O_RDWR | os.O_NOCTTY)

    @classmethod
    def find(cls) -> Terminal | None:
        """The terminal, if there is one that this process may use: in the background it would be stopped."""
        if not os.isatty(0) or os.tcgetpgrp(0) != os.getpgrp():
            return None
        return cls()

    def guard(self) -> None:
        """Make it raw and fork: the child returns, and this process ends as the child does."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _GUARDED)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        self._make_raw()
        guard = os.getpid()
        child = os.fork()
        if child:
            self._guard(child)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != guard:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GUARDED)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def on_resize(self, resize: Callable[[int, int], None]) -> None:
        """Call *resize* with columns and rows now, and after each change."""

        def watch() -> None:
            while True:
                signal.sigwait({signal.SIGWINCH})
                resize(*os.get_terminal_size(self.fd))

        resize(*os.get_terminal_size(self.fd))
        threading.Thread(target=watch, daemon=True).start()

    def restore(self) -> None:
        """As it was before."""
        termios.tcsetattr(0, termios.TCSANOW, self._before)

    def _make_raw(self) -> None:
        if os.tcgetpgrp(0) == os.getpgrp():
            tty.setraw(0, termios.TCSANOW)

    def _guard(self, child: int) -> None:
        """Does not return."""
        while True:
            number = signal.sigwait(_GUARDED)
            if number == signal.SIGCHLD:
                self._changed(child)
            elif number == signal.SIGTSTP:
                os.kill(child, signal.SIGSTOP)
            elif number == signal.SIGCONT:
                self._go_on(child)
            else:
                os.kill(child, number)

    def _go_on(self, child: int) -> None:
        """It may have another size than when it was left."""
        self._make_raw()
        os.kill(child, signal.SIGCONT)
        os.kill(child, signal.SIGWINCH)

    def _changed(self, child: int) -> None:
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            self.restore()
            if not os.WIFSTOPPED(status):
                _end_as(status)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._go_on(child)


def _end_as(status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os._exit(os.WEXITSTATUS(status))
