"""Copies between the host's descriptors or FIFOs and a process in the guest.

One thread for each stream, so that a slow reader delays its own stream only. The guest sends at most as much as
requested, and gets the next request when the last piece has been written.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import AgentError, AgentGone, GuestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.pod.agent_client import AgentClient

PIECE = 256 << 10
"""Bytes of one message: the room of a pipe, here and in the guest, and of a vsock connection."""
DRAIN_S, DRAIN_FIRST_S = 2.0, 10.0
"""Seconds without progress, after the end of a process, until its output is abandoned: other processes may hold the
pipe open for ever.  When a container's first process ends all others do, so then only a slow guest or reader is waited
for."""
ENOUGH_S = 1.0
"""Seconds that threads may take to end."""
DRAIN_MAX = 1 << 20
"""Bytes of output that are still copied then: the largest size of a pipe."""


class Stdio(NamedTuple):
    """The destinations of a process's streams: descriptors (whose ownership passes on), paths (usually of FIFOs), or
    None.

    :ivar terminal: the process has a terminal: stdout is its whole output, and there is no stderr
    """

    stdin: int | str | None = None
    stdout: int | str | None = None
    stderr: int | str | None = None
    terminal: bool = False

    def close(self) -> None:
        """Close its descriptors: nobody will use them."""
        for end in (self.stdin, self.stdout, self.stderr):
            if isinstance(end, int):
                os.close(end)


class _Output:
    """The destination of an output stream: one thread writes and closes, another one may make room.

    :ivar fd: the descriptor, -1 for none
    """

    def __init__(self, target: int | str | None) -> None:
        self.fd = _open_out(target)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close it: further output is dropped."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1

    def make_room(self) -> None:
        """Enlarge its pipe or socket, so that the rest of the output is written even while nobody reads: a program of
        the host has written everything when it ends. A writer that waits continues."""
        with self._lock:
            try:
                mode = os.fstat(self.fd).st_mode
                if stat.S_ISFIFO(mode) and fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ) < DRAIN_MAX:
                    fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, DRAIN_MAX)
                elif stat.S_ISSOCK(mode):
                    with socket.socket(fileno=os.dup(self.fd)) as sock:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DRAIN_MAX)
            except OSError:
                pass  # it is closed, or the host limits its size: then the writer waits for its reader


class Pumps:
    """The threads of one process's streams.

    :param patience: seconds, DRAIN_S or another
    """

    def __init__(
        self, agent: AgentClient, container_id: str, exec_id: str, stdio: Stdio, patience: float = DRAIN_S
    ) -> None:
        self._agent = agent
        self._ids = container_id, exec_id
        self._stdio = stdio
        self._patience = patience
        self._outputs: list[tuple[_Output, threading.Thread]] = []
        self._input: threading.Thread | None = None
        self._moved = 0.0
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC)
        self._stdin_closed = threading.Lock()
        self._started = self._no_input = self._finished = False
        self._open = threading.Event()
        self._open.set()
        self._dropped = False

    def start(self) -> None:
        """Start copying."""
        stdio = self._stdio
        self._spawn_output("stdout", stdio.stdout, self._agent.read_stdout)
        if not stdio.terminal:
            self._spawn_output("stderr", stdio.stderr, self._agent.read_stderr)
        self._started = True
        source = stdio.stdin
        first = _read_at_once(source) if isinstance(source, int) else None
        if source is None or first == b"":
            self._no_input = True
        else:
            self._input = self._spawn("stdin", lambda: self._copy_in(source, first))

    def end_input(self) -> None:
        """After :meth:`start`, by a thread that may wait for the guest: notify the process if there is no input."""
        if self._no_input:
            self.close_stdin()

    def hold(self) -> None:
        """Request no more output, and send no more input, until :meth:`release`."""
        self._open.clear()

    def release(self, *, drop: bool = False) -> None:
        """Go on after :meth:`hold`.

        :param drop: do not: another machine will have the unread output
        """
        self._dropped = drop
        self._open.set()

    def _spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"{name} {self._ids[1]}", daemon=True)
        thread.start()
        return thread

    def _spawn_output(self, name: str, target: int | str | None, read: Callable[[str, str, int], bytes]) -> None:
        output = _Output(target)
        self._outputs.append((output, self._spawn(name, lambda: self._copy_out(output, read))))

    def _copy_out(self, output: _Output, read: Callable[[str, str, int], bytes]) -> None:
        late = 0
        try:
            while late < DRAIN_MAX:
                self._open.wait()
                if self._dropped:
                    return
                try:
                    data = read(*self._ids, PIECE)
                except (AgentError, AgentGone):
                    return  # that is how the agent reports the end
                if not data:
                    return
                late += len(data) if self._finished else 0
                self._moved = time.monotonic()
                if output.fd >= 0 and not self._write(output.fd, data):
                    output.close()  # nobody reads it: the process continues, as with a closed terminal
        except GuestError:
            return
        finally:
            output.close()

    def _write(self, fd: int, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
                self._moved = time.monotonic()
            except BlockingIOError:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.register(self._wake, 0)  # hung up when we are to end
                if any(ready == self._wake for ready, _ in poll.poll()):
                    return False
            except OSError:
                return False
        return True

    def _copy_in(self, source: int | str, data: bytes | None) -> None:
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if isinstance(source, str) else source
        except OSError:
            self.close_stdin()
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._wake, 0)
        try:
            while data != b"":
                while data:
                    self._open.wait()
                    if self._dropped:
                        return
                    taken = self._agent.write_stdin(*self._ids, data)
                    data = data[taken:]
                ready = dict(poll.poll())
                if self._wake in ready:
                    return
                data = _read(fd)
            self.close_stdin()
        except GuestError:
            return  # it has ended, or closed its stdin
        finally:
            os.close(fd)

    def close_stdin(self) -> None:
        """Notify the process, once, that there is no more input."""
        if self._stdin_closed.acquire(blocking=False):
            try:
                self._agent.close_stdin(*self._ids)
            except GuestError:
                pass  # it has none, or has ended

    def finish(self) -> None:
        """Call it when the process has ended: copy the rest of its output, and end all threads."""
        if self._finished:
            return
        self._finished = True
        if not self._started:
            self._stdio.close()
        elif self._no_input and isinstance(self._stdio.stdin, int):
            os.close(self._stdio.stdin)
        self._moved = time.monotonic()
        for output, _ in self._outputs:
            output.make_room()
        for _, thread in self._outputs:
            while thread.is_alive() and (left := self._moved + self._patience - time.monotonic()) > 0:
                thread.join(left)
        os.close(self._waker)
        threads = [thread for _, thread in self._outputs] + ([self._input] if self._input else [])
        deadline = time.monotonic() + ENOUGH_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            os.close(self._wake)


def _open_out(target: int | str | None) -> int:
    """The descriptor to write to, -1 for none."""
    if target is None:
        return -1
    if isinstance(target, int):
        return target
    try:
        # Both ways, so that a FIFO whose reader comes and goes is neither waited for nor lost
        return os.open(target, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return -1


def _read_at_once(fd: int) -> bytes | None:
    """The same without waiting, for a descriptor that may block."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return _read(fd) if poll.poll(0) else None


def _read(fd: int) -> bytes | None:
    """What can be read now: empty at the end of the file, None for nothing."""
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the other side of a terminal was closed
