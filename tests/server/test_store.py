"""The server's records, in a file that a server before this one has made."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pyvmm_server.index import Index
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.settings import Settings
from pyvmm_server.store import PAUSED, RUNNING, Record, Store
from pyvmm_server.templates import Source
from pyvmm_server.upkeep import Upkeep

OLDER = """
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY, owner TEXT, template TEXT, state TEXT, token TEXT, started REAL, ends REAL, metadata TEXT,
    envs TEXT, cpus REAL, memory INTEGER, internet INTEGER, auto_pause INTEGER, auto_resume INTEGER, request TEXT,
    context TEXT
) STRICT;
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY, owner TEXT, sandbox TEXT, name TEXT, created REAL, cpus REAL, memory INTEGER, internet INTEGER,
    envs TEXT, context TEXT
) STRICT;
INSERT INTO sandboxes VALUES
    ('a', 'someone', 'base', 'running', 'token', 1.0, 2.0, '{"name": "old"}', '{}', 1.0, 512, 1, 0, 0, '', '');
INSERT INTO snapshots VALUES ('s', 'someone', 'a', 'saved', 1.5, 1.0, 512, 1, '{}', '');
"""


def test_records_of_an_older_server_are_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "server.db")) as older:
        older.executescript(OLDER)
    for _ in range(2):  # the second time, the columns are there
        with closing(Store(str(tmp_path))) as store:
            (found,) = store.in_states(RUNNING, owner="someone")
            assert (found.id, found.metadata, found.parent, found.phases) == ("a", {"name": "old"}, "", [])
            (snapshot,) = store.snapshots("someone")
            assert (snapshot.id, snapshot.user) == ("s", "")


def test_a_start_that_fails_in_an_unexpected_way_counts_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a key has fewer sandboxes after each, until the next server starts."""

    def fail(*_: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Source, "start", fail)
    settings = Settings(str(tmp_path), templates={"base": "an image"}, most_sandboxes=1, root=str(tmp_path / "state"))

    async def fail_twice(sandboxes: Sandboxes) -> None:
        upkeep = asyncio.create_task(Upkeep(sandboxes).run())
        for _ in range(2):
            with pytest.raises(RuntimeError, match="thread"):
                await sandboxes.create("someone", "base", 60)
        upkeep.cancel()

    sandboxes = Sandboxes(settings)
    with closing(sandboxes.store):
        asyncio.run(fail_twice(sandboxes))


def test_a_record_is_in_lists_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with closing(Store(str(tmp_path))) as kept:

        def add(number: int) -> None:
            kept.add(Record(f"s{number}", "someone", "base", RUNNING, "", 100.0 - number, None))

        def listed() -> list[str]:
            return [each.id for each in kept.walk("someone", [RUNNING], None, newest_first=False)]

        for number in range(3):
            add(number)
            assert listed() == [f"s{each}" for each in range(number, -1, -1)]
        kept.change("s1", state=PAUSED)
        assert listed() == ["s2", "s0"]


def test_an_end_that_moves_often_takes_no_memory() -> None:
    index = Index([])
    for moment in range(10_000):
        index.put(Record("a", "someone", "base", RUNNING, "token", 1.0, 20_000.0 - moment))
        index.put(Record("b", "someone", "base", RUNNING, "token", 1.0, 20_000.0 + moment))
    assert len(pickle.dumps(index)) < 20_000
    assert index.next_end() == 10_001.0
    index.drop("a")
    assert index.next_end() == 29_999.0
