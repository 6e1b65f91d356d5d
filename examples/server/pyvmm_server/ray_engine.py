"""The engine for many nodes: Ray starts, watches and restarts one actor on each, and this server places sandboxes.

Nodes take part that have the resource ``pyvmm_memory``, in MiB: ``ray start --resources '{"pyvmm_memory": 16384}'``.
The actor reserves all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from pyvmm_server import metrics, threads
from pyvmm_server import node as node_module
from pyvmm_server.engine import Node
from pyvmm_server.errors import ClientError, Unreachable, gone, lost, not_there
from pyvmm_server.placement import Membership, choose
from vmm import ConfigError

if TYPE_CHECKING:
    from pyvmm_sandbox import Network, Sandbox
    from pyvmm_server.relay import Address
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record
    from pyvmm_server.templates import Source

log = logging.getLogger("pyvmm_server")
MEMORY = "pyvmm_memory"
NAMESPACE = "pyvmm"
_ROUND_S = 1.5
_PROBE_S = 2.0
_CALL_S = 30.0
_START_S = 120.0
_BEGIN_S = 60.0
"""How long the server waits for the actors of its nodes, before it answers requests."""
_CONCURRENT = 256


class _Member:
    """What this server has of a node."""

    def __init__(self, node: Node, actor: Any, keeper: tuple[str, int]) -> None:
        self.node = node
        self.actor = actor
        self.keeper = keeper
        self.relay: Address | None = None
        self.greeting: asyncio.Task[None] | None = None


class RayHandle:
    """A sandbox of another node."""

    def __init__(self, engine: Ray, record: Record) -> None:
        self._engine = engine
        self._node, self._id = record.node, record.id

    @property
    def box(self) -> Sandbox:
        raise not_there("this call to a sandbox of another node")

    @property
    def relay(self) -> Address:
        return self._engine.relay(self._node, self._id)

    async def pause(self) -> None:
        await self._engine.call(self._node, "pause", self._id)

    async def resume(self) -> None:
        await self._engine.call(self._node, "resume", self._id)

    async def kill(self) -> None:
        await self._engine.call(self._node, "remove", self._id)

    async def save(self, folder: str) -> None:
        await self._engine.call(self._node, "save", self._id, folder, limit=_START_S)

    async def is_running(self) -> bool:
        return bool(await self._engine.call(self._node, "is_running", self._id))


class Ray:
    """
    :param kind: the class of the actors
    :raises ConfigError: Ray is not installed, or no cluster answers
    """

    has_builds = False

    def __init__(self, settings: Settings, kind: type[node_module.Node] | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("Ray is not installed", hint="pip install 'pyvmm-server[ray]'") from error
        self._ray: Any = ray
        try:
            # The address is $RAY_ADDRESS, or that of the cluster of this host.
            ray.init("auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"no Ray cluster: {error}", hint="run `ray start` on each node, first") from error
        self._settings = settings
        self._kind = kind or node_module.Node
        self._members: dict[str, _Member] = {}
        self._membership = Membership()
        self._rng = random.Random()
        self._sandboxes: Sandboxes

    # -- sandboxes -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[Node]:
        return list(self._membership.ready.values())

    def place(self, memory: int, beside: str) -> str:
        ready = self._membership.ready
        nodes = [ready[beside]] if beside in ready else [] if beside else list(ready.values())
        found = choose(nodes, self._sandboxes.store.places.used, memory, self._rng)
        if found is None:
            where = "the node of the sandbox" if beside else f"none of {len(nodes)} nodes"
            raise ClientError(503, f"{where} has {memory} MiB for another sandbox" if nodes else "no node answers")
        return found.id

    async def start(self, record: Record, source: Source, rules: Network | None) -> RayHandle:
        await self.call(record.node, "start", record, source, rules, limit=_START_S)
        return RayHandle(self, record)

    async def connect(self, record: Record) -> RayHandle:
        handle = RayHandle(self, record)
        if not await handle.is_running():
            raise gone(record.id)
        return handle

    async def remove(self, record: Record) -> None:
        if record.node and not self._membership.is_lost(record.node):
            await self.call(record.node, "remove", record.id)

    async def discard(self, record: Record, folder: str) -> None:
        with contextlib.suppress(ClientError):
            await self._remote(record.node, "discard", folder)

    def relay(self, node: str, sandbox_id: str) -> Address:
        """
        :raises ClientError: the node does not answer now, or is lost
        """
        if self._membership.is_lost(node):
            raise lost(sandbox_id, node, 502)
        member = self._members.get(node)
        if member is None or member.relay is None:
            raise Unreachable("it is starting")
        return member.relay

    async def call(self, node: str, name: str, *args: Any, limit: float = _CALL_S) -> Any:
        """The result of a call to the node's actor.

        :raises Unreachable: it does not answer; what was asked for may have been done
        :raises ClientError: it has answered so
        """
        value, error = await self._remote(node, name, *args, limit=limit)
        if error is not None:
            status, message, code = error
            raise ClientError(status, message, code=code)
        return value

    async def _remote(self, node: str, name: str, *args: Any, limit: float = _CALL_S) -> Any:
        member = self._members.get(node)
        if member is None or self._membership.is_lost(node):
            raise Unreachable("it is lost or unknown")

        def run() -> Any:
            return self._ray.get(getattr(member.actor, name).remote(*args), timeout=limit)

        try:
            return await threads.call(run)
        except self._ray.exceptions.RayError as error:
            self._membership.suspect(node)
            raise Unreachable(type(error).__name__) from error

    # -- nodes ---------------------------------------------------------------------------------------------------------

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        self._sandboxes = sandboxes
        deadline = time.monotonic() + _BEGIN_S
        while True:
            try:
                await self._round()
            except Exception as error:
                log.error("a round of nodes", exc_info=error)
            if len(self._membership.ready) == len(self._members) > 0 or time.monotonic() > deadline:
                begun.set()
            await asyncio.sleep(_ROUND_S)

    async def _round(self) -> None:
        await self._list()
        self._membership.expect(self._sandboxes.store.places.nodes())
        found = await asyncio.gather(*(self._probe(each) for each in self._members.values()))
        alive = [node for node, (is_alive, _) in zip(self._members, found, strict=True) if is_alive]
        ready = [node for node, (_, is_ready) in zip(self._members, found, strict=True) if is_ready]
        nodes = {node: self._members[node].node for node in ready}
        changes = self._membership.observe(time.monotonic(), alive, nodes)
        for node in changes.lost:
            log.warning("node is lost", extra={"node": node})
        for node, ids in self._membership.settle(self._sandboxes.store.places).items():
            for each in ids:
                metrics.FAILURES.labels("lost").inc()
                log.warning("sandbox is lost with its node", extra={"sandbox": each, "node": node})
                self._sandboxes.forget(each)
        for node in set(changes.fence) & set(self._members):
            await self._fence(node)
        await asyncio.gather(*(self._end_others(node) for node in list(self._membership.ready)))

    async def _list(self) -> None:
        """Start an actor on each new node."""
        try:
            async with asyncio.timeout(_CALL_S):
                listed = await threads.call(self._ray.nodes)
        except Exception as error:
            log.warning("Ray does not list its nodes: %s", error)  # those that are known are probed all the same
            return
        for each in listed:
            memory = int(each["Resources"].get(MEMORY, 0))
            node = each["NodeID"]
            if each["Alive"] and memory and node not in self._members:
                self._members[node] = self._member(each, memory)
            elif not each["Alive"] and self._membership.is_lost(node):
                self._members.pop(node, None)  # Ray gives a node that is started again another id

    def _member(self, listed: dict[str, Any], memory: int) -> _Member:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node, host = listed["NodeID"], listed["NodeManagerAddress"]
        kind = self._ray.remote(_actor_of(self._kind))
        actor = kind.options(
            name=f"node-{node}",
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=_CONCURRENT,
            num_cpus=0,
            resources={MEMORY: memory},
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(self._settings, node, host)
        return _Member(Node(node, memory), actor, (host, listed["NodeManagerPort"]))

    async def _probe(self, member: _Member) -> tuple[bool, bool]:
        """Whether the node is alive, and whether its actor is."""
        address = member.relay
        if address is not None and await _listens(address.host, address.port):
            return True, True
        if not await _listens(*member.keeper):
            return False, False
        if member.greeting is None or member.greeting.done():
            member.greeting = asyncio.create_task(self._greet(member))
        return True, False

    async def _greet(self, member: _Member) -> None:
        """Learn where the relay of an actor is that is new, or that Ray has started again."""
        with contextlib.suppress(ClientError):
            member.relay = await self._remote(member.node.id, "hello", limit=_START_S)

    async def _fence(self, node: str) -> None:
        """A lost node that answers again ends its sandboxes, before it takes others."""
        member = self._members[node]
        try:
            ids, _ = await threads.call(lambda: self._ray.get(member.actor.ids.remote(), timeout=_CALL_S))
            for each in ids:
                await threads.call(lambda id=each: self._ray.get(member.actor.remove.remote(id), timeout=_CALL_S))
        except self._ray.exceptions.RayError as error:
            log.warning("node cannot be fenced: %s", type(error).__name__, extra={"node": node})
            return
        self._membership.readmit(node)

    async def _end_others(self, node: str) -> None:
        """End sandboxes of a node whose records are of other nodes, or are not there."""
        with contextlib.suppress(ClientError):
            for each in set(await self.call(node, "ids")) - self._sandboxes.store.places.on(node):
                # A sandbox is recorded before the node has it, so that none is new.
                log.warning("sandbox without a record is ended", extra={"sandbox": each, "node": node})
                await self.call(node, "remove", each)


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _actor_of(kind: type[node_module.Node]) -> type:
    """The class of an actor: the process above it is the node's, which ends with the node."""
    import os

    class Actor(kind):  # type: ignore[valid-type, misc]
        def __init__(self, settings: Settings, node: str, host: str) -> None:
            super().__init__(settings, node, host, os.getppid())

    return Actor
