"""Starts a program and follows its output, with little overhead for the measurement."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests import installed

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/bench", "LANG": "C.UTF-8"}


def wait_for_image(environment: dict[str, str] | None = None) -> None:
    """Wait until the start image for the next start of `pyvmm` is made, as it is when a user starts it again."""
    installed.wait_for_image(Path((environment or ENVIRONMENT)["HOME"], ".cache", "pyvmm"))


class ChildError(Exception):
    """The program did not write the expected text; the message has the end of its output."""


class Child:
    """A program with pipes at its standard streams; `started` is CLOCK_MONOTONIC in ns just before it was made."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.output = bytearray()
        self.status: int | None = None
        self.ended = 0
        """The end of the program, CLOCK_MONOTONIC in ns; valid after finish()."""
        stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, stdout = os.pipe2(os.O_CLOEXEC)
        self.stderr = os.memfd_create("stderr")
        streams = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((stdin, stdout, self.stderr))]
        self.started = time.monotonic_ns()
        self.pid = os.posix_spawn(argv[0], self.argv, environment or ENVIRONMENT, file_actions=streams)
        os.close(stdin)
        os.close(stdout)
        os.set_blocking(self.stdout, False)

    def wait_for(self, text: bytes, timeout: float, start: int = 0) -> int:
        """Read until `text` was written behind offset `start`; returns CLOCK_MONOTONIC in ns of that.

        Raises ChildError when the program ended or `timeout` seconds went by before it.
        """
        deadline = time.monotonic_ns() + int(timeout * 1e9)
        while True:
            if text in memoryview(self.output)[start:].tobytes():
                return time.monotonic_ns()
            left = deadline - time.monotonic_ns()
            if left <= 0 or not self._readable(left / 1e9):
                raise ChildError(f"no {text.decode()!r} within {timeout:g} s\n{self.last_words()}")
            data = os.read(self.stdout, 65536)
            if not data:
                raise ChildError(f"ended before it wrote {text.decode()!r}\n{self.last_words()}")
            self.output += data

    def _readable(self, timeout: float) -> bool:
        """Whether there is output, or its end, within `timeout` seconds."""
        poll = select.poll()  # select() ends at descriptor 1023, and there may be a thousand children
        poll.register(self.stdout, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def write(self, text: str) -> None:
        """Give it `text` at its standard input."""
        os.write(self.stdin, text.encode())

    def finish(self, timeout: float) -> int:
        """Read to the end and return the exit status. Raises ChildError when it takes longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not self._readable(left):
                raise ChildError(f"did not end within {timeout:g} s\n{self.last_words()}")
            data = os.read(self.stdout, 65536)
            if not data:
                break
            self.output += data
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.ended = time.monotonic_ns()
        return self.status

    def errors(self) -> str:
        """Its standard error so far."""
        return os.pread(self.stderr, 1 << 20, 0).decode(errors="replace")

    def last_words(self) -> str:
        """The end of its output, for an error message."""
        text = self.output[-1500:].decode(errors="replace") + self.errors()[-1500:]
        return f"$ {' '.join(self.argv)}\n{text}"

    def close(self) -> None:
        """Kill it when it runs and forget it. Does nothing the second time."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
