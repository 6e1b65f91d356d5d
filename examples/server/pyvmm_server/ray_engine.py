"""The engine for many nodes: Ray starts, watches and restarts one actor on each, and this server places sandboxes.

Nodes take part that have the resource ``pyvmm_memory``, in MiB: ``ray start --resources '{"pyvmm_memory": 16384}'``.
The actor reserves all of it.

Whoever reaches the ports of a cluster without authentication runs programs on its nodes.  So the cluster has a token
(``RAY_AUTH_MODE=token``), unless the administrator names the network trusted (``RAY_AUTH_MODE=disabled``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyvmm_server import node as node_module
from pyvmm_server import threads
from pyvmm_server.cluster import CALL_S, START_S, Cluster
from pyvmm_server.engine import Address, Node
from pyvmm_server.errors import ClientError, Unreachable
from vmm import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings

log = logging.getLogger("pyvmm_server")
MEMORY = "pyvmm_memory"
NAMESPACE = "pyvmm"
AUTHENTICATION = "RAY_AUTH_MODE"
_PROBE_S = 2.0
_CONCURRENT = 256
"""Calls at a time to each actor."""


class _Member:
    """What this server has of a node.

    :ivar keeper: the address of Ray's process there
    """

    def __init__(self, node: Node, actor: Any, keeper: tuple[str, int]) -> None:
        self.node = node
        self.actor = actor
        self.keeper = keeper
        self.relay: Address | None = None
        self.greeting: asyncio.Task[None] | None = None


class Ray(Cluster):
    """
    :raises ConfigError: Ray is not installed, nothing has been chosen that protects the cluster, or none answers
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        try:
            import ray
        except ImportError as error:
            raise ConfigError("Ray is not installed", hint="pip install ray") from error
        self._ray: Any = ray
        if not os.environ.get(AUTHENTICATION):
            hint = (
                f"set {AUTHENTICATION}=token here and for `ray start` on each node; disabled: their network is trusted"
            )
            raise ConfigError(f"{AUTHENTICATION} is not set: anybody could run programs on the nodes", hint=hint)
        try:
            # The address is $RAY_ADDRESS, or that of the cluster of this host.
            ray.init("auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(f"no Ray cluster: {error}", hint="run `ray start` on each node, first") from error
        self.suspends = settings.suspend_paused
        name = "" if settings.database else _name_of(settings.state)
        self._settings = replace(settings, cluster=name, database="")  # nodes need no passwords
        self._members: dict[str, _Member] = {}

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        if not self._settings.cluster:
            self._settings = replace(self._settings, cluster=sandboxes.store.name())
        await super().run(sandboxes, begun)

    def members(self) -> Iterable[Node]:
        return [each.node for each in self._members.values()]

    def address(self, node: str) -> Address:
        member = self._members.get(node)
        if member is None or member.relay is None:
            raise Unreachable("it is starting")
        return member.relay

    async def ask(self, node: str, name: str, *args: Any, limit: float = CALL_S) -> Any:
        member = self._members.get(node)
        if member is None:
            raise Unreachable("it is unknown")

        def run() -> Any:
            return self._ray.get(getattr(member.actor, name).remote(*args), timeout=limit)

        try:
            return await threads.call(run)
        except self._ray.exceptions.RayError as error:
            raise Unreachable(type(error).__name__) from error

    async def refresh(self) -> None:
        """Start an actor on each new node."""
        try:
            async with asyncio.timeout(_PROBE_S):
                listed = await threads.call(self._ray.nodes)
        except Exception as error:
            log.warning("Ray does not list its nodes: %s", error)  # those that are known are probed all the same
            return
        for each in listed:
            memory = int(each["Resources"].get(MEMORY, 0))
            node = each["NodeID"]
            if each["Alive"] and memory and node not in self._members:
                self._members[node] = self._member(each, memory)
            elif not each["Alive"] and self.membership.is_lost(node):
                self._members.pop(node, None)  # Ray gives a node that is started again another id

    def _member(self, listed: dict[str, Any], memory: int) -> _Member:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node, host = listed["NodeID"], listed["NodeManagerAddress"]
        kind = self._ray.remote(_actor_of(node_module.Node))
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

    async def probe(self, node: str) -> tuple[bool, bool]:
        member = self._members[node]
        if (address := member.relay) is not None and await _answers(address):
            return True, True
        if not await _listens(*member.keeper):
            return False, False
        # The node is alive: its actor is new, or Ray starts it again.
        if member.greeting is None or member.greeting.done():
            member.greeting = asyncio.create_task(self._greet(member))
        return True, False

    async def _greet(self, member: _Member) -> None:
        with contextlib.suppress(ClientError):
            member.relay = await self.ask(member.node.id, "hello", limit=START_S)


async def _answers(address: Address) -> bool:
    """Whether a relay answers a request, if only to refuse it: one that is stopped still has a port that listens."""
    try:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            with contextlib.closing(writer):
                writer.write(b"GET /health HTTP/1.0\r\n\r\n")
                return bool(await reader.read(1))
    except OSError:
        return False


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _name_of(folder: str) -> str:
    """The name of this server among those that may use the same nodes one after the other; made once."""
    path = os.path.join(folder, "cluster")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not os.path.exists(path):
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(secrets.token_hex(8))
        os.replace(f"{path}.new", path)
    with open(path, encoding="ascii") as file:
        return file.read()


def _actor_of(kind: type[node_module.Node]) -> type:
    """The class of an actor, whose parent process is the node's and ends with the node."""

    class Actor(kind):  # type: ignore[valid-type, misc]
        def __init__(self, settings: Settings, node: str, host: str) -> None:
            super().__init__(settings, node, host, os.getppid())

    return Actor
