"""The steps of a template's build, in a sandbox of this node or of another one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from pyvmm_server import threads
from pyvmm_server.errors import Unreachable
from pyvmm_server.steps import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.engine import NodeCall
    from pyvmm_server.steps import Step, Worker

_PIECE = 4 << 20
"""Bytes of an archive in each call."""
_MORE_S = 30.0
"""The limit for the answer of a node when the time of the build is over."""


class Workshop(Protocol):
    """Executes the steps of a build.  Its calls raise :class:`~pyvmm_server.steps.BuildError`, and
    :class:`~pyvmm_server.errors.ClientError` if the sandbox has ended."""

    async def do(self, step: Step) -> None: ...

    async def start(self, command: str) -> None:
        """Start a command in the background."""

    async def wait(self, ready: str) -> None:
        """Repeat a command until it succeeds."""

    async def stop(self) -> None:
        """End what runs."""

    @property
    def found(self) -> dict[str, Any]:
        """The user, the working directory and the variables that the steps have set."""


class Here:
    """A sandbox of this node."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def do(self, step: Step) -> None:
        await threads.call(self._worker.do, step)

    async def start(self, command: str) -> None:
        await threads.call(self._worker.start, command)

    async def wait(self, ready: str) -> None:
        await threads.call(self._worker.wait, ready)

    async def stop(self) -> None:
        await threads.call(self._worker.stop)

    @property
    def found(self) -> dict[str, Any]:
        return found_of(self._worker)


class There:
    """A sandbox of another node, which executes a step in each call.

    :param node: the calls of the node
    :param archive: returns the path of an archive with a given hash, or an empty string
    :param log: receives the output of a step when the step is done
    :param deadline: of the whole build, on the monotonic clock
    :ivar found: see :class:`Workshop`
    """

    def __init__(
        self,
        node: NodeCall,
        sandbox_id: str,
        archive: Callable[[str], str],
        log: Callable[[str, str], None],
        deadline: float,
        found: dict[str, Any],
    ) -> None:
        self._node, self._id = node, sandbox_id
        self._archive, self._log, self._deadline = archive, log, deadline
        self.found = found

    async def do(self, step: Step) -> None:
        if step.kind == "COPY" and (path := self._archive(step.files)):
            await self._send(path)
        await self._work("do", step)

    async def start(self, command: str) -> None:
        await self._work("start", command)

    async def wait(self, ready: str) -> None:
        await self._work("wait", ready)

    async def stop(self) -> None:
        pass  # the end of the sandbox ends it

    async def _work(self, name: str, what: object) -> None:
        left = self._deadline - time.monotonic()
        try:
            lines, self.found, error = await self._node(
                "work", self._id, name, what, self.found, left, limit=left + _MORE_S
            )
        except Unreachable as failure:
            raise BuildError(failure.message) from failure
        for text, level in lines:
            self._log(text, level)
        if error:
            raise BuildError(error)

    async def _send(self, path: str) -> None:
        """Give the node the archive of the next step."""
        with open(path, "rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            while at < size or not at:
                data = await threads.call(file.read, _PIECE)
                await self._node("receive", self._id, at, data)
                at += max(len(data), 1)


def found_of(worker: Worker) -> dict[str, Any]:
    """What the steps have set."""
    return {"envs": worker.envs, "user": worker.user, "workdir": worker.workdir}
