"""Copying between the host's descriptors or FIFOs and a process in the guest.

One thread for each stream, so that a reader which does not read holds up its own stream and nothing else.  What the
guest sends is bounded by what was asked for, and asked for only when the last piece has been written.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import AgentError, AgentGone, GuestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.agent import AgentClient

PIECE = 32 << 10
DRAIN_S = 2.0
"""How long output is waited for when its process has ended: others may hold the pipe open for ever."""


class Stdio(NamedTuple):
    """Where a process's streams go: descriptors (they become ours, and are closed), paths (of FIFOs, mostly), or None.

    :ivar terminal: the process has a terminal: stdout is all that it writes, and there is no stderr
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


class Pumps:
    """The threads of one process's streams."""

    def __init__(self, agent: AgentClient, container_id: str, exec_id: str, stdio: Stdio) -> None:
        self._agent = agent
        self._ids = container_id, exec_id
        self._stdio = stdio
        self._threads: list[threading.Thread] = []
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC)
        self._stdin_closed = threading.Lock()
        self._finished = False

    def start(self) -> None:
        """Start copying."""
        stdio = self._stdio
        self._spawn("stdout", lambda: self._copy_out(stdio.stdout, self._agent.read_stdout))
        if not stdio.terminal:
            self._spawn("stderr", lambda: self._copy_out(stdio.stderr, self._agent.read_stderr))
        if stdio.stdin is not None:
            source = stdio.stdin
            self._spawn("stdin", lambda: self._copy_in(source))
        else:
            self._spawn("stdin", self.close_stdin)

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"{name} {self._ids[1]}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _copy_out(self, target: int | str | None, read: Callable[[str, str, int], bytes]) -> None:
        fd = _open_out(target)
        try:
            while True:
                try:
                    data = read(*self._ids, PIECE)
                except (AgentError, AgentGone):
                    return  # how the agent says that there is no more
                if not data:
                    return
                if fd >= 0 and not self._write(fd, data):
                    os.close(fd)
                    fd = -1  # nobody reads it: the process goes on all the same, as with a terminal that was closed
        except GuestError:
            return
        finally:
            if fd >= 0:
                os.close(fd)

    def _write(self, fd: int, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.register(self._wake, 0)  # hung up when we are to end
                if any(ready == self._wake for ready, _ in poll.poll()):
                    return False
            except OSError:
                return False
        return True

    def _copy_in(self, source: int | str) -> None:
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if isinstance(source, str) else source
        except OSError:
            self.close_stdin()
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._wake, 0)
        try:
            while True:
                ready = dict(poll.poll())
                if self._wake in ready:
                    return
                data = _read(fd)
                if data is None:
                    continue
                if not data:
                    break
                while data:
                    taken = self._agent.write_stdin(*self._ids, data)
                    data = data[taken:]
            self.close_stdin()
        except GuestError:
            return  # it has ended, or closed its stdin
        finally:
            os.close(fd)

    def close_stdin(self) -> None:
        """Tell the process, once, that there is no more input."""
        if self._stdin_closed.acquire(blocking=False):
            try:
                self._agent.close_stdin(*self._ids)
            except GuestError:
                pass  # it has none, or has ended

    def finish(self) -> None:
        """The process has ended: let output come to its end, and end all threads."""
        if self._finished:
            return
        self._finished = True
        if not self._threads:  # never started
            self._stdio.close()
        deadline = time.monotonic() + DRAIN_S
        for thread in self._threads:
            if not thread.name.startswith("stdin"):
                thread.join(max(0.0, deadline - time.monotonic()))
        os.close(self._waker)
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
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


def _read(fd: int) -> bytes | None:
    """What is there: empty at the end, None for nothing now."""
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the other side of a terminal was closed
