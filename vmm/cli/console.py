"""The host's end of the guest's console, wherever :mod:`vmm.cli.open_console` has put it."""

from __future__ import annotations

import errno
import posix

from vmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.devices import Serial
    from vmm.events import Loop
    from vmm.virtio.console.device import VirtioConsole

_CHUNK = 4096
_DRAIN_SECONDS = 5.0
_STDERR = 2


class Console:
    """The host's end of the console.  A context manager; owns its descriptors.

    :ivar in_fd: descriptor of the input; -1 if there is none, or none any more
    :ivar out_fd: descriptor of the output; -1: none
    :ivar drop: what *out_fd* does not accept at once is dropped
    :ivar where: how the user reaches it, or empty
    """

    def __init__(self, in_fd: int = -1, out_fd: int = -1, *, drop: bool = False, where: str = "") -> None:
        self.in_fd = in_fd
        self.out_fd = out_fd
        self.drop = drop
        self.where = where
        self._loop: Loop | None = None
        self._serial: Serial | VirtioConsole | None = None
        self._pending = bytearray()
        self._reading = False
        self._no_epoll = False

    def connect(
        self,
        loop: Loop,
        serial: Serial | VirtioConsole,
        on_quit: Callable[[], None],
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Start to pass input on.  Call it before *loop* runs, from the main thread.

        :param on_quit: the user requested the end of the machine
        :param on_lost: called when the output's reader has gone; without it that is reported on stderr, and *on_quit*
            called
        """
        self._loop, self._serial = loop, serial
        self._on_quit, self._on_lost = on_quit, on_lost
        serial.space_callback = self._on_space
        serial.error_callback = self._output_failed
        if self.in_fd >= 0:
            self._start_reading()

    # -- input -------------------------------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        assert self._loop is not None
        if self._reading or self.in_fd < 0:
            return
        if not self._no_epoll:
            try:
                self._loop.add(self.in_fd, self._readable)
                self._reading = True
                return
            except FileExistsError:  # the other thread was faster
                return
            except PermissionError:  # regular files and /dev/null: epoll does not take what is always ready
                self._no_epoll = True
        while self.in_fd >= 0 and not self._pending:
            self._read()

    def _stop_reading(self) -> None:
        if self._reading and self._loop is not None:
            self._reading = False
            try:
                self._loop.remove(self.in_fd)
            except OSError:  # the other thread was faster, and has closed it
                pass

    def _readable(self, _events: int) -> None:
        self._read()

    def _read(self) -> None:
        try:
            data = posix.read(self.in_fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the terminal hung up
            data = b""
        if not data:
            self._stop_reading()
            posix.close(self.in_fd)
            self.in_fd = -1
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        self._pending += data
        self._push()
        if not self._room():
            self._stop_reading()

    def _room(self) -> bool:
        """Whether to continue reading while some input waits for the guest."""
        return not self._pending

    def _push(self) -> None:
        serial = self._serial
        while self._pending and serial is not None:
            taken = serial.input(bytes(self._pending[:_CHUNK]))
            if not taken:
                break
            del self._pending[:taken]

    def _on_space(self) -> None:
        self._push()
        if not self._pending:
            self._start_reading()

    # -- output ------------------------------------------------------------------------------------------------------

    def _output_failed(self, code: int) -> None:
        if code not in (errno.EPIPE, errno.EIO, errno.EBADF):
            self._tell(f"pyvmm: console output is lost: {posix.strerror(code)}\n")
        elif self._on_lost is not None:
            self._on_lost()
        else:
            self._tell("pyvmm: nobody reads the console any more\n")
            self._on_quit()

    def _tell(self, text: str) -> None:
        try:
            posix.write(_STDERR, text.encode())
        except OSError:
            pass

    # -- end ---------------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Write what the guest has sent (waiting at most five seconds for a slow reader), stop reading, and restore the
        terminal. A second call does nothing."""
        self._stop_reading()
        serial, self._serial = self._serial, None
        if serial is None:
            return
        serial.space_callback = serial.error_callback = None
        try:
            lost = serial.drain(_DRAIN_SECONDS)
        except HostError:  # closed already
            lost = 0
        if lost:
            self._tell(f"pyvmm: {lost} bytes of console output were not read and are lost\n")

    def close(self) -> None:
        """:meth:`restore`, and close the descriptors.  A second call does nothing."""
        self.restore()
        for fd in (self.in_fd, self.out_fd):
            if fd >= 0:
                posix.close(fd)
        self.in_fd = self.out_fd = -1

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Pty(Console):
    """A new pseudo-terminal. Its other end is held open. Without a reader, ours would get errors instead of blocking,
    and its settings would be reset."""

    def __init__(self) -> None:
        import termios

        ours, self._theirs = posix.openpty()
        posix.set_blocking(ours, False)
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = termios.tcgetattr(self._theirs)
        # Raw, above all without echo: output must not come back as input before a program sets a mode
        iflag &= ~(termios.ICRNL | termios.IXON | termios.BRKINT | termios.ISTRIP)
        lflag &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(
            self._theirs,
            termios.TCSANOW,
            [iflag, oflag & ~termios.OPOST, cflag, lflag, ispeed, ospeed, cc],
        )
        super().__init__(ours, posix.dup(ours), drop=True, where=posix.ttyname(self._theirs))

    def close(self) -> None:
        """As of :class:`Console`."""
        super().close()
        if self._theirs >= 0:
            posix.close(self._theirs)
            self._theirs = -1
