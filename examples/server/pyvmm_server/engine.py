"""What the server needs of an engine, which runs sandboxes on one node or on many."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyvmm_sandbox import Sandbox, SandboxGone, SandboxNotFound
from pyvmm_server import leftovers, store, threads
from pyvmm_server.errors import ClientError, gone
from pyvmm_server.suspended import Suspended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_sandbox import Network, Stats
    from pyvmm_server.choices import Choices
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record
    from pyvmm_server.templates import Source


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    :ivar id: empty: this one
    :ivar memory: for sandboxes, in MiB
    """

    id: str
    memory: int


class Address(NamedTuple):
    """Where a node answers requests to its sandboxes.

    :ivar secret: proves that a request is of the server
    """

    host: str
    port: int
    secret: str


class NodeCall(Protocol):
    """A call of a method of :class:`pyvmm_server.node.Node`."""

    async def __call__(self, name: str, *args: Any, limit: float = 0) -> Any:
        """
        :param limit: in seconds; 0: the usual one
        :raises ClientError: the node does not answer, or has answered so
        """


class Handle(Protocol):
    """A sandbox of an engine.  Its calls raise :class:`~vmm.VmmError`, :class:`OSError` and
    :class:`~pyvmm_server.errors.ClientError`."""

    @property
    def box(self) -> Sandbox:
        """The sandbox, if it is of this node.

        :raises ClientError: it is of another one
        """

    @property
    def relay(self) -> Address | None:
        """Who answers requests to it; None: this server.

        :raises ClientError: its node does not answer now
        """

    @property
    def node(self) -> NodeCall | None:
        """Calls of its node, if that is another one."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def kill(self) -> None: ...

    async def save(self, folder: str) -> None:
        """Save it with its memory in a folder of its node."""

    async def is_running(self) -> bool: ...

    async def stats(self) -> Stats: ...

    async def steps(self) -> Sequence[tuple[str, float]]:
        """The steps of its start, and when each was done, on this server's monotonic clock."""

    async def set_rules(self, rules: Network) -> None:
        """Replace the rules of its network."""


class Engine(Protocol):
    """Runs sandboxes.  The server keeps their records.

    :ivar has_volumes: whether sandboxes can share folders of the server
    """

    has_volumes: bool

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        """Follow the nodes until cancelled.

        :param begun: set when sandboxes can be placed
        """

    async def nodes(self) -> list[Node]:
        """Those that are alive."""

    def place(self, memory: int, beside: str) -> str:
        """Choose the node of a new sandbox.

        :param memory: in MiB
        :param beside: the only node that may be chosen; empty: any
        :raises ClientError: no node has room
        """

    async def start(self, record: Record, source: Source, choices: Choices) -> Handle:
        """Start the sandbox of a record.

        :raises VmmError: it cannot be started; nothing of it is left
        :raises OSError: likewise
        :raises ClientError: likewise
        """

    async def connect(self, record: Record) -> Handle:
        """Find a sandbox that runs or is paused, and undo what no client was told: it is in the state of its record.

        :raises ClientError: its status is 502: the sandbox has ended; 503: its node does not answer now
        """

    async def remove(self, record: Record) -> None:
        """End a sandbox in any state, also a half-made one, and remove all that belongs to it.

        :raises VmmError: something cannot be removed
        :raises OSError: likewise
        :raises ClientError: its node does not answer now
        """

    async def discard(self, node: str, folder: str) -> None:
        """Remove what :meth:`Handle.save` has saved in a folder.

        :param node: that has it; empty: whoever has it
        """


class LocalHandle:
    """A sandbox of this node.

    :param box: None: it is on disk
    """

    relay = None
    node = None

    def __init__(self, record: Record, suspended: Suspended, box: Sandbox | None) -> None:
        self._record, self._suspended, self._box = record, suspended, box

    @property
    def box(self) -> Sandbox:
        """
        :raises ClientError: it is on disk
        """
        if self._box is None:
            raise ClientError(409, f"Sandbox {self._record.id} is paused")
        return self._box

    async def pause(self) -> None:
        if await threads.call(self._suspended.pause, self._record, self.box):
            self._box = None

    async def resume(self) -> None:
        if self._box is None:
            self._box = await threads.call(self._suspended.start, self._record)
        else:
            await threads.call(self._box.resume)

    async def kill(self) -> None:
        if self._box is not None:
            await threads.call(self._box.kill)
        await threads.call(self._suspended.discard, self._record)

    async def save(self, folder: str) -> None:
        await threads.call(self.box.snapshot, folder)

    async def is_running(self) -> bool:
        box = self._box
        return box is None or await threads.call(lambda: box.is_running)

    async def stats(self) -> Stats:
        return await threads.call(self.box.stats)

    async def steps(self) -> Sequence[tuple[str, float]]:
        return (await threads.call(self.box.info)).steps

    async def set_rules(self, rules: Network) -> None:
        box = self.box
        await threads.call(lambda: box.network.update(rules))


class Local:
    """Runs sandboxes on this node, by the sandbox library."""

    has_volumes = True

    def __init__(self, settings: Settings) -> None:
        self._config, self._root = settings.config, settings.root
        self._suspended = Suspended(settings)

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        begun.set()

    async def nodes(self) -> list[Node]:
        with open("/proc/meminfo", encoding="ascii") as file:
            return [Node("", int(file.readline().split()[1]) >> 10)]

    def place(self, memory: int, beside: str) -> str:
        return ""

    async def start(self, record: Record, source: Source, choices: Choices) -> LocalHandle:
        box = await threads.call(source.start, record.name, internet=record.internet, choices=choices)
        return LocalHandle(record, self._suspended, box)

    async def connect(self, record: Record) -> LocalHandle:
        try:
            return LocalHandle(record, self._suspended, await threads.call(self._find, record))
        except (SandboxNotFound, SandboxGone):
            raise gone(record.id) from None

    def _find(self, record: Record) -> Sandbox | None:
        """The sandbox; None: it is on disk.

        :raises SandboxNotFound: there is none
        :raises SandboxGone: it has ended
        """
        try:
            box = Sandbox.connect(record.name, config=self._config, root=self._root)
        except (SandboxNotFound, SandboxGone):
            if not self._suspended.has(record):
                raise
            leftovers.remove(self._root, record.name)
            return None if record.state == store.PAUSED else self._suspended.start(record)
        return None if self._suspended.settle(record, box) else box

    async def remove(self, record: Record) -> None:
        await threads.call(leftovers.remove, self._root, record.name)
        await threads.call(self._suspended.discard, record)

    async def discard(self, node: str, folder: str) -> None:
        await threads.call(shutil.rmtree, folder, ignore_errors=True)
