"""A command that runs, and those who read its output."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

from pyvmm_server import threads
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pyvmm_sandbox import Command
    from pyvmm_server.connect import Waits

_QUEUE = 16
_LONGEST_LINE = 64


class Subscriber:
    """Somebody who reads a command's events.  A command waits for the slowest of them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUE)
        self._closed = False

    async def put(self, event: dict[str, Any]) -> None:
        if not self._closed:
            await self._queue.put(event)

    def close(self) -> None:
        """Take no more events, and free those that wait to add one."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()

    async def events(self, waits: Waits) -> AsyncIterator[dict[str, Any]]:
        """Up to the end of the command."""
        while True:
            event = await waits.next(self._queue.get()) or {"keepalive": {}}
            yield {"event": event}
            if "end" in event:
                return


class Running:
    """A command that runs.

    :ivar pid: inside the sandbox
    :ivar status: in words, when it has ended
    :ivar config: as the client has sent it
    :param cwd: where it starts
    """

    def __init__(
        self, command: Command, config: dict[str, Any], tag: str, *, cwd: str = "", terminal: bool = False
    ) -> None:
        self.pid = 0
        self.status = ""
        self.config = config
        self.tag = tag
        self.input_lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self._command = command
        self._cwd = cwd
        self._stdout = "pty" if terminal else "stdout"
        self._subscribers: list[Subscriber] = []
        self._rest = b""
        self._said = b""

    async def begin(self) -> None:
        """Wait until it has reported its process number.

        :raises ClientError: it cannot be started
        """
        line = b""
        while b"\n" not in line:
            events = await threads.call(self._command.read, None)
            if not events and not self._command.is_open:
                raise ClientError(400, f"the command cannot be started: {self._said.decode(errors='replace')}")
            for event in events:
                if event.kind == "stdout":
                    line += event.data
                else:
                    self._said += event.data
            if len(line) > _LONGEST_LINE and b"\n" not in line[:_LONGEST_LINE]:
                raise ClientError(503, "the sandbox sent something else than a process number")
        head, _, self._rest = line.partition(b"\n")
        if head == b"cwd":
            raise ClientError(400, f"cwd {self._cwd[:200]!r} does not exist")
        if not head.strip().isdigit():
            raise ClientError(503, "the sandbox sent something else than a process number")
        self.pid = int(head)

    async def run(self) -> None:
        """Pass its output on, up to its end."""
        if self._rest:
            await self._publish(self._data("stdout", self._rest))
        if self._said:
            await self._publish(self._data("stderr", self._said))
        try:
            async for event in threads.each(iter(self._command)):
                if event.kind == "exit":
                    end: dict[str, Any] = {"exited": True, "status": f"exit status {event.exit_code}"}
                    if event.exit_code:
                        end |= {"exitCode": event.exit_code, "error": end["status"]}
                    self.status = end["status"]
                    await self._publish({"end": end})
                else:
                    await self._publish(self._data(event.kind, event.data))
        except Exception as error:
            # The sandbox has ended.
            self.status = "signal: killed"
            await self._publish({"end": {"exitCode": 137, "status": "signal: killed", "error": str(error)}})
        finally:
            await threads.call(self._command.close)
            self.ended.set()

    def _data(self, kind: str, data: bytes) -> dict[str, Any]:
        name = self._stdout if kind == "stdout" else kind
        return {"data": {name: base64.b64encode(data).decode()}}

    async def _publish(self, event: dict[str, Any]) -> None:
        for subscriber in [*self._subscribers]:
            await subscriber.put(event)

    @contextlib.contextmanager
    def subscribed(self) -> Iterator[Subscriber]:
        """Everything from now on."""
        subscriber = Subscriber()
        self._subscribers.append(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.remove(subscriber)
            subscriber.close()

    def kill(self) -> None:
        """Kill it, with all that it has started."""
        self._command.kill()

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its process group."""
        self._command.send_signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal.

        :raises VmmError: it has none, or there is no such size
        """
        self._command.resize(rows, columns)

    async def write(self, data: bytes) -> None:
        """
        :raises ClientError: it does not read any more
        """
        async with self.input_lock:
            try:
                await threads.call(self._command.write, data)
            except (OSError, ValueError) as error:
                raise ClientError(400, "the standard input is closed", code="failed_precondition") from error

    async def close_input(self) -> None:
        async with self.input_lock:
            await threads.call(self._command.close_stdin)
