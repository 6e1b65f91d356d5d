"""Sandboxes on many nodes: where they are placed, and what becomes of those of a lost node.

Subclasses know an engine: which nodes it lists, whether one answers, and how a call reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from typing import TYPE_CHECKING, Any

from pyvmm_server import metrics, moving
from pyvmm_server.errors import ClientError, Unreachable, gone, lost, not_there
from pyvmm_server.placement import Membership, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from pyvmm_sandbox import Network, Sandbox, Stats
    from pyvmm_server.choices import Choices
    from pyvmm_server.engine import Address, Node, NodeCall
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record
    from pyvmm_server.templates import Source

log = logging.getLogger("pyvmm_server")
CALL_S = 30.0
START_S = 120.0
FETCH_S = 900.0
"""For a start, if the node gets the template from another one first."""
_ROUND_S = 1.5
_BEGIN_S = 60.0
"""How long the server waits for its nodes before it answers requests."""


class RemoteHandle:
    """A sandbox of another node."""

    def __init__(self, cluster: Cluster, record: Record) -> None:
        self.cluster = cluster
        self._first, self._id = record.node, record.id

    @property
    def _node(self) -> str:
        """Where it is now; empty: on disk."""
        record = self.cluster.sandboxes.store.get(self._id)
        return self._first if record is None else record.node

    @property
    def box(self) -> Sandbox:
        raise not_there("this call to a sandbox of another node")

    @property
    def relay(self) -> Address:
        if self.cluster.membership.is_lost(self._node):
            raise lost(self._id, self._node, 502)
        return self.cluster.address(self._node)

    @property
    def node(self) -> NodeCall:
        async def call(name: str, *args: Any, limit: float = 0) -> Any:
            return await self.cluster.call(self._node, name, *args, limit=limit or CALL_S)

        return call

    async def pause(self) -> None:
        cluster = self.cluster
        if not (cluster.suspends and await moving.suspend(cluster, cluster.sandboxes, self._id, self._node)):
            await cluster.call(self._node, "pause", self._id)

    async def resume(self) -> None:
        record = self.cluster.sandboxes.store.get(self._id)
        if record is not None and not record.node:
            await moving.revive(self.cluster, self.cluster.sandboxes, record)
        else:
            await self.cluster.call(self._node, "resume", self._id)

    async def kill(self) -> None:
        if record := self.cluster.sandboxes.store.get(self._id):
            await self.cluster.remove(record)

    async def save(self, folder: str) -> None:
        await self.cluster.call(self._node, "save", self._id, folder, limit=START_S)

    async def is_running(self) -> bool:
        if not self._node or await self.cluster.call(self._node, "is_running", self._id):
            return True
        record = self.cluster.sandboxes.store.get(self._id)
        return record is not None and bool(record.saved)  # it is being paused or resumed

    async def stats(self) -> Stats:
        found: Stats = await self.cluster.call(self._node, "stats", self._id)
        return found

    async def steps(self) -> Sequence[tuple[str, float]]:
        ages = await self.cluster.call(self._node, "steps", self._id)
        now = time.monotonic()
        return [(what, now - age) for what, age in ages]

    async def set_rules(self, rules: Network) -> None:
        await self.cluster.call(self._node, "set_rules", self._id, rules)


class Cluster:
    """
    :ivar membership: the nodes, as the rounds have found them
    :ivar suspends: paused sandboxes are on disk
    :ivar sandboxes: those of the server
    :param clock: a monotonic one
    """

    has_volumes = False
    suspends = False
    sandboxes: Sandboxes

    def __init__(self, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self.membership = Membership()
        self._clock = clock
        self._rng = rng or random.Random()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._swept: set[str] = set()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # -- of the engine -------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Follow the engine's list of nodes."""
        raise NotImplementedError

    def members(self) -> Iterable[Node]:
        """Nodes that can be asked whether they answer."""
        raise NotImplementedError

    async def probe(self, node: str) -> tuple[bool, bool]:
        """Whether a node is alive, and whether it can start sandboxes."""
        raise NotImplementedError

    async def ask(self, node: str, name: str, *args: Any, limit: float = CALL_S) -> Any:
        """Call a method of :class:`pyvmm_server.node.Node`.

        :raises Unreachable: the node does not answer; what was asked for may have been done
        """
        raise NotImplementedError

    def address(self, node: str) -> Address:
        """
        :raises Unreachable: the node's relay is not known now
        """
        raise NotImplementedError

    # -- sandboxes -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[Node]:
        return list(self.membership.ready.values())

    def place(self, memory: int, beside: str) -> str:
        ready = self.membership.ready
        nodes = [ready[beside]] if beside in ready else [] if beside else self.membership.candidates
        found = choose(nodes, self.sandboxes.store.places.used, memory, self._rng)
        if found is None:
            where = "the node of the sandbox" if beside else f"none of {len(nodes)} nodes"
            raise ClientError(503, f"{where} has {memory} MiB for another sandbox" if nodes else "no node answers")
        return found.id

    async def start(self, record: Record, source: Source, choices: Choices) -> RemoteHandle:
        holder, limit = None, START_S
        if source.node not in ("", record.node):
            holder, limit = await self._holder(source), FETCH_S
        async with self._lock(record.id):
            await self.call(record.node, "start", record, source, choices, holder, limit=limit)
        return RemoteHandle(self, record)

    async def _holder(self, source: Source) -> Address:
        """Where the template of a source is: on the node that has saved it, or on one that has fetched it, or that has
        been started again.

        :raises ClientError: no node that answers has it
        """
        node = await self.holder(source.template, source.node)
        if node is None:
            raise ClientError(503, f"no node that answers has {source.name}; node {source.node[:16]} has saved it")
        return self.address(node)

    async def holder(self, folder: str, first: str = "") -> str | None:
        """A node that has what was saved in a folder; None: none that answers."""
        for node in sorted(self.membership.ready, key=lambda node: node != first):
            with contextlib.suppress(Unreachable):
                if await self.call(node, "has", folder):
                    return node
        return None

    async def connect(self, record: Record) -> RemoteHandle:
        handle = RemoteHandle(self, record)
        if record.saved:
            await moving.settle(self, self.sandboxes, record)
        elif not await self.call(record.node, "settle", record.id, record.state):
            raise gone(record.id)
        return handle

    async def remove(self, record: Record) -> None:
        if record.node and not self.membership.is_lost(record.node):
            await self.call(record.node, "remove", record.id)
        if record.saved:
            await self.discard("", self.sandboxes.templates.folder(record.saved))

    async def discard(self, node: str, folder: str) -> None:
        for each in [node] if node else list(self.membership.ready):
            try:
                await self.ask(each, "discard", folder)
            except ClientError:
                self._swept.discard(each)  # it is looked at again, even if it answers before anybody has missed it

    async def call(self, node: str, name: str, *args: Any, limit: float = CALL_S) -> Any:
        """The result of a call to a node.

        :raises Unreachable: it does not answer; what was asked for may have been done
        :raises ClientError: it has answered so
        """
        if self.membership.is_lost(node):
            raise Unreachable("it is lost")
        try:
            value, error = await self.ask(node, name, *args, limit=limit)
        except Unreachable:
            self.membership.suspect(node)
            raise
        if error is not None:
            status, message, code = error
            raise ClientError(status, message, code=code)
        return value

    # -- nodes ---------------------------------------------------------------------------------------------------------

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        self.sandboxes = sandboxes
        deadline = self._clock() + _BEGIN_S
        while True:
            try:
                await self.round()
            except ClientError as error:
                log.warning("a round of nodes: %s", error)
            except Exception as error:
                log.error("a round of nodes", exc_info=error)
            waiting = [each for each in self.members() if not self.membership.is_lost(each.id)]
            if len(self.membership.ready) == len(waiting) > 0 or self._clock() > deadline:
                begun.set()
            await asyncio.sleep(_ROUND_S)

    async def round(self) -> None:
        """Look at all nodes, report what is lost, and end what no record has."""
        await self.refresh()
        places = self.sandboxes.store.places
        self.membership.expect(places.nodes() | places.holders() - {""})
        members = {each.id: each for each in self.members()}
        found = await asyncio.gather(*(self.probe(node) for node in members))
        alive = [node for node, (is_alive, _) in zip(members, found, strict=True) if is_alive]
        ready = {node: members[node] for node, (_, is_ready) in zip(members, found, strict=True) if is_ready}
        changes = self.membership.observe(self._clock(), alive, ready)
        for node in changes.lost:
            log.warning("node is lost", extra={"node": node})
        for node, ids in self.membership.settle(places).items():
            for each in ids:
                metrics.FAILURES.labels("lost").inc()
                log.warning("sandbox is lost with its node", extra={"sandbox": each, "node": node})
                self.sandboxes.forget(each)
        if moving.missing(self, self.sandboxes):
            self._spawn("", self._look)
        # Not in the round: a node that hangs must not delay the news of others.
        for node in changes.fence:
            self._spawn(node, self._fence)
        self._swept &= self.membership.ready.keys()
        for node in self.membership.ready:
            self._spawn(node, self._end_others if node in self._swept else self._sweep)

    def _spawn(self, node: str, work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        if node not in self._tasks:
            task = self._tasks[node] = asyncio.create_task(work(node))
            task.add_done_callback(lambda _: self._tasks.pop(node))

    async def settled(self) -> None:
        """Wait until nothing is ended any more."""
        await asyncio.gather(*self._tasks.values())

    async def _fence(self, node: str) -> None:
        """A lost node that answers again ends its sandboxes, before it takes others."""
        try:
            ids, _ = await self.ask(node, "ids")
            results = [await self.ask(node, "remove", each) for each in ids or ()]
        except Unreachable as error:
            log.warning("node cannot be fenced: %s", error, extra={"node": node})
            return
        if ids is not None and not any(error for _, error in results):
            self.membership.readmit(node)

    async def _look(self, _: str) -> None:
        with contextlib.suppress(ClientError):
            await moving.look(self, self.sandboxes)

    async def _sweep(self, node: str) -> None:
        """Remove saved sandboxes that were removed while the node did not answer, each time that it answers again."""
        store = self.sandboxes.store
        with contextlib.suppress(ClientError):
            found = set(await self.call(node, "saved"))
            known = store.snapshot_ids() | {each.id for each in store.builds.named()} | self.sandboxes.saving
            known |= store.saved()
            moving.find_again(self.sandboxes, node, found)
            for each in found - known:
                await self.call(node, "discard", self.sandboxes.templates.folder(each))
            self._swept.add(node)

    async def _end_others(self, node: str) -> None:
        """End sandboxes of a node whose records are of other nodes, or are not there."""
        places = self.sandboxes.store.places
        with contextlib.suppress(ClientError):
            found = set(await self.call(node, "ids"))
            self.sandboxes.store.confirm()  # otherwise another server may have started them
            for each in found - places.on(node):
                async with self._lock(each):
                    # A sandbox is recorded before the node has it, so that none is new, unless it is resumed there now
                    if each not in places.on(node):
                        log.warning("sandbox without a record is ended", extra={"sandbox": each, "node": node})
                        await self.call(node, "remove", each)

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        """Held while a node starts a sandbox, or ends one that is not its own."""
        return self._locks.setdefault(sandbox_id, asyncio.Lock())
