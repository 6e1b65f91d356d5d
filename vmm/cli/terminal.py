"""The terminal that ``pyvmm boot`` was started on, as the guest's console.

Keys go to the guest as they are (raw mode), except Ctrl-A, the escape key. The terminal is restored whenever the
program ends, except after SIGKILL or a crash, when no code of ours runs (type ``reset``). Suspended with SIGTSTP and
continued, it is restored and taken again; in the background it is not touched.
"""

from __future__ import annotations

import posix

from vmm.cli.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.devices import Serial
    from vmm.events import Loop
    from vmm.virtio.console.device import VirtioConsole

ESCAPE = 0x01
"""Ctrl-A."""
HELP = """
Ctrl-A x       end the virtual machine
Ctrl-A b       send a break (a SysRq key of Linux follows)
Ctrl-A Ctrl-A  send Ctrl-A (so does Ctrl-A a)
Ctrl-A h       this help
"""
_TYPE_AHEAD = 1 << 20
"""A terminal is read on although the guest is not reading, or Ctrl-A x would not be seen; up to so many bytes."""


class Keys:
    """Finds the escape sequences in the input; they may be split over several reads."""

    def __init__(self) -> None:
        self._escaped = False

    def parse(self, data: bytes) -> list[tuple[str, bytes]]:
        """*data* as a list of ``("", bytes for the guest)`` and ``(command key, b"")``, in order."""
        items: list[tuple[str, bytes]] = []
        text = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    text.append(byte)
                continue
            self._escaped = False
            if byte in (ESCAPE, ord("a")):
                text.append(ESCAPE)
            elif chr(byte) in "bhx?":
                if text:
                    items.append(("", bytes(text)))
                    text.clear()
                items.append((chr(byte), b""))
        if text:
            items.append(("", bytes(text)))
        return items


class Terminal(Console):
    """A console on the terminal *in_fd*."""

    def __init__(self, in_fd: int, out_fd: int) -> None:
        super().__init__(in_fd, out_fd)
        self._tty = posix.dup(in_fd)
        self._group = posix.getpgrp()
        self._keys = Keys()
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._size: tuple[int, int] | None = None

    def connect(
        self,
        loop: Loop,
        serial: Serial | VirtioConsole,
        on_quit: Callable[[], None],
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """As for :class:`Console`; also switches the terminal to raw mode."""
        import atexit
        import signal

        atexit.register(self.restore)
        for number in (signal.SIGTSTP, signal.SIGCONT):
            self._handlers[number] = signal.signal(number, self._job_control)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self._tell_size())
        super().connect(loop, serial, on_quit, on_lost)

    def _foreground(self) -> bool:
        try:
            return posix.tcgetpgrp(self._tty) == self._group
        except OSError:  # not the terminal of our session: no other process reads it
            return True

    def _start_reading(self) -> None:
        # In the background, touching the terminal would stop the whole process
        if not self._reading and self.in_fd >= 0 and self._foreground():
            self._set_raw()
            super()._start_reading()

    def _readable(self, events: int) -> None:
        if self._foreground():
            super()._readable(events)
        else:
            self._stop_reading()

    def _set_raw(self) -> None:
        import termios

        if self._saved is None:
            self._saved = termios.tcgetattr(self._tty)
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = self._saved
        iflag &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        # Without OPOST, or a full-screen program in the guest would see its line feeds changed
        oflag &= ~termios.OPOST
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        cc = [*cc]
        cc[termios.VMIN], cc[termios.VTIME] = 1, 0
        termios.tcsetattr(self._tty, termios.TCSANOW, [iflag, oflag, cflag, lflag, ispeed, ospeed, cc])

    def _set_cooked(self) -> None:
        import signal
        import termios

        if self._saved is None:
            return
        # Allowed from the background, too, when SIGTTOU is blocked
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            # Not TCSADRAIN: it would wait for ever for a terminal whose output was stopped
            termios.tcsetattr(self._tty, termios.TCSANOW, self._saved)
        except termios.error:  # it hung up
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _job_control(self, number: int, _frame: object) -> None:
        import signal

        if number == signal.SIGTSTP:
            self._stop_reading()
            self._set_cooked()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
            # Stopped here
            signal.signal(signal.SIGTSTP, self._job_control)
        if self._serial is not None and self.in_fd >= 0:
            self._stop_reading()
            self._start_reading()

    def _tell_size(self) -> None:
        """A UART cannot report it."""
        resize = getattr(self._serial, "resize", None)
        if resize is None:
            return
        try:
            size = posix.get_terminal_size(self._tty)
        except OSError:  # it hung up
            return
        if size != self._size:
            self._size = size
            resize(*size)

    def _take(self, data: bytes) -> None:
        # At the first key: a driver that has just come up does not ask for the size
        self._tell_size()
        for command, text in self._keys.parse(data):
            if text:
                super()._take(text)
            elif command == "x":
                self._on_quit()
            elif command == "b" and self._serial is not None:
                self._serial.send_break()
            else:
                self._tell(HELP)

    def _room(self) -> bool:
        return len(self._pending) < _TYPE_AHEAD

    def _tell(self, text: str) -> None:
        super()._tell(text if self._saved is None else text.replace("\n", "\r\n"))

    def restore(self) -> None:
        """As for :class:`Console`; also restores the terminal."""
        import atexit
        import signal

        super().restore()
        self._set_cooked()
        self._saved = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        atexit.unregister(self.restore)

    def close(self) -> None:
        """As of :class:`Console`."""
        super().close()
        if self._tty >= 0:
            posix.close(self._tty)
            self._tty = -1
