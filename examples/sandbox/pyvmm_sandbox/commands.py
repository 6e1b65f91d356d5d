"""Commands in a sandbox: their streams, their ends, and their time limits."""

from __future__ import annotations

import os
import select
import shlex
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import HostError, VmmError
from pyvmm_sandbox.errors import CommandFailed, CommandTimeout, SandboxError, SandboxGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from pyvmm_kata import Process

    Feed = Callable[[str], object]

STDOUT, STDERR, EXIT = "stdout", "stderr", "exit"
OUTPUT_MOST = 16 << 20
"""Characters of each stream that :meth:`Sandbox.run` keeps by default."""
_CHUNK = 64 << 10
_END_S = 10.0
_START_S = 60.0
_LONGEST_PID = 16
_FIRST_PASSED, _LAST_SIGNAL = 34, 30
"""pyvmm-box passes on signal N as the real-time signal of the first number and N."""
_LARGEST_SIZE = 0xFFFF


@dataclass(frozen=True)
class Result:
    """What a command has done.

    :ivar stdout: its output; bytes that are no UTF-8 are replaced
    :ivar stderr: likewise
    :ivar exit_code: 128 and the number of the signal that ended it, if one did
    :ivar truncated: it has printed more than was kept
    """

    stdout: str
    stderr: str
    exit_code: int
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """The exit status is 0."""
        return self.exit_code == 0

    def check(self) -> Result:
        """
        :raises CommandFailed: the exit status is not 0
        """
        if self.exit_code:
            words = self.stderr.strip()[-500:]
            raise CommandFailed(f"the command ended with status {self.exit_code}{f': {words}' if words else ''}", self)
        return self


class Event(NamedTuple):
    """Something that a running command has done.

    :ivar kind: ``stdout``, ``stderr`` or ``exit``
    :ivar data: the bytes that it has printed
    :ivar exit_code: of ``exit``
    """

    kind: str
    data: bytes = b""
    exit_code: int = 0

    @property
    def text(self) -> str:
        """The bytes as UTF-8; what is none is replaced."""
        return self.data.decode(errors="replace")


class Command:
    """A command that was started.  Iterate over it for its output as it comes; a command that prints more than is read
    waits.  As a context manager, it is killed at the end of the block, if it still runs.

    :param process: with pipes
    :param terminal: it has a terminal, whose output is ``stdout``
    :ivar pid: its number inside the sandbox; 0: unknown
    :ivar window: a descriptor of memory that it shares, see :mod:`pyvmm_sandbox.window`; -1: none
    """

    def __init__(self, process: Process, *, terminal: bool = False) -> None:
        self.pid = 0
        self.window = process.window
        self._process = process
        self._terminal = terminal
        self._early = b""
        self._exit_code: int | None = None
        self._waiting = threading.Lock()
        self._streams = {
            pipe.fileno(): kind for kind, pipe in ((STDOUT, process.stdout), (STDERR, process.stderr)) if pipe
        }
        self._poll = select.poll()
        for fd in self._streams:
            self._poll.register(fd, select.POLLIN)

    def await_start(self) -> None:
        """Wait until it runs: its number is the first field of its output.

        :raises SandboxError: it does not start
        """
        pipe = self._process.stdout
        assert pipe is not None
        head = b""
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while b"\0" not in head[:_LONGEST_PID] and len(head) < _LONGEST_PID:
            if not ready.poll(_START_S * 1000):
                raise SandboxError(f"the command has not started in {_START_S:g} s", hint="is the sandbox paused?")
            data = os.read(pipe.fileno(), _CHUNK)
            head += data
            if not data:
                break  # its status has the reason
        number, _, rest = head.partition(b"\0")
        if number.isdigit() and len(number) < _LONGEST_PID:
            self.pid, self._early = int(number), rest
        else:
            self._early = head

    def write(self, data: bytes | memoryview | str) -> None:
        """Write to its standard input.

        :raises BrokenPipeError: it does not read (any more)
        """
        left = memoryview(data.encode() if isinstance(data, str) else data)
        stdin = self._process.stdin
        if stdin is None:
            raise BrokenPipeError("standard input is closed")
        while left:
            left = left[stdin.write(left) :]

    def close_stdin(self) -> None:
        """Its standard input ends.  A second call does nothing.

        A terminal does not end: its programs see the end of their input at Ctrl-D, ``write(b"\\x04")``.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()

    def __iter__(self) -> Iterator[Event]:
        """Its output, and its end as the last event."""
        while self.is_open:
            yield from self.read(None)
        yield Event(EXIT, exit_code=self.wait())

    def read(self, timeout: float | None) -> list[Event]:
        """Output that has come; at its end and at a time limit, none.

        :param timeout: in seconds; None: no limit
        """
        found = []
        if self._early:
            data, self._early = self._early, b""
            return [Event(STDOUT, data)]
        for fd, _ in self._poll.poll(None if timeout is None else max(timeout, 0) * 1000) if self._streams else ():
            data = os.read(fd, _CHUNK)
            if data:
                found.append(Event(self._streams[fd], data))
            else:
                self._poll.unregister(fd)
                del self._streams[fd]
        return found

    @property
    def is_open(self) -> bool:
        """More output may come."""
        return bool(self._streams or self._early)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit status. Output that is not read can keep it from ending.

        :param timeout: in seconds
        :raises TimeoutError: it runs longer
        :raises SandboxGone: the sandbox has ended without it
        """
        late = f"the command still runs after {timeout} s"
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError(late)
        try:
            if self._exit_code is None:
                self._exit_code = self._process.wait(timeout)
        except HostError as error:
            if error.code == "oci-gone":
                raise SandboxGone("the sandbox ended before the command did") from error
            raise TimeoutError(late) from error
        finally:
            self._waiting.release()
        return self._exit_code

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal.

        :raises UsageError: it has none, or there is no such size
        """
        if not self._terminal:
            raise UsageError("the command has no terminal", hint="popen(..., tty=True)")
        self._process.resize(*checked_size(rows, columns))

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group, which what it has started belongs to by default.

        :raises UsageError: there is no such signal
        """
        if not 1 <= number <= _LAST_SIGNAL:
            raise UsageError(f"signal {number} is not 1 to {_LAST_SIGNAL}", hint="signal.SIGINT")
        self._process.kill(_FIRST_PASSED + number)

    def kill(self) -> None:
        """Kill it and all that it has started."""
        self._process.kill(signal.SIGTERM)  # pyvmm-box passes it on as SIGKILL

    def close(self) -> None:
        """Kill it, if it still runs, and close its streams."""
        try:
            if self._exit_code is None:
                self.kill()
                self.wait(_END_S)
        except (VmmError, TimeoutError):
            pass  # the sandbox has ended, or is about to
        finally:
            self._process.close()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def checked_size(rows: int, columns: int) -> tuple[int, int]:
    """
    :raises UsageError: no terminal has this size
    """
    if not (1 <= rows <= _LARGEST_SIZE and 1 <= columns <= _LARGEST_SIZE):
        raise UsageError(f"a terminal of {rows} x {columns} is not 1 x 1 to {_LARGEST_SIZE} x {_LARGEST_SIZE}")
    return rows, columns


class _Kept:
    """The output of one stream, up to a limit."""

    def __init__(self, most: int, feed: Feed | None) -> None:
        import codecs

        self.text: list[str] = []
        self.truncated = False
        self._left = most
        self._feed = feed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes, *, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        if text and self._feed is not None:
            self._feed(text)
        self.truncated = self.truncated or len(text) > self._left
        self.text.append(text[: self._left])
        self._left -= min(len(text), self._left)


def finish(
    command: Command,
    words: str | Sequence[str],
    *,
    timeout: float | None = 60,
    stdin: bytes | str = b"",
    on_stdout: Feed | None = None,
    on_stderr: Feed | None = None,
    max_output: int = OUTPUT_MOST,
    check: bool = False,
) -> Result:
    """Read the output of a command until it ends; see :meth:`Sandbox.run`.

    :param words: the command, for messages
    """
    if stdin:
        threading.Thread(target=_feed, args=(command, stdin), daemon=True).start()
    else:
        command.close_stdin()
    kept = {STDOUT: _Kept(max_output, on_stdout), STDERR: _Kept(max_output, on_stderr)}
    code = _read(command, kept, timeout)
    for each in kept.values():
        each.add(b"", final=True)
    out, err = kept[STDOUT], kept[STDERR]
    late = code is None
    result = Result(
        "".join(out.text),
        "".join(err.text),
        128 + signal.SIGKILL if code is None else code,
        out.truncated or err.truncated,
    )
    if late:
        what = words if isinstance(words, str) else shlex.join(words)
        raise CommandTimeout(f"{what[:100]} did not end in {timeout:g} s and was killed", result, "raise its timeout=")
    return result.check() if check else result


def _read(command: Command, kept: Mapping[str, _Kept], timeout: float | None) -> int | None:
    """The exit status of the command; None: it was killed, since its time was over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while command.is_open:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            command.kill()
            return None
        for event in command.read(left):
            kept[event.kind].add(event.data)
    try:
        return command.wait(None if deadline is None else max(deadline - time.monotonic(), 0))
    except TimeoutError:
        command.kill()
        return None


def _feed(command: Command, data: bytes | str) -> None:
    try:
        command.write(data)
        command.close_stdin()
    except (OSError, ValueError):
        pass  # it has ended without reading all of it
