"""The sandboxes of one node of a cluster: what the actor of that node does, without the cluster's own library.

A node has the server's code for sandboxes with the local engine, and records of its own.  So an actor that is killed
finds its sandboxes again, as a server does.  :mod:`pyvmm_server.fence` ends them with the node.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyvmm_server import fence, relay, store, threads
from pyvmm_server.engine import Address
from pyvmm_server.errors import ClientError, describe, gone
from pyvmm_server.node_builds import Bench
from pyvmm_server.node_saved import Saved
from vmm import restrict_server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pyvmm_sandbox import Network
    from pyvmm_server.choices import Choices
    from pyvmm_server.engine import Handle
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record
    from pyvmm_server.templates import Source

log = logging.getLogger("pyvmm_server")
_LOCK_S = 60.0
"""How long an actor waits for the end of the one before it."""
Answer = tuple[Any, tuple[int, str, str] | None]
"""A value, or the status, the sentence and the code of a :class:`ClientError`."""


def folder_of(settings: Settings, node: str) -> str:
    """The records of a node, on that node."""
    return os.path.join(settings.state, "nodes", node[:16])


class Node:
    """
    :param settings: those of the server
    :param node: the id of the node, which a node that is started again does not have
    :param host: the address of the node
    :param keeper: the process with which the node ends
    """

    def __init__(self, settings: Settings, node: str, host: str, keeper: int) -> None:
        folder = folder_of(settings, node)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fence.sweep(os.path.dirname(folder), settings.root)
        fence.start(folder, settings.root, keeper)
        self._saved = Saved(os.path.join(folder, "forks"), os.path.join(settings.state, "saved", settings.cluster))
        self._bench = Bench(os.path.join(folder, "archives"))
        self._settings = replace(settings, state=folder, suspend_paused=False)  # the server sends the folder
        os.makedirs(self._settings.bundles, mode=0o700, exist_ok=True)
        tempfile.tempdir = self._settings.bundles
        self._address = Address(host, 0, secrets.token_hex(32))
        self._sandboxes: Sandboxes
        self._loop = asyncio.new_event_loop()
        begun = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._serve, args=(begun,), daemon=True).start()
        begun.wait()
        if self._error is not None:
            raise RuntimeError(f"the node cannot serve: {self._error}")

    def _serve(self, begun: threading.Event) -> None:
        """Answer requests, on a thread of its own: with all that it starts, it gives up what the server gives up."""
        try:
            restrict_server()
            self._loop.run_until_complete(self._run(begun))
        except BaseException as error:
            self._error = error
            log.error("the relay has ended", exc_info=error)
        finally:
            begun.set()

    async def _run(self, begun: threading.Event) -> None:
        import uvicorn

        from pyvmm_server.app import make
        from pyvmm_server.tunnels import Tunnel

        app = await self._made(make)
        self._sandboxes = app.sandboxes
        sock = socket.create_server((self._address.host, 0))
        self._address = self._address._replace(port=sock.getsockname()[1])
        guard = relay.Guard(app, self._address.secret, self._saved.others)
        tunnel: Any = functools.partial(Tunnel, guard, None)
        config = uvicorn.Config(guard, http="httptools", ws=tunnel, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        self._loop.call_soon(begun.set)  # requests wait in the socket's queue
        await server.serve([sock])

    async def _made(self, make: Callable[[Settings], Any]) -> Any:
        """The application.  An actor that is ending can have the lock of its records for a while."""
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                return make(self._settings)
            except OSError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    # -- calls of the server: each blocks ------------------------------------------------------------------------------

    def hello(self) -> Address:
        """Where its relay is."""
        return self._address

    def start(self, record: Record, source: Source, choices: Choices, holder: Address | None) -> Answer:
        """Start a sandbox.

        :param holder: the node that has the template, if this one does not
        """
        template = self._saved.path(source.template) if source.node else source.template
        try:
            if holder is not None:
                self._saved.fetch(holder, source.template)
        except OSError as error:
            return None, (503, f"{source.name} cannot be fetched from the node that has it: {error}", "")
        return self._answer(
            self._adopt(record, replace(source, settings=self._settings, template=template, node=""), choices)
        )

    async def _adopt(self, record: Record, source: Source, choices: Choices) -> None:
        await self._remove(record.id)  # of an earlier request, whose answer the server did not get
        await self._sandboxes.adopt(record, source, choices)

    def pause(self, sandbox_id: str) -> Answer:
        return self._answer(self._with(sandbox_id, lambda each: self._sandboxes.pause(each)))

    def resume(self, sandbox_id: str) -> Answer:
        return self._answer(self._with(sandbox_id, self._resume))

    async def _resume(self, record: Record) -> None:
        await self._sandboxes.resume(record, None)  # the server ends it in time

    def save(self, sandbox_id: str, folder: str) -> Answer:
        return self._answer(self._with(sandbox_id, lambda each: self._sandboxes.save(each, self._saved.path(folder))))

    def has(self, folder: str) -> Answer:
        """Whether a saved sandbox is here."""
        return self._saved.has(folder), None

    def saved(self) -> Answer:
        """The names of all saved sandboxes."""
        return self._saved.names(), None

    def suspend(self, sandbox_id: str, folder: str) -> Answer:
        """Save a sandbox, and end it."""

        async def run(record: Record) -> None:
            live = await self._sandboxes.live(record)
            async with live.lock:
                await threads.call(live.box.suspend, self._saved.path(folder))
            self._sandboxes.forget(sandbox_id)
            await self._sandboxes.engine.remove(record)
            self._sandboxes.store.remove(record)

        return self._answer(self._with(sandbox_id, run))

    def discard(self, folder: str) -> Answer:
        """Remove what has been saved."""
        self._saved.discard(folder)
        return None, None

    def remove(self, sandbox_id: str) -> Answer:
        """End a sandbox, if there is one."""
        return self._answer(self._remove(sandbox_id))

    async def _remove(self, sandbox_id: str) -> None:
        if record := self._sandboxes.store.get(sandbox_id):
            if record.state in (store.RUNNING, store.PAUSED):
                await self._sandboxes.kill(record)
            if self._sandboxes.store.get(sandbox_id) is not None:  # one that has ended by itself, or is half made
                await self._sandboxes.engine.remove(record)
                self._sandboxes.store.remove(record)

    def settle(self, sandbox_id: str, state: str) -> Answer:
        """Whether a sandbox is there; it runs or is paused then, as the server's record has it."""

        async def run() -> bool:
            if not await self._is_running(sandbox_id):
                return False
            record = self._sandboxes.store.get(sandbox_id)
            if record is not None and record.state != state:
                await (self._resume(record) if state == store.RUNNING else self._sandboxes.pause(record))
            return record is not None

        return self._answer(run())

    def is_running(self, sandbox_id: str) -> Answer:
        return self._answer(self._is_running(sandbox_id))

    async def _is_running(self, sandbox_id: str) -> bool:
        record = self._sandboxes.store.get(sandbox_id)
        if record is None or record.state not in (store.RUNNING, store.PAUSED):
            return False
        try:
            return await (await self._sandboxes.live(record)).handle.is_running()
        except ClientError:
            return False

    # -- of single sandboxes -------------------------------------------------------------------------------------------

    def stats(self, sandbox_id: str) -> Answer:
        """What it uses now."""
        return self._answer(self._handled(sandbox_id, lambda handle: handle.stats()))

    def steps(self, sandbox_id: str) -> Answer:
        """The steps of its start, and how many seconds ago each was done: nodes have clocks of their own."""

        async def ages(handle: Handle) -> list[tuple[str, float]]:
            found, now = await handle.steps(), time.monotonic()
            return [(what, now - at) for what, at in found]

        return self._answer(self._handled(sandbox_id, ages))

    def set_rules(self, sandbox_id: str, rules: Network) -> Answer:
        """Replace the rules of its network."""
        return self._answer(self._with(sandbox_id, lambda each: self._sandboxes.set_rules(each, rules)))

    async def _handled(self, sandbox_id: str, work: Callable[[Handle], Coroutine[Any, Any, Any]]) -> Any:
        async def run(record: Record) -> Any:
            return await work((await self._sandboxes.live(record)).handle)

        return await self._with(sandbox_id, run)

    def receive(self, sandbox_id: str, at: int, data: bytes) -> Answer:
        """See :meth:`pyvmm_server.node_builds.Bench.receive`."""
        self._bench.receive(sandbox_id, at, data)
        return None, None

    def work(self, sandbox_id: str, name: str, what: Any, found: dict[str, Any], left: float) -> Answer:
        """See :meth:`pyvmm_server.node_builds.Bench.work`."""

        async def run(record: Record) -> Any:
            box = (await self._sandboxes.live(record)).box
            return await self._bench.work(sandbox_id, box, name, what, found, left)

        return self._answer(self._with(sandbox_id, run))

    def ids(self) -> Answer:
        """All that it has."""
        return self._answer(self._ids())

    async def _ids(self) -> list[str]:
        states = (store.CREATING, store.RUNNING, store.PAUSED, store.ENDING)
        return [each.id for each in self._sandboxes.store.in_states(*states)]

    async def _with(self, sandbox_id: str, work: Callable[[Record], Coroutine[Any, Any, Any]]) -> Any:
        record = self._sandboxes.store.get(sandbox_id)
        if record is None:
            raise gone(sandbox_id)
        return await work(record)

    def _answer(self, work: Coroutine[Any, Any, Any]) -> Answer:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(), None
        except Exception as error:
            found = describe(error)
            return None, (found.status, found.message, found.code)
