"""The sandboxes of this server: started, found again, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyvmm_server import metrics, store, threads
from pyvmm_server.choices import NOTHING, Choices
from pyvmm_server.database import Duplicate
from pyvmm_server.engine import Engine, Local
from pyvmm_server.errors import ClientError, Unreachable, Unstored, describe, gone, lost, not_there, translate
from pyvmm_server.events import Events
from pyvmm_server.phases import PREPARE, SAVE, START, Phases
from pyvmm_server.store import Record, Snapshot, Store
from pyvmm_server.templates import Source, Templates, internet_of
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from pyvmm_sandbox import Network, Sandbox
    from pyvmm_server.engine import Handle
    from pyvmm_server.running import Running
    from pyvmm_server.settings import Settings
    from pyvmm_server.users import Users
    from pyvmm_server.watcher import Watcher

log = logging.getLogger("pyvmm_server")
_STOP_S = 2.0
"""How long the commands of a sandbox have for their ends, before its machine is ended under them."""
_TRIES = 3
"""Nodes for a new sandbox, if some do not answer."""
_RESUMED_S = 300
"""The time of a sandbox that a request has resumed."""


class Live:
    """What this process has of a sandbox.

    :ivar lock: held while its state changes
    :ivar is_unsure: its node or the database has not answered when its state was changed
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.lock = asyncio.Lock()
        self.is_unsure = False
        self.events = Events()
        self.processes: dict[int, Running] = {}
        self.watchers: dict[str, Watcher] = {}
        self.tunnels = 0
        """WebSockets to servers inside."""
        self.users: Users | None = None
        self.cpu: tuple[float, float] | None = None
        """The time and the CPU seconds of the last metrics."""

    @property
    def box(self) -> Sandbox:
        """The sandbox itself, for what is only there on its node.

        :raises ClientError: it is of another node
        """
        return self.handle.box

    async def stop(self) -> None:
        """End its commands, so that those who read their output see the end."""
        running: list[Running | Watcher] = [*self.processes.values(), *self.watchers.values()]
        for each in running:
            each.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                for each in running:
                    await each.ended.wait()


@contextlib.contextmanager
def _change_of(live: Live) -> Iterator[None]:
    """A change of its state, which may be half done when it fails."""
    try:
        yield
    except (Unreachable, Unstored):
        live.is_unsure = True
        raise


class Sandboxes:
    """All of them.

    A record is written before its sandbox is started, and removed after its end.  So the next server finds all that a
    server has left, at whatever point it was killed.  :class:`pyvmm_server.upkeep.Upkeep` ends them in time.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = engine or Local(settings)
        self.store = Store(settings.state, settings.database)
        self.templates = Templates(settings, self.store)
        self._live: dict[str, Live] = {}
        self._ending: dict[str, asyncio.Future[None]] = {}
        self._finding: dict[str, asyncio.Future[Live]] = {}
        self.changed = asyncio.Event()
        """Wakes the upkeep: the end of a sandbox's time has changed."""
        self.mine: set[str] = set()
        """Ids of those that are being started or ended by a task of this process."""
        self.saving: set[str] = set()
        """Ids of snapshots and builds that have no record yet."""
        self.hidden_ids: set[str] = set()
        """Ids of those that no client sees."""
        self.failed: set[str] = set()
        """Ids of those that run, but whose clients were told that they cannot be started."""

    # -- what there is -----------------------------------------------------------------------------------------------

    def get(self, owner: str, sandbox_id: str) -> Record:
        """
        :raises ClientError: this key has none
        """
        record = self.store.get(sandbox_id)
        if record is not None and record.owner == owner and record.state == store.LOST:
            raise lost(record.id, record.node or record.holder)
        if record is None or record.owner != owner or record.state not in (store.RUNNING, store.PAUSED):
            raise ClientError(404, f"Sandbox {sandbox_id[:80]!r} does not exist")
        return record

    async def live(self, record: Record) -> Live:
        """
        :raises ClientError: it has ended
        """
        live = await self._connected(record)
        if live.is_unsure:
            await self._settle(record.id, live)
        if not self.is_there(record.id):  # killed or lost meanwhile
            raise gone(record.id)
        return live

    async def _connected(self, record: Record) -> Live:
        if found := self._live.get(record.id):
            return found
        # One search at a time: a second one would take what the first caller has begun to start for a leftover
        finding = self._finding.get(record.id)
        if finding is None:
            finding = self._finding[record.id] = asyncio.ensure_future(self._find(record))
            finding.add_done_callback(lambda _: self._finding.pop(record.id))
        return await asyncio.shield(finding)

    async def _settle(self, sandbox_id: str, live: Live) -> None:
        """Undo what a node may have done without an answer: the client was told that it failed."""
        async with live.lock:
            record = self.store.get(sandbox_id)
            if live.is_unsure and record is not None and self.is_there(sandbox_id):
                live.handle = await self._connect(record)
                live.is_unsure = False

    async def _find(self, record: Record) -> Live:
        handle = await self._connect(record)
        if self.store.get(record.id) is None:
            raise gone(record.id)
        return self._live.setdefault(record.id, Live(handle))

    async def _connect(self, record: Record) -> Handle:
        try:
            return await self.engine.connect(record)
        except ClientError as error:
            if error.status == 502 and self.note_end(record.id):
                self.store.change(record.id, state=store.ENDING, ends=None)  # Upkeep removes what is left of it
                self.changed.set()
            raise

    def is_there(self, sandbox_id: str) -> bool:
        """Whether it runs, is paused or is being started: neither ended nor lost, as far as this server has seen."""
        record = self.store.get(sandbox_id)
        return record is not None and record.state in (store.CREATING, store.RUNNING, store.PAUSED)

    def note_end(self, sandbox_id: str) -> bool:
        """Report a sandbox that has ended without a request; whether that is so."""
        if not self.is_there(sandbox_id):
            return False
        metrics.FAILURES.labels("ended").inc()
        log.warning("sandbox has ended", extra={"sandbox": sandbox_id})
        return True

    async def awake(self, record: Record) -> Live:
        """The same; one that is paused is resumed, if its client has chosen so.

        :raises ClientError: it is paused, or has ended
        """
        if record.state == store.PAUSED:
            if not record.auto_resume:
                raise gone(record.id)
            try:
                await self.resume(record, _RESUMED_S)
            except ClientError:
                if self.get(record.owner, record.id).state != store.RUNNING:  # otherwise another request was faster
                    raise
        return await self.live(record)

    # -- changes -----------------------------------------------------------------------------------------------------

    async def create(
        self,
        owner: str,
        template: str,
        timeout: float,
        *,
        internet: bool | None = None,
        choices: Choices = NOTHING,
        shape: tuple[float, int, str] = (0, 0, ""),
        **values: Any,
    ) -> Record:
        """A running sandbox.

        :param internet: None: as the server's administrator has chosen
        :param choices: of the client, for its machine
        :param shape: CPUs and MiB of a sandbox from an image, and where its commands start; 0 or empty: the default
        :param values: more fields of the record
        :raises ClientError: it cannot be started; nothing of it is left
        """
        if request := values.get("request"):
            found = self.store.of_request(owner, request)
            if found is not None:
                if found.state == store.CREATING:
                    raise ClientError(409, "a request with this idempotency key is being served")
                return found
        phases = Phases()
        with phases.phase(PREPARE):
            source = self.templates.find(owner, template).shaped(*shape)
            if source.template and (what := choices.need_new_machine):
                raise not_there(f"{what} for {source.name}, which was saved with its memory,")
            if choices.shares and not self.engine.has_volumes:
                raise not_there("a volume on many nodes")
            network = internet_of(source, None if choices.rules else internet, self.settings.network != "none")
            made = self._record(owner, source, network, values)
        return await self._start(made, source, timeout, phases, choices)

    def _record(self, owner: str, source: Source, internet: bool, values: dict[str, Any]) -> Record:
        """The record of a sandbox that is being started.

        :raises ClientError: the key has too many, or one for the same request
        """
        most = self.settings.most_sandboxes
        if self.store.count(owner) >= most:
            raise ClientError(429, f"this key has {most} sandboxes, its limit")
        envs = {**source.envs, **values.pop("envs", {})}
        made = Record(
            id=secrets.token_hex(10),
            owner=owner,
            template=source.name,
            state=store.CREATING,
            token=secrets.token_hex(32),
            started=time.time(),
            ends=None,
            envs=envs,
            cpus=source.cpus,
            memory=source.memory,
            internet=internet,
            context=source.context,
            user=source.user,
            workdir=source.workdir,
            node=self._placed(source),
            **values,
        )
        try:
            self.store.add(made)
        except Duplicate:
            raise ClientError(409, "a request with this idempotency key is being served") from None
        self.mine.add(made.id)
        return made

    def _placed(self, source: Source) -> str:
        """The node of a new sandbox: that which has its template, if it has room.

        :raises ClientError: none has
        """
        try:
            return self.engine.place(source.memory, source.node)
        except ClientError:
            if not source.node or source.is_bound:
                raise
        return self.engine.place(source.memory, "")

    @contextlib.asynccontextmanager
    async def hidden(self, owner: str, source: Source, internet: bool) -> AsyncIterator[tuple[Record, Handle]]:
        """A sandbox that no client sees, and that ends with the block.

        Its record stays that of one that is being started, which the next server removes.

        :raises ClientError: it cannot be started
        """
        made = self._record(owner, source, internet, {})
        self.hidden_ids.add(made.id)
        try:
            made, handle = await threads.to_end(self._started(made, source, NOTHING))
        except (ClientError, VmmError, OSError) as error:
            self.hidden_ids.discard(made.id)
            self.store.remove(made)
            raise translate(error) from error
        finally:
            self.mine.discard(made.id)
        self._live[made.id] = Live(handle)
        try:
            yield made, handle
        finally:
            self.hidden_ids.discard(made.id)
            await self.kill(made)

    async def _start(
        self, made: Record, source: Source, timeout: float, phases: Phases, choices: Choices = NOTHING
    ) -> Record:
        try:
            with phases.phase(START):
                made, handle = await self._started(made, source, choices)
        except (ClientError, VmmError, OSError) as error:
            self.store.remove(made)
            metrics.FAILURES.labels("create").inc()
            log.warning("create: %s", error, extra={"sandbox": made.id})
            raise translate(error) from error
        except Exception:  # as of a program that has no thread left; Upkeep removes what there is
            self.store.change(made.id, state=store.ENDING)
            self.changed.set()
            metrics.FAILURES.labels("create").inc()
            raise
        finally:
            self.mine.discard(made.id)
        live = self._live[made.id] = Live(handle)
        live.events.note("sandbox started", template=made.template)
        now = time.time()
        made = replace(made, state=store.RUNNING, started=now, ends=now + timeout, phases=phases.found)
        try:
            self.store.change(made.id, state=made.state, started=now, ends=made.ends, phases=made.phases)
        except Unstored:
            self.failed.add(made.id)  # whether the database kept the change is unknown
            raise
        self.changed.set()
        return made

    async def _started(self, made: Record, source: Source, choices: Choices) -> tuple[Record, Handle]:
        """Start it, on another node if that which was chosen does not answer."""
        for _ in range(_TRIES - 1):
            try:
                return made, await self.engine.start(made, source, choices)
            except Unreachable:
                if source.is_bound:
                    raise
                # If the first node has started it, it ends it when it finds that the record is of another one
                made = replace(made, node=self.engine.place(made.memory, ""))
                self.store.change(made.id, node=made.node)
        return made, await self.engine.start(made, source, choices)

    async def adopt(self, made: Record, source: Source, choices: Choices) -> None:
        """Start the sandbox of a record that another server has made, without an end of its time.

        :raises ClientError: it cannot be started; nothing of it is left
        """
        made = replace(made, state=store.CREATING, ends=None, node="")
        self.store.add(made)
        self.mine.add(made.id)
        try:
            live = self._live[made.id] = Live(await self.engine.start(made, source, choices))
        except (ClientError, VmmError, OSError) as error:
            self.store.remove(made)
            raise translate(error) from error
        finally:
            self.mine.discard(made.id)
        live.events.note("sandbox started", template=made.template)
        self.store.change(made.id, state=store.RUNNING)

    def forget(self, sandbox_id: str) -> None:
        """A sandbox is lost: those who read its output see the end."""
        self._live.pop(sandbox_id, None)
        self.changed.set()

    def dismiss(self, owner: str, sandbox_id: str) -> bool:
        """Remove the record of a lost sandbox; whether it is one."""
        record = self.store.get(sandbox_id)
        if record is None or record.owner != owner or record.state != store.LOST:
            return False
        self.store.remove(record)
        return True

    def set_end(self, record: Record, ends: float) -> None:
        """Move the end of its time, if it runs: a paused one has none."""
        now = self.store.get(record.id)
        if now is not None and now.state == store.RUNNING:
            self.store.change(record.id, ends=ends)
            self.changed.set()

    def extend(self, record: Record, seconds: float) -> None:
        """Give it at least these seconds from now on.  The record may be older than the end that another client set."""
        now = self.store.get(record.id)
        self.set_end(record, max((now and now.ends) or 0, time.time() + seconds))

    async def set_rules(self, record: Record, rules: Network) -> None:
        """
        :raises ClientError: it was started without rules, or has ended
        """
        live = await self.live(record)
        await self._call(live.handle.set_rules(rules))

    async def pause(self, record: Record) -> None:
        """
        :raises ClientError: it is paused, or has ended
        """
        live = await self.live(record)
        async with live.lock:
            self._check(record, store.RUNNING, "is paused already")
            with _change_of(live):
                await self._call(live.handle.pause())
                await self._move(record, store.PAUSED, None)
            live.events.note("sandbox paused")

    async def resume(self, record: Record, timeout: float | None) -> None:
        """
        :param timeout: in seconds; None: its time has no end
        :raises ClientError: it is not paused, or has ended
        """
        live = await self.live(record)
        async with live.lock:
            self._check(record, store.PAUSED, "is running already")
            with _change_of(live):
                await self._call(live.handle.resume())
                await self._move(record, store.RUNNING, None if timeout is None else time.time() + timeout)
            live.events.note("sandbox resumed")
        self.changed.set()

    async def _move(self, record: Record, state: str, ends: float | None) -> None:
        """
        :raises ClientError: it was killed or lost meanwhile
        """
        if not self.is_there(record.id):
            now = self.store.get(record.id)
            if now is None or now.state != store.LOST:  # it was moved to where the kill had looked already
                with contextlib.suppress(ClientError, VmmError, OSError):
                    await self.engine.remove(record)
            raise ClientError(404, f"Sandbox {record.id} does not exist any more")
        saved = {"saved": ""} if state == store.RUNNING else {}
        self.store.change(record.id, state=state, ends=ends, **saved)

    def _check(self, record: Record, state: str, words: str) -> None:
        now = self.get(record.owner, record.id)
        if now.state != state:
            raise ClientError(409, f"Sandbox {record.id} {words}")

    async def fork(self, record: Record, count: int, timeout: float) -> list[Record | ClientError]:
        """Running copies.

        :raises ClientError: it cannot be copied
        """
        saved = os.path.join(self.settings.state, "forks", secrets.token_hex(10))
        phases = Phases()
        try:
            with phases.phase(SAVE):
                await self.save(record, saved)
            source = Source(
                record.template,
                self.settings,
                template=saved,
                cpus=record.cpus,
                memory=record.memory,
                envs=record.envs,
                context=record.context,
                user=record.user,
                workdir=record.workdir,
                node=record.node,
                is_bound=True,
            )
            values = {
                "metadata": record.metadata,
                "auto_pause": record.auto_pause,
                "auto_resume": record.auto_resume,
                "parent": record.id,
            }

            async def start() -> Record:
                mine = Phases(phases.found)
                with mine.phase(PREPARE):
                    made = self._record(record.owner, source, record.internet, dict(values))
                return await self._start(made, source, timeout, mine)

            found = await asyncio.gather(*(start() for _ in range(count)), return_exceptions=True)
        finally:
            await self.engine.discard(record.node, saved)
        return [each if isinstance(each, Record) else describe(each) for each in found]

    async def snapshot(self, record: Record, name: str) -> Snapshot:
        """Save it with its memory; it continues.

        :raises ClientError: it cannot be saved
        """
        if self.store.builds.tags(record.owner, name.partition(":")[0]):
            raise ClientError(409, f"a template of this key is named {name[:80]!r}")
        replaces = bool(name) and self.templates.snapshot(record.owner, name) is not None
        most = self.settings.most_sandboxes
        if not replaces and len(list(self.store.snapshots(record.owner))) >= most:
            raise ClientError(429, f"this key has {most} snapshots, its limit")
        made = Snapshot(
            secrets.token_hex(10),
            record.owner,
            record.id,
            name.removesuffix(":default"),
            time.time(),
            record.cpus,
            record.memory,
            record.internet,
            record.envs,
            record.context,
            record.user,
            record.workdir,
            record.node,
        )
        self.saving.add(made.id)
        try:
            await self.save(record, self.templates.folder(made.id))
            replaced = self.store.replace(made)
        finally:
            self.saving.discard(made.id)
        for older in replaced:
            await self.remove_folder(older)
        return made

    async def remove_snapshot(self, snapshot: Snapshot) -> None:
        self.store.remove(snapshot)
        await self.remove_folder(snapshot.id)

    async def remove_folder(self, snapshot: str) -> None:
        """Remove the data of a snapshot or of a build."""
        await self.engine.discard("", self.templates.folder(snapshot))

    async def save(self, record: Record, folder: str) -> None:
        """Save it with its memory in a folder; it continues.

        :raises ClientError: it cannot be saved
        """
        if record.volumes:
            raise not_there("a copy of a sandbox with volumes")  # two kernels that keep the same files in their caches
        live = await self.live(record)
        async with live.lock:
            self._check(record, store.RUNNING, "is paused")
            try:
                await self._call(live.handle.save(folder))
            except ClientError as error:
                # The library's reason: some machines have no copies.
                raise ClientError(501, error.message) if error.status in (400, 503) else error from error

    async def kill(self, record: Record) -> None:
        """End it.  The record goes last; a second caller waits for the first."""
        ending = self._ending.get(record.id)
        if ending is None:
            self.store.change(record.id, state=store.ENDING, ends=None)
            self.mine.add(record.id)
            ending = self._ending[record.id] = asyncio.ensure_future(self._kill(record))
            ending.add_done_callback(lambda _: self._ending.pop(record.id))
        await asyncio.shield(ending)

    async def _kill(self, record: Record) -> None:
        try:
            live = await self._connected(record)
            await live.stop()
            await live.handle.kill()
        except ClientError:
            self.changed.set()  # it has ended by itself, and Upkeep removes what is left
            return
        except (VmmError, OSError) as error:
            metrics.FAILURES.labels("kill").inc()
            log.warning("kill: %s", error, extra={"sandbox": record.id})  # Upkeep tries again
            return
        finally:
            self.mine.discard(record.id)
            self._live.pop(record.id, None)
        self.store.remove(record)

    async def _call(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (ClientError, VmmError, OSError) as error:
            found = translate(error)
            raise ClientError(404, found.message) if found.status == 502 else found from error
