"""Paused sandboxes of a cluster on disk: wherever the server is killed, what a client was told holds."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_server import store
from pyvmm_server.cluster import Cluster
from pyvmm_server.engine import Address, Node
from pyvmm_server.errors import ClientError, Unreachable, gone
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.settings import Settings

MIB = 1024
ROUND_S = 1.5
REPORTED_S = 15.0


class Killed(BaseException):
    """The server's end, at a call to a node."""


class World:
    """What outlives servers.

    :ivar running: the sandboxes of each node, each with its count of commands
    :ivar saved: likewise, on its disk
    :ivar dead: nodes that do not answer
    """

    def __init__(self) -> None:
        self.running: dict[str, dict[str, int]] = {"a": {}, "b": {}}
        self.saved: dict[str, dict[str, int]] = {"a": {}, "b": {}}
        self.frozen: set[str] = set()
        self.dead: set[str] = set()
        self.now = 0.0

    def start_again(self, node: str, name: str) -> None:
        """A dead node has another name, and its disk."""
        del self.running[node]
        self.running[name], self.saved[name] = {}, self.saved.pop(node)


class Nodes(Cluster):
    """The server's side.

    :ivar calls: after which the failure comes: before the node has done the next one, or after it; None: never
    :ivar failure: the end of the server, or once that of the node's actor
    """

    suspends = True

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.now)
        self.world = world
        self.calls: float | None = None
        self.failure: BaseException = Killed()

    async def refresh(self) -> None:
        pass

    def members(self) -> Iterable[Node]:
        return [Node(name, 2 * MIB) for name in self.world.running]

    async def probe(self, node: str) -> tuple[bool, bool]:
        return node not in self.world.dead, node not in self.world.dead

    def address(self, node: str) -> Address:
        return Address(node, 0, "")

    async def ask(self, node: str, name: str, *args: Any, limit: float = 0) -> Any:
        self._fail()
        if node in self.world.dead or node not in self.world.running:
            raise Unreachable("it is dead")
        try:
            value, error = self._done(node, name, *args), None
        except ClientError as found:
            value, error = None, (found.status, found.message, found.code)
        self._fail()
        return value, error

    def _fail(self) -> None:
        if self.calls is not None:
            self.calls -= 0.5
            if self.calls < 0:
                if isinstance(self.failure, Unreachable):
                    self.calls = None
                raise self.failure

    def _done(self, node: str, name: str, *args: Any) -> Any:
        running, saved = self.world.running[node], self.world.saved[node]
        key = os.path.basename(args[1] if name == "suspend" else args[0]) if args and name != "start" else ""
        if name in ("suspend", "pause", "resume") and args[0] not in running:
            raise gone(args[0])
        if name in ("pause", "resume") and (args[0] in self.world.frozen) == (name == "pause"):
            raise ClientError(409, f"it has done {name} already")
        if name == "start":
            record, source, _, holder = args
            key = os.path.basename(source.template)
            if holder is not None:
                saved[key] = self.world.saved[holder.host][key]
            running[record.id] = saved[key] if source.node else 0
        elif name == "suspend":
            saved[key] = running.pop(args[0])
        elif name == "remove":
            running.pop(args[0], None)
            self.world.frozen.discard(args[0])
        elif name == "pause":
            self.world.frozen.add(args[0])
        elif name == "resume":
            self.world.frozen.remove(args[0])
        elif name == "settle":
            (self.world.frozen.add if args[1] == store.PAUSED else self.world.frozen.discard)(args[0])
        elif name == "discard":
            saved.pop(key, None)
        if name in ("is_running", "settle"):
            return args[0] in running
        return {"has": key in saved, "ids": list(running), "saved": list(saved)}.get(name)


def server(world: World, folder: Path) -> tuple[Sandboxes, Nodes]:
    """A new server on the records of the one before."""
    engine = Nodes(world)
    made = Sandboxes(Settings(str(folder), {"base": "/"}, network="none", memory=MIB), engine)
    engine.sandboxes = made
    return made, engine


async def use(sandboxes: Sandboxes, engine: Nodes, sandbox_id: str) -> int:
    """Run a command, as a client that connects; how many have run before."""
    record = sandboxes.get("me", sandbox_id)
    if record.state == store.PAUSED:
        await sandboxes.resume(record, 60)
    else:
        await sandboxes.live(record)
    node = sandboxes.get("me", sandbox_id).node
    running = engine.world.running[node]
    assert sandbox_id not in engine.world.frozen
    running[sandbox_id] += 1
    return running[sandbox_id] - 1


@pytest.mark.parametrize("after", [each / 2 for each in range(12)])
def test_a_server_that_is_killed_at_any_call(tmp_path: Path, after: float) -> None:
    """No command is lost that was run before a pause, none is run twice, and one machine remains."""
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        await engine.round()
        await engine.settled()
        box = (await sandboxes.create("me", "base", 60)).id
        count = 0
        for _ in range(4):
            for kills in (after, None):
                engine.calls = kills
                try:
                    if sandboxes.get("me", box).state == store.RUNNING:
                        await sandboxes.pause(sandboxes.get("me", box))
                    assert await use(sandboxes, engine, box) == count
                    count += 1
                except Killed:
                    sandboxes.store.close()
                    sandboxes, engine = server(world, tmp_path)
                    await engine.round()
                    await engine.settled()
        await engine.round()
        await engine.settled()
        assert sum(len(each) for each in world.running.values()) == 1
        assert [*world.saved.values()] == [{}, {}]
        await sandboxes.kill(sandboxes.get("me", box))
        assert [*world.running.values(), *world.saved.values()] == [{}, {}, {}, {}]
        sandboxes.store.close()

    asyncio.run(work())


@pytest.mark.parametrize("suspends", [True, False])
@pytest.mark.parametrize("after", [each / 2 for each in range(12)])
def test_a_node_whose_actor_is_killed_at_any_call(tmp_path: Path, after: float, suspends: bool) -> None:
    """It has done what it was asked for, or not.  The client was told that it failed, and tries again."""
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        engine.suspends, engine.failure = suspends, Unreachable("its actor was killed")
        await engine.round()
        await engine.settled()
        box = (await sandboxes.create("me", "base", 60)).id
        count = 0
        for fails in (after, None) * 4:
            engine.calls = fails
            try:
                if sandboxes.get("me", box).state == store.RUNNING:
                    await sandboxes.pause(sandboxes.get("me", box))
                assert await use(sandboxes, engine, box) == count
                count += 1
            except ClientError as error:
                if error.status != 503:
                    raise
                engine.calls = None
                await engine.round()
                if sandboxes.get("me", box).state == store.RUNNING:
                    assert await use(sandboxes, engine, box) == count
                    count += 1
        await engine.round()
        await engine.settled()
        assert sum(len(each) for each in world.running.values()) == 1
        assert [*world.saved.values()] == [{}, {}]
        await sandboxes.kill(sandboxes.get("me", box))
        await engine.round()
        await engine.settled()
        assert [*world.running.values(), *world.saved.values()] == [{}, {}, {}, {}]
        sandboxes.store.close()

    asyncio.run(work())


def test_one_that_moves_between_two_nodes(tmp_path: Path) -> None:
    """The upkeep of the server looks whether it runs, while it is being paused."""
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        await engine.round()
        boxes = [(await sandboxes.create("me", "base", 60)).id for _ in range(4)]
        first = sandboxes.get("me", boxes[0])
        assert await use(sandboxes, engine, first.id) == 0
        live = await sandboxes.live(first)
        await sandboxes.pause(first)
        assert await live.handle.is_running()
        await sandboxes.create("me", "base", 60)
        with pytest.raises(ClientError, match="MiB"):
            await use(sandboxes, engine, first.id)
        other = next(each for each in boxes if sandboxes.get("me", each).node not in ("", first.node))
        await sandboxes.kill(sandboxes.get("me", other))
        assert await use(sandboxes, engine, first.id) == 1
        assert sandboxes.get("me", first.id).node not in ("", first.node)
        now = sandboxes.get("me", first.id)
        sandboxes.store.change(first.id, saved="being paused")
        del world.running[now.node][first.id]
        assert await live.handle.is_running()
        sandboxes.store.change(first.id, saved="")
        assert not await live.handle.is_running()
        assert list(itertools.chain(*world.saved.values())) == []
        sandboxes.store.close()

    asyncio.run(work())


async def _rounds(engine: Nodes, seconds: float) -> None:
    """The rounds of these seconds."""
    for _ in range(int(seconds / ROUND_S)):
        engine.world.now += ROUND_S
        await engine.round()
        await engine.settled()


def _is_reported_lost(sandboxes: Sandboxes, sandbox_id: str, node: str) -> bool:
    with pytest.raises(ClientError, match=f"is lost with its node {node}") as error:
        sandboxes.get("me", sandbox_id)
    return error.value.status == 404 and [each.id for each in sandboxes.store.in_states(store.LOST)] == [sandbox_id]


def test_one_whose_only_node_is_lost_is_reported(tmp_path: Path) -> None:
    """The next server reports it as well.  It is paused again when the node is started again, with its disk."""
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        await engine.round()
        box, other = [(await sandboxes.create("me", "base", 60)).id for _ in range(2)]
        assert await use(sandboxes, engine, box) == 0
        node = sandboxes.get("me", box).node
        for each in (box, other):
            await sandboxes.pause(sandboxes.get("me", each))
        world.dead.add(node)
        await _rounds(engine, 6)
        assert sandboxes.get("me", box).state == store.PAUSED
        await _rounds(engine, REPORTED_S - 6)
        assert _is_reported_lost(sandboxes, box, node)
        assert sandboxes.get("me", other).state == store.PAUSED
        sandboxes.store.close()

        sandboxes, engine = server(world, tmp_path)
        assert _is_reported_lost(sandboxes, box, node)
        world.start_again(node, "again")
        await _rounds(engine, 3)
        assert await use(sandboxes, engine, box) == 1
        assert [*world.saved["again"]] == [] and sandboxes.store.in_states(store.LOST) == []
        sandboxes.store.close()

    asyncio.run(work())


def test_one_whose_node_is_lost_before_the_server_starts_is_reported(tmp_path: Path) -> None:
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        await engine.round()
        box = (await sandboxes.create("me", "base", 60)).id
        node = sandboxes.get("me", box).node
        await sandboxes.pause(sandboxes.get("me", box))
        sandboxes.store.close()
        world.dead.add(node)
        sandboxes, engine = server(world, tmp_path)
        await _rounds(engine, REPORTED_S)
        assert _is_reported_lost(sandboxes, box, node)
        assert sandboxes.dismiss("me", box)
        world.start_again(node, "again")
        world.dead.clear()
        await _rounds(engine, 3)
        assert [*world.saved.values()] == [{}, {}]
        sandboxes.store.close()

    asyncio.run(work())


@pytest.mark.parametrize("has_copy", [True, False])
def test_one_that_is_resumed_on_a_node_that_is_lost_stays_paused(tmp_path: Path, has_copy: bool) -> None:
    """Its client was not told that it runs.  It is lost when nobody has what was saved any more."""
    world = World()

    async def work() -> None:
        sandboxes, engine = server(world, tmp_path)
        await engine.round()
        box = (await sandboxes.create("me", "base", 60)).id
        origin = sandboxes.get("me", box).node
        await sandboxes.pause(sandboxes.get("me", box))
        (other,) = world.running.keys() - {origin}
        if has_copy:
            world.saved[other] = dict(world.saved[origin])
        world.running[origin][box] = 0  # the server was killed after this node had started it
        sandboxes.store.change(box, node=origin)
        world.dead.add(origin)
        await _rounds(engine, REPORTED_S + 3)
        if has_copy:
            assert sandboxes.get("me", box).state == store.PAUSED
            assert await use(sandboxes, engine, box) == 0
            assert sandboxes.get("me", box).node == other
        else:
            assert [each.id for each in sandboxes.store.in_states(store.LOST)] == [box]
        sandboxes.store.close()

    asyncio.run(work())
