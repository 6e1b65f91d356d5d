"""Builds of templates: each in a sandbox of its own, which is saved when its steps are done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_server import build_records, threads
from pyvmm_server.archives import Archives
from pyvmm_server.build_records import Build
from pyvmm_server.errors import ClientError, describe
from pyvmm_server.remote_builds import Here, There
from pyvmm_server.steps import BuildError, Plan, Worker
from pyvmm_server.templates import ALIASES, internet_of
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm_server.engine import Handle
    from pyvmm_server.remote_builds import Workshop
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record
    from pyvmm_server.templates import Source

log = logging.getLogger("pyvmm_server")
BASE, FINALIZE = "base", "finalize"
"""Names of the first and of the last step."""
_MOST_LOGS = 100
_MOST_CHARACTERS, _ENTRY = 1 << 20, 100
"""Of all lines of a log, and those that are counted for each line besides its own."""
_LAST_ENTRIES = 20


class Entry(NamedTuple):
    """A line of a build's log."""

    time: float
    level: str
    text: str
    step: str


@dataclass
class Log:
    """What a build has printed, up to a limit."""

    entries: list[Entry] = field(default_factory=list)
    step: str = BASE
    _left: int = _MOST_CHARACTERS

    def add(self, text: str, level: str = "info") -> None:
        """An error ends the build, and is always kept."""
        if level != "error":
            if self._left <= 0:
                return
            self._left -= len(text) + _ENTRY
            if self._left <= 0:
                text, level = "the rest of the log is not kept", "warn"
        self.entries.append(Entry(time.time(), level, text, self.step))

    def of_step(self, step: str) -> list[Entry]:
        """The last entries of a step."""
        return [each for each in self.entries if each.step == step][-_LAST_ENTRIES:]


class Builds:
    """All of them.  A build whose server was killed has failed, and the next server removes its sandbox.

    :ivar archives: the files of clients for their builds
    """

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._settings = sandboxes.settings
        self.records = sandboxes.store.builds
        self.archives = Archives(sandboxes.settings)
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.records.fail_unfinished()

    # -- before a build ----------------------------------------------------------------------------------------------

    def request(self, owner: str, name: str, tags: list[str], cpus: int | None, memory: int | None) -> Build:
        """A build that waits for its files.

        :raises ClientError: the name is another's, or there are too many
        """
        if name in self._settings.templates or name in ALIASES:
            raise ClientError(409, f"{name} is a template of this server")
        if self._sandboxes.templates.snapshot(owner, name) is not None:
            raise ClientError(409, f"a snapshot of this key is named {name}")
        unfinished = self.records.unfinished(owner)
        known = {(name, tag) for tag, _, _ in self.records.tags(owner, name)}
        new = {(each.name, tag) for each in unfinished for tag in each.tags} | {(name, tag) for tag in tags}
        self._check_most(owner, len(new - known), len(unfinished))
        same = self.records.of_name(owner, name)
        made = Build(
            id=str(uuid.uuid4()),
            template=same.template if same else uuid.uuid4().hex[:20],
            owner=owner,
            name=name,
            tags=tags,
            state=build_records.WAITING,
            created=time.time(),
            cpus=cpus or self._settings.cpus,
            memory=memory or self._settings.memory,
        )
        self.records.add(made)
        return made

    def _check_most(self, owner: str, new: int, unfinished: int = 0) -> None:
        most = self._settings.most_sandboxes
        if new and self.records.count(owner) + new > most:
            raise ClientError(429, f"this key has {most} tags of templates, its limit")
        if unfinished >= most:
            raise ClientError(429, f"this key has {most} builds, its limit")

    def begin(self, build: Build, plan: Plan) -> None:
        """Start a build that waits.

        :raises ClientError: it does not wait
        """
        if build.state != build_records.WAITING:
            raise ClientError(409, f"the build {build.id} is not waiting: it is {build.state}")
        self.records.change(build.id, state=build_records.BUILDING)
        while len(self._logs) >= _MOST_LOGS:
            oldest = next((each for each in self._logs if each not in self._tasks), "")
            if not oldest:
                break
            del self._logs[oldest]
        self._logs[build.id] = Log()
        task = asyncio.create_task(self._build(build, plan, self._logs[build.id]))
        self._tasks[build.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(build.id))

    def log_of(self, build: Build) -> Log:
        """Of a build of this server; empty: it is not kept any more."""
        return self._logs.get(build.id) or Log()

    # -- a build -----------------------------------------------------------------------------------------------------

    async def _build(self, build: Build, plan: Plan, lines: Log) -> None:
        error, replaced = "the build was cancelled", [build.id]
        self._sandboxes.saving.add(build.id)
        try:
            values = await self._made(build, plan, lines)
            lines.add("the template is ready")
            error, replaced = "", self.records.finish(build, **values)
        except BuildError as found:
            error = found.message
        except Exception as found:
            error = describe(found).message
        finally:
            self._sandboxes.saving.discard(build.id)
            if error:
                lines.add(error, "error")
                self.records.change(build.id, state=build_records.FAILED, reason=error, step=lines.step)
            await self.remove_folders(replaced)

    async def _made(self, build: Build, plan: Plan, lines: Log) -> dict[str, Any]:
        """What is recorded of a build when it is saved."""
        source = self._source(build, plan, lines)
        internet = internet_of(source, None, self._settings.network != "none")
        async with self._sandboxes.hidden(build.owner, source, internet) as (record, handle):
            shop = self._workshop(record, handle, build, source, lines)
            try:
                await self._work(shop, plan, lines)
            except asyncio.CancelledError:
                with contextlib.suppress(VmmError):  # the sandbox has ended
                    await shop.stop()
                raise
            await threads.to_end(handle.save(self._sandboxes.templates.folder(build.id)))
            await asyncio.sleep(0)  # where a cancellation comes
        return {
            "cpus": source.cpus,
            "memory": source.memory,
            "internet": internet,
            "context": source.context,
            "node": record.node,
            **shop.found,
        }

    def _source(self, build: Build, plan: Plan, lines: Log) -> Source:
        lines.add(f"starting from {plan.image or plan.template}")
        templates = self._sandboxes.templates
        if plan.template:
            found = templates.find(build.owner, plan.template)
        else:
            try:
                found = templates.find_image(plan.image)
            except ClientError as error:
                raise BuildError(f"image {plan.image[:80]!r} is not on this server, which pulls none") from error
        if not found.template:
            found = replace(found, cpus=min(build.cpus, found.cpus), memory=min(build.memory, found.memory))
        if (build.cpus, build.memory) != (found.cpus, found.memory):
            lines.add(f"it has {found.cpus:g} CPUs and {found.memory} MiB of memory", "warn")
        return found

    def _workshop(self, record: Record, handle: Handle, build: Build, source: Source, lines: Log) -> Workshop:
        deadline = time.monotonic() + self._settings.most_build
        found: dict[str, Any] = {"user": source.user, "workdir": source.workdir, "envs": dict(source.envs)}

        def archive(name: str) -> str:
            return self.archives.find(build.owner, name)

        if node := handle.node:
            return There(node, record.id, archive, lines.add, deadline, found)
        return Here(Worker(handle.box, archive, lines.add, deadline, **found))

    async def _work(self, shop: Workshop, plan: Plan, lines: Log) -> None:
        for number, step in enumerate(plan.steps, 1):
            lines.step = str(number)
            lines.add(f"{step.kind} {' '.join(step.args)[:200]}")
            await shop.do(step)
        lines.step = FINALIZE
        if plan.start:
            lines.add(f"starting {plan.start[:200]}")
            await shop.start(plan.start)
        if plan.ready:
            lines.add(f"waiting for {plan.ready[:200]}")
            await shop.wait(plan.ready)

    # -- after a build -----------------------------------------------------------------------------------------------

    def assign(self, build: Build, tags: list[str]) -> list[str]:
        """Name a build by more tags; the builds that no tag names any more.

        :raises ClientError: there are too many
        """
        known = {tag for tag, _, _ in self.records.tags(build.owner, build.name)}
        self._check_most(build.owner, len({*tags} - known))
        return self.records.assign(build, tags)

    async def remove(self, build: Build) -> None:
        """Remove the template of a build, with all its builds."""
        running = [each for each in self.records.unfinished(build.owner) if each.template == build.template]
        for each in running:
            self.records.change(each.id, state=build_records.FAILED, reason="the template was removed")
        await self._cancel(self._tasks[each.id] for each in running if each.id in self._tasks)
        tags = [tag for tag, _, _ in self.records.tags(build.owner, build.name)]
        await self.remove_folders(self.records.untag(build.owner, build.name, tags))

    async def remove_folders(self, builds: Iterable[str]) -> None:
        for each in builds:
            await self._sandboxes.remove_folder(each)

    async def close(self) -> None:
        """End all builds: the server ends."""
        await self._cancel(self._tasks.values())

    async def _cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        found = [*tasks]
        for each in found:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*found, return_exceptions=True)
