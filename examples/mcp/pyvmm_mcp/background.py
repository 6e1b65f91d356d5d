"""Commands of a sandbox that run in the background, with the output that nobody has read yet."""

from __future__ import annotations

import codecs
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_sandbox.commands import EXIT, STDERR, STDOUT
from pyvmm_sandbox.errors import SandboxError, UsageError
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_sandbox import Command

MOST = 16
"""Commands of a sandbox."""
_END_S = 10.0
_LOST = 128 + signal.SIGKILL


class Printed(NamedTuple):
    """What a command has done since the last time.

    :ivar exit_code: None: it runs
    :ivar truncated: it has printed more, and the oldest of it is lost
    """

    stdout: str
    stderr: str
    exit_code: int | None
    truncated: bool


class _Unread:
    """The newest output of a stream."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self.truncated = False

    def add(self, data: bytes, *, final: bool = False) -> None:
        self._text += self._decoder.decode(data, final)
        self.truncated = self.truncated or len(self._text) > self._most
        self._text = self._text[-self._most :]

    def take(self) -> str:
        text, self._text, self.truncated = self._text, "", False
        return text

    def __bool__(self) -> bool:
        return bool(self._text)


class Background:
    """A command whose output a thread collects.

    :param most: characters of each stream that wait to be read; the oldest are dropped
    :ivar words: the command line
    """

    def __init__(self, command: Command, words: str, most: int) -> None:
        self.words = words
        self.pid = command.pid
        self.exit_code: int | None = None
        self._command = command
        self._unread = {STDOUT: _Unread(most), STDERR: _Unread(most)}
        self._changed = threading.Condition()
        threading.Thread(target=self._collect, name=f"command {command.pid}", daemon=True).start()

    def read(self, wait: float) -> Printed:
        """The output since the last time.

        :param wait: seconds in which output has to come, or the command to end
        """
        deadline = time.monotonic() + wait
        out, err = self._unread[STDOUT], self._unread[STDERR]
        with self._changed:
            while not (out or err or self.exit_code is not None):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            truncated = out.truncated or err.truncated
            return Printed(out.take(), err.take(), self.exit_code, truncated)

    def write(self, text: str, end: bool) -> None:
        """Write to its standard input, or its terminal.

        :param end: its standard input ends
        :raises UsageError: it does not read any more
        """
        try:
            if text:
                self._command.write(text)
            if end:
                self._command.close_stdin()
        except (OSError, ValueError) as error:
            raise UsageError("the command does not read any more", hint="read_output has its exit_code") from error

    def stop(self, number: int) -> int | None:
        """Send a signal; its exit status, if it ends within some seconds.

        :param number: SIGKILL also ends all that it has started
        """
        if self.exit_code is None:
            if number == signal.SIGKILL:
                self._command.kill()
            else:
                self._command.send_signal(number)
        with self._changed:
            self._changed.wait_for(lambda: self.exit_code is not None, _END_S)
        return self.exit_code

    def _collect(self) -> None:
        code = _LOST
        try:
            for event in self._command:
                if event.kind == EXIT:
                    code = event.exit_code
                    continue
                with self._changed:
                    self._unread[event.kind].add(event.data)
                    self._changed.notify_all()
        except (VmmError, OSError, ValueError):
            pass  # the sandbox has ended
        with self._changed:
            for each in self._unread.values():
                each.add(b"", final=True)
            self.exit_code = code
            self._changed.notify_all()
        self._command.close()


class Commands:
    """The background commands of a sandbox, by the names that clients use."""

    def __init__(self) -> None:
        self._known: dict[str, Background] = {}
        self._lock = threading.Lock()
        self._count = 0

    def start(self, start: Callable[[], Command], words: str, most: int) -> tuple[str, Background]:
        """A command and its name. One that has ended longest ago is forgotten if there are too many.

        :raises SandboxError: too many run
        """
        with self._lock:
            ended = [name for name, each in self._known.items() if each.exit_code is not None]
            if len(self._known) >= MOST:
                if not ended:
                    raise SandboxError(f"{MOST} commands run in the sandbox", hint="stop_command ends one")
                del self._known[ended[0]]
            self._count += 1
            name = f"command-{self._count}"
            made = self._known[name] = Background(start(), words, most)
        return name, made

    def get(self, name: str) -> Background:
        """
        :raises UsageError: there is none with this name
        """
        found = self._known.get(name)
        if found is None:
            raise UsageError(f"there is no command {name!r:.80}", hint="list_commands names those of a sandbox")
        return found

    def items(self) -> list[tuple[str, Background]]:
        """All with their names, the oldest first."""
        with self._lock:
            return list(self._known.items())
