"""Sandboxes on the nodes of a Ray cluster, for programs that use Ray themselves.

Nodes take part that have the resource ``pyvmm_memory``, in MiB: ``ray start --resources '{"pyvmm_memory": 16384}'``.
One actor on each starts the sandboxes there, which end with the pool.
"""

from __future__ import annotations

import os
import random
import select
import signal
import threading
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pyvmm_sandbox import errors
from pyvmm_sandbox.errors import SandboxError, SandboxGone, UsageError
from pyvmm_sandbox.sandbox import Sandbox
from pyvmm_sandbox.template import RECORD, Template
from vmm import VmmError

if TYPE_CHECKING:
    from types import TracebackType

MEMORY = "pyvmm_memory"
CHOICES = 3
"""Random nodes of which the one with the most free memory gets the sandbox."""
CALLS = ("run", "run_code", "files", "stats", "pause", "resume", "set_timeout")
"""Of a sandbox, those whose results another node can have: no streams and no sockets."""
_CONCURRENT = 128
Answer = tuple[Any, Any]
"""A value, or the parts of an error."""


class NodeSandboxes:
    """The sandboxes of a node: what the actor there does.  They end with its process."""

    def __init__(self) -> None:
        self._boxes: dict[str, Sandbox] = {}
        threading.Thread(target=_end_with, args=(os.pidfd_open(os.getppid()),), daemon=True).start()

    def start(self, source: str, options: dict[str, Any]) -> Answer:
        """The name of a new sandbox."""

        def begin() -> str:
            if os.path.exists(os.path.join(source, RECORD)):
                template = {name: value for name, value in options.items() if name not in ("memory", "cpus", "network")}
                return self._keep(Template(source).start(**template))
            return self._keep(Sandbox(source, **options))

        return _answer(begin)

    def fork(self, name: str, count: int) -> Answer:
        """The names of copies."""
        return _answer(lambda: [self._keep(each) for each in self._find(name).fork(count)])

    def _keep(self, box: Sandbox) -> str:
        self._boxes[box.name] = box
        return box.name

    def _find(self, name: str) -> Sandbox:
        if name not in self._boxes:
            raise SandboxGone(f"sandbox {name} has ended")
        return self._boxes[name]

    def call(self, name: str, path: tuple[str, ...], args: tuple[Any, ...], options: dict[str, Any]) -> Answer:
        """The result of a method of a sandbox, or of something that it has."""

        def work() -> Any:
            found: Any = self._find(name)
            for each in path:
                found = getattr(found, each)
            return found(*args, **options)

        return _answer(work)

    def kill(self, name: str) -> Answer:
        """End a sandbox, if there is one."""
        box = self._boxes.pop(name, None)
        return _answer(lambda: None if box is None else box.kill())

    def close(self) -> Answer:
        """End all."""
        for name in list(self._boxes):
            self.kill(name)
        return None, None


def _end_with(node: int) -> None:
    """End this process, and so its sandboxes, with Ray's process of the node: an actor can outlive that."""
    select.select([node], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def _answer(work: Any) -> Answer:
    try:
        return work(), None
    except VmmError as error:
        return None, (type(error).__name__, str(error), error.hint, getattr(error, "result", None))
    except (OSError, ValueError) as error:
        return None, error


def _error_of(parts: Any) -> BaseException:
    if isinstance(parts, BaseException):
        return parts
    name, message, hint, result = parts
    kind: Any = getattr(errors, name, SandboxError)
    if kind is errors.CommandFailed:
        return errors.CommandFailed(message, result)
    if kind in (errors.CommandTimeout, errors.CodeTimeout):
        return kind(message, result, hint)  # type: ignore[no-any-return]
    return kind(message, hint=hint)  # type: ignore[no-any-return]


class _NodeLost(SandboxGone):
    """The node has ended, or its actor."""


class _Node:
    """What the pool has of a node."""

    def __init__(self, name: str, memory: int) -> None:
        self.name = name
        self.memory = self.free = memory
        kind: Any = ray.remote(NodeSandboxes)
        self.actor = kind.options(
            num_cpus=0,
            resources={MEMORY: memory},
            max_concurrency=_CONCURRENT,
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
        ).remote()

    def ask(self, name: str, *args: Any) -> Any:
        """
        :raises SandboxGone: the node has ended, or its actor has
        """
        library: Any = ray
        try:
            value, error = library.get(getattr(self.actor, name).remote(*args))
        except library.exceptions.RayError as lost:
            raise _NodeLost(f"the sandbox is lost with its node {self.name[:16]}: {type(lost).__name__}") from lost
        if error is not None:
            raise _error_of(error)
        return value


class NodeSandbox:
    """A sandbox of a node.  It has the methods of :class:`~pyvmm_sandbox.Sandbox` in :data:`CALLS`, with the same
    arguments and results: ``box.run("make")``, ``box.files.read("/tmp/x")``.  A context manager.

    :ivar name: of the sandbox
    :ivar node: Ray's id of its node
    """

    def __init__(self, pool: SandboxPool, node: _Node, name: str) -> None:
        self._pool, self._node = pool, node
        self.name, self.node = name, node.name
        self._is_open = True

    def __getattr__(self, name: str) -> _Call:
        if name not in CALLS:
            raise AttributeError(f"a sandbox of another node has no {name!r}: it has {', '.join(CALLS)}")
        return _Call(self._node, self.name, (name,))

    def fork(self, count: int = 1) -> list[NodeSandbox]:
        """Running copies on the same node.

        :raises SandboxError: it has no room, or the sandbox cannot be copied
        """
        return self._pool._forked(self, self._node, count)

    def kill(self) -> None:
        """End it.  A second call does nothing."""
        if self._is_open:
            self._is_open = False
            try:
                self._node.ask("kill", self.name)
            except SandboxGone:
                pass  # with its node
            finally:
                self._pool._leave(self._node)

    def __enter__(self) -> NodeSandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()


class _Call:
    """A method of a sandbox of another node."""

    def __init__(self, node: _Node, name: str, path: tuple[str, ...]) -> None:
        self._node, self._name, self._path = node, name, path

    def __getattr__(self, name: str) -> _Call:
        if name.startswith("_") or self._path != ("files",):
            raise AttributeError(name)
        return _Call(self._node, self._name, (*self._path, name))

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._node.ask("call", self._name, self._path, args, options)


class SandboxPool:
    """Sandboxes on the nodes of the cluster that this program is connected to (``ray.init``).  A context manager, at
    whose end all of them end.

    :param source: the name of an image, or the folder of a template or of a root file system, on each node
    :param memory: of a sandbox in MiB, which its node has to have left; of a template, what it was saved with
    :param options: of :class:`~pyvmm_sandbox.Sandbox`
    :raises UsageError: *options* has what cannot be for a sandbox of another node
    """

    def __init__(self, source: str, *, memory: int = 512, **options: Any) -> None:
        if wrong := {"name", "detach"} & set(options):
            raise UsageError(f"{', '.join(sorted(wrong))}: sandboxes of a pool end with it")
        self._source, self._memory = source, memory
        self._options = {"timeout": None, "memory": f"{memory}M", **options}
        self._nodes: dict[str, _Node] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> NodeSandbox:
        """A new sandbox, on the best of three random nodes by free memory.  If that is lost meanwhile, on another one.

        :raises SandboxError: no node has room, or it cannot be started
        """
        while True:
            node = self._take()
            try:
                return NodeSandbox(self, node, node.ask("start", self._source, self._options))
            except _NodeLost:
                with self._lock:
                    self._lost.add(node.name)
            except BaseException:
                self._leave(node)
                raise

    def _take(self) -> _Node:
        """The node for a sandbox, with its memory taken."""
        with self._lock:
            if self._closed:
                raise UsageError("the pool is closed")
            self._refresh()
            nodes = [each for each in self._nodes.values() if each.name not in self._lost]
            few = random.sample(nodes, min(CHOICES, len(nodes)))
            for some in (few, nodes):
                best = max(some, key=lambda each: each.free, default=None)
                if best is not None and best.free >= self._memory:
                    best.free -= self._memory
                    return best
        hint = f"ray start --resources '{{\"{MEMORY}\": 16384}}' on each node"
        raise SandboxError(f"none of {len(nodes)} nodes has {self._memory} MiB for another sandbox", hint=hint)

    def _refresh(self) -> None:
        library: Any = ray
        for each in library.nodes():
            memory, name = int(each["Resources"].get(MEMORY, 0)), each["NodeID"]
            if each["Alive"] and memory and name not in self._nodes:
                self._nodes[name] = _Node(name, memory)
            elif not each["Alive"]:
                self._lost.add(name)

    def _forked(self, box: NodeSandbox, node: _Node, count: int) -> list[NodeSandbox]:
        with self._lock:
            if node.free < count * self._memory:
                raise SandboxError(f"the node has no {count * self._memory} MiB for {count} copies")
            node.free -= count * self._memory
        try:
            return [NodeSandbox(self, node, name) for name in node.ask("fork", box.name, count)]
        except BaseException:
            for _ in range(count):
                self._leave(node)
            raise

    def _leave(self, node: _Node) -> None:
        with self._lock:
            node.free += self._memory

    def close(self) -> None:
        """End all sandboxes, and the actors.  A second call does nothing."""
        with self._lock:
            self._closed = True
            nodes, self._nodes = list(self._nodes.values()), {}
        library: Any = ray
        for each in nodes:
            try:
                each.ask("close")
            except SandboxGone:
                continue
            library.kill(each.actor)

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
