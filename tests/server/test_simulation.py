"""A large cluster whose nodes and servers die at random, with the server's own records, placement and rounds.

Nodes and time are simulated.  Nothing that was promised may be counted twice or lost without a report.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_server import store
from pyvmm_server.cluster import Cluster
from pyvmm_server.engine import Address, Node
from pyvmm_server.errors import ClientError, Unreachable
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.settings import Settings

MIB = 512
ROUND_S = 1.5


class World:
    """What outlives servers: nodes with their sandboxes, and the time.

    :ivar running: the sandboxes of each node
    :ivar cut: nodes that run, but cannot be reached
    :ivar dead: nodes whose sandboxes have ended
    """

    def __init__(self, nodes: int, room: int, seed: int) -> None:
        self.nodes = {f"node{number}": Node(f"node{number}", room) for number in range(nodes)}
        self.running: dict[str, set[str]] = {each: set() for each in self.nodes}
        self.cut: set[str] = set()
        self.dead: set[str] = set()
        self.now = 0.0
        self.rng = random.Random(seed)
        self.placements: list[float] = []
        self.loses_answers = True

    def kill(self, node: str) -> None:
        self.dead.add(node)
        self.running[node].clear()

    def revive(self, node: str) -> None:
        """Another machine in its place: it has another name."""
        del self.nodes[node], self.running[node]
        self.dead.discard(node)
        name = f"{node}+"
        self.nodes[name] = Node(name, MIB * 128)
        self.running[name] = set()


class Simulated(Cluster):
    """The server's side of it.

    :ivar ends: the server dies at its next call to a node: before the node has done it, or before the answer
    """

    def __init__(self, world: World, skew: float) -> None:
        super().__init__(lambda: world.now + skew, world.rng)
        self._world = world
        self.ends = ""

    async def refresh(self) -> None:
        pass

    def members(self) -> Iterable[Node]:
        return list(self._world.nodes.values())

    async def probe(self, node: str) -> tuple[bool, bool]:
        answers = node not in self._world.cut | self._world.dead
        return answers, answers

    def address(self, node: str) -> Address:
        raise Unreachable("there is no relay")

    def place(self, memory: int, beside: str) -> str:
        begun = time.perf_counter()
        found = super().place(memory, beside)
        self._world.placements.append(time.perf_counter() - begun)
        return found

    async def ask(self, node: str, name: str, *args: Any, limit: float = 0) -> Any:
        if self.ends == "before":
            raise ServerDied
        if node not in self._world.nodes or node in self._world.cut | self._world.dead:
            raise Unreachable("it is dead")
        running = self._world.running[node]
        value: Any = None
        if name == "start":
            running.add(args[0].id)
        elif name == "remove":
            running.discard(args[0])
        elif name == "ids":
            value = list(running)
        elif name == "saved":
            value = []
        elif name == "is_running":
            value = args[0] in running
        if self.ends == "after":
            raise ServerDied
        if self._world.loses_answers and name in ("start", "remove") and self._world.rng.random() < 0.01:
            raise Unreachable("the answer is lost")
        return value, None


class ServerDied(BaseException):
    """A kill -9: the server's code does not see the end of its call."""


class Client:
    """What clients were promised."""

    def __init__(self) -> None:
        self.promised: dict[str, str] = {}
        self.unknown: set[str] = set()
        """Sandboxes whose end was asked for, without an answer."""
        self.lost: set[str] = set()
        self.number = 0

    async def create(self, sandboxes: Sandboxes) -> bool:
        self.number += 1
        owner = f"owner{self.number % 5000}"
        try:
            made = await sandboxes.create(owner, "base", 1e9)
        except Unreachable:
            return False
        assert made.id not in self.promised
        self.promised[made.id] = owner
        return True

    async def kill(self, sandboxes: Sandboxes, rng: random.Random) -> None:
        sandbox_id = rng.choice(list(self.promised))
        self.unknown.add(sandbox_id)
        try:
            await sandboxes.kill(sandboxes.get(self.promised[sandbox_id], sandbox_id))
        except ClientError:
            pass  # it is lost
        else:
            del self.promised[sandbox_id]


def _server(world: World, folder: Path) -> tuple[Sandboxes, Simulated]:
    """A new server with a clock of its own, on the records of the one before."""
    engine = Simulated(world, world.rng.uniform(-1e6, 1e6))
    sandboxes = Sandboxes(Settings(str(folder), {"base": "/base"}, memory=MIB, network="none"), engine)
    engine.sandboxes = sandboxes
    for record in sandboxes.store.in_states(store.CREATING):
        sandboxes.store.change(record.id, state=store.ENDING)
    return sandboxes, engine


async def _rounds(world: World, sandboxes: Sandboxes, engine: Simulated, count: int) -> None:
    for _ in range(count):
        world.now += ROUND_S
        await engine.round()
        await engine.settled()
        for record in sandboxes.store.in_states(store.ENDING):
            try:
                await engine.remove(record)
            except ClientError:
                continue
            sandboxes.store.remove(record)


def _check(world: World, sandboxes: Sandboxes, client: Client) -> None:
    """No sandbox is on two nodes, or on another one than its record has; all that was promised is there or reported."""
    where: dict[str, str] = {}
    for node, ids in world.running.items():
        for each in ids:
            assert each not in where, "a sandbox is on two nodes"
            where[each] = node
    records = {each.id: each for each in sandboxes.store.in_states(store.RUNNING, store.LOST)}
    for each in client.promised:
        if each not in records:
            assert each in client.unknown, "a sandbox is lost without a report"
        elif records[each].state == store.RUNNING:
            assert where[each] == records[each].node
        else:
            assert each not in where, "a lost sandbox runs"
    of_nodes = Counter(each.node for each in records.values() if each.state == store.RUNNING)
    for node, ids in world.running.items():
        assert len(ids) == of_nodes[node], "a sandbox runs without a record, or is counted twice"
        assert sandboxes.store.places.used(node) == len(ids) * MIB


async def _simulate(folder: Path, nodes: int, count: int, deaths: int) -> None:
    world, client = World(nodes, MIB * 128, seed=nodes), Client()
    rng = world.rng
    sandboxes, engine = _server(world, folder)
    await _rounds(world, sandboxes, engine, 1)
    reported = 0.0
    for death in range(deaths + 1):
        for _ in range(count // (deaths + 1)):
            await client.create(sandboxes)
            if rng.random() < 0.05:
                await client.kill(sandboxes, rng)
        if death == 0:
            _print_balance(world)
        living = [each for each in world.nodes if each not in world.dead | world.cut]
        for node in rng.sample(living, max(nodes // 100, 1)):
            rng.choice([world.kill, world.cut.add])(node)
        for _ in range(20):  # some meet nodes that are gone
            await client.create(sandboxes)
        if death % 2:
            engine.ends = rng.choice(["before", "after"])
            try:
                await (client.create(sandboxes) if rng.random() < 0.5 else client.kill(sandboxes, rng))
            except ServerDied:
                pass
            sandboxes.store.close()
            sandboxes, engine = _server(world, folder)
        before = world.now
        while _unreported(world, sandboxes):
            await _rounds(world, sandboxes, engine, 1)
            assert world.now - before <= 15, "a lost sandbox is not reported in time"
        reported = max(reported, world.now - before)
        for node in list(world.cut):
            world.cut.discard(node)
        for node in list(world.dead):
            world.revive(node)
        await _rounds(world, sandboxes, engine, 3)
        world.loses_answers = False  # a node whose answer is lost takes no sandboxes before the next round
        await _rounds(world, sandboxes, engine, 1)
        world.loses_answers = True
        _check(world, sandboxes, client)
        assert set(engine.membership.ready) == set(world.nodes), "a node does not come back"
    lost = sandboxes.store.in_states(store.LOST)
    print(f"{len(client.promised)} promised, {len(lost)} lost and reported within {reported:.1f} s")
    p50, p99 = (statistics.quantiles(world.placements, n=100)[each] for each in (49, 98))
    print(f"placement p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us")
    _print_balance(world)
    sandboxes.store.close()


def _unreported(world: World, sandboxes: Sandboxes) -> bool:
    return bool((world.cut | world.dead) & sandboxes.store.places.nodes())


def _print_balance(world: World) -> None:
    loads = [len(each) for each in world.running.values()]
    print(f"sandboxes a node: {min(loads)} to {max(loads)}, mean {statistics.mean(loads):.1f}")


def test_a_small_cluster(tmp_path: Path) -> None:
    asyncio.run(_simulate(tmp_path / "state", 30, 600, 6))


@pytest.mark.long  # 18 s of CPU time: every sandbox goes through the server's records
def test_a_thousand_nodes_and_fifty_thousand_sandboxes(tmp_path: Path) -> None:
    asyncio.run(_simulate(tmp_path / "state", 1000, 50_000, 4))
