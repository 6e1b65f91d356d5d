"""An engine without machines.  Its calls wait until a test opens their gates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pyvmm_sandbox import Network, Sandbox, Stats
from pyvmm_server.choices import Choices
from pyvmm_server.engine import Node
from pyvmm_server.errors import gone
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.store import Record
from pyvmm_server.templates import Source


class Gate:
    """Those who come wait until it is opened.

    :ivar reached: somebody waits
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self._open.wait()

    def open(self) -> None:
        self._open.set()


class GatedHandle:
    """A sandbox that runs until its engine ends it."""

    relay = None
    node = None

    def __init__(self, engine: GatedEngine, name: str) -> None:
        self._engine = engine
        self._name = name

    @property
    def box(self) -> Sandbox:
        raise NotImplementedError

    async def pause(self) -> None:
        await self._engine.pass_gate("pause")

    async def resume(self) -> None:
        await self._engine.pass_gate("resume")
        self._engine.running.add(self._name)

    async def kill(self) -> None:
        await self._engine.pass_gate("kill")
        self._engine.running.discard(self._name)

    async def save(self, folder: str) -> None:
        await self._engine.pass_gate("save")

    async def is_running(self) -> bool:
        await self._engine.pass_gate("is_running")
        return self._name in self._engine.running

    async def stats(self) -> Stats:
        raise NotImplementedError

    async def steps(self) -> Sequence[tuple[str, float]]:
        raise NotImplementedError

    async def set_rules(self, rules: Network) -> None:
        raise NotImplementedError


class GatedEngine:
    """
    :ivar running: names of the sandboxes that run
    :ivar gates: by the name of the call that waits there
    :ivar found: how often sandboxes were looked for
    """

    has_volumes = True

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.gates: dict[str, Gate] = {}
        self.found = 0

    def gate(self, call: str) -> Gate:
        """The next calls of this name wait there."""
        self.gates[call] = Gate()
        return self.gates[call]

    async def pass_gate(self, call: str) -> None:
        if gate := self.gates.get(call):
            await gate.wait()

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        begun.set()

    async def nodes(self) -> list[Node]:
        return []

    def place(self, memory: int, beside: str) -> str:
        return ""

    async def start(self, record: Record, source: Source, choices: Choices) -> GatedHandle:
        self.running.add(record.name)
        return GatedHandle(self, record.name)

    async def connect(self, record: Record) -> GatedHandle:
        known = record.name in self.running
        self.found += 1
        await self.pass_gate("connect")
        if not known:
            raise gone(record.id)
        return GatedHandle(self, record.name)

    async def remove(self, record: Record) -> None:
        self.running.discard(record.name)

    async def discard(self, node: str, folder: str) -> None:
        pass
