"""The server's records in PostgreSQL: the same as in SQLite, for servers one after the other, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvmm_server import command, store
from pyvmm_server.build_records import Build
from pyvmm_server.database import Duplicate
from pyvmm_server.errors import ClientError, Unstored
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.settings import Settings
from pyvmm_server.store import LOST, PAUSED, RUNNING, Record, Snapshot, Store
from pyvmm_server.upkeep import Upkeep
from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.server.gated_engine import GatedEngine
from tests.server.postgres_server import PROGRAMS, PostgresServer
from vmm import ConfigError, VmmError

pytest.importorskip("psycopg")
pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL"),
    pytest.mark.long,  # it takes 2 s to make a database
]


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    made = PostgresServer()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_is_kept(tmp_path: Path, database: PostgresServer, kind: str) -> None:
    url = database.url if kind == "postgres" else ""
    first = Record("a", "me", "base", RUNNING, "token", 1.5, 2.5, {"na\0me": "\u00e9"}, {"A": "B"}, 0.5, request="once")
    second = replace(first, id="b", request="", node="n", user="me", auto_pause=True)
    with closing(Store(str(tmp_path), url)) as kept:
        for each in (first, second, replace(second, id="c", state=PAUSED, saved="s")):
            kept.add(each)
        with pytest.raises(Duplicate):
            kept.add(replace(first, id="d"))
        kept.change("a", ends=None, phases=[("start", 1.0, 2.0)])
        assert kept.places.lose("n") == ["b"]
        saved = Snapshot("s1", "me", "a", "saved", 3.0, 1.0, 512, True)
        assert kept.replace(saved) == [] and kept.replace(replace(saved, id="s2", created=4.0)) == ["s1"]
        with pytest.raises(Duplicate):
            kept.add(replace(saved, id="s3"))
        build = Build("b1", "t", "me", "web", ["default"], "building", 5.0, 1.0, 512)
        kept.builds.add(build)
        assert kept.builds.finish(build, step="1") == []
        assert kept.builds.assign(build, ["default", "more"]) == []
        kept.vault.add_secret("me", "key", "value", {"a": "b"})
        with pytest.raises(Duplicate):
            kept.vault.add_secret("me", "key", "other", {})
        name = kept.name()
    with closing(Store(str(tmp_path), url)) as kept:
        assert kept.get("a") == replace(first, ends=None, phases=[["start", 1.0, 2.0]])  # type: ignore[list-item]
        assert kept.get("b") == replace(second, state=LOST, ends=None)
        found = kept.get("c")
        assert found is not None and (found.state, found.node, found.is_on_disk) == (PAUSED, "", True)
        assert kept.get("d") is None and kept.saved() == {"s"} and kept.snapshot_ids() == {"s2"}
        assert [each.name for each in kept.snapshots("me", (9.0, ""))] == ["saved"]
        again = kept.builds.find("me", "web:more")
        assert again is not None and again.state == "ready" and again.internet is True
        assert kept.builds.find("me", "web", any_tag=True) == again and kept.builds.count("me") == 2
        assert [each.name for each in kept.vault.secrets("me")] == ["key"] and kept.vault.value("me", "key") == "value"
        assert kept.name() == name


def test_a_value_that_postgresql_refuses_is_the_fault_of_the_client(tmp_path: Path, database: PostgresServer) -> None:
    with closing(Store(str(tmp_path), database.url)) as kept:
        with pytest.raises(ClientError) as error:
            kept.builds.find("me", "a\0b")
        assert error.value.status == 400 and kept.builds.find("me", "a") is None


def test_a_second_server_waits_for_the_end_of_the_first(tmp_path: Path, database: PostgresServer) -> None:
    """The first one whose connection ends does nothing more, and ends."""
    stores: list[Store] = []
    ends: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    first = Store(str(tmp_path), database.url)
    second = threading.Thread(target=lambda: stores.append(Store(str(tmp_path), database.url)))
    try:
        first.add(Record("a", "me", "base", RUNNING, "token", 1.0, None))
        second.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pyvmm serve'"
        eventually(lambda: first._db.execute(query).fetchone()[0] == 2, "the second does not come")
        assert stores == []
        with contextlib.suppress(Unstored):
            first._db.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        second.join(PATIENCE)
        (taken,) = stores
        assert taken.get("a") is not None
        for _ in range(2):
            with pytest.raises(Unstored, match="another server uses it now"):
                first.change("a", state=PAUSED)
        assert ends == [signal.SIGTERM]
        taken.change("a", state=PAUSED)
        taken.close()
    finally:
        signal.signal(signal.SIGTERM, before)
        first.close()


class _Killer:
    """Kills the database before or after a statement of a server."""

    def __init__(self, database: PostgresServer, kept: Store) -> None:
        self._database, self._db = database, kept._db
        self._execute = kept._db.execute
        self.word = ""
        self.is_after = False
        kept._db.execute = self.execute  # type: ignore[method-assign]

    def execute(self, text: str, values: Any = ()) -> Any:
        if not self.word or self.word not in text:
            return self._execute(text, values)
        self.word = ""
        if self.is_after:
            self._execute(text, values)
        self._database.kill()
        return self._execute("SELECT 1")


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("word", ["INSERT", "UPDATE"])
def test_a_database_that_is_killed_during_a_create(
    tmp_path: Path, database: PostgresServer, word: str, is_after: bool
) -> None:
    """The client is told, and nothing of that sandbox is left.  The others are there."""

    async def run() -> None:
        engine = GatedEngine()
        sandboxes = Sandboxes(Settings(str(tmp_path), {"base": "an image"}, database=database.url), engine)
        upkeep = asyncio.create_task(Upkeep(sandboxes).run())
        first = await sandboxes.create("me", "base", 600)
        killer = _Killer(database, sandboxes.store)
        killer.word, killer.is_after = word, is_after
        with pytest.raises(ClientError, match="the database does not answer") as error:
            await sandboxes.create("me", "base", 600)
        assert error.value.status == 503
        assert sandboxes.get("me", first.id).id == first.id
        with pytest.raises(ClientError, match="the database does not answer"):
            await sandboxes.create("me", "base", 600)
        database.start()
        await _answers_again(sandboxes)
        async with asyncio.timeout(PATIENCE):
            while engine.running != {first.name} or len(sandboxes.store.in_states(*STATES)) != 1:
                await asyncio.sleep(0.01)
        third = await sandboxes.create("me", "base", 600)
        assert engine.running == {first.name, third.name}
        upkeep.cancel()
        sandboxes.store.close()
        again = Sandboxes(Settings(str(tmp_path), {"base": "an image"}, database=database.url), engine)
        assert {each.id for each in again.store.in_states(*STATES)} == {first.id, third.id}
        again.store.close()

    asyncio.run(run())


STATES = (store.CREATING, store.RUNNING, store.PAUSED, store.LOST)


async def _answers_again(sandboxes: Sandboxes) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(Unstored):
                sandboxes.store.confirm()
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_after", [False, True])
def test_a_database_that_is_killed_during_a_pause(tmp_path: Path, database: PostgresServer, is_after: bool) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes = Sandboxes(Settings(str(tmp_path), {"base": "an image"}, database=database.url), engine)
        box = await sandboxes.create("me", "base", 600)
        killer = _Killer(database, sandboxes.store)
        killer.word, killer.is_after = "UPDATE", is_after
        with pytest.raises(Unstored):
            await sandboxes.pause(box)
        database.start()
        await _answers_again(sandboxes)
        found = engine.found
        now = sandboxes.get("me", box.id)
        assert now.state == (PAUSED if is_after else RUNNING)
        await sandboxes.live(now)
        assert engine.found == found + 1, "it is not brought into the state of its record"
        sandboxes.store.close()

    asyncio.run(run())


def test_what_is_refused(tmp_path: Path, database: PostgresServer) -> None:
    with pytest.raises(VmmError, match="need --engine ray"):
        command.settings_of(command.parser().parse_args(["--state", database.url]))
    options = command.parser().parse_args(["--state", database.url, "--state", str(tmp_path), "--engine", "ray"])
    found = command.settings_of(options)
    assert (found.state, found.database) == (str(tmp_path), database.url)
    with pytest.raises(ConfigError, match="does not exist"):
        Store(str(tmp_path), database.url.replace("/postgres?", "/other?"))
    with pytest.raises(ConfigError, match="the database: "):
        Store(str(tmp_path), "postgresql://me@/none?host=/nowhere")
