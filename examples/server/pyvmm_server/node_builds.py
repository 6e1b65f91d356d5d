"""The steps of builds whose sandboxes are of this node, which the server sends one by one."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from pyvmm_server import threads
from pyvmm_server.remote_builds import found_of
from pyvmm_server.steps import BuildError, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_sandbox import Sandbox

_MOST_OUTPUT = 1 << 20


class Lines:
    """The output of a step, up to a limit.

    :ivar found: lines and their levels
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self._left = _MOST_OUTPUT

    def add(self, text: str, level: str) -> None:
        """One that is over the limit is dropped: the log of the build has the same limit, and reports it."""
        self._left -= len(text) + 100
        if self._left > -_MOST_OUTPUT:
            self.found.append((text, level))


class Bench:
    """
    :param folder: of archives, which each step removes
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, sandbox_id: str) -> str:
        return os.path.join(self._folder, os.path.basename(sandbox_id))

    def receive(self, sandbox_id: str, at: int, data: bytes) -> None:
        """A part of the archive that the next step copies.

        :param at: where it begins; 0: of a new archive
        """
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        with open(self._path(sandbox_id), "r+b" if at else "wb") as file:
            file.seek(at)
            file.write(data)

    async def work(
        self, sandbox_id: str, box: Sandbox, name: str, what: Any, found: dict[str, Any], left: float
    ) -> tuple[list[tuple[str, str]], dict[str, Any], str]:
        """Execute a step: the lines of its output, what the steps have set, and why it has failed.

        :param name: of the method of :class:`~pyvmm_server.steps.Worker`
        :param left: seconds of the build
        """
        path, lines, error = self._path(sandbox_id), Lines(), ""
        deadline = time.monotonic() + left
        worker = Worker(box, lambda _: path if os.path.exists(path) else "", lines.add, deadline, **found)
        methods: dict[str, Callable[[Any], None]] = {"do": worker.do, "start": worker.start, "wait": worker.wait}
        try:
            await threads.call(methods[name], what)
        except BuildError as failure:
            error = failure.message
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return lines.found, found_of(worker), error
